// Roots, classes and sums of one channel of a cell, 64 values side by side.
#pragma once
#include "cells.h"

namespace tensorpress {
namespace {

// Classes and roots. Both tables stand in registers.
class Lookups {
 public:
  const __m512i offset;  // of roots, 64 bytes
  explicit Lookups(const ContextModel& m) : offset(_mm512_set1_epi8(char(m.lanes.offset))), shift_(_mm512_set1_epi16(int16_t(m.bins.shift))) {
    for (int k = 0; k < 2; ++k) class_of_[k] = _mm512_loadu_si512(m.lanes.class_of + 64 * k);
    for (int k = 0; k < 4; ++k) root_of_[k] = _mm512_loadu_si512(m.lanes.root_of + 64 * k);
  }
  // class << 3 of sums (predictions less the grid's low end), 16 bits both. Upper bytes find entry 0, which is 0.
  __m512i class_of(__m512i sum) const {
    const __m512i i = _mm512_max_epi16(_mm512_srav_epi16(sum, shift_), _mm512_setzero_si512());
    return _mm512_permutex2var_epi8(class_of_[0], _mm512_min_epi16(i, _mm512_set1_epi16(context_lane_bins - 1)), class_of_[1]);
  }
  __m512i root_of(__m512i bytes) const {
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), _mm512_permutex2var_epi8(root_of_[0], bytes, root_of_[1]),
                                  _mm512_permutex2var_epi8(root_of_[2], bytes, root_of_[3]));
  }
  __m512i root_of_words(__m512i words) const {  // of 16 bits, as the values are
    constexpr __mmask64 lower = 0x5555555555555555u;
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(words), _mm512_maskz_permutex2var_epi8(lower, root_of_[0], words, root_of_[1]),
                                  _mm512_maskz_permutex2var_epi8(lower, root_of_[2], words, root_of_[3]));
  }

 private:
  __m512i class_of_[2], root_of_[4], shift_;
};

// --- sums over a channel of one cell -------------------------------------------------------------------------------------

constexpr uint64_t not_first = 0xFEFEFEFEFEFEFEFEu, not_first_two = 0xFCFCFCFCFCFCFCFCu, not_last = 0x7F7F7F7F7F7F7F7Fu;

struct Sum {
  __m512i even, odd;  // rows
  void add(uint32_t weights, __m512i a, __m512i b) {  // two bytes, twice: of a and of b
    const __m512i w = _mm512_set1_epi32(int(weights));
    even = _mm512_add_epi16(even, _mm512_maddubs_epi16(_mm512_unpacklo_epi8(a, b), w));
    odd = _mm512_add_epi16(odd, _mm512_maddubs_epi16(_mm512_unpackhi_epi8(a, b), w));
  }
};

inline __m512i load(const uint8_t* p) { return _mm512_loadu_si512(p); }

// Same, E, S, W: two pairs. N is left to the caller.
inline void add_four(Sum& sum, const uint32_t* w, const uint8_t* p, __m512i outside) {
  sum.add(w[0], load(p), _mm512_mask_loadu_epi8(outside, not_last, p + 1));
  sum.add(w[1], load(p + side), _mm512_mask_loadu_epi8(outside, not_first, p - 1));
}

inline void add_spatial(Sum& sum, const uint32_t* w, const uint8_t* p, __m512i outside) {
  sum.add(w[0], _mm512_mask_loadu_epi8(outside, not_first, p - 1), load(p - side));
  sum.add(w[1], _mm512_mask_loadu_epi8(outside, not_first, p - side - 1), _mm512_mask_loadu_epi8(outside, not_last, p - side + 1));
  sum.add(w[2], _mm512_mask_loadu_epi8(outside, not_first_two, p - 2), load(p - 2 * side));
}

// All but the spatial part, less the low end of the classes' grid. planes: of the cell's channels by number mod 32; then: of the reference.
inline Sum cross_sum(const ContextModel& m, const Lookups& lookups, int64_t channel, const Plane* planes, const Plane& then) {
  const __m512i bias = _mm512_set1_epi32(int(m.lanes.bias[size_t(channel)]));
  Sum sum{bias, bias};
  const uint32_t* w = m.lanes.pairs.data() + channel * m.lanes.pair_count + context_spatial / 2;
  if (m.earlier) {
    const uint8_t* const list = m.lanes.earlier.data() + channel * m.earlier;
    const auto values = [&](int k) { return load(planes[list[k]].values()); };
    const uint8_t* const p = planes[list[0]].values();
    add_four(sum, w, p, lookups.offset);
    sum.add(w[2], load(p - side), m.earlier > 1 ? values(1) : lookups.offset);
    w += 3;
    for (int k = 2; k < m.earlier; k += 2) sum.add(*w++, values(k), k + 1 < m.earlier ? values(k + 1) : lookups.offset);
  }
  if (m.reference) {
    add_four(sum, w, then.values(), lookups.offset);
    sum.add(w[2], load(then.values() - side), lookups.offset);
  }
  return sum;
}

// --- values in and out --------------------------------------------------------------------------------------------------

// One channel of a cell, 64 places: quantised values and low, which is a zero, and zeros where the cell has no value.
inline __m512i quantised(const ContextModel& m, const MapView& map, const Cell& cell, int64_t channel) {
  const int64_t first = channel * map.channel_stride + cell.row * map.row_stride + cell.column;
  const auto mask = __mmask8((1u << cell.columns) - 1);
  const __m512i zero = _mm512_set1_epi8(char(m.low));
  alignas(64) uint8_t rows[area];
  if (map.element != Element::f32 && m.lanes.whole) {
    const auto* const from = static_cast<const uint8_t*>(map.data) + first;
    if (cell.columns == side)
      for (int y = 0; y < cell.rows; ++y) std::memcpy(rows + side * y, from + y * map.row_stride, side);
    else
      for (int y = 0; y < cell.rows; ++y)
        _mm_storel_epi64(reinterpret_cast<__m128i*>(rows + side * y), _mm_maskz_loadu_epi8(mask, from + y * map.row_stride));
    const __m512i x = _mm512_load_si512(rows);
    if (map.element == Element::u8 && m.low == 0 && m.high == 255) return _mm512_maskz_mov_epi8(cell.there, x);
    const bool is_signed = map.element == Element::i8;
    const __m256i half[2] = {_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)};
    __m256i v[2];
    for (int k = 0; k < 2; ++k) {
      const __m512i wide = _mm512_add_epi16(is_signed ? _mm512_cvtepi8_epi16(half[k]) : _mm512_cvtepu8_epi16(half[k]), _mm512_set1_epi16(int16_t(m.low)));
      v[k] = _mm512_cvtepi16_epi8(_mm512_min_epi16(_mm512_max_epi16(wide, _mm512_setzero_si512()), _mm512_set1_epi16(int16_t(m.low + m.high))));
    }
    return _mm512_mask_blend_epi8(cell.there, zero, _mm512_inserti64x4(_mm512_castsi256_si512(v[0]), v[1], 1));
  }
  const __m256 by = _mm256_set1_ps(m.reciprocal[size_t(channel)]), low = _mm256_set1_ps(float(-m.low)), high = _mm256_set1_ps(float(m.high));
  const __m256i up = _mm256_set1_epi32(m.low);
  for (int y = 0; y < cell.rows; ++y) {
    const int64_t at = first + y * map.row_stride;
    __m256 x;
    if (map.element == Element::f32) {
      x = _mm256_maskz_loadu_ps(mask, static_cast<const float*>(map.data) + at);
    } else {
      const __m128i eight = _mm_maskz_loadu_epi8(mask, static_cast<const uint8_t*>(map.data) + at);
      x = _mm256_cvtepi32_ps(map.element == Element::i8 ? _mm256_cvtepi8_epi32(eight) : _mm256_cvtepu8_epi32(eight));
    }
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(x, by), low), high);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(rows + side * y), _mm256_cvtepi32_epi8(_mm256_add_epi32(_mm256_cvtps_epi32(clamped), up)));
  }
  return _mm512_mask_blend_epi8(cell.there, zero, _mm512_load_si512(rows));
}

inline __m512i even_rows(__m512i bytes) { return _mm512_unpacklo_epi8(bytes, _mm512_setzero_si512()); }
inline __m512i odd_rows(__m512i bytes) { return _mm512_unpackhi_epi8(bytes, _mm512_setzero_si512()); }

inline void put_roots(const Lookups& lookups, __m512i q, Plane& plane) { _mm512_storeu_si512(plane.values(), lookups.root_of(q)); }

// Classes of 64 places whose values are known.
inline Sum known_classes(const ContextModel& m, const Lookups& lookups, int64_t channel, __m512i q, Plane* planes, const Plane& then) {
  Plane& plane = planes[channel % block];
  put_roots(lookups, q, plane);
  Sum sum = cross_sum(m, lookups, channel, planes, then);
  add_spatial(sum, m.lanes.pairs.data() + channel * m.lanes.pair_count, plane.values(), lookups.offset);
  return {lookups.class_of(sum.even), lookups.class_of(sum.odd)};  // << 3
}

}  // namespace
}  // namespace tensorpress
