// 64 bytes at once: what kernels of bytes are written in. One set of names for every instruction set; TP_ISA is that of the compilation.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tensorpress::TP_ISA {

constexpr int block_size = 64;

inline std::uint64_t first_bits(int n) { return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; }

#if defined(__AVX512VBMI2__)

struct Block {
  __m512i v;
};

// The first n bytes at p, zeros behind them; nothing else is read.
inline Block load(const std::uint8_t* p, int n) { return {n >= 64 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(first_bits(n), p)}; }
inline void store(std::uint8_t* p, Block b, int n) {
  if (n >= 64) _mm512_storeu_si512(p, b.v);
  else _mm512_mask_storeu_epi8(p, first_bits(n), b.v);
}
// The first n bytes, zeros behind them.
inline Block keep(Block b, int n) { return {_mm512_maskz_mov_epi8(first_bits(n), b.v)}; }
// Bit i: byte i is not zero.
inline std::uint64_t nonzero(Block b) { return _mm512_test_epi8_mask(b.v, b.v); }
// The bytes whose bit is set, side by side; may write 64 bytes.
inline void squeeze(Block b, std::uint64_t bits, std::uint8_t* out) { _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(bits, b.v)); }
// The inverse: the first bytes of b where a bit is set, zeros elsewhere.
inline Block spread(Block b, std::uint64_t bits) { return {_mm512_maskz_expand_epi8(bits, b.v)}; }

class Table {  // of 256 bytes; `same`: each stands for itself
 public:
  Table(const std::uint8_t* t, bool same)
      : a_(_mm512_loadu_si512(t)), b_(_mm512_loadu_si512(t + 64)), c_(_mm512_loadu_si512(t + 128)), d_(_mm512_loadu_si512(t + 192)), same_(same) {}
  Block operator()(Block x) const {
    if (same_) return x;
    return {_mm512_mask_blend_epi8(_mm512_movepi8_mask(x.v), _mm512_permutex2var_epi8(a_, x.v, b_), _mm512_permutex2var_epi8(c_, x.v, d_))};
  }

 private:
  __m512i a_, b_, c_, d_;
  bool same_;
};

inline Block flip(Block b, std::uint8_t by) { return {_mm512_xor_si512(b.v, _mm512_set1_epi8(char(by)))}; }

// Float to level: multiply, clamp, round half to even, add the zero point. False where one of the n is not finite.
inline bool quantise(const float* p, int n, float reciprocal, int zero, Block& out) {
  const __m512 low = _mm512_set1_ps(float(-zero)), high = _mm512_set1_ps(float(255 - zero)), by = _mm512_set1_ps(reciprocal);
  const __m512i limit = _mm512_set1_epi32(0x7F800000), magnitude = _mm512_set1_epi32(0x7FFFFFFF), offset = _mm512_set1_epi32(zero);
  const std::uint64_t there = first_bits(n);
  __mmask16 bad = 0;
  __m128i part[4];
  for (int k = 0; k < 4; ++k) {
    const __m512 x = _mm512_maskz_loadu_ps(__mmask16(there >> 16 * k), p + 16 * k);
    bad |= _mm512_cmpge_epi32_mask(_mm512_and_si512(_mm512_castps_si512(x), magnitude), limit);
    const __m512 y = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(x, by), low), high);
    part[k] = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(y), offset));
  }
  const __m512i a = _mm512_inserti64x2(_mm512_castsi128_si512(part[0]), part[1], 1);
  out.v = _mm512_maskz_mov_epi8(there, _mm512_inserti64x2(_mm512_inserti64x2(a, part[2], 2), part[3], 3));
  return !bad;
}

// The first n levels as floats: less the zero point, times the scale.
inline void dequantise(Block b, int n, int zero, float scale, float* p) {
  const __m512i offset = _mm512_set1_epi32(zero);
  const std::uint64_t there = first_bits(n);
  const __m128i part[4] = {_mm512_castsi512_si128(b.v), _mm512_extracti64x2_epi64(b.v, 1), _mm512_extracti64x2_epi64(b.v, 2),
                           _mm512_extracti64x2_epi64(b.v, 3)};
  for (int k = 0; k < 4; ++k) {
    const __m512i level = _mm512_sub_epi32(_mm512_cvtepu8_epi32(part[k]), offset);
    _mm512_mask_storeu_ps(p + 16 * k, __mmask16(there >> 16 * k), _mm512_mul_ps(_mm512_cvtepi32_ps(level), _mm512_set1_ps(scale)));
  }
}

#else

struct Block {
  alignas(64) std::uint8_t v[block_size];
};

inline Block load(const std::uint8_t* p, int n) {
  Block b{};
  std::memcpy(b.v, p, std::size_t(n < block_size ? n : block_size));
  return b;
}
inline void store(std::uint8_t* p, const Block& b, int n) { std::memcpy(p, b.v, std::size_t(n < block_size ? n : block_size)); }

inline Block keep(const Block& b, int n) { return load(b.v, n); }

inline std::uint64_t nonzero(const Block& b) {
#if defined(__AVX2__)
  const __m256i none = _mm256_setzero_si256(), *const v = reinterpret_cast<const __m256i*>(b.v);
  const auto low = std::uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_load_si256(v), none)));
  const auto high = std::uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_load_si256(v + 1), none)));
  return ~(low | std::uint64_t{high} << 32);
#else
  std::uint64_t bits = 0;
  for (int i = 0; i < block_size; i += 8) {  // the highest bit of each byte tells, then a product brings them together
    std::uint64_t word;
    std::memcpy(&word, b.v + i, 8);
    word = (((word & 0x7F7F7F7F7F7F7F7Fu) + 0x7F7F7F7F7F7F7F7Fu) | word) >> 7 & 0x0101010101010101u;
    bits |= (word * 0x0102040810204080u >> 56) << i;
  }
  return bits;
#endif
}

inline void squeeze(const Block& b, std::uint64_t bits, std::uint8_t* out) {
#if defined(__BMI2__)
  for (int i = 0; i < block_size; i += 8, bits >>= 8) {  // eight bytes at a time, out of the bytes of a word
    std::uint64_t word;
    std::memcpy(&word, b.v + i, 8);
    const std::uint64_t packed = _pext_u64(word, _pdep_u64(bits & 0xFF, 0x0101010101010101u) * 0xFF);
    std::memcpy(out, &packed, 8);
    out += std::popcount(bits & 0xFF);
  }
#else
  for (int i = 0; i < block_size; ++i) {  // always written, kept only where the pointer moves on: no branch
    *out = b.v[i];
    out += bits >> i & 1;
  }
#endif
}

inline Block spread(const Block& b, std::uint64_t bits) {
  Block out;
  const std::uint8_t* in = b.v;
#if defined(__BMI2__)
  for (int i = 0; i < block_size; i += 8, bits >>= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, in, std::size_t(b.v + block_size - in < 8 ? b.v + block_size - in : 8));
    word = _pdep_u64(word, _pdep_u64(bits & 0xFF, 0x0101010101010101u) * 0xFF);
    std::memcpy(out.v + i, &word, 8);
    in += std::popcount(bits & 0xFF);
  }
#else
  for (int i = 0; i < block_size; ++i) {
    const unsigned there = bits >> i & 1;
    out.v[i] = there ? *in : std::uint8_t{0};
    in += there;
  }
#endif
  return out;
}

class Table {  // of 256 bytes; `same`: each stands for itself
 public:
  Table(const std::uint8_t* t, bool same) : t_(t), same_(same) {}
  Block operator()(const Block& x) const {
    if (same_) return x;
    Block y;
    for (int i = 0; i < block_size; ++i) y.v[i] = t_[x.v[i]];
    return y;
  }

 private:
  const std::uint8_t* t_;
  bool same_;
};

inline Block flip(const Block& b, std::uint8_t by) {
  Block y;
  for (int i = 0; i < block_size; ++i) y.v[i] = b.v[i] ^ by;
  return y;
}

inline bool quantise(const float* p, int n, float reciprocal, int zero, Block& out) {
  alignas(64) float x[block_size] = {};
  std::memcpy(x, p, sizeof(float) * std::size_t(n < block_size ? n : block_size));
  const float low = float(-zero), high = float(255 - zero);
  std::uint32_t bad = 0;
  for (int i = 0; i < block_size; ++i) {
    std::uint32_t word;
    std::memcpy(&word, x + i, 4);
    bad |= std::uint32_t((word & 0x7FFFFFFFu) >= 0x7F800000u);
    float y = x[i] * reciprocal;
    y = y > low ? y : low;
    y = y < high ? y : high;
    out.v[i] = std::uint8_t(std::int32_t(std::nearbyint(y)) + zero);
  }
  for (int i = n; i < block_size; ++i) out.v[i] = 0;
  return !bad;
}

inline void dequantise(const Block& b, int n, int zero, float scale, float* p) {
  for (int i = 0; i < n; ++i) p[i] = float(std::int32_t(b.v[i]) - zero) * scale;
}

#endif

}  // namespace tensorpress::TP_ISA
