// One stripe of `uniform_rans`, compiled once for each instruction set.
#include "tensorpress/rans_lanes.h"
#include "tensorpress/runs.h"
#include "tensorpress/wide.h"

namespace tensorpress::TP_ISA {
namespace {

using std::int64_t, std::uint16_t, std::uint32_t, std::uint64_t, std::uint8_t;

uint32_t load16(const uint8_t* p) { return p[0] | uint32_t(p[1]) << 8; }
void store16(uint8_t* p, uint32_t x) { p[0] = uint8_t(x), p[1] = uint8_t(x >> 8); }

// Words grow down from `p` and are never more than fit above `floor`; escapes grow up.
struct Sink {
  uint8_t *p, *floor, *escapes;
};

// One row of n symbols, the last lane first.
[[gnu::always_inline]] inline void encode_lanes(const LaneTables& tables, const uint8_t* symbols, int n, uint32_t* states, Sink& sink) {
  const uint32_t total = 1u << tables.bits;
  const int shift = 32 - tables.bits;
  for (int lane = n - 1; lane >= 0; --lane) {
    const LaneStep step = tables.steps[symbols[lane]];
    uint32_t x = states[lane];
    store16(sink.p - 2, x);  // always written, kept only where the pointer moves on: no branch
    const bool full = x >> shift >= step.frequency;
    sink.p -= full ? 2 : 0;
    x = full ? x >> 16 : x;
    const auto quotient = step.reciprocal ? uint32_t(static_cast<unsigned __int128>(step.reciprocal) * x >> 64) : x;
    states[lane] = x + step.start + quotient * (total - step.frequency);
    *sink.escapes = symbols[lane];
    sink.escapes += tables.known[symbols[lane]] >> 1;
  }
}

struct Source {
  const uint8_t *p, *end;  // words are taken from the front, escapes from the end
  const uint8_t* known;
  bool good = true;
};

[[gnu::always_inline]] inline void take_escapes(uint64_t bits, uint8_t* out, Source& source) {
  for (; bits; bits &= bits - 1) {
    if (source.end == source.p) {
      source.good = false;
      return;
    }
    const uint8_t symbol = *--source.end;
    source.good = source.good && source.known[symbol] == 2;
    out[std::countr_zero(bits)] = symbol;
  }
}

[[gnu::always_inline]] inline void decode_lanes(const LaneTables& tables, Source& source, int n, uint32_t* states, uint8_t* out) {
  const uint32_t mask = (1u << tables.bits) - 1;
  uint64_t escapes = 0;
  for (int lane = 0; lane < n; ++lane) {
    const uint32_t x = states[lane], slot = tables.slots[x & mask];
    out[lane] = uint8_t(slot);
    escapes |= uint64_t{(x & mask) < tables.escape} << lane;
    states[lane] = (slot >> 20) * (x >> tables.bits) + (slot >> 8 & 0xFFF);
  }
  for (int lane = 0; lane < n; ++lane) {
    if (states[lane] >= lane_low) continue;
    if (source.end - source.p < 2) {
      source.good = false;
      return;
    }
    states[lane] = states[lane] << 16 | load16(source.p);
    source.p += 2;
  }
  take_escapes(escapes, out, source);
}

// Whole rows. False where there was no room for the words.
template <int lanes>
struct Rows {
  static bool encode(const LaneTables& tables, const uint8_t* symbols, int64_t rows, uint32_t* states, Sink& sink) {
    for (int64_t row = rows - 1; row >= 0; --row) {
      if (sink.p - sink.floor < 2 * lanes) return false;
      encode_lanes(tables, symbols + row * lanes, lanes, states, sink);
    }
    return true;
  }
  static void decode(const LaneTables& tables, Source& source, int64_t rows, uint32_t* states, uint8_t* out) {
    for (int64_t row = 0; row < rows && source.good; ++row) decode_lanes(tables, source, lanes, states, out + row * lanes);
  }
};

#if defined(__AVX512VBMI2__)

// Spans of 64 symbols, from four planes of bytes in registers: much faster than a gather.
class SpanTable {
 public:
  explicit SpanTable(const uint8_t (*planes)[256]) {
    for (int plane = 0; plane < 4; ++plane)
      for (int k = 0; k < 4; ++k) t_[plane][k] = _mm512_loadu_si512(planes[plane] + 64 * k);
  }
  [[gnu::always_inline]] void operator()(__m512i symbols, __m512i spans[4]) const {
    // the words of four bytes go where the unpacking below brings them back in order
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i at = _mm512_permutexvar_epi32(order, symbols);
    const __mmask64 upper = _mm512_movepi8_mask(at);
    __m512i plane[4];
    for (int k = 0; k < 4; ++k)
      plane[k] = _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t_[k][0], at, t_[k][1]), _mm512_permutex2var_epi8(t_[k][2], at, t_[k][3]));
    const __m512i a = _mm512_unpacklo_epi8(plane[0], plane[1]), b = _mm512_unpackhi_epi8(plane[0], plane[1]);
    const __m512i c = _mm512_unpacklo_epi8(plane[2], plane[3]), d = _mm512_unpackhi_epi8(plane[2], plane[3]);
    spans[0] = _mm512_unpacklo_epi16(a, c), spans[1] = _mm512_unpackhi_epi16(a, c);
    spans[2] = _mm512_unpacklo_epi16(b, d), spans[3] = _mm512_unpackhi_epi16(b, d);
  }

 private:
  __m512i t_[4][4];
};

template <int lanes>
  requires(lanes % 16 == 0)
struct Rows<lanes> {
  static constexpr int parts = lanes / 16;

  static bool encode(const LaneTables& tables, const uint8_t* symbols, int64_t rows, uint32_t* states, Sink& sink) {
    while (rows % (block_size / lanes)) {  // a register of symbols is some rows
      if (sink.p - sink.floor < 2 * lanes) return false;
      encode_lanes(tables, symbols + --rows * lanes, lanes, states, sink);
    }
    __m512i x[parts];
    for (int k = 0; k < parts; ++k) x[k] = _mm512_loadu_si512(states + 16 * k);
    const __m512i shift = _mm512_set1_epi32(32 - tables.bits), bits = _mm512_set1_epi32(tables.bits);
    const __m512i total = _mm512_set1_epi32(1 << tables.bits), low = _mm512_set1_epi32(0xFFFF);
    const __m512 one = _mm512_set1_ps(1);
    const SpanTable span_of(tables.planes);
    const bool escaping = tables.escape;
    constexpr int down = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    uint8_t *p = sink.p, *escapes = sink.escapes;
    for (int64_t at = rows * lanes - block_size; at >= 0; at -= block_size) {
      if (p - sink.floor < 2 * block_size) return false;
      __m512i spans[4];
      span_of(_mm512_loadu_si512(symbols + at), spans);
#pragma GCC unroll 4
      for (int k = 3; k >= 0; --k) {
        __m512i& state = x[k % parts];
        const __m512i frequency = _mm512_and_si512(spans[k], low), start = _mm512_srli_epi32(spans[k], 16);
        // 1 / f, rounded down, and a product rounded down: the quotient is right or one too small, as it has at most 21 bits
        const __m512 inverse = _mm512_div_round_ps(one, _mm512_cvtepi32_ps(frequency), down);
        const __mmask16 full = _mm512_cmpge_epu32_mask(_mm512_srlv_epi32(state, shift), frequency);
        const int count = std::popcount(unsigned(full));
        p -= 2 * count;
        _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, state)));
        const __m512i y = _mm512_mask_srli_epi32(state, full, state, 16);
        const __m512i quotient = _mm512_cvttps_epu32(_mm512_mul_round_ps(_mm512_cvt_roundepu32_ps(y, down), inverse, down));
        const __m512i rest = _mm512_sub_epi32(y, _mm512_mullo_epi32(quotient, frequency));
        const __mmask16 small = _mm512_cmpge_epu32_mask(rest, frequency);
        const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(_mm512_sllv_epi32(quotient, bits), start), rest);
        state = _mm512_mask_add_epi32(sum, small, sum, _mm512_sub_epi32(total, frequency));
      }
      if (!escaping) continue;
      uint64_t rare = 0;
      for (int k = 0; k < 4; ++k) rare |= uint64_t{_mm512_cmplt_epu32_mask(spans[k], _mm512_set1_epi32(0x10000))} << 16 * k;
      while (rare) [[unlikely]] {
        const int lane = 63 - std::countl_zero(rare);
        rare ^= uint64_t{1} << lane;
        *escapes++ = symbols[at + lane];
      }
    }
    for (int k = 0; k < parts; ++k) _mm512_storeu_si512(states + 16 * k, x[k]);
    sink.p = p, sink.escapes = escapes;
    return true;
  }

  static void decode(const LaneTables& tables, Source& source, int64_t rows, uint32_t* states, uint8_t* out) {
    __m512i x[parts];
    for (int k = 0; k < parts; ++k) x[k] = _mm512_loadu_si512(states + 16 * k);
    const __m512i mask = _mm512_set1_epi32((1 << tables.bits) - 1), low = _mm512_set1_epi32(lane_low);
    const __m512i offset = _mm512_set1_epi32(0xFFF), escape = _mm512_set1_epi32(int(tables.escape));
    const __m512i bits = _mm512_set1_epi32(tables.bits);
    const uint32_t* const slots = tables.slots.data();
    const uint8_t* p = source.p;
    for (int64_t row = 0; row < rows; ++row) {
      uint64_t escapes = 0;
      const bool plenty = source.end - p >= 2 * lanes;
      for (int k = 0; k < parts; ++k) {
        const __m512i at = _mm512_and_si512(x[k], mask), slot = _mm512_i32gather_epi32(at, slots, 4);
        escapes |= uint64_t{_mm512_cmplt_epu32_mask(at, escape)} << 16 * k;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + row * lanes + 16 * k), _mm512_cvtepi32_epi8(slot));
        const __m512i frequency = _mm512_srli_epi32(slot, 20);
        const __m512i y = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srlv_epi32(x[k], bits)), _mm512_and_si512(_mm512_srli_epi32(slot, 8), offset));
        const __mmask16 small = _mm512_cmplt_epu32_mask(y, low);
        const int count = std::popcount(unsigned(small));
        __m256i words;
        if (plenty) [[likely]] {
          words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        } else {
          if (source.end - p < 2 * count) {
            source.good = false;
            return;
          }
          words = _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
        }
        p += 2 * count;
        const __m512i word = _mm512_maskz_expand_epi32(small, _mm512_cvtepu16_epi32(words));
        x[k] = _mm512_or_si512(_mm512_mask_slli_epi32(y, small, y, 16), word);
      }
      if (escapes) [[unlikely]] {
        source.p = p;
        take_escapes(escapes, out + row * lanes, source);
        if (!source.good) return;
      }
    }
    source.p = p;
    for (int k = 0; k < parts; ++k) _mm512_storeu_si512(states + 16 * k, x[k]);
  }
};

#elif defined(__AVX2__)

// For each set of eight lanes, byte by byte: which word a lane takes; and the lanes that give a word, those to the right end.
struct Places {
  uint64_t taking[256], giving[256];
  constexpr Places() : taking(), giving() {
    for (int set = 0; set < 256; ++set) {
      int word = 0, place = 8 - std::popcount(unsigned(set));
      for (int lane = 0; lane < 8; ++lane)
        if (set >> lane & 1) taking[set] |= uint64_t(word++) << 8 * lane, giving[set] |= uint64_t(lane) << 8 * place++;
    }
  }
};
constexpr Places places;

inline __m256i wide(uint64_t bytes) { return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes))); }

template <int lanes>
  requires(lanes % 16 == 0)
struct Rows<lanes> {
  static constexpr int parts = lanes / 8;

  static bool encode(const LaneTables& tables, const uint8_t* symbols, int64_t rows, uint32_t* states, Sink& sink) {
    __m256i x[parts];
    for (int k = 0; k < parts; ++k) x[k] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states + 8 * k));
    const __m256i shift = _mm256_set1_epi32(32 - tables.bits), bits = _mm256_set1_epi32(tables.bits), total = _mm256_set1_epi32(1 << tables.bits);
    const __m256i low = _mm256_set1_epi32(0xFFFF), one = _mm256_set1_epi32(1), none = _mm256_setzero_si256();
    const __m256 two = _mm256_set1_ps(2);
    const bool escaping = tables.escape;
    uint8_t *p = sink.p, *escapes = sink.escapes;
    for (int64_t row = rows - 1; row >= 0; --row) {
      if (p - sink.floor < 2 * lanes) return false;
      const uint8_t* const from = symbols + row * lanes;
#pragma GCC unroll 8
      for (int k = parts - 1; k >= 0; --k) {
        const __m256i symbol = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * k)));
        const __m256i span = _mm256_i32gather_epi32(reinterpret_cast<const int*>(tables.spans), symbol, 4);
        const __m256i frequency = _mm256_and_si256(span, low), start = _mm256_srli_epi32(span, 16);
        const __m256 inverse = _mm256_div_ps(two, _mm256_cvtepi32_ps(frequency));
        const __m256i stays = _mm256_cmpgt_epi32(frequency, _mm256_srlv_epi32(x[k], shift));  // both below 2^12
        const unsigned full = unsigned(_mm256_movemask_ps(_mm256_castsi256_ps(stays))) ^ 0xFF;
        const __m256i words = _mm256_permutevar8x32_epi32(_mm256_and_si256(x[k], low), wide(places.giving[full]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p - 16), _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
        p -= 2 * std::popcount(full);
        const __m256i y = _mm256_blendv_epi8(_mm256_srli_epi32(x[k], 16), x[k], stays);
        // half of y is a signed number; the quotient, of at most 21 bits, is one too large or too small at worst
        const __m256i quotient = _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(y, 1)), inverse));
        const __m256i rest = _mm256_sub_epi32(y, _mm256_mullo_epi32(quotient, frequency));
        const __m256i above = _mm256_cmpgt_epi32(rest, _mm256_sub_epi32(frequency, one)), below = _mm256_cmpgt_epi32(none, rest);
        const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(_mm256_sllv_epi32(quotient, bits), start), rest);
        const __m256i carry = _mm256_sub_epi32(total, frequency);
        x[k] = _mm256_sub_epi32(_mm256_add_epi32(sum, _mm256_and_si256(above, carry)), _mm256_and_si256(below, carry));
        if (!escaping) continue;
        for (unsigned rare = unsigned(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(start, none)))); rare;) [[unlikely]] {
          const int lane = 31 - std::countl_zero(rare);
          rare ^= 1u << lane;
          *escapes++ = from[8 * k + lane];
        }
      }
    }
    for (int k = 0; k < parts; ++k) _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + 8 * k), x[k]);
    sink.p = p, sink.escapes = escapes;
    return true;
  }

  static void decode(const LaneTables& tables, Source& source, int64_t rows, uint32_t* states, uint8_t* out) {
    __m256i x[parts];
    for (int k = 0; k < parts; ++k) x[k] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states + 8 * k));
    const __m256i mask = _mm256_set1_epi32((1 << tables.bits) - 1), bits = _mm256_set1_epi32(tables.bits), offset = _mm256_set1_epi32(0xFFF);
    const __m256i escape = _mm256_set1_epi32(int(tables.escape)), none = _mm256_setzero_si256();
    const __m128i bytes = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const int* const slots = reinterpret_cast<const int*>(tables.slots.data());
    int64_t row = 0;
    for (; row < rows && source.end - source.p >= 2 * lanes; ++row) {
      uint64_t escapes = 0;
      const uint8_t* p = source.p;
#pragma GCC unroll 8
      for (int k = 0; k < parts; ++k) {
        const __m256i at = _mm256_and_si256(x[k], mask), slot = _mm256_i32gather_epi32(slots, at, 4);
        escapes |= uint64_t{uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(escape, at))))} << 8 * k;
        const __m128i packed = _mm_unpacklo_epi32(_mm_shuffle_epi8(_mm256_castsi256_si128(slot), bytes), _mm_shuffle_epi8(_mm256_extracti128_si256(slot, 1), bytes));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + row * lanes + 8 * k), packed);
        const __m256i product = _mm256_mullo_epi32(_mm256_srli_epi32(slot, 20), _mm256_srlv_epi32(x[k], bits));
        const __m256i y = _mm256_add_epi32(product, _mm256_and_si256(_mm256_srli_epi32(slot, 8), offset));
        const __m256i small = _mm256_cmpeq_epi32(_mm256_srli_epi32(y, 16), none);
        const unsigned taking = unsigned(_mm256_movemask_ps(_mm256_castsi256_ps(small)));
        const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        const __m256i word = _mm256_permutevar8x32_epi32(words, wide(places.taking[taking]));
        x[k] = _mm256_blendv_epi8(y, _mm256_or_si256(_mm256_slli_epi32(y, 16), word), small);
        p += 2 * std::popcount(taking);
      }
      source.p = p;
      if (escapes) [[unlikely]] take_escapes(escapes, out + row * lanes, source);
      if (!source.good) return;
    }
    for (int k = 0; k < parts; ++k) _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + 8 * k), x[k]);
    for (; row < rows && source.good; ++row) decode_lanes(tables, source, lanes, states, out + row * lanes);
  }
};

#endif

// The last symbols stand as they are in the final states of the lanes kept; those before them, the tail, are coded in these lanes
// alone, and the first words of the tail stand in the final states of the other lanes.
template <int lanes>
struct Ending {
  static constexpr int kept = std::min(lanes, most_kept), words = lanes - kept, tail = words ? 4 * lanes : 0;
};

// The decoder's first states: 4 bits for each, its length less 17; then its bits but the highest. Returns the end.
template <int lanes>
uint8_t* put_states(const uint32_t* states, uint8_t* out) {
  uint8_t* to = out + lanes / 2;
  uint64_t held = 0;
  int fill = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    const int size = 15 - std::countl_zero(states[lane]);
    if (lane % 2) out[lane / 2] |= uint8_t(size << 4);
    else out[lane / 2] = uint8_t(size);
    held |= uint64_t{states[lane] ^ 1u << (size + 16)} << fill;
    for (fill += size + 16; fill >= 8; fill -= 8, held >>= 8) *to++ = uint8_t(held);
  }
  if (fill) *to++ = uint8_t(held);
  return to;
}

// Where they end; null where they are cut or the last bits are not zero.
template <int lanes>
const uint8_t* take_states(const uint8_t* data, const uint8_t* end, uint32_t* states) {
  const uint8_t* p = data + lanes / 2;
  uint64_t held = 0;
  int fill = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    if (p > end) return nullptr;
    const int size = 16 + (data[lane / 2] >> lane % 2 * 4 & 15);
    for (; fill < size; fill += 8) {
      if (p == end) return nullptr;
      held |= uint64_t{*p++} << fill;
    }
    states[lane] = uint32_t(held & ((1u << size) - 1)) | 1u << size;
    held >>= size, fill -= size;
  }
  return held ? nullptr : p;
}

// Writes a string of fewer than `count` bytes, or none: returns 0.
template <int lanes>
int64_t encode_string(const LaneTables& tables, const uint8_t* symbols, int64_t count, uint8_t* words, uint8_t* escapes, uint8_t* out) {
  using End = Ending<lanes>;
  const int64_t coded = count - End::tail - 2 * End::kept, rows = coded / lanes;
  if (coded < 0) return 0;
  uint32_t states[lanes];
  for (int lane = 0; lane < End::kept; ++lane) states[lane] = lane_low | load16(symbols + coded + End::tail + 2 * lane);
  uint8_t* const end = words + count + 2 * lanes;
  Sink sink{end, words, escapes};
  if (!Rows<End::kept>::encode(tables, symbols + coded, End::tail / End::kept, states, sink)) return 0;
  for (int lane = End::kept; lane < lanes; ++lane) {
    states[lane] = lane_low | (sink.p != end ? load16(sink.p) : 0);
    sink.p += sink.p != end ? 2 : 0;
  }
  encode_lanes(tables, symbols + rows * lanes, int(coded % lanes), states, sink);
  if (!Rows<lanes>::encode(tables, symbols, rows, states, sink)) return 0;
  const int64_t words_nbytes = end - sink.p, escapes_nbytes = sink.escapes - escapes;
  if (lanes / 2 + 4 * lanes + words_nbytes + escapes_nbytes >= count) return 0;
  uint8_t* const to = put_states<lanes>(states, out);
  std::memcpy(to, sink.p, std::size_t(words_nbytes));
  std::memcpy(to + words_nbytes, escapes, std::size_t(escapes_nbytes));
  return to + words_nbytes + escapes_nbytes - out;
}

// Hands out a string's symbols in order, some at a time.
template <int lanes>
class Decoder {
  using End = Ending<lanes>;

 public:
  Decoder(const LaneTables& tables, const uint8_t* data, int64_t nbytes, int64_t count)
      : tables_(tables), source_{data, data + nbytes, tables.known}, left_(count - End::tail - 2 * End::kept) {
    if (left_ >= 0) source_.p = take_states<lanes>(data, data + nbytes, states_);
    source_.good = left_ >= 0 && source_.p;
    for (std::size_t k = 0; k < tables.slots.size(); k += 16) __builtin_prefetch(&tables.slots[k]);  // no gather shall wait for them one by one
  }

  // The next n, at most block_size; zeros where the string is bad.
  const uint8_t* take(int n) {
    if (stop_ - at_ < n) fill();
    const uint8_t* const found = buffer_ + at_;
    at_ += n;
    return found;
  }

  bool good() const { return source_.good; }

  bool done() const { return source_.good && source_.p == source_.end; }

 private:
  static constexpr int chunk = 512;

  void fill() {
    std::memmove(buffer_, buffer_ + at_, std::size_t(stop_ - at_));
    stop_ -= at_, at_ = 0;
    const int n = int(std::min<int64_t>(chunk, left_)), rows = n / lanes;
    if (source_.good) Rows<lanes>::decode(tables_, source_, rows, states_, buffer_ + stop_);
    if (source_.good && n % lanes) decode_lanes(tables_, source_, n % lanes, states_, buffer_ + stop_ + rows * lanes);
    stop_ += n, left_ -= n;
    if (left_ == 0) finish();
    if (!source_.good) std::memset(buffer_, 0, sizeof buffer_);
  }

  void finish() {
    const int64_t rest = source_.end - source_.p;
    uint8_t* const last_symbols = buffer_ + stop_;
    stop_ += End::tail + 2 * End::kept;
    source_.good = source_.good && rest <= 3 * End::tail;
    if (!source_.good) return;
    uint8_t words[2 * End::words + 3 * End::tail + 1];
    for (int lane = End::kept; lane < lanes; ++lane) {
      store16(words + 2 * (lane - End::kept), states_[lane]);
      source_.good = source_.good && states_[lane] >> 16 == 1;
    }
    std::memcpy(words + 2 * End::words, source_.p, std::size_t(rest));
    source_.p = source_.end;
    Source last{words, words + 2 * End::words + rest, tables_.known};
    Rows<End::kept>::decode(tables_, last, End::tail / End::kept, states_, last_symbols);
    source_.good = source_.good && last.good && (last.p == last.end || last.end <= words + 2 * End::words);
    for (; last.p < last.end; ++last.p) source_.good = source_.good && !*last.p;  // lanes that there was no word for
    for (int lane = 0; lane < End::kept; ++lane) {
      uint8_t* const pair = last_symbols + End::tail + 2 * lane;
      store16(pair, states_[lane]);
      source_.good = source_.good && states_[lane] >> 16 == 1 && tables_.known[pair[0]] && tables_.known[pair[1]];
    }
  }

  const LaneTables& tables_;
  Source source_;
  int64_t left_;
  uint32_t states_[lanes];
  int at_ = 0, stop_ = 0;
  alignas(64) uint8_t buffer_[chunk + block_size + End::tail + 2 * End::kept + block_size] = {};
};

Outcome encode(const MapView& map, const LaneTables& tables, int64_t stripe, uint8_t* out) {
  const Runs runs(map, stripe);
  Outcome result;
  result.stripe = stripe;
  const int64_t count = runs.values, room = count + 256;
  uint8_t *const symbols = lane_scratch(3 * room), *to = symbols;
  const Table word_of(tables.bytes.word_of, tables.bytes.same);
  each_block(map, runs, [&](auto* p, int64_t at, int n) __attribute__((always_inline)) {
    Block levels;
    if constexpr (sizeof(*p) == 4) {
      if (!quantise(p, n, map.reciprocal, tables.bytes.zero, levels)) {
        result.fault = Fault::not_finite, result.at = at;
        return false;
      }
    } else {
      levels = load(p, n);
      if (map.element == Element::i8) levels = flip(levels, 0x80);
    }
    store(to, word_of(levels), block_size);
    to += n;
    return true;
  });
  if (result.fault == Fault::not_finite) {
    result.at = first_not_finite(map, stripe, result.at);
    return result;
  }
  const auto string = count < some_values ? encode_string<few_lanes> : count < many_values ? encode_string<some_lanes> : encode_string<many_lanes>;
  result.nbytes = string(tables, symbols, count, symbols + room, symbols + 2 * room, out);
  if (!result.nbytes) {
    std::memcpy(out, symbols, std::size_t(count));
    result.nbytes = count;
  }
  return result;
}

// take(n): the next n symbols; 64 bytes may be read there.
template <class Take>
void restore(const MapView& map, const Runs& runs, const LaneTables& tables, Take&& take) {
  const Table level_of(tables.bytes.level_of, tables.bytes.same);
  each_block_out(map, runs, [&](auto* p, int n) __attribute__((always_inline)) {
    const Block levels = level_of(take(n));
    if constexpr (sizeof(*p) == 4) dequantise(levels, n, tables.bytes.zero, map.scale, p);
    else store(p, map.element == Element::i8 ? flip(levels, 0x80) : levels, n);
  });
}

template <int lanes>
bool decode_string(const uint8_t* data, int64_t nbytes, const MapView& map, const Runs& runs, const LaneTables& tables) {
  Decoder<lanes> decoder(tables, data, nbytes, runs.values);
  if (!decoder.good()) return false;
  restore(map, runs, tables, [&](int n) __attribute__((always_inline)) { return load(decoder.take(n), block_size); });
  return decoder.done();
}

Outcome decode(const uint8_t* data, int64_t nbytes, const MapView& map, const LaneTables& tables, int64_t stripe) {
  const Runs runs(map, stripe);
  Outcome result;
  result.stripe = stripe, result.nbytes = nbytes;
  bool good = nbytes <= runs.values;
  if (nbytes == runs.values) {
    for (int64_t i = 0; i < nbytes; ++i) good = good && tables.known[data[i]];
    if (good)
      restore(map, runs, tables, [&](int n) __attribute__((always_inline)) {
        const Block block = load(data, n);
        data += n;
        return block;
      });
  } else if (good) {
    const auto string = runs.values < some_values   ? decode_string<few_lanes>
                        : runs.values < many_values ? decode_string<some_lanes>
                                                    : decode_string<many_lanes>;
    good = string(data, nbytes, map, runs, tables);
  }
  if (!good) result.fault = Fault::length_wrong;
  return result;
}

}  // namespace

extern const LanedRansBody laned_rans_body;
const LanedRansBody laned_rans_body{encode, decode};

}  // namespace tensorpress::TP_ISA
