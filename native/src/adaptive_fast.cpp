#include "tensorpress/adaptive_forms.h"
#include "tensorpress/pool.h"

#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tensorpress {
namespace {

constexpr std::size_t lanes = 4;
constexpr std::uint32_t rans_low = 1u << 16;
constexpr std::size_t block_values = std::size_t{1} << 20;  // states end before the row in which a block would hold more
constexpr int scales = 32, contrasts = 3, leanings = 4, rows_of_counts = scales * contrasts * leanings + scales;
constexpr int symbols = 16, escape = 15, heard = 15;
constexpr std::size_t place_sets = 64;

// How often each symbol was seen in a context, and the cumulative frequencies of 2^16 that follow from it now and then.
struct Counts {
  static constexpr int step = 16, most = 32768, longest = 128;
  alignas(16) std::uint16_t start[rows_of_counts + 1][symbols];  // the next row's first start, 0, ends each row
  std::uint16_t seen[rows_of_counts][symbols];
  std::uint8_t left[rows_of_counts], cycle[rows_of_counts];

  Counts() {
    for (int row = 0; row < rows_of_counts; ++row) {
      // as if 64 values of geometric distribution had been seen; of the widths of large values, each as often
      const int scale = row / (contrasts * leanings), ratio = std::clamp(256 * scale / (scale + 8) - 20, 4, 240);
      std::uint32_t weight[symbols] = {4096}, power = 4096 * 3 / 4, sum = 4096;
      for (int k = 1; k <= 7; ++k) {
        power = power * static_cast<std::uint32_t>(ratio) >> 8;
        weight[2 * k - 1] = weight[2 * k] = power, sum += 2 * power;
      }
      weight[escape] = power, sum += power;
      const bool plain = scale >= scales;
      for (int s = 0; s < symbols; ++s) seen[row][s] = static_cast<std::uint16_t>(plain ? 4 : std::max(1u, 64 * weight[s] / sum));
      left[row] = cycle[row] = 8;
      set_starts(row);
    }
    std::memset(start[rows_of_counts], 0, sizeof start[0]);
  }
  void set_starts(int row) {
    std::uint32_t total = 0, below = 0;
    for (const std::uint16_t n : seen[row]) total += n;
    const std::uint32_t share = (65520u << 16) / total;
    for (std::uint32_t s = 0; s < symbols; ++s) {
      start[row][s] = static_cast<std::uint16_t>((below * share >> 16) + s);
      below += seen[row][s];
    }
  }
  void renew(int row) {
    std::uint32_t total = 0;
    for (const std::uint16_t n : seen[row]) total += n;
    if (total > most)
      for (std::uint16_t& n : seen[row]) n = static_cast<std::uint16_t>((n + 1) >> 1);
    cycle[row] = static_cast<std::uint8_t>(std::min(cycle[row] + cycle[row] / 2, longest));
    left[row] = cycle[row];
    set_starts(row);
  }
  void learn(int row, int symbol) {
    seen[row][symbol] = static_cast<std::uint16_t>(seen[row][symbol] + step);
    if (--left[row] == 0) renew(row);
  }
  std::uint32_t frequency(int row, int symbol) const {
    const std::uint16_t* const at = start[row] + symbol;
    return static_cast<std::uint16_t>(at[1] - at[0]);
  }
  int find(int row, std::uint32_t slot) const {
#if defined(__SSE2__)
    const auto* const at = reinterpret_cast<const __m128i*>(start[row]);
    const __m128i wanted = _mm_set1_epi16(static_cast<short>(slot)), zero = _mm_setzero_si128();
    const __m128i low = _mm_cmpeq_epi16(_mm_subs_epu16(_mm_load_si128(at), wanted), zero);
    const __m128i high = _mm_cmpeq_epi16(_mm_subs_epu16(_mm_load_si128(at + 1), wanted), zero);
    return std::bit_width(static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(low, high)))) - 1;
#else
    int n = -1;
    for (int s = 0; s < symbols; ++s) n += start[row][s] <= slot;
    return n;
#endif
  }
};

// What is coded, in the order in which a decoder meets it; written backwards when a block is full.
struct Events {
  static constexpr bool encoding = true;
  struct Event {
    std::uint16_t start, frequency, lane;
  };
  std::vector<Event> events;
  std::vector<std::uint8_t>& out;
  explicit Events(std::vector<std::uint8_t>& to) : out(to) {}

  void refuse() const {}  // no int32 is
  bool begin() const { return true; }
  bool ready() const { return true; }
  int code(const Counts& counts, int row, std::size_t lane, int symbol) {
    events.push_back({counts.start[row][symbol], static_cast<std::uint16_t>(counts.frequency(row, symbol)), static_cast<std::uint16_t>(lane)});
    return symbol;
  }
  std::uint32_t raw(std::size_t lane, int bits, std::uint32_t value) {
    if (bits) events.push_back({static_cast<std::uint16_t>(value << (16 - bits)), static_cast<std::uint16_t>(1u << (16 - bits)), static_cast<std::uint16_t>(lane)});
    return value;
  }
  bool end() {
    std::uint32_t x[lanes];
    std::fill_n(x, lanes, rans_low);
    const std::size_t first = out.size();
    const auto word = [&](std::uint32_t w) { out.push_back(static_cast<std::uint8_t>(w >> 8)), out.push_back(static_cast<std::uint8_t>(w)); };
    for (std::size_t i = events.size(); i-- > 0;) {
      const Event e = events[i];
      std::uint32_t& state = x[e.lane];
      if (state >> 16 >= e.frequency) word(state & 0xFFFF), state >>= 16;
      state = (state / e.frequency << 16) + state % e.frequency + e.start;
    }
    for (std::size_t lane = lanes; lane-- > 0;) word(x[lane] >> 16), word(x[lane] & 0xFFFF);
    std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
    events.clear();
    return true;
  }
};

// The words as they come. The last bytes are read from a copy with zeros behind it, so that a step of all lanes needs one look at the end.
struct Words {
  static constexpr bool encoding = false;
  static constexpr std::ptrdiff_t a_step = lanes * 12;  // bytes: five words at most, and a look at the next
  const std::uint8_t *p, *turn, *end_;                 // at `turn` the copy begins
  bool copied = false, found_beyond = false;
  std::uint8_t tail[4 * a_step] = {};
  std::uint32_t x[lanes];

  Words(const std::uint8_t* data, std::size_t nbytes) : p(data) {
    const std::size_t kept = std::min<std::size_t>(nbytes, 2 * a_step);
    std::memcpy(tail, data + (nbytes - kept), kept);
    turn = data + (nbytes - kept), end_ = tail + kept;
    ready();
  }
  Words(const Words&) = delete;  // it points into itself
  // Whether the bytes taken so far are there; afterwards a step may be taken.
  bool ready() {
    if (!copied && p >= turn) p = tail + (p - turn), copied = true;
    return !copied || p <= end_;
  }
  void refuse() { found_beyond = true; }
  std::uint32_t word() {
    const std::uint32_t w = p[0] | std::uint32_t{p[1]} << 8;
    p += 2;
    return w;
  }
  bool begin() {
    if (!ready()) return false;
    for (std::uint32_t& state : x) {
      state = word();
      state |= word() << 16;
    }
    return ready() && std::all_of(x, x + lanes, [](std::uint32_t state) { return state >= rans_low; });
  }
  void advance(std::size_t lane, std::uint32_t frequency, std::uint32_t offset) {
    const std::uint32_t state = frequency * (x[lane] >> 16) + offset, next = state << 16 | p[0] | std::uint32_t{p[1]} << 8;
    const bool low = state < rans_low;
    p += low ? 2 : 0;
    x[lane] = low ? next : state;
  }
  int code(const Counts& counts, int row, std::size_t lane, int) {
    const std::uint32_t slot = x[lane] & 0xFFFF;
    const int symbol = counts.find(row, slot);
    advance(lane, counts.frequency(row, symbol), slot - counts.start[row][symbol]);
    return symbol;
  }
  std::uint32_t raw(std::size_t lane, int bits, std::uint32_t) {
    if (bits == 0) return 0;
    const std::uint32_t slot = x[lane] & 0xFFFF;
    advance(lane, 1u << (16 - bits), slot & ((1u << (16 - bits)) - 1));
    return slot >> (16 - bits);
  }
  bool end() const { return std::all_of(x, x + lanes, [](std::uint32_t state) { return state == rans_low; }); }
  bool at_end() const { return copied && p == end_; }
};

using Eight = std::int16_t __attribute__((vector_size(16)));
using Four = std::int32_t __attribute__((vector_size(16)));
static_assert(lanes == 4);

// Sums of products, four apart.
inline Four products(Eight a, Eight b) {
#if defined(__SSE2__)
  return reinterpret_cast<Four>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  Four sum{};
  for (int k = 0; k < 8; ++k) sum[k / 2] += std::int32_t{a[k]} * b[k];
  return sum;
#endif
}

// The sum of each.
inline Four sums(const Four (&of)[4]) {
  const Four a = __builtin_shufflevector(of[0], of[1], 0, 4, 1, 5) + __builtin_shufflevector(of[0], of[1], 2, 6, 3, 7);
  const Four b = __builtin_shufflevector(of[2], of[3], 0, 4, 1, 5) + __builtin_shufflevector(of[2], of[3], 2, 6, 3, 7);
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}

// What foretells a value: eight places before it in its row, the nearest last; and the same place one and two columns before, one and two rows
// above, and the place after it one column before and one row above.
struct Around {
  Eight before, beside;
};

// By the place in the kernel: which of them are known, and what their magnitudes weigh.
struct Place {
  Around known{}, weight{};
  Place() = default;
  Place(std::size_t t, std::size_t taps, std::size_t across) {
    const bool single = taps == 1;
    for (std::size_t k = 0; k < 8; ++k) known.before[7 - k] = single || k < t ? -1 : 0;
    const std::int16_t next = t + 1 < taps;
    const auto all = static_cast<std::int16_t>(-1);
    known.beside = Eight{all, all, all, all, static_cast<std::int16_t>(-next), static_cast<std::int16_t>(-next), 0, 0};
    weight.beside = Eight{2, static_cast<std::int16_t>(single ? 4 : 1), 2, 0, next, next, 0, 0};
    if (single || t % across) weight.before[7] = 3;
    if (!single && t >= across && across <= 8) {
      weight.before[8 - across] = static_cast<std::int16_t>(weight.before[8 - across] + 3);
      if (across > 1 && t % across + 1 < across) weight.before[9 - across] = static_cast<std::int16_t>(weight.before[9 - across] + 1);
    }
  }
};

struct Lean {
  Around weight{};  // of 2^13
};

// By an eighth of what the values around say of the sign, of 2^11: how far a value that is positive was from being foretold.
struct Surprise {
  std::array<std::int16_t, 512> of{};
  Surprise() {
    for (int k = 0; k < 512; ++k) of[static_cast<std::size_t>(k)] = static_cast<std::int16_t>((65535 - static_cast<int>(logistic.squash(8 * k - 2048))) >> 5);
  }
};

template <class Coder>
struct Walk {
  Counts counts;
  Lean leans[place_sets];
  Surprise surprise;
  bool open = false;
  std::size_t in_block = 0;

  // Codes all values, or decodes them until something is wrong. Returns how many.
  std::size_t walk(Coder& coder, std::int32_t* values, const AdaptiveShape& shape) {
    const std::size_t columns = shape.columns, taps = shape.taps, width = columns * taps, across = kernel_width(taps);
    if (shape.count() == 0) return 0;
    const auto n_taps = static_cast<std::ptrdiff_t>(taps);
    // Rows of each lane, cut to what is heard: two kernels and ten zeros in front, a kernel behind; this one, the one above, and the one above that.
    const std::size_t front = 2 * taps + 10, stride = front + width + taps;
    std::vector<std::int16_t> cut(3 * lanes * stride);
    std::vector<std::uint64_t> of_column(columns), of_tap(taps);
    std::vector<int> l_tap(taps);
    std::vector<Place> places(taps);
    for (std::size_t t = 0; t < taps; ++t) places[t] = Place(t, taps, across);
    std::size_t first[lanes + 1] = {}, done = 0;
    for (std::size_t i = 0; i < lanes; ++i) first[i + 1] = first[i] + shape.rows / lanes + (i < shape.rows % lanes);
    std::uint64_t of_all = 0;
    for (std::size_t r = 0; r < first[1] && !stop_asked(); ++r) {
      std::size_t active = 0;
      while (active < lanes && r < first[active + 1] - first[active]) ++active;
      if (open && in_block >= block_values) {
        if (!coder.end()) return done;
        open = false;
      }
      if (!open) {
        if (!coder.begin()) return done;
        open = true, in_block = 0;
      }
      Row row{};
      row.taps = n_taps, row.single = taps == 1, row.lag = row.single ? 2 : 0;
      // Means are in 1/256, and of the rows before; a lane's own is of this row so far.
      row.all = static_cast<std::uint32_t>((of_all * 256 + 512) / (done + 4));
      const int l_all = octaves.table[row.all];
      for (std::size_t t = 0; t < taps; ++t) l_tap[t] = octaves.table[(of_tap[t] * 256 + std::uint64_t{row.all} * 8) / (done / taps + 8)];
      const std::uint64_t share_of_column = (std::uint64_t{1} << 32) / (done / columns + 4);
      for (std::size_t i = 0; i < lanes; ++i) {
        for (std::size_t k = 0; k < 3; ++k) row.cut[k][i] = cut.data() + ((r + 3 - k) % 3 * lanes + i) * stride + front;
        std::memset(row.cut[0][i], 0, width * sizeof(std::int16_t));
        row.values[i] = values + (first[i] + (i < active ? r : 0)) * width;
      }
      std::uint64_t of_row[lanes] = {};
      for (std::size_t c = 0; c < columns; ++c) {
        const std::uint64_t share_of_row = (std::uint64_t{1} << 32) / (c * taps + 4);
        const int l_column = octaves.table[((of_column[c] * 256 + std::uint64_t{row.all} * 4) * share_of_column) >> 32] - 2 * l_all;
        for (std::size_t i = 0; i < lanes; ++i) {
          row.l_row[i] = l_column + octaves.table[((of_row[i] * 256 + std::uint64_t{row.all} * 4) * share_of_row) >> 32];
          row.of_kernel[i] = 0;
        }
        for (std::size_t t = 0; t < taps; ++t) {
          Lean& lean = leans[row.single ? place_sets - 1 : std::min<std::size_t>(t, place_sets - 2)];
          row.l_tap = l_tap[t], row.share_of_kernel = static_cast<std::uint32_t>(65536 / (t + 2));
          std::size_t good;
          if (active == lanes) good = step(coder, row, static_cast<std::ptrdiff_t>(c * taps + t), places[t], lean, std::integral_constant<std::size_t, lanes>{});
          else good = step(coder, row, static_cast<std::ptrdiff_t>(c * taps + t), places[t], lean, active);
          if (good < active) return done + good;
          of_tap[t] += row.told;
          done += active;
        }
        for (std::size_t i = 0; i < lanes; ++i) of_column[c] += row.of_kernel[i], of_all += row.of_kernel[i], of_row[i] += row.of_kernel[i];
      }
      in_block += active * width;
    }
    return done;
  }

  struct Row {
    Eight before[lanes];
    std::int16_t* cut[3][lanes];
    std::int32_t* values[lanes];
    int l_row[lanes];
    std::uint32_t of_kernel[lanes];
    std::ptrdiff_t taps, lag;  // where there is one tap, the two columns before stand beside, not before
    bool single;
    std::uint32_t all, share_of_kernel, told;
    int l_tap;
  };

  // One value of each lane. Returns how many were good.
  template <class Active>
  std::size_t step(Coder& coder, Row& row, std::ptrdiff_t at, const Place& place, Lean& lean, Active active) {
    if (!coder.ready()) return 0;
    Around around[lanes];
    Four leaning[lanes], weighed[lanes];
    for (std::size_t i = 0; i < lanes; ++i) {
      const std::int16_t *const x = row.cut[0][i] + at, *const up = row.cut[1][i] + at;
      around[i].before = row.before[i] & place.known.before;
      around[i].beside = Eight{x[-row.taps], x[-2 * row.taps], up[0], row.cut[2][i][at], x[1 - row.taps], up[1], 0, 0} & place.known.beside;
      leaning[i] = products(around[i].before, lean.weight.before) + products(around[i].beside, lean.weight.beside);
      const auto magnitude = [](Eight v) { return v > -v ? v : -v; };
      weighed[i] = products(magnitude(around[i].before), place.weight.before) + products(magnitude(around[i].beside), place.weight.beside);
    }
    std::int32_t toward[lanes], near[lanes];
    Four sum = sums(leaning) >> 5;
    sum = sum > 2047 ? Four{} + 2047 : sum;
    sum = sum < -2047 ? Four{} - 2047 : sum;
    std::memcpy(toward, &sum, sizeof toward);
    sum = sums(weighed);
    std::memcpy(near, &sum, sizeof near);
    int context[lanes], symbol[lanes] = {};
    for (std::size_t i = 0; i < lanes; ++i) {
      const int l_near = octaves.table[14 * static_cast<std::uint32_t>(near[i]) + (row.all >> 2)];
      const int l_kernel = octaves.table[(row.of_kernel[i] * 256 + 2 * row.all) * row.share_of_kernel >> 16];
      const int product = row.l_row[i] + row.l_tap;  // as if rows, columns and taps scaled the values
      const int scale = std::clamp((2 * product + l_near + l_kernel - 96) >> 5, 0, scales - 1);
      const int contrast = std::clamp((l_near - product + 24) >> 4, 0, contrasts - 1);
      context[i] = (scale * contrasts + contrast) * leanings + std::min(std::abs(toward[i]) >> 7, leanings - 1);
    }
    std::int16_t error[lanes] = {};
    row.told = 0;
    for (std::size_t i = 0; i < active; ++i) {
      std::int32_t& value = row.values[i][at];
      const bool flipped = toward[i] < 0;  // an odd symbol has the expected sign
      if constexpr (Coder::encoding) {
        const std::uint32_t magnitude = magnitude_of(value);
        symbol[i] = magnitude > 7 ? escape : magnitude == 0 ? 0 : static_cast<int>(2 * magnitude) - ((value < 0) == flipped);
      }
      symbol[i] = coder.code(counts, context[i], i, symbol[i]);
      const int m = (symbol[i] + 1) >> 1;
      int told = flipped == (symbol[i] & 1) ? -m : m;
      if (symbol[i] == escape) {
        if (!large(coder, i, context[i] / (contrasts * leanings), value)) return i;
        told = std::clamp(value, -heard, heard);
      } else if constexpr (!Coder::encoding) {
        value = told;
      }
      row.cut[0][i][at] = static_cast<std::int16_t>(told);
      row.before[i] = __builtin_shufflevector(row.before[i], Eight{row.cut[0][i][at - row.lag]}, 1, 2, 3, 4, 5, 6, 7, 8);  // a load of what was just stored would wait
      const int positive = surprise.of[static_cast<std::size_t>((toward[i] + 2048) >> 3)];
      error[i] = static_cast<std::int16_t>(told > 0 ? positive : told < 0 ? positive - 2047 : 0);
      const auto loud = static_cast<std::uint32_t>(std::abs(told));
      row.of_kernel[i] += loud, row.told += loud;
    }
    for (std::size_t i = 0; i < active; ++i) counts.learn(context[i], symbol[i]);
    Around moved{};
    for (std::size_t i = 0; i < lanes; ++i) {
      moved.before += (around[i].before * error[i] + 64) >> 7;
      moved.beside += (around[i].beside * error[i] + 64) >> 7;
    }
    lean.weight.before = bounded(lean.weight.before + moved.before);
    lean.weight.beside = bounded(lean.weight.beside + moved.beside);
    return active;
  }

  // Four lanes move a weight by 960 at most, so that one within these bounds overflows at no step.
  static Eight bounded(Eight w) {
    const Eight most = Eight{} + 31000, least = Eight{} - 31000;
    w = w > most ? most : w;
    return w < least ? least : w;
  }
  static std::uint32_t magnitude_of(std::int32_t value) { return value < 0 ? 0u - static_cast<std::uint32_t>(value) : static_cast<std::uint32_t>(value); }

  // A value of magnitude 8 or more: the width of what is beyond 7, the sign, the bits. False where no int32 is.
  bool large(Coder& coder, std::size_t lane, int scale, std::int32_t& value) {
    const std::uint32_t more = Coder::encoding ? magnitude_of(value) - 7 : 0;
    const int row = scales * contrasts * leanings + scale, bits = Coder::encoding ? std::bit_width(more) - 1 : 0;
    const int width = coder.code(counts, row, lane, std::min(bits, escape));
    counts.learn(row, width);
    const int n = width < escape ? width : escape + static_cast<int>(coder.raw(lane, 4, static_cast<std::uint32_t>(bits - escape)));
    const bool negative = coder.raw(lane, 1, value < 0);
    const int above = std::max(n - 16, 0), below = std::min(n, 16);
    const std::uint32_t high = coder.raw(lane, above, more >> 16 & ((1u << above) - 1)), low = coder.raw(lane, below, more & ((1u << below) - 1));
    const std::uint32_t magnitude = 7 + ((1u << n) | high << 16 | low);
    if (n > 30 || magnitude > (1u << 31) - !negative) return coder.refuse(), false;
    if constexpr (!Coder::encoding) value = static_cast<std::int32_t>(negative ? 0u - magnitude : magnitude);
    return true;
  }
};

class FastEncoder final : public AdaptiveEncoder {
 public:
  void put(const std::int32_t* values, const AdaptiveShape& shape) override { walk_.walk(events_, const_cast<std::int32_t*>(values), shape); }  // only read
  const std::vector<std::uint8_t>& finish() override {
    if (walk_.open) events_.end();
    return out_;
  }

 private:
  std::vector<std::uint8_t> out_{static_cast<std::uint8_t>(AdaptiveForm::fast)};
  Events events_{out_};
  Walk<Events> walk_;
};

class FastDecoder final : public AdaptiveDecoder {
 public:
  FastDecoder(const std::uint8_t* data, std::size_t nbytes) : words_(data, nbytes) {}
  std::size_t take(std::int32_t* values, const AdaptiveShape& shape) override { return walk_.walk(words_, values, shape); }
  bool beyond() const override { return words_.found_beyond; }
  bool done() const override { return !words_.found_beyond && words_.at_end() && (!walk_.open || words_.end()); }

 private:
  Words words_;
  Walk<Words> walk_;
};

}  // namespace

std::unique_ptr<AdaptiveEncoder> make_fast_encoder() { return std::make_unique<FastEncoder>(); }
std::unique_ptr<AdaptiveDecoder> make_fast_decoder(const std::uint8_t* data, std::size_t nbytes) { return std::make_unique<FastDecoder>(data, nbytes); }

}  // namespace tensorpress
