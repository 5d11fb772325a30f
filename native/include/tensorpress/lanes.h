// Numbers of 16 bits, some of a Block's 64 at once, and the integer DCT in them. Sums wrap, as they do in every register.
#pragma once
#include <cstdint>

#include "tensorpress/wide.h"

namespace tensorpress::TP_ISA {

#if defined(__AVX512VBMI2__)

constexpr int unrolled = 16;  // loops over a transform's terms
constexpr int parts = 2;      // Lanes that a Block takes; which byte is in which part is each instruction set's own affair
struct Lanes {
  __m512i v;
};

inline Lanes every(int n) { return {_mm512_set1_epi16(short(n))}; }
inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_epi16(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_epi16(a.v, b.v)}; }
// (a * b + 2^14) >> 15
inline Lanes scaled(Lanes a, Lanes b) { return {_mm512_mulhrs_epi16(a.v, b.v)}; }
// (byte - zero) << shift
inline Lanes differences(Block b, int part, int zero, int shift) {
  const __m512i z = _mm512_set1_epi8(char(zero)), by = _mm512_set1_epi16(short(std::uint16_t((0x100 - (1 << shift)) << 8 | 1 << shift)));
  return {_mm512_maddubs_epi16(part ? _mm512_unpackhi_epi8(b.v, z) : _mm512_unpacklo_epi8(b.v, z), by)};
}
// byte << 8
inline Lanes high(Block b, int part) {
  const __m512i none = _mm512_setzero_si512();
  return {part ? _mm512_unpackhi_epi8(none, b.v) : _mm512_unpacklo_epi8(none, b.v)};
}
inline Lanes half(Lanes a) { return {_mm512_srli_epi16(a.v, 1)}; }  // without sign
inline Lanes shifted_down(Lanes a, int by) { return {_mm512_srai_epi16(a.v, unsigned(by))}; }
// (|y| + offset) * multiplier >> 16
inline Lanes magnitudes(Lanes y, Lanes offset, Lanes multiplier) { return {_mm512_mulhi_epu16(_mm512_add_epi16(_mm512_abs_epi16(y.v), offset.v), multiplier.v)}; }
// Twice the magnitude, less one where y < 0; 0 stays.
inline Lanes folded(Lanes y, Lanes magnitude) {
  return {_mm512_subs_epu16(_mm512_add_epi16(magnitude.v, magnitude.v), _mm512_srli_epi16(y.v, 15))};
}
// All parts as bytes, those beyond 0 … 255 at its ends.
inline Block joined(const Lanes (&p)[parts]) { return {_mm512_packus_epi16(p[0].v, p[1].v)}; }
// Even bytes halved; of odd ones the complement of half.
inline Block unfolded(Block b) {
  const __m512i halves = _mm512_and_si512(_mm512_srli_epi16(b.v, 1), _mm512_set1_epi8(0x7F));
  return {_mm512_mask_sub_epi8(halves, _mm512_test_epi8_mask(b.v, _mm512_set1_epi8(1)), _mm512_set1_epi8(-1), halves)};
}

#elif defined(__AVX2__)

constexpr int unrolled = 16, parts = 4;
struct Lanes {
  __m256i v;
};

inline Lanes every(int n) { return {_mm256_set1_epi16(short(n))}; }
inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_epi16(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_epi16(a.v, b.v)}; }
inline Lanes scaled(Lanes a, Lanes b) { return {_mm256_mulhrs_epi16(a.v, b.v)}; }
inline __m256i bytes_of(const Block& b, int part) { return _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(b.v) + part)); }
inline Lanes differences(const Block& b, int part, int zero, int shift) {
  return {_mm256_slli_epi16(_mm256_sub_epi16(bytes_of(b, part), _mm256_set1_epi16(short(zero))), shift)};
}
inline Lanes high(const Block& b, int part) { return {_mm256_slli_epi16(bytes_of(b, part), 8)}; }
inline Lanes half(Lanes a) { return {_mm256_srli_epi16(a.v, 1)}; }
inline Lanes shifted_down(Lanes a, int by) { return {_mm256_srai_epi16(a.v, by)}; }
inline Lanes magnitudes(Lanes y, Lanes offset, Lanes multiplier) { return {_mm256_mulhi_epu16(_mm256_add_epi16(_mm256_abs_epi16(y.v), offset.v), multiplier.v)}; }
inline Lanes folded(Lanes y, Lanes magnitude) {
  return {_mm256_subs_epu16(_mm256_add_epi16(magnitude.v, magnitude.v), _mm256_srli_epi16(y.v, 15))};
}
inline Block joined(const Lanes (&p)[parts]) {
  Block b;
  auto* const out = reinterpret_cast<__m256i*>(b.v);
  for (int i = 0; i < 2; ++i) _mm256_store_si256(out + i, _mm256_permute4x64_epi64(_mm256_packus_epi16(p[2 * i].v, p[2 * i + 1].v), 0xD8));
  return b;
}
inline Block unfolded(const Block& b) {
  Block out;
  for (int i = 0; i < 2; ++i) {
    const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(b.v) + i);
    const __m256i halves = _mm256_and_si256(_mm256_srli_epi16(v, 1), _mm256_set1_epi8(0x7F));
    const __m256i odd = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_and_si256(v, _mm256_set1_epi8(1)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out.v) + i, _mm256_xor_si256(halves, odd));
  }
  return out;
}

#else

// Vectors of the compiler: what it has registers for, it puts there.
constexpr int unrolled = 1, parts = 4, lane_count = block_size / parts;
typedef std::int16_t Numbers __attribute__((vector_size(2 * lane_count)));
typedef std::uint16_t Words __attribute__((vector_size(2 * lane_count)));
typedef std::int32_t Wide __attribute__((vector_size(4 * lane_count)));
typedef std::uint32_t WideWords __attribute__((vector_size(4 * lane_count)));
typedef std::uint8_t Bytes __attribute__((vector_size(lane_count)));
struct Lanes {
  Numbers v;
};

inline Lanes every(int n) { return {Numbers{} + std::int16_t(n)}; }
inline Lanes operator+(const Lanes& a, const Lanes& b) { return {Numbers(Words(a.v) + Words(b.v))}; }
inline Lanes operator-(const Lanes& a, const Lanes& b) { return {Numbers(Words(a.v) - Words(b.v))}; }
inline Lanes scaled(const Lanes& a, const Lanes& b) {
  return {__builtin_convertvector((__builtin_convertvector(a.v, Wide) * __builtin_convertvector(b.v, Wide) + (1 << 14)) >> 15, Numbers)};
}
inline Numbers bytes_of(const Block& b, int part) {
  Bytes bytes;
  std::memcpy(&bytes, b.v + lane_count * part, lane_count);
  return __builtin_convertvector(bytes, Numbers);
}
inline Lanes differences(const Block& b, int part, int zero, int shift) { return {(bytes_of(b, part) - every(zero).v) * every(1 << shift).v}; }
inline Lanes high(const Block& b, int part) { return {Numbers(Words(bytes_of(b, part)) << 8)}; }
inline Lanes half(const Lanes& a) { return {Numbers(Words(a.v) >> 1)}; }
inline Lanes shifted_down(const Lanes& a, int by) { return {a.v >> by}; }
inline Lanes magnitudes(const Lanes& y, const Lanes& offset, const Lanes& multiplier) {
  const Words sum = (y.v < 0 ? Words{} - Words(y.v) : Words(y.v)) + Words(offset.v);
  const WideWords product = __builtin_convertvector(sum, WideWords) * __builtin_convertvector(Words(multiplier.v), WideWords);
  return {Numbers(__builtin_convertvector(product >> 16, Words))};
}
inline Lanes folded(const Lanes& y, const Lanes& magnitude) { return {Numbers(Words(magnitude.v) + Words(magnitude.v) + Words((y.v < 0) & (magnitude.v != 0)))}; }
inline Block joined(const Lanes (&p)[parts]) {
  Block b;
  for (int part = 0; part < parts; ++part) {
    const Numbers low = p[part].v < 0 ? Numbers{} : p[part].v, whole = low > 255 ? Numbers{} + std::int16_t(255) : low;
    const Bytes bytes = __builtin_convertvector(whole, Bytes);
    std::memcpy(b.v + lane_count * part, &bytes, lane_count);
  }
  return b;
}
inline Block unfolded(const Block& b) {
  Block y;
  for (int i = 0; i < block_size; ++i) y.v[i] = std::uint8_t(b.v[i] >> 1 ^ -(b.v[i] & 1));
  return y;
}

#endif

// Odd rows of the DCT-II of N as ITU-T H.265 fixes it (8.6.4.2): 64 * sqrt(2) * cos(j * pi / 64) to whole numbers, j = 0 … 32.
template <int N>
struct OddRows {
  int of[N / 2][N / 2];
};
template <int N>
constexpr OddRows<N> odd_rows = [] {
  constexpr int cosines[33] = {64, 90, 90, 90, 89, 88, 87, 85, 83, 82, 80, 78, 75, 73, 70, 67, 64, 61, 57, 54, 50, 46, 43, 38, 36, 31, 25, 22, 18, 13, 9, 4, 0};
  OddRows<N> rows{};
  for (int k = 1; k < N; k += 2)
    for (int n = 0; n < N / 2; ++n) {
      const int turn = (2 * n + 1) * k * (32 / N) % 128, j = turn <= 64 ? turn : 128 - turn;
      rows.of[k / 2][n] = j <= 32 ? cosines[j] : -cosines[64 - j];
    }
  return rows;
}();
// a * basis / 128, rounded; the constant row has 64
inline Lanes projected(Lanes a, int basis) { return scaled(a, every(basis * 256)); }

// y[k * Step] = sum over n of x[n] * basis(k, n) / 128. Even rows are the shorter transform of the sums x[n] + x[N - 1 - n].
template <int N, int Step = 1>
inline void forward(const Lanes* x, Lanes* y) {
  if constexpr (N == 1) {
    y[0] = projected(x[0], 64);
  } else {
    Lanes sums[N / 2], differences[N / 2];
    for (int n = 0; n < N / 2; ++n) sums[n] = x[n] + x[N - 1 - n], differences[n] = x[n] - x[N - 1 - n];
    forward<N / 2, 2 * Step>(sums, y);
#pragma GCC unroll unrolled
    for (int k = 0; k < N / 2; ++k) {
      Lanes total = projected(differences[0], odd_rows<N>.of[k][0]);
#pragma GCC unroll unrolled
      for (int n = 1; n < N / 2; ++n) total = total + projected(differences[n], odd_rows<N>.of[k][n]);
      y[(2 * k + 1) * Step] = total;
    }
  }
}

// x[n] = bias + sum over k of v[k * Step] * basis(k, n) / 128
template <int N, int Step = 1>
inline void inverse(const Lanes* v, Lanes bias, Lanes* x) {
  if constexpr (N == 1) {
    x[0] = projected(v[0], 64) + bias;
  } else {
    Lanes even[N / 2];
    inverse<N / 2, 2 * Step>(v, bias, even);
#pragma GCC unroll unrolled
    for (int n = 0; n < N / 2; ++n) {
      Lanes odd = projected(v[Step], odd_rows<N>.of[0][n]);
#pragma GCC unroll unrolled
      for (int k = 1; k < N / 2; ++k) odd = odd + projected(v[(2 * k + 1) * Step], odd_rows<N>.of[k][n]);
      x[n] = even[n] + odd, x[N - 1 - n] = even[n] - odd;
    }
  }
}

}  // namespace tensorpress::TP_ISA
