// The fast form of the adaptive coder. One source for every instruction set: TP_ISA names the namespace of this compilation.
// All four lanes are foretold, then decoded one after another, then learned from: no lane waits for another's value.
#include "tensorpress/adaptive_fast_body.h"

#include <bit>
#include <cstdlib>
#include <cstring>

#include "tensorpress/adaptive_octaves.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tensorpress::TP_ISA {
namespace {

using std::int16_t, std::int32_t, std::uint16_t, std::uint32_t, std::size_t, std::ptrdiff_t;

constexpr size_t lanes = fast_lanes;
static_assert(lanes == 4);

// --- the wide operations -----------------------------------------------------------------------------------------

// Sums of products, two by two.
inline Four products(Eight a, Eight b) {
#if defined(__SSE2__)
  return reinterpret_cast<Four>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  Four sum{};
  for (int k = 0; k < 8; ++k) sum[k / 2] += int32_t{a[k]} * b[k];
  return sum;
#endif
}

// The sum of each.
inline Four sums(const Four (&of)[4]) {
  const Four a = __builtin_shufflevector(of[0], of[1], 0, 4, 1, 5) + __builtin_shufflevector(of[0], of[1], 2, 6, 3, 7);
  const Four b = __builtin_shufflevector(of[2], of[3], 0, 4, 1, 5) + __builtin_shufflevector(of[2], of[3], 2, 6, 3, 7);
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}

// Eight numbers of 16 bits, of which the first four count; beyond their range the nearest.
inline Eight narrow(Four v) {
#if defined(__SSE2__)
  return reinterpret_cast<Eight>(_mm_packs_epi32(reinterpret_cast<__m128i>(v), reinterpret_cast<__m128i>(v)));
#else
  Eight found{};
  for (int k = 0; k < 4; ++k) found[k] = static_cast<int16_t>(v[k] < -32768 ? -32768 : v[k] > 32767 ? 32767 : v[k]);
  return found;
#endif
}

inline Eight bounded(Eight v, int low, int high) {
  const Eight least = Eight{} + static_cast<int16_t>(low), most = Eight{} + static_cast<int16_t>(high);
  v = v < least ? least : v;
  return v > most ? most : v;
}

inline Eight magnitude(Eight v) { return v > -v ? v : -v; }

// --- counts ------------------------------------------------------------------------------------------------------

void renew(FastCounts& counts, int row) {
  uint32_t total = 0;
  for (int s = 0; s < fast_symbols; ++s) total += counts.seen[row][s];
  if (total > FastCounts::most)
    for (int s = 0; s < fast_symbols; ++s) counts.seen[row][s] = static_cast<uint16_t>((counts.seen[row][s] + 1) >> 1);
  const int longer = counts.cycle[row] + counts.cycle[row] / 2;
  counts.left[row] = counts.cycle[row] = static_cast<std::uint8_t>(longer < FastCounts::longest ? longer : FastCounts::longest);
  set_starts(counts, row);
}

inline void learn(FastCounts& counts, int row, int symbol) {
  counts.seen[row][symbol] = static_cast<uint16_t>(counts.seen[row][symbol] + FastCounts::step);
  if (--counts.left[row] == 0) renew(counts, row);
}

inline uint32_t frequency(const FastCounts& counts, int row, int symbol) {
  const uint16_t* const at = counts.start[row] + symbol;
  return static_cast<uint16_t>(at[1] - at[0]);
}

// The symbol that owns the slot.
inline int find(const FastCounts& counts, int row, uint32_t slot) {
#if defined(__SSE2__)
  const auto* const at = reinterpret_cast<const __m128i*>(counts.start[row]);
  const __m128i wanted = _mm_set1_epi16(static_cast<short>(slot)), zero = _mm_setzero_si128();
  const __m128i low = _mm_cmpeq_epi16(_mm_subs_epu16(_mm_load_si128(at), wanted), zero);
  const __m128i high = _mm_cmpeq_epi16(_mm_subs_epu16(_mm_load_si128(at + 1), wanted), zero);
  return 31 - __builtin_clz(static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(low, high))));
#else
  int n = -1;
  for (int s = 0; s < fast_symbols; ++s) n += counts.start[row][s] <= slot;
  return n;
#endif
}

// --- both ways ---------------------------------------------------------------------------------------------------

struct Writing {
  static constexpr bool encoding = true;
  FastEvents& events;
  bool ready() const { return true; }
  void refuse() const {}  // no int32 is beyond
  int code(const FastCounts& counts, int row, size_t lane, int symbol) {
    *events.next++ = {counts.start[row][symbol], static_cast<uint16_t>(frequency(counts, row, symbol)), static_cast<uint16_t>(lane)};
    return symbol;
  }
  uint32_t raw(size_t lane, int bits, uint32_t value) {
    if (bits) *events.next++ = {static_cast<uint16_t>(value << (16 - bits)), static_cast<uint16_t>(1u << (16 - bits)), static_cast<uint16_t>(lane)};
    return value;
  }
};

struct Reading {
  static constexpr bool encoding = false;
  FastWords& words;
  bool ready() const { return tensorpress::ready(words); }
  void refuse() const { words.beyond = true; }
  void advance(size_t lane, uint32_t frequency, uint32_t offset) {
    const uint32_t state = frequency * (words.x[lane] >> 16) + offset, next = state << 16 | words.p[0] | uint32_t{words.p[1]} << 8;
    const bool low = state < fast_low;
    words.p += low ? 2 : 0;
    words.x[lane] = low ? next : state;
  }
  int code(const FastCounts& counts, int row, size_t lane, int) {
    const uint32_t slot = words.x[lane] & 0xFFFF;
    const int symbol = find(counts, row, slot);
    advance(lane, frequency(counts, row, symbol), slot - counts.start[row][symbol]);
    return symbol;
  }
  uint32_t raw(size_t lane, int bits, uint32_t) {
    if (bits == 0) return 0;
    const uint32_t slot = words.x[lane] & 0xFFFF;
    advance(lane, 1u << (16 - bits), slot & ((1u << (16 - bits)) - 1));
    return slot >> (16 - bits);
  }
};

inline uint32_t magnitude_of(int32_t value) { return value < 0 ? 0u - static_cast<uint32_t>(value) : static_cast<uint32_t>(value); }

// A value of magnitude 8 or more: the width of what is beyond 7, the sign, the bits. False where no int32 is.
template <class Coder>
bool large(Coder& coder, FastCounts& counts, size_t lane, int scale, int32_t& value) {
  const uint32_t more = Coder::encoding ? magnitude_of(value) - 7 : 0;
  const int row = fast_contexts + scale, bits = Coder::encoding ? static_cast<int>(std::bit_width(more)) - 1 : 0;
  const int width = coder.code(counts, row, lane, bits < fast_escape ? bits : fast_escape);
  learn(counts, row, width);
  const int n = width < fast_escape ? width : fast_escape + static_cast<int>(coder.raw(lane, 4, static_cast<uint32_t>(bits - fast_escape)));
  const bool negative = coder.raw(lane, 1, Coder::encoding && value < 0);
  const int above = n > 16 ? n - 16 : 0, below = n < 16 ? n : 16;
  const uint32_t high = coder.raw(lane, above, more >> 16 & ((1u << above) - 1)), low = coder.raw(lane, below, more & ((1u << below) - 1));
  const uint32_t found = 7 + ((1u << n) | high << 16 | low);
  if (found > (1u << 31) - !negative) return coder.refuse(), false;
  if constexpr (!Coder::encoding) value = static_cast<int32_t>(negative ? 0u - found : found);
  return true;
}

// One value of each lane. Returns how many were good.
template <bool single, bool every_lane, class Coder>
size_t step(Coder& coder, FastStates& states, FastRow& row, ptrdiff_t at, size_t t) {
  if (!coder.ready()) return 0;
  const size_t active = every_lane ? lanes : row.active;
  const FastPlace& place = row.places[t];
  const auto taps = static_cast<ptrdiff_t>(row.taps);
  FastAround& lean = states.lean[single ? fast_place_sets - 1 : t < fast_place_sets - 2 ? t : fast_place_sets - 2];
  FastAround around[lanes];
  Four leaning[lanes], weighed[lanes];
  for (size_t i = 0; i < lanes; ++i) {
    const int16_t *const x = row.cut[0][i] + at, *const up = row.cut[1][i] + at, above2 = row.cut[2][i][at];
    around[i].before = row.before[i];
    if constexpr (single) {
      around[i].beside = Eight{row.last[i], 0, up[0], 0, row.last2[i], above2, 0, 0};
    } else {
      int32_t beside, above;
      std::memcpy(&beside, x - taps, sizeof beside), std::memcpy(&above, up, sizeof above);
      const uint32_t two = static_cast<uint16_t>(x[-2 * taps]) | static_cast<uint32_t>(static_cast<uint16_t>(above2)) << 16;
      around[i].beside = reinterpret_cast<Eight>(Four{beside, above, static_cast<int32_t>(two), 0}) & place.known.beside;
      around[i].before &= place.known.before;
    }
    leaning[i] = products(around[i].before, lean.before) + products(around[i].beside, lean.beside);
    weighed[i] = products(magnitude(around[i].before), place.weight.before) + products(magnitude(around[i].beside), place.weight.beside);
  }
  const Eight toward = bounded(narrow(sums(leaning) >> 5), -2047, 2047);
  const Eight near = narrow(sums(weighed)) * 14 + static_cast<int16_t>(row.all >> 2);
  const auto share_of_kernel = static_cast<uint32_t>(65536 / (t + 2));
  Eight l_near{}, l_kernel{};
  for (size_t i = 0; i < lanes; ++i) {
    l_near[i] = octaves.table[static_cast<uint16_t>(near[i])];
    l_kernel[i] = octaves.table[(static_cast<uint32_t>(row.of_kernel[i]) * 256 + 2 * row.all) * share_of_kernel >> 16];
  }
  const Eight product = row.l_row + static_cast<int16_t>(row.l_tap[t]);  // as if rows, columns and taps scaled the values
  const Eight scale = bounded((2 * product + l_near + l_kernel - 96) >> 5, 0, fast_scales - 1);
  const Eight contrast = bounded((l_near - product + 24) >> 4, 0, fast_contrasts - 1);
  const Eight context = (scale * fast_contrasts + contrast) * fast_leanings + bounded(magnitude(toward) >> 7, 0, fast_leanings - 1);
  int symbol[lanes] = {};
  Eight wide{};
  bool any_wide = false;
  for (size_t i = 0; i < active; ++i) {
    int32_t& value = row.values[i][at];
    if constexpr (Coder::encoding) {
      const uint32_t m = magnitude_of(value);
      symbol[i] = m > 7 ? fast_escape : m == 0 ? 0 : static_cast<int>(2 * m) - ((value < 0) == (toward[i] < 0));  // odd: of the expected sign
    }
    symbol[i] = coder.code(states.counts, context[i], i, symbol[i]);
    if (symbol[i] == fast_escape) {
      if (!large(coder, states.counts, i, context[i] / (fast_contrasts * fast_leanings), value)) return i;
      wide[i] = static_cast<int16_t>(value < -fast_heard ? -fast_heard : value > fast_heard ? fast_heard : value), any_wide = true;
    }
  }
  Eight all_symbols{};
  for (size_t i = 0; i < lanes; ++i) all_symbols[i] = static_cast<int16_t>(symbol[i]);
  const Eight minus = ((all_symbols & 1) - 1) ^ (toward < 0);  // all bits where the value is negative
  Eight told = (((all_symbols + 1) >> 1) ^ minus) - minus;
  if (any_wide) told = wide != 0 ? wide : told;
  for (size_t i = 0; i < active; ++i) {
    learn(states.counts, context[i], symbol[i]);
    row.cut[0][i][at] = told[i];
    if constexpr (!Coder::encoding)
      if (symbol[i] != fast_escape) row.values[i][at] = told[i];
  }
  for (size_t i = 0; i < lanes; ++i)
    row.before[i] = __builtin_shufflevector(row.before[i], Eight{single ? row.last2[i] : told[i]}, 1, 2, 3, 4, 5, 6, 7, 8);
  if constexpr (single) row.last2 = row.last, row.last = told;
  const Eight positive = bounded(1024 - 2 * toward, 16, 2031);  // how far a value above zero was from being foretold, of 2047
  const Eight error = (positive + ((told < 0) & -2047)) & (told != 0);
  FastAround moved{};
  for (size_t i = 0; i < lanes; ++i) {
    moved.before += (around[i].before * error[i] + 64) >> 7;
    moved.beside += (around[i].beside * error[i] + 64) >> 7;
  }
  // Four lanes move a weight by 960 at most, so that one within these bounds overflows at no step.
  lean.before = bounded(lean.before + moved.before, -31000, 31000);
  lean.beside = bounded(lean.beside + moved.beside, -31000, 31000);
  const Eight loud = magnitude(told);
  for (size_t i = 0; i < lanes; ++i) row.of_kernel[i] += loud[i], row.of_tap[t] += static_cast<std::uint64_t>(loud[i]);
  return active;
}

template <bool single, bool every_lane, class Coder>
size_t part(Coder coder, FastStates& states, FastRow& row, size_t at, size_t to) {
  size_t good = 0, column = at / row.taps, t = at % row.taps;
  for (; at < to; ++at) {
    if (t == 0) {
      const std::uint64_t share_of_row = (std::uint64_t{1} << 32) / (column * row.taps + 4), prior = std::uint64_t{row.all} * 4;
      const int l_column = octaves.table[(((row.of_column ? row.of_column[column] : 0) * 256 + prior) * row.share_of_column) >> 32] - 2 * row.l_all;
      row.of_kernel = Four{};
      for (size_t i = 0; i < lanes; ++i) row.l_row[i] = static_cast<int16_t>(l_column + octaves.table[((row.of_row[i] * 256 + prior) * share_of_row) >> 32]);
    }
    const size_t found = step<single, every_lane>(coder, states, row, static_cast<ptrdiff_t>(at), t);
    good += found;
    if (found < row.active) return good;
    if (++t < row.taps) continue;
    for (size_t i = 0; i < lanes; ++i) {
      const auto loud = static_cast<std::uint64_t>(row.of_kernel[i]);
      if (row.of_column) row.of_column[column] += loud;
      row.of_all += loud, row.of_row[i] += loud;
    }
    t = 0, ++column;
  }
  return good;
}

template <class Coder>
size_t part_of(Coder coder, FastStates& states, FastRow& row, size_t at, size_t to) {
  if (row.active < lanes) return row.taps == 1 ? part<true, false>(coder, states, row, at, to) : part<false, false>(coder, states, row, at, to);
  return row.taps == 1 ? part<true, true>(coder, states, row, at, to) : part<false, true>(coder, states, row, at, to);
}

size_t encode(FastStates& states, FastRow& row, FastEvents& events, size_t at, size_t to) { return part_of(Writing{events}, states, row, at, to); }
size_t decode(FastStates& states, FastRow& row, FastWords& words, size_t at, size_t to) { return part_of(Reading{words}, states, row, at, to); }

}  // namespace

extern const FastBody fast_body;
const FastBody fast_body{encode, decode};

}  // namespace tensorpress::TP_ISA
