// Planes of up to 64 symbols as bits: none, a bitmap and the others less one, or all, in a width for each plane. FORMAT.md, section 6.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "tensorpress/payload.h"
#include "tensorpress/wide.h"

namespace tensorpress::TP_ISA {

#if defined(__AVX512VBMI2__)

struct Packing {  // what a width needs: a lane of 8 bytes becomes `width` of them
  alignas(64) std::uint8_t together[64], apart[64], first_bit[64], mask[64], as_it_is[64];
  std::uint32_t pair[16], quad[16];
  std::uint64_t upper[8];
};
constexpr auto packings = [] {
  struct {
    Packing of[9];
  } all{};
  for (int w = 0; w <= 8; ++w) {
    Packing& p = all.of[w];
    for (int i = 0; i < 64; ++i) {
      p.together[i] = std::uint8_t(i < 8 * w ? i / w * 8 + i % w : 0);
      p.apart[i] = std::uint8_t((i / 8 * w + i % 8) & 63);
      p.first_bit[i] = std::uint8_t(i % 8 * w);
      p.mask[i] = std::uint8_t((1 << w) - 1);
      p.as_it_is[i] = w == 8 ? 0xFF : 0;
    }
    for (int i = 0; i < 16; ++i) {
      p.pair[i] = w < 8 ? 0x00010001u * (1u | 1u << (8 + w)) : 0;
      p.quad[i] = w < 8 ? 1u | 1u << (16 + 2 * w) : 0;
    }
    for (int i = 0; i < 8; ++i) p.upper[i] = std::uint64_t(4 * w);
  }
  return all;
}();

// The low `width` bits of each byte side by side, the first lowest: 8 * width bytes at the front. No byte may have higher bits.
inline Block pack(Block b, int width) {
  const Packing& p = packings.of[width];
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_load_si512(p.pair), b.v), quads = _mm512_madd_epi16(pairs, _mm512_load_si512(p.quad));
  const __m512i upper = _mm512_sllv_epi64(_mm512_srli_epi64(quads, 32), _mm512_load_si512(p.upper));
  const __m512i eights = _mm512_ternarylogic_epi64(upper, quads, _mm512_set1_epi64(0xFFFFFFFF), 0xF8);  // upper | (quads & mask)
  const __m512i packed = _mm512_permutexvar_epi8(_mm512_load_si512(p.together), eights);
  return {_mm512_ternarylogic_epi64(_mm512_load_si512(p.as_it_is), b.v, packed, 0xCA)};  // as it is ? b : packed
}

// The inverse, whatever stands behind the packed bits.
inline Block unpack(Block b, int width) {
  const Packing& p = packings.of[width];
  const __m512i lanes = _mm512_permutexvar_epi8(_mm512_load_si512(p.apart), b.v);
  return {_mm512_and_si512(_mm512_multishift_epi64_epi8(_mm512_load_si512(p.first_bit), lanes), _mm512_load_si512(p.mask))};
}

// The largest byte of each of 8 planes: a tree over all of them at once.
inline void largest_of_8(const Block* b, std::uint8_t* out) {
  const auto halves = [](__m512i x, __m512i y) { return _mm512_max_epu8(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y)); };
  const auto quarters = [](__m512i x, __m512i y) {
    const __m512 a = _mm512_castsi512_ps(x), c = _mm512_castsi512_ps(y);
    return _mm512_max_epu8(_mm512_castps_si512(_mm512_shuffle_ps(a, c, 0x88)), _mm512_castps_si512(_mm512_shuffle_ps(a, c, 0xDD)));
  };
  const __m512i even = quarters(halves(b[0].v, b[2].v), halves(b[4].v, b[6].v)), odd = quarters(halves(b[1].v, b[3].v), halves(b[5].v, b[7].v));
  const __m512i lanes = _mm512_max_epu8(_mm512_mask_blend_epi16(0xAAAAAAAA, even, _mm512_slli_epi32(odd, 16)),
                                        _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(even, 16), odd));
  const __m256i four = _mm256_max_epu8(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1));
  const __m128i two = _mm_max_epu8(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_cvtepi16_epi8(_mm_max_epu8(two, _mm_srli_epi16(two, 8))));
}

alignas(64) constexpr std::uint32_t byte_times[2][16] = {{}, {0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101,
                                                              0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101}};
// 0 or 1 less, not below 0; or more.
inline Block less(Block b, unsigned n) { return {_mm512_subs_epu8(b.v, _mm512_load_si512(byte_times[n]))}; }
inline Block plus(Block b, unsigned n) { return {_mm512_add_epi8(b.v, _mm512_load_si512(byte_times[n]))}; }
inline Block no_block() { return {_mm512_setzero_si512()}; }
// The bytes whose bit is set, side by side, zeros behind them.
inline Block squeezed(Block b, std::uint64_t bits) { return {_mm512_maskz_compress_epi8(bits, b.v)}; }

#else

// Eight bytes at a time, in the bytes of a word: pairs, then fours, then all eight move together, or apart.
inline Block pack(const Block& b, int width) {
  Block out{};
  for (int i = 0; i < 8; ++i) {
    std::uint64_t word;
    std::memcpy(&word, b.v + 8 * i, 8);
#if defined(__BMI2__)
    word = _pext_u64(word, 0x0101010101010101u * ((1u << width) - 1));
#else
    word = (word & 0x00FF00FF00FF00FFu) | (word & 0xFF00FF00FF00FF00u) >> (8 - width);
    word = (word & 0x0000FFFF0000FFFFu) | (word & 0xFFFF0000FFFF0000u) >> (16 - 2 * width);
    word = (word & 0x00000000FFFFFFFFu) | (word & 0xFFFFFFFF00000000u) >> (32 - 4 * width);
#endif
    std::memcpy(out.v + i * width, &word, 8);
  }
  return out;
}

inline Block unpack(const Block& b, int width) {
  Block out;
  for (int i = 0; i < 8; ++i) {
    std::uint64_t word;
    std::memcpy(&word, b.v + i * width, 8);
#if defined(__BMI2__)
    word = _pdep_u64(word, 0x0101010101010101u * ((1u << width) - 1));
#else
    const std::uint64_t four = (std::uint64_t{1} << 4 * width) - 1, two = 0x0000000100000001u * ((1u << 2 * width) - 1), one = 0x0001000100010001u * ((1u << width) - 1);
    word = (word & four) | (word >> 4 * width & four) << 32;
    word = (word & two) | (word >> 2 * width & two) << 16;
    word = (word & one) | (word >> width & one) << 8;
#endif
    std::memcpy(out.v + 8 * i, &word, 8);
  }
  return out;
}

inline void largest_of_8(const Block* b, std::uint8_t* out) {
  for (int k = 0; k < 8; ++k) {
    std::uint8_t most = 0;
    for (int i = 0; i < block_size; ++i) most = most > b[k].v[i] ? most : b[k].v[i];
    out[k] = most;
  }
}

inline Block less(const Block& b, unsigned n) {
  Block y;
  for (int i = 0; i < block_size; ++i) y.v[i] = std::uint8_t(b.v[i] > n ? b.v[i] - n : 0);
  return y;
}
inline Block plus(const Block& b, unsigned n) {
  Block y;
  for (int i = 0; i < block_size; ++i) y.v[i] = std::uint8_t(b.v[i] + n);
  return y;
}
inline Block no_block() { return Block{}; }
inline Block squeezed(const Block& b, std::uint64_t bits) {
  Block y{};
  squeeze(b, bits, y.v);
  return keep(y, std::popcount(bits));
}

#endif

constexpr int first_dense_code = 10, max_planes = 32, ahead_nbytes = 512;  // how far output is fetched ahead of its writing

inline constexpr std::uint32_t bytes_of(std::uint32_t bits) { return (bits + 7) / 8; }

// How planes are stored. Their largest symbol puts them in one of 16 classes; in each, more non-zero symbols than a limit are best stored with the zeros.
struct Form {
  std::uint8_t code, width, ones, bitmap;  // ones: taken off before packing; bitmap: all bits set where there is one
};
struct Forms {
  std::uint8_t class_of[256], limit[block_size + 1][16];  // by the largest symbol; by number of symbols and class
  Form of[16][2];                                         // by class and whether zeros are stored
};
constexpr Forms forms = [] {
  Forms f{};
  for (unsigned most = 0; most < 256; ++most) {
    const unsigned dense = unsigned(std::bit_width(most)), sparse = most ? unsigned(std::bit_width(most - 1)) : 0, number = most ? dense + sparse - (most > 1) : 0;
    f.class_of[most] = std::uint8_t(number);
    if (most && f.class_of[most - 1] == number) continue;  // the same once more: clang counts a constant's steps
    f.of[number][0] = {std::uint8_t(most ? 1 + sparse : 0), std::uint8_t(sparse), 1, std::uint8_t(most ? 0xFF : 0)};
    f.of[number][1] = {std::uint8_t(first_dense_code - 3 + dense), std::uint8_t(dense), 0, 0};
    for (unsigned n = 0; n <= block_size; ++n) {
      unsigned limit = 0;
      while (limit < n && (dense < 3 || bytes_of(n * dense) >= bytes_of(n) + bytes_of((limit + 1) * sparse))) ++limit;
      f.limit[n][number] = std::uint8_t(limit);
    }
  }
  return f;
}();

// `count` planes of n symbols, zeros behind them; the planes up to the next multiple of 8 are zero. Returns the end; may write 64 bytes more.
[[gnu::always_inline]] inline std::uint8_t* write_planes(const Block* planes, int count, int n, std::uint8_t* out) {
  std::uint64_t taken[max_planes];
  Form form[max_planes];
  std::uint32_t nbytes[max_planes];
  const std::uint32_t bitmap_nbytes = bytes_of(std::uint32_t(n));
  const std::uint64_t lanes = first_bits(n);
  std::uint8_t* at = out + (count + 1) / 2;
  for (int i = 0; i < ahead_nbytes; i += 64) __builtin_prefetch(out + ahead_nbytes + i, 1);
  for (int first = 0; first < count; first += 8) {
    std::uint8_t largest[8];
    largest_of_8(planes + first, largest);
    std::uint32_t codes = 0;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {  // no branch: planes differ too much
      const std::uint64_t bits = nonzero(planes[first + i]);
      const std::uint32_t c = forms.class_of[largest[i]], there = std::uint32_t(std::popcount(bits));
      const bool all = there > forms.limit[n][c];
      const Form f = forms.of[c][all];
      std::memcpy(at, &bits, 8);
      at += bitmap_nbytes & f.bitmap;
      codes |= std::uint32_t{f.code} << 4 * i;
      taken[first + i] = bits | (lanes & (std::uint64_t{0} - all));
      nbytes[first + i] = bytes_of((all ? std::uint32_t(n) : there) * f.width);
      form[first + i] = f;
    }
    std::memcpy(out + first / 2, &codes, std::size_t(count - first >= 8 ? 4 : (count - first + 1) / 2));
  }
  for (int k = 0; k < count; ++k) {
    store(at, pack(squeezed(less(planes[k], form[k].ones), taken[k]), form[k].width), block_size);
    at += nbytes[k];
  }
  return at;
}

// The bytes of a stripe, read block after block. The last ones are moved to where 64 bytes may be read at any place of them.
class Input {
 public:
  Input(const std::uint8_t* data, std::int64_t nbytes) : at_(data), end_(data + nbytes) {}
  Input(const Input&) = delete;
  bool done() const { return at_ == end_; }

  // The inverse of write_planes.
  [[gnu::always_inline]] Fault take(int count, int n, Block* planes) {
    if (end_ - at_ < most && !moved_) {
      std::memcpy(tail_, at_, std::size_t(end_ - at_));
      end_ = tail_ + (end_ - at_), at_ = tail_, moved_ = true;
    }
    const int codes_nbytes = (count + 1) / 2;
    if (end_ - at_ < codes_nbytes) return Fault::section_cut;
    const std::uint8_t* bitmaps = at_ + codes_nbytes;
    const std::uint32_t bitmap_nbytes = bytes_of(std::uint32_t(n));
    const std::uint64_t lanes = first_bits(n), bitmap_bits = first_bits(int(8 * bitmap_nbytes));
    std::uint64_t taken[max_planes], padding = count % 2 ? at_[count / 2] >> 4 : 0;
    std::uint32_t codes[max_planes], bits[max_planes];
    std::int64_t nbytes = 0;
    for (int k = 0; k < count; ++k) {
      const std::uint32_t code = at_[k / 2] >> 4 * (k % 2) & 15;
      const std::uint64_t all = 0u - std::uint64_t{code >= first_dense_code}, some = 0u - std::uint64_t{code - 1 < first_dense_code - 1u};
      std::uint64_t bitmap;
      std::memcpy(&bitmap, bitmaps, 8);
      bitmap &= bitmap_bits & some;
      bitmaps += bitmap_nbytes & some;
      padding |= bitmap & ~lanes;
      taken[k] = bitmap | (lanes & all);
      codes[k] = code;
      bits[k] = std::uint32_t(std::popcount(taken[k])) * width_of[code];
      nbytes += bytes_of(bits[k]);
    }
    if (nbytes > end_ - bitmaps) return Fault::section_cut;
    const std::uint8_t* values = bitmaps;
    for (int k = 0; k < count; ++k) {
      planes[k] = spread(plus(unpack(load(values, block_size), width_of[codes[k]]), codes[k] < first_dense_code), taken[k]);
      values += bytes_of(bits[k]);
      padding |= std::uint64_t(values[-1]) >> (((bits[k] - 1) & 7) + 1);  // a plane without values shifts all away
    }
    at_ = values;
    return padding ? Fault::padding : Fault::none;
  }

 private:
  static constexpr std::uint8_t width_of[16] = {0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 6, 7, 8};  // by code
  static constexpr int most = max_planes / 2 + max_planes * (8 + block_size);                      // bytes that a block looks at
  const std::uint8_t *at_, *end_;
  bool moved_ = false;
  std::uint8_t tail_[most + 8 * max_planes + 2 * block_size];
};

}  // namespace tensorpress::TP_ISA
