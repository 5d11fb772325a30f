// From values side by side to lanes side by side, and back.
#pragma once
#include "cells.h"

namespace tensorpress {
namespace {

// Rows of 32 lanes from 32 rows of values, 16 bits each: to[i][lane] = from[lane][i].
inline void turned(const int16_t (*from)[area], int16_t (*to)[lanes]) {
  for (int l = 0; l < lanes; l += 8)
    for (int i = 0; i < area; i += 32) {
      __m512i r[8], s[8];
      for (int k = 0; k < 8; ++k) r[k] = _mm512_load_si512(from[l + k] + i);
      for (int k = 0; k < 8; k += 2) {
        s[k] = _mm512_unpacklo_epi16(r[k], r[k + 1]);
        s[k + 1] = _mm512_unpackhi_epi16(r[k], r[k + 1]);
      }
      for (int k = 0; k < 8; k += 4) {
        r[k] = _mm512_unpacklo_epi32(s[k], s[k + 2]), r[k + 1] = _mm512_unpackhi_epi32(s[k], s[k + 2]);
        r[k + 2] = _mm512_unpacklo_epi32(s[k + 1], s[k + 3]), r[k + 3] = _mm512_unpackhi_epi32(s[k + 1], s[k + 3]);
      }
      for (int k = 0; k < 4; ++k) {
        s[2 * k] = _mm512_unpacklo_epi64(r[k], r[k + 4]);
        s[2 * k + 1] = _mm512_unpackhi_epi64(r[k], r[k + 4]);
      }
      for (int k = 0; k < 8; ++k) {  // s[k]: values i + k, i + 8 + k, i + 16 + k, i + 24 + k of eight lanes
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + k] + l), _mm512_castsi512_si128(s[k]));
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + 8 + k] + l), _mm512_extracti32x4_epi32(s[k], 1));
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + 16 + k] + l), _mm512_extracti32x4_epi32(s[k], 2));
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + 24 + k] + l), _mm512_extracti32x4_epi32(s[k], 3));
      }
    }
}

// The way back: to[lane][i] = from[i][lane].
inline void turned_back(const uint16_t (*from)[lanes], uint16_t (*to)[area]) {
  for (int i = 0; i < area; i += 8) {
    __m512i r[8], s[8];
    for (int k = 0; k < 8; ++k) r[k] = _mm512_load_si512(from[i + k]);
    for (int k = 0; k < 8; k += 2) s[k] = _mm512_unpacklo_epi16(r[k], r[k + 1]), s[k + 1] = _mm512_unpackhi_epi16(r[k], r[k + 1]);
    for (int k = 0; k < 8; k += 4) {
      r[k] = _mm512_unpacklo_epi32(s[k], s[k + 2]), r[k + 1] = _mm512_unpackhi_epi32(s[k], s[k + 2]);
      r[k + 2] = _mm512_unpacklo_epi32(s[k + 1], s[k + 3]), r[k + 3] = _mm512_unpackhi_epi32(s[k + 1], s[k + 3]);
    }
    for (int k = 0; k < 4; ++k) s[2 * k] = _mm512_unpacklo_epi64(r[k], r[k + 4]), s[2 * k + 1] = _mm512_unpackhi_epi64(r[k], r[k + 4]);
    for (int k = 0; k < 8; ++k) {  // s[k]: eight values of lanes k, 8 + k, 16 + k, 24 + k
      _mm_store_si128(reinterpret_cast<__m128i*>(to[k] + i), _mm512_castsi512_si128(s[k]));
      _mm_store_si128(reinterpret_cast<__m128i*>(to[8 + k] + i), _mm512_extracti32x4_epi32(s[k], 1));
      _mm_store_si128(reinterpret_cast<__m128i*>(to[16 + k] + i), _mm512_extracti32x4_epi32(s[k], 2));
      _mm_store_si128(reinterpret_cast<__m128i*>(to[24 + k] + i), _mm512_extracti32x4_epi32(s[k], 3));
    }
  }
}

// The same, of bytes.
inline void turned_back(const uint8_t (*from)[lanes], uint8_t (*to)[area]) {
  for (int i = 0; i < area; i += 16) {
    __m256i r[16], s[16];
    for (int k = 0; k < 16; ++k) r[k] = _mm256_load_si256(reinterpret_cast<const __m256i*>(from[i + k]));
    for (int k = 0; k < 8; ++k) s[2 * k] = _mm256_unpacklo_epi8(r[2 * k], r[2 * k + 1]), s[2 * k + 1] = _mm256_unpackhi_epi8(r[2 * k], r[2 * k + 1]);
    for (int k = 0; k < 16; k += 4)
      for (int n = 0; n < 2; ++n)
        r[k + 2 * n] = _mm256_unpacklo_epi16(s[k + n], s[k + 2 + n]), r[k + 2 * n + 1] = _mm256_unpackhi_epi16(s[k + n], s[k + 2 + n]);
    for (int k = 0; k < 16; k += 8)
      for (int n = 0; n < 4; ++n)
        s[k + 2 * n] = _mm256_unpacklo_epi32(r[k + n], r[k + 4 + n]), s[k + 2 * n + 1] = _mm256_unpackhi_epi32(r[k + n], r[k + 4 + n]);
    for (int n = 0; n < 8; ++n) r[2 * n] = _mm256_unpacklo_epi64(s[n], s[8 + n]), r[2 * n + 1] = _mm256_unpackhi_epi64(s[n], s[8 + n]);
    for (int k = 0; k < 16; ++k) {  // r[k]: sixteen values of lanes k and 16 + k
      _mm_store_si128(reinterpret_cast<__m128i*>(to[k] + i), _mm256_castsi256_si128(r[k]));
      _mm_store_si128(reinterpret_cast<__m128i*>(to[16 + k] + i), _mm256_extracti128_si256(r[k], 1));
    }
  }
}

}  // namespace
}  // namespace tensorpress
