// The fast form of the adaptive coder, a part of a row of each lane at a time: compiled once for each instruction set (adaptive_fast_body.cpp) and
// chosen at run time (adaptive_fast.cpp). Functions here are static, so that each instruction set keeps its own.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tensorpress {

constexpr std::size_t fast_lanes = 4;
constexpr std::uint32_t fast_low = 1u << 16;  // the least state
constexpr std::size_t fast_place_sets = 64;
constexpr int fast_scales = 32, fast_contrasts = 3, fast_leanings = 4, fast_contexts = fast_scales * fast_contrasts * fast_leanings;
constexpr int fast_symbols = 16, fast_escape = 15, fast_heard = 15;
constexpr std::ptrdiff_t fast_step_words = 6 * fast_lanes;  // and as many events: a large value takes six

using Eight = std::int16_t __attribute__((vector_size(16)));
using Four = std::int32_t __attribute__((vector_size(16)));

// How often each symbol was seen in a context, and the cumulative frequencies of 2^16 that follow from it now and then. Behind the contexts stand
// those of the widths of large values.
struct FastCounts {
  static constexpr int rows = fast_contexts + fast_scales, step = 16, most = 32768, longest = 128;
  alignas(16) std::uint16_t start[rows + 1][fast_symbols];  // the next row's first start, 0, ends each row
  std::uint16_t seen[rows][fast_symbols];
  std::uint8_t left[rows], cycle[rows];
};

static inline void set_starts(FastCounts& counts, int row) {
  std::uint32_t total = 0, below = 0;
  for (int s = 0; s < fast_symbols; ++s) total += counts.seen[row][s];
  const std::uint32_t share = (65520u << 16) / total;
  for (std::uint32_t s = 0; s < fast_symbols; ++s) {
    counts.start[row][s] = static_cast<std::uint16_t>((below * share >> 16) + s);
    below += counts.seen[row][s];
  }
}

// What foretells a value: eight places before it in its row, the nearest last; and the same place, and the one after it, one column before and
// one row above; the same place two columns before and two rows above.
struct FastAround {
  Eight before, beside;
};

// By the place in the kernel: which of them are known, and what their magnitudes weigh.
struct FastPlace {
  FastAround known, weight;
};

struct FastStates {
  FastCounts counts;
  FastAround lean[fast_place_sets];  // what the values around weigh, of 2^13, where the sign is to be expected
};

// What stands still while a row is coded, and what moves along it. Means are in 1/256.
struct FastRow {
  Eight before[fast_lanes];  // the eight places before, kept here: a load of what was just stored would wait
  Eight last, last2;         // of each lane, the values one and two columns before, where there is one tap
  Eight l_row;
  Four of_kernel;
  const FastPlace* places;
  std::int16_t* cut[3][fast_lanes];  // values cut to what is heard: of this row, the one above, and the one above that; only the first of active lanes are written
  std::int32_t* values[fast_lanes];
  const int* l_tap;
  std::uint64_t *of_tap, *of_column;  // null where no row follows
  std::uint64_t of_row[fast_lanes], of_all, share_of_column;
  std::size_t taps, active;
  std::uint32_t all;
  int l_all, l_column;
};

struct FastEvent {
  std::uint16_t start, frequency, lane;
};

struct FastEvents {
  FastEvent* next;
};

// The words as they come. The last bytes are read from a copy with zeros behind it, so that a step of all lanes needs one look at the end.
struct FastWords {
  static constexpr std::ptrdiff_t margin = 2 * fast_step_words;  // bytes that a step may read
  const std::uint8_t *p, *turn, *end;                            // at `turn` the copy begins
  std::uint32_t x[fast_lanes];
  bool copied, beyond;
  std::uint8_t tail[4 * margin];
};

// Whether the bytes taken so far are there; afterwards a step may be taken.
static inline bool ready(FastWords& words) {
  if (!words.copied && words.p >= words.turn) words.p = words.tail + (words.p - words.turn), words.copied = true;
  return !words.copied || words.p <= words.end;
}

// Places from `at` to `to` of a row. They return how many values were good: all, or those up to a string's end.
struct FastBody {
  std::size_t (*encode)(FastStates&, FastRow&, FastEvents&, std::size_t at, std::size_t to);
  std::size_t (*decode)(FastStates&, FastRow&, FastWords&, std::size_t at, std::size_t to);
};

namespace scalar { extern const FastBody fast_body; }
namespace avx2 { extern const FastBody fast_body; }
namespace avx512 { extern const FastBody fast_body; }

}  // namespace tensorpress
