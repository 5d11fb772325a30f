// One part of a stripe of the back-end `max`, both ways. One source for every instruction set: TP_ISA names the namespace of this
// compilation. Wide operations stand in three small functions (mean_of, symbol_at, learn) and in plain loops over the eight lanes.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "tensorpress/context_max.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tensorpress::TP_ISA {
namespace {

using std::int16_t, std::int32_t, std::int64_t, std::size_t, std::uint16_t, std::uint32_t, std::uint64_t, std::uint8_t;

constexpr int lanes = stripe_rows, states = 4;
constexpr int chance_bits = 15;           // of a mean's total
constexpr int least_chance = 8;           // that every symbol keeps
constexpr int adapt_shift = 6;            // a row moves 1/64 of the way to what it saw
constexpr uint32_t state_low = 1u << 16;  // a state lies between this and 2^32
constexpr int slack = 64;                 // bytes that a step may read past the data

// --- the wide operations -----------------------------------------------------------------------------------------

// All ones behind a symbol: what its row would have been, had it known.
struct Targets {
  alignas(32) uint16_t of[max_symbols][max_symbols];
};
constexpr Targets targets = [] {
  Targets t{};
  for (int s = 0; s < max_symbols; ++s)
    for (int i = 0; i < max_symbols; ++i) t.of[s][i] = i > s ? 0xFFFF : 0;
  return t;
}();

constexpr uint16_t kept = (1 << chance_bits) - max_symbols * least_chance;

// Two rows' mean, of 2^15, with something left for every symbol.
inline void mean_of(const uint16_t* a, const uint16_t* b, uint16_t* out) {
#if defined(__AVX2__)
  const __m256i floor = _mm256_setr_epi16(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120);
  const __m256i mean = _mm256_avg_epu16(_mm256_load_si256(reinterpret_cast<const __m256i*>(a)), _mm256_load_si256(reinterpret_cast<const __m256i*>(b)));
  _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_add_epi16(_mm256_mulhi_epu16(mean, _mm256_set1_epi16(kept)), floor));
#else
  for (int s = 0; s < max_symbols; ++s) out[s] = static_cast<uint16_t>((((a[s] + b[s] + 1) >> 1) * uint32_t{kept} >> 16) + s * least_chance);
#endif
}

// The last symbol that begins at `slot` or before it.
inline int symbol_at(const uint16_t* mean, uint32_t slot) {
#if defined(__AVX512VL__)
  const __mmask16 begun = _mm256_cmple_epu16_mask(_mm256_load_si256(reinterpret_cast<const __m256i*>(mean)), _mm256_set1_epi16(static_cast<int16_t>(slot)));
  return __builtin_popcount(begun) - 1;
#elif defined(__AVX2__)
  const __m256i later = _mm256_cmpgt_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(mean)), _mm256_set1_epi16(static_cast<int16_t>(slot)));
  return 15 - (__builtin_popcount(static_cast<unsigned>(_mm256_movemask_epi8(later))) >> 1);
#else
  int symbol = -1;
  for (int s = 0; s < max_symbols; ++s) symbol += mean[s] <= slot;
  return symbol;
#endif
}

inline void learn(uint16_t* row, int symbol) {
#if defined(__AVX2__)
  const __m256i target = _mm256_load_si256(reinterpret_cast<const __m256i*>(targets.of[symbol]));
  const __m256i away = _mm256_xor_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(row)), target);
  _mm256_store_si256(reinterpret_cast<__m256i*>(row), _mm256_xor_si256(_mm256_sub_epi16(away, _mm256_srli_epi16(away, adapt_shift)), target));
#else
  for (int s = 0; s < max_symbols; ++s) {
    const uint16_t target = targets.of[symbol][s], away = row[s] ^ target;
    row[s] = static_cast<uint16_t>(away - (away >> adapt_shift)) ^ target;
  }
#endif
}

// --- memory that a thread keeps ------------------------------------------------------------------------------------

struct Scratch {
  std::vector<int16_t> roots, then;    // rows with a border of zeros: of all channels, of the reference's one
  std::vector<int32_t> cross;          // [rows][wide]
  std::vector<int16_t> q, class_;      // [rows][wide]
  std::vector<float> scaled;           // [rows][wide]
  std::vector<uint8_t> phases, bytes;
  std::vector<uint16_t> rows;
  std::vector<uint32_t> records;
};

struct OwnScratch {
  Scratch& scratch;
  OwnScratch() : scratch(kept()) {}
  OwnScratch(const OwnScratch&) = delete;
  ~OwnScratch() {
    if (scratch.roots.capacity() + scratch.records.capacity() + scratch.cross.capacity() > size_t{1} << 20) scratch = {};  // a large map's memory is not kept
  }

 private:
  static Scratch& kept() {
    thread_local Scratch scratch;
    return scratch;
  }
};

#if defined(__AVX512F__)
constexpr int block = 16;  // columns that wide loops take at once
#else
constexpr int block = 8;
#endif

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between functions of this file alone

// A number for each lane; the compiler makes of it what the instruction set has.
typedef int32_t Lanes __attribute__((vector_size(4 * lanes)));

inline Lanes lanes_at(const int32_t* from) {
  Lanes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Lanes lesser(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes limited(Lanes a, int32_t last) {  // 0 … last
  a = a > 0 ? a : Lanes{};
  return lesser(a, Lanes{} + last);
}
inline Lanes distance(Lanes a, Lanes b) { return a > b ? a - b : b - a; }

// What the lanes know within a step.
struct Steps {
  alignas(32) uint16_t means[(lanes + 1) * max_symbols] = {};  // where symbols begin; behind a lane's last one stands a 0, which is 2^15 of 2^15
  uint16_t* mean(int lane) { return means + lane * max_symbols; }
  Lanes at, p, bin, w, n, texture;
  uint16_t *a[lanes], *b[lanes];
  const MaxClass* class_[lanes];
  int symbol[lanes];
};

// --- what is coded ---------------------------------------------------------------------------------------------------

uint16_t* fresh_rows(const MaxModel& m, Scratch& scratch) {
  scratch.rows.resize(m.start.size() + 16);
  uint16_t* const aligned = reinterpret_cast<uint16_t*>((reinterpret_cast<std::uintptr_t>(scratch.rows.data()) + 31) & ~std::uintptr_t{31});
  std::memcpy(aligned, m.start.data(), 2 * m.start.size());
  return aligned;
}

// Chance of a symbol, of 2^15.
inline uint32_t chance_of(const uint16_t* mean, int symbol) { return (uint32_t{mean[symbol + 1]} - mean[symbol]) & ((1u << chance_bits) - 1); }

struct Encoder {
  static constexpr bool encoding = true, coding = true;
  uint16_t* rows;
  uint32_t* record;  // of each symbol: where it begins, its chance, its state
  uint8_t* bits;
  uint64_t held = 0;  // bits that are not whole bytes yet, the last at the bottom
  int held_count = 0, any = 0;

  Encoder(const MaxModel& m, size_t values, Scratch& scratch) : rows(fresh_rows(m, scratch)) {
    scratch.records.resize(values + 2 * states), scratch.bytes.resize(values + slack);
    record = scratch.records.data(), bits = scratch.bytes.data();
  }
  int put(int lane, const MaxClass& class_, const uint16_t* mean, int q, int low) {
    const int symbol = class_.symbol[q + low], count = class_.extra_bits[symbol];
    any |= q;
    *record++ = mean[symbol] | chance_of(mean, symbol) << chance_bits | static_cast<uint32_t>(lane % states) << 30;
    held = held << count | static_cast<uint64_t>(q - class_.first[symbol]);
    held_count += count;
    return symbol;
  }
  // Bits of four lanes, at most 32, and 7 that were left.
  void four_lanes() {
    const uint64_t v = held << 1 << (63 - held_count);
    for (int i = 0; i < 8; ++i) bits[i] = static_cast<uint8_t>(v >> (56 - 8 * i));
    bits += held_count >> 3;
    held_count &= 7;
  }
  void finish(int rows_, Scratch& scratch, std::vector<uint8_t>& out) {
    if (!any) return;  // no bytes: nothing but zeros
    // words grow down from the records' end: two bytes for four, so they never reach what is not read yet
    const uint32_t* const first = scratch.records.data();
    uint8_t* const words_end = reinterpret_cast<uint8_t*>(record + 2 * states);
    uint8_t* word = words_end;
    const auto put = [](uint8_t* to, uint32_t v) { to[0] = static_cast<uint8_t>(v), to[1] = static_cast<uint8_t>(v >> 8); };
    uint32_t x[states] = {state_low, state_low, state_low, state_low};
    for (const uint32_t* r = record; r-- > first;) {
      const uint32_t taken = *r, begin = taken & ((1u << chance_bits) - 1), chance = taken >> chance_bits & ((1u << chance_bits) - 1);
      uint32_t state = x[taken >> 30];
      const bool full = state >= chance << (32 - chance_bits);
      put(word - 2, state);
      word -= full ? 2 : 0;
      state = full ? state >> 16 : state;
      x[taken >> 30] = (state / chance << chance_bits) + state % chance + begin;
    }
    for (int j = std::min(rows_, states); j-- > 0; word -= 4) put(word - 2, x[j] >> 16), put(word - 4, x[j]);
    bits += held_count > 0;
    const size_t word_bytes = static_cast<size_t>(words_end - word), bit_bytes = static_cast<size_t>(bits - scratch.bytes.data());
    out.resize(word_bytes + bit_bytes);
    std::memcpy(out.data(), word, word_bytes);
    std::reverse_copy(scratch.bytes.data(), bits, out.begin() + static_cast<std::ptrdiff_t>(word_bytes));
  }
};

struct Decoder {
  static constexpr bool encoding = false, coding = true;
  uint16_t* rows;
  const uint8_t *word, *end;  // words from the front; extra bits back from the end
  uint32_t x[states] = {state_low, state_low, state_low, state_low};
  size_t bits = 0, nbits;
  uint64_t window = 0;  // the next bits, at the top
  bool damaged = false;

  Decoder(const MaxModel& m, const uint8_t* data, size_t nbytes, int rows_, Scratch& scratch) : rows(fresh_rows(m, scratch)), nbits(8 * nbytes) {
    scratch.bytes.assign(nbytes + 2 * slack, 0);
    std::memcpy(scratch.bytes.data() + slack, data, nbytes);
    word = scratch.bytes.data() + slack, end = word + nbytes;
    for (int j = 0; j < std::min(rows_, states); ++j, word += 4) x[j] = next() | uint32_t{word[2]} << 16 | uint32_t{word[3]} << 24;
  }
  uint32_t next() const { return word[0] | uint32_t{word[1]} << 8; }
  // A step reads at most 16 bytes of words and 8 of bits.
  bool within() {
    damaged = damaged || word > end || bits > nbits;
    return !damaged;
  }
  int take(int lane, const MaxClass& class_, const uint16_t* mean, int& symbol_) {
    uint32_t state = x[lane % states];
    const uint32_t slot = state & ((1u << chance_bits) - 1);
    const int symbol = symbol_ = symbol_at(mean, slot), count = class_.extra_bits[symbol];
    state = chance_of(mean, symbol) * (state >> chance_bits) + slot - mean[symbol];
    const bool low = state < state_low;
    x[lane % states] = low ? state << 16 | next() : state;
    word += low ? 2 : 0;
    const int extra = static_cast<int>(window >> 1 >> (63 - count));
    window <<= count;
    bits += static_cast<size_t>(count);
    return class_.first[symbol] + extra;
  }
  // Bits for four lanes, at most 32.
  void four_lanes() {
    uint64_t loaded;
    std::memcpy(&loaded, end - 8 - (bits >> 3), 8);
    window = loaded << (bits & 7);
  }
  // Nothing is left between words and bits but less than a byte, of zeros.
  bool done() {
    if (!within() || static_cast<size_t>(end - word) != (bits + 7) / 8) return false;
    for (const uint32_t state : x)
      if (state != state_low) return false;
    return bits % 8 == 0 || !(*word & ((1 << (8 - bits % 8)) - 1));
  }
};

struct Zeros {
  static constexpr bool encoding = false, coding = false;
};

struct Tracer {
  static constexpr bool encoding = true, coding = false;
};

// The quantised value of least (x - decoded)^2 + lagrangian * bits among the nearest, the next towards zero, and zero.
inline int chosen(const MaxOption* options, float x, int nearest_, float lagrangian) {
  const auto cost = [&](int v) {
    const float error = x - options[v].decoded;
    return error * error + lagrangian * options[v].bits;
  };
  const int toward = nearest_ - (nearest_ > 0) + (nearest_ < 0);
  const float near = cost(nearest_), next = cost(toward), none = cost(0);
  const int best = next < near ? toward : nearest_;
  return none < std::min(near, next) ? 0 : best;
}

// --- the walk --------------------------------------------------------------------------------------------------------

template <class T>
T* row_of(const MapView& map, const MaxTask& task, size_t channel, int y) {
  return static_cast<T*>(map.data) + static_cast<int64_t>(channel) * map.channel_stride + (task.row + y) * map.row_stride + task.column * map.column_stride;
}

template <class T>
void row_as_float(const MaxTask& task, size_t channel, int y, float* to) {
  const T* const from = row_of<T>(*task.map, task, channel, y);
  const int64_t stride = task.map->column_stride;
  if (stride == 1) std::copy(from, from + task.columns, to);
  else for (int i = 0; i < task.columns; ++i) to[i] = static_cast<float>(from[i * stride]);
}

inline float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }  // half to even, of small numbers

template <class T>
T as(float x) {
  if constexpr (sizeof(T) == 4) return x;
  else return static_cast<T>(static_cast<int>(nearest(std::clamp(x, float{std::numeric_limits<T>::min()}, float{std::numeric_limits<T>::max()}))));
}

template <class T>
void row_from(const MapView& map, const MaxTask& task, size_t channel, int y, const float* values) {
  T* const to = row_of<T>(map, task, channel, y);
  if (map.column_stride == 1) for (int i = 0; i < task.columns; ++i) to[i] = as<T>(values[i]);
  else for (int i = 0; i < task.columns; ++i) to[i * map.column_stride] = as<T>(values[i]);
}

template <class Coder>
class Walk {
 public:
  Walk(const MaxModel& model, const MaxTask& task_, Coder& coder_, Scratch& scratch_, const MaxChoice& choice_, const MapView* out_, const MaxTrace& trace_)
      : m(model), scratch(scratch_), task(task_), coder(coder_), choice(choice_), out(out_), trace(trace_), columns(task.columns), wide((columns + 3 * block - 1) / block * block),
        stride(columns + 4), plane(static_cast<size_t>(stride) * (static_cast<size_t>(task.rows) + 3)), across(task.map->columns) {
    scratch.roots.assign(m.channels * plane + 2 * block, 0);
    if (m.reference) scratch.then.assign(plane + 2 * block, 0);
    const size_t all = static_cast<size_t>(task.rows) * static_cast<size_t>(wide);
    scratch.cross.resize(all), scratch.q.resize(all), scratch.class_.resize(all), scratch.scaled.resize(all);
    for (int y = 0; y < task.rows; ++y) at[y] = y * wide;  // lanes without a row look at the first one, and write nothing
  }

  // False where the coder has run past its data.
  bool run() {
    const int period = columns + 2;
    std::vector<uint8_t>& phases = scratch.phases;  // which lanes begin a row, are within one, end one
    phases.assign(3 * static_cast<size_t>(period), 0);
    for (int y = 0; y < task.rows; ++y) {
      const int begin = 2 * y % period;
      phases[begin] |= 1 << y;
      for (int i = 0; i < columns; ++i) phases[period + (begin + i) % period] |= 1 << y;
      phases[2 * period + (begin + columns - 1) % period] |= 1 << y;
    }
    const uint8_t *const begins = phases.data(), *const insides = begins + period, *const ends = insides + period;
    const int64_t steps = static_cast<int64_t>(m.channels) * period - 2 + 2 * (task.rows - 1);
    int phase = 0;
    for (int64_t t = 0; t < steps; ++t) {
      for (unsigned some = begins[phase]; some; some &= some - 1)
        if (const int y = __builtin_ctz(some); t >= 2 * y) begin_row(y);
      const unsigned active = insides[phase] & live;
      if (!(active == (1 << lanes) - 1 ? step<true>(t, active) : step<false>(t, active))) return false;
      for (unsigned some = ends[phase] & live; some; some &= some - 1) end_row(__builtin_ctz(some));
      if (++phase == period) phase = 0;
    }
    return true;
  }

 private:
  const MaxModel& m;
  Scratch& scratch;
  const MaxTask& task;
  Coder& coder;
  const MaxChoice& choice;
  const MapView* const out;
  const MaxTrace& trace;
  const int columns, wide, stride;
  const size_t plane;
  const int64_t across;  // columns of the whole map

  Lanes weight[max_spatial] = {};
  Lanes at = {}, pace = {};                // where a lane is in its row of the scratch; 1 if it moves on
  alignas(64) int32_t ring[8][16] = {};    // roots of the last steps, behind two lanes of zeros
  Steps s;
  unsigned live = 0;                       // lanes that have begun and not ended
  int16_t* here[lanes] = {};               // a lane's row of roots, to be counted from as `at` is
  size_t group[lanes] = {}, begun[lanes] = {};

  int16_t* root_row(std::vector<int16_t>& planes, size_t c, int y) const { return planes.data() + c * plane + static_cast<size_t>(y + 2) * static_cast<size_t>(stride) + 2; }
  size_t channel(int y) const { return begun[y] - 1; }
  int64_t place(size_t c, int y) const { return (static_cast<int64_t>(c) * task.map->rows + task.row + y) * across + task.column; }  // in a contiguous map

  // Weights, the cross part of the predictions, and, for an encoder, the nearest quantised values.
  void begin_row(int y) {
    live &= ~(1u << y), pace[y] = 0;
    if (begun[y] == m.channels) return;
    live |= 1u << y, pace[y] = 1;
    const size_t of = begun[y]++, row = static_cast<size_t>(y) * static_cast<size_t>(wide);
    at[y] = y * wide;
    group[y] = m.group[of] * size_t{max_other * max_symbols};
    here[y] = root_row(scratch.roots, of, y) - row;
    const std::int8_t* const w = m.weights.data() + of * static_cast<size_t>(m.features());
    for (int i = 0; i < max_spatial; ++i) weight[i][y] = w[i];
    if constexpr (Coder::encoding) {
      float* const x = scratch.scaled.data() + row;
      int16_t* const q = scratch.q.data() + row;
      switch (task.map->element) {
        case Element::f32: row_as_float<float>(task, of, y, x); break;
        case Element::u8: row_as_float<uint8_t>(task, of, y, x); break;
        case Element::i8: row_as_float<std::int8_t>(task, of, y, x); break;
      }
      const float reciprocal = m.reciprocal[of], low = static_cast<float>(-m.low), high = static_cast<float>(m.high);
      for (int i = 0; i < columns; ++i) {
        x[i] *= reciprocal;
        q[i] = static_cast<int16_t>(static_cast<int>(nearest(std::clamp(x[i], low, high))));
      }
      if (choice.lagrangian <= 0 && choice.rounding != 0.5)
        for (int i = 0; i < columns; ++i)
          if (std::fabs(x[i]) + choice.rounding < std::abs(q[i])) q[i] = static_cast<int16_t>(q[i] + (q[i] > 0 ? -1 : 1));
    }
    cross_of(y, of, w + max_spatial);
  }

  // The part of a row's predictions that other channels and the reference make.
  void cross_of(int y, size_t of, const std::int8_t* w) {
    const int16_t* from[2 * max_around + 16];
    int count = 0;
    int32_t weights[2 * max_around + 16];
    const auto add = [&](const int16_t* row) { weights[count] = *w++, from[count++] = row; };
    const auto five = [&](const int16_t* r) { add(r), add(r + 1), add(r + stride), add(r - 1), add(r - stride); };
    for (int k = 0; k < m.earlier; ++k) {
      const int32_t other = m.channel[of * static_cast<size_t>(m.earlier) + static_cast<size_t>(k)];
      const int16_t* const r = other < 0 ? nullptr : root_row(scratch.roots, static_cast<size_t>(other), y);
      if (!r) w += k ? 1 : max_around;
      else if (k) add(r);
      else five(r);
    }
    if (m.reference) {
      for (int near = -1; near <= 1; ++near) refer(of, y + near);
      five(root_row(scratch.then, 0, y));
    }
    int32_t* const to = scratch.cross.data() + static_cast<size_t>(y) * static_cast<size_t>(wide);
    for (int j = 0; j < columns; j += block) {
      int32_t sum[block];
      for (int i = 0; i < block; ++i) sum[i] = m.bias[of];
      for (int k = 0; k < count; ++k)
        for (int i = 0; i < block; ++i) sum[i] += weights[k] * from[k][j + i];
      for (int i = 0; i < block; ++i) to[j + i] = sum[i];
    }
  }

  // Roots of a row of the reference, quantised by the channel's step: lanes are at different channels, so each makes its own.
  void refer(size_t of, int y) {
    int16_t* const row = root_row(scratch.then, 0, y);
    std::fill(row - 2, row + columns + 2, int16_t{0});
    if (y < 0 || y >= task.rows) return;
    const float* const from = task.before + place(of, y);
    for (int i = 0; i < columns; ++i) {
      const float x = std::clamp(from[i] * m.reciprocal[of], static_cast<float>(-m.low), static_cast<float>(m.high));
      row[i] = m.root[static_cast<size_t>(static_cast<int>(nearest(x)) + m.low)];
    }
  }

  // What the surroundings say, for all lanes at once.
  void look_around(int64_t t) {
    const auto back = [&](int64_t steps, int up) { return lanes_at(ring[(t - steps) & 7] + 2 - up); };
    const Lanes w = back(1, 0), n = back(2, 1), nw = back(3, 1), ne = back(1, 1), ww = back(2, 0), nn = back(4, 2);
    const int32_t* const cross = scratch.cross.data();
    s.at = at;
    Lanes p;
    for (int y = 0; y < lanes; ++y) p[y] = cross[s.at[y]];
    s.p = p + weight[0] * w + weight[1] * n + weight[2] * nw + weight[3] * ne + weight[4] * ww + weight[5] * nn;
    s.bin = limited((s.p - m.bins_low) >> m.bins_shift, max_bins - 1);
    s.w = limited((w - m.grid_low) >> m.grid_shift, max_grid - 1), s.n = limited((n - m.grid_low) >> m.grid_shift, max_grid - 1);
    s.texture = lesser((distance(w, nw) + distance(n, nw) + distance(n, ne)) >> (m.grid_shift + 1), Lanes{} + (max_grid - 1));
    at += pace;
    std::memset(ring[t & 7] + 2, 0, sizeof(Lanes));
  }

  // `all`: every lane is active.
  template <bool all>
  bool step(int64_t t, unsigned active) {
    look_around(t);
    std::conditional_t<Coder::encoding, Coder, Coder&> c = coder;  // an encoder's bytes may be anything's: a copy's members stay in registers
    int32_t* const ring_row = ring[t & 7] + 2;
    const uint8_t* const class_of = m.class_of.data();
    const MaxClass* const classes = m.class_.data();
    const int16_t* const root = m.root.data() + m.low;
    int16_t *const q = scratch.q.data(), *const class_ = scratch.class_.data();
    const size_t half = m.start.size() / 2;
    const float* const scaled = scratch.scaled.data();
    const float lagrangian = static_cast<float>(choice.lagrangian);
    const int low = m.low, high = m.high;
    const size_t values = static_cast<size_t>(low + high + 1);
    const MaxOption* const options = m.options.data() + low;
    const bool keep_class = m.centroids;
    const auto keep = [&](int y, int value) {
      if constexpr (!Coder::encoding) q[s.at[y]] = static_cast<int16_t>(value);
      here[y][s.at[y]] = root[value];
      ring_row[y] = root[value];
    };
    const auto four = [&](int y) {
      if constexpr (Coder::coding)
        if (y % 4 == (Coder::encoding ? 3 : 0)) c.four_lanes();
    };
#pragma GCC unroll 8
    for (int y = 0; y < lanes; ++y) {
      if constexpr (Coder::encoding)
        if (y == 4) four(3);
      if (!all && !(active >> y & 1)) continue;
      const int k = class_of[s.bin[y]];
      const MaxClass& of = classes[k];
      if (keep_class) class_[s.at[y]] = static_cast<int16_t>(k);
      if constexpr (Coder::coding) {
        s.class_[y] = &of;
        s.a[y] = c.rows + of.w_row[s.w[y]] + of.t_row[s.texture[y]];
        s.b[y] = c.rows + half + of.n_row[s.n[y]] + group[y];
        mean_of(s.a[y], s.b[y], s.mean(y));
      }
      if constexpr (Coder::encoding) {
        int value = q[s.at[y]];
        if (lagrangian > 0) {
          value = chosen(options + static_cast<size_t>(k) * values, scaled[s.at[y]], value, lagrangian);
          q[s.at[y]] = static_cast<int16_t>(value);
        }
        if constexpr (Coder::coding) s.symbol[y] = c.put(y, of, s.mean(y), value, low);
        else trace.prediction[place(channel(y), y) + s.at[y] - y * wide] = s.p[y];
        keep(y, value);
      } else if constexpr (!Coder::coding) {
        keep(y, 0);
      }
    }
    if constexpr (Coder::encoding) four(7);
    if constexpr (!Coder::encoding && Coder::coding) {
#pragma GCC unroll 8
      for (int y = 0; y < lanes; ++y)
        if (four(y); all || active >> y & 1) keep(y, std::min(c.take(y, *s.class_[y], s.mean(y), s.symbol[y]), high));
    }
    if constexpr (Coder::coding) {
#pragma GCC unroll 8
      for (int y = 0; y < lanes; ++y)
        if (all || active >> y & 1) learn(s.a[y], s.symbol[y]), learn(s.b[y], s.symbol[y]);
      if constexpr (Coder::encoding) coder = c;
    }
    if constexpr (!Coder::encoding && Coder::coding) return c.within();
    return true;
  }

  // What a decoder gives, or a fit takes.
  void end_row(int y) {
    const size_t of = channel(y), row = static_cast<size_t>(y) * static_cast<size_t>(wide);
    const int16_t *const q = scratch.q.data() + row, *const class_ = scratch.class_.data() + row;
    if constexpr (Coder::encoding && !Coder::coding)
      std::copy(q, q + columns, trace.q + place(of, y));
    if (!out) return;
    float* const values = scratch.scaled.data() + row;
    const float step128 = m.step128[of];
    if (out->element == Element::u8 && step128 == 1 / 128.0f && !m.centroids && out->column_stride == 1) {
      uint8_t* const to = row_of<uint8_t>(*out, task, of, y);
      for (int i = 0; i < columns; ++i) to[i] = static_cast<uint8_t>(std::max(q[i], int16_t{0}));
      return;
    }
    for (int i = 0; i < columns; ++i) values[i] = static_cast<float>(q[i] * 128) * step128;
    if (m.centroids)
      for (int i = 0; i < columns; ++i) {
        const int shift = m.centroid[static_cast<size_t>(class_[i] * 4 + std::min(std::abs(q[i]), 3))];
        values[i] = static_cast<float>(q[i] * 128 + (q[i] < 0 ? -shift : shift)) * step128;
      }
    switch (out->element) {
      case Element::f32: row_from<float>(*out, task, of, y, values); break;
      case Element::u8: row_from<uint8_t>(*out, task, of, y, values); break;
      case Element::i8: row_from<std::int8_t>(*out, task, of, y, values); break;
    }
  }
};

void encode(const MaxModel& m, const MaxTask& task, const MaxChoice& choice, std::vector<uint8_t>& out, const MapView* decoded, const MaxTrace& trace) {
  const OwnScratch own;
  Scratch& scratch = own.scratch;
  if (trace.q) {
    Tracer coder;
    Walk<Tracer>(m, task, coder, scratch, choice, decoded, trace).run();
    return;
  }
  Encoder coder(m, m.channels * static_cast<size_t>(task.rows) * static_cast<size_t>(task.columns), scratch);
  Walk<Encoder>(m, task, coder, scratch, choice, decoded, trace).run();
  coder.finish(task.rows, scratch, out);
}

bool decode(const MaxModel& m, const MaxTask& task, const uint8_t* data, size_t nbytes) {
  const MaxChoice none{0, 0.5};
  const OwnScratch own;
  Scratch& scratch = own.scratch;
  if (nbytes == 0) {
    Zeros coder;
    return Walk<Zeros>(m, task, coder, scratch, none, task.map, {}).run();
  }
  Decoder coder(m, data, nbytes, task.rows, scratch);
  return Walk<Decoder>(m, task, coder, scratch, none, task.map, {}).run() && coder.done();
}

}  // namespace

extern const MaxBody max_body = {encode, decode};

}  // namespace tensorpress::TP_ISA
