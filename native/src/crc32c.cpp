#include "tensorpress/crc32c.h"

#include <array>
#include <cstring>
#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own header
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "tensorpress/isa.h"

namespace tensorpress {
namespace {

constexpr std::uint32_t polynomial = 0x82F63B78u;  // reflected

constexpr auto make_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> t{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? polynomial : 0u);
    t[0][i] = c;
  }
  for (int k = 1; k < 8; ++k)
    for (std::uint32_t i = 0; i < 256; ++i) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 0xFF];
  return t;
}
constexpr auto table = make_tables();

std::uint32_t by_tables(const std::uint8_t* p, std::size_t n, std::uint32_t c) {
  for (; n >= 8; n -= 8, p += 8) {  // eight bytes a turn, one table for each
    const std::uint32_t low = c ^ (p[0] | p[1] << 8 | p[2] << 16 | std::uint32_t(p[3]) << 24);
    c = table[7][low & 0xFF] ^ table[6][low >> 8 & 0xFF] ^ table[5][low >> 16 & 0xFF] ^ table[4][low >> 24] ^ table[3][p[4]] ^
        table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
  }
  for (; n; --n, ++p) c = (c >> 8) ^ table[0][(c ^ *p) & 0xFF];
  return c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t by_instruction(const std::uint8_t* p, std::size_t n, std::uint32_t c) {
  std::uint64_t wide = c;
  for (; n >= 8; n -= 8, p += 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  c = static_cast<std::uint32_t>(wide);
  for (; n; --n, ++p) c = _mm_crc32_u8(c, *p);
  return c;
}

// x^n mod the polynomial, reflected, as carry-less multiplication wants it.
constexpr std::uint64_t power(int n) {
  std::uint32_t v = 1u << 31;
  for (; n; --n) v = (v >> 1) ^ (v & 1 ? polynomial : 0u);
  return std::uint64_t{v} << 1;
}

#define TP_FOLDING __attribute__((target("avx512f,avx512vl,avx512dq,vpclmulqdq,pclmul,sse4.2")))

// x moved on by the distance that `by` holds, and what stands there.
TP_FOLDING inline __m512i fold(__m512i x, __m512i by, __m512i there) {
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, by, 0x00), _mm512_clmulepi64_epi128(x, by, 0x11), there, 0x96);
}
TP_FOLDING inline __m128i fold(__m128i x, __m128i by, __m128i there) {
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x00), _mm_clmulepi64_si128(x, by, 0x11)), there);
}
template <int bits>
TP_FOLDING inline __m128i distance() {
  constexpr std::uint64_t high = power(bits - 32), low = power(bits + 32);
  return _mm_set_epi64x(std::int64_t(high), std::int64_t(low));
}

// Takes all whole 64 bytes of p, at least 256 (Gopal et al., Fast CRC Computation Using PCLMULQDQ, Intel 2009).
TP_FOLDING std::uint32_t by_folding(const std::uint8_t* p, std::size_t n, std::uint32_t c) {
  const __m512i by2048 = _mm512_broadcast_i32x4(distance<2048>()), by512 = _mm512_broadcast_i32x4(distance<512>());
  __m512i x0 = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_zextsi128_si512(_mm_cvtsi32_si128(int(c))));
  __m512i x1 = _mm512_loadu_si512(p + 64), x2 = _mm512_loadu_si512(p + 128), x3 = _mm512_loadu_si512(p + 192);
  for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
    for (int i = 0; i < 256; i += 64) __builtin_prefetch(p + 2048 + i, 0, 2);
    x0 = fold(x0, by2048, _mm512_loadu_si512(p)), x1 = fold(x1, by2048, _mm512_loadu_si512(p + 64));
    x2 = fold(x2, by2048, _mm512_loadu_si512(p + 128)), x3 = fold(x3, by2048, _mm512_loadu_si512(p + 192));
  }
  x0 = fold(fold(fold(x0, by512, x1), by512, x2), by512, x3);
  for (; n >= 64; p += 64, n -= 64) x0 = fold(x0, by512, _mm512_loadu_si512(p));
  alignas(64) std::uint64_t words[8];
  _mm512_store_si512(words, x0);
  __m128i y = _mm_load_si128(reinterpret_cast<const __m128i*>(words));
  for (int i = 2; i < 8; i += 2) y = fold(y, distance<128>(), _mm_load_si128(reinterpret_cast<const __m128i*>(words + i)));
  _mm_store_si128(reinterpret_cast<__m128i*>(words), y);
  return std::uint32_t(_mm_crc32_u64(_mm_crc32_u64(0, words[0]), words[1]));
}
#elif defined(__aarch64__) && defined(__linux__)
__attribute__((target("+crc"))) std::uint32_t by_instruction(const std::uint8_t* p, std::size_t n, std::uint32_t c) {
  for (; n >= 8; n -= 8, p += 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    c = __crc32cd(c, word);
  }
  for (; n; --n, ++p) c = __crc32cb(c, *p);
  return c;
}
#endif

}  // namespace

std::uint32_t crc32c(const std::uint8_t* data, std::size_t nbytes, std::uint32_t seed) {
#if defined(__x86_64__)
  static const bool fast = !plain_code() && __builtin_cpu_supports("sse4.2");
  static const bool wide = fast && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (wide && nbytes >= 256) {
    const std::uint32_t folded = by_folding(data, nbytes, ~seed);
    return ~by_instruction(data + nbytes / 64 * 64, nbytes % 64, folded);
  }
  if (fast) return ~by_instruction(data, nbytes, ~seed);
#elif defined(__aarch64__) && defined(__linux__)
  static const bool fast = !plain_code() && (getauxval(AT_HWCAP) & HWCAP_CRC32);
  if (fast) return ~by_instruction(data, nbytes, ~seed);
#endif
  return ~by_tables(data, nbytes, ~seed);
}

}  // namespace tensorpress
