// The values of a stripe in the order of its format (channel, row, column), as runs that lie side by side in memory.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tensorpress/map.h"

namespace tensorpress::TP_ISA {

constexpr std::int64_t fetch_nbytes = 2048;  // of values: what memory delivers while one line is under way, and some

struct Runs {
  std::int64_t first;   // element of the first run
  std::int64_t outer, inner, length;                  // runs: outer x inner, of `length` values each
  std::int64_t outer_stride, inner_stride, stride;    // elements from run to run, and from value to value
  std::int64_t values;

  // How far to fetch ahead: no machine guesses the jump from channel to channel. In elements; 0 where there is no jump.
  template <class T>
  std::int64_t ahead() const {
    if (outer == 1) return 0;
    const std::int64_t channel = inner * length * std::int64_t(sizeof(T));
    return outer_stride * std::max<std::int64_t>((fetch_nbytes + channel - 1) / std::max<std::int64_t>(channel, 1), 1);
  }

  Runs(const MapView& map, std::int64_t number) {
    const std::int64_t rows = std::min<std::int64_t>(stripe_rows, map.rows - number * stripe_rows);
    first = number * stripe_rows * map.row_stride;
    outer = map.channels, outer_stride = map.channel_stride, inner = rows, inner_stride = map.row_stride;
    length = map.columns, stride = map.column_stride;
    values = outer * inner * length;
    if (stride == 1 && inner_stride == length) {  // rows follow one another
      length *= inner, inner = 1;
      if (outer_stride == length) length *= outer, outer = 1;  // channels do as well
    }
  }
};

// Flat index of the first value of stripe `number`, from its value `at` on, that is NaN or infinite.
inline std::int64_t first_not_finite(const MapView& map, std::int64_t number, std::int64_t at) {
  const std::int64_t first = number * stripe_rows, rows = std::min<std::int64_t>(stripe_rows, map.rows - first);
  for (;; ++at) {
    const std::int64_t column = at % map.columns, row = first + at / map.columns % rows, channel = at / map.columns / rows;
    std::uint32_t word;
    std::memcpy(&word, static_cast<const float*>(map.data) + channel * map.channel_stride + row * map.row_stride + column * map.column_stride, 4);
    if ((word & 0x7FFFFFFFu) >= 0x7F800000u) return (channel * map.rows + row) * map.columns + column;
  }
}

constexpr int block_values = 64;

// visit (to be inlined always) takes (values, number of the first in the stripe, how many) for up to 64 values at a time; stops where it returns false.
// What does not lie side by side is gathered first.
template <class T, class Visit>
void each_block_of(const T* data, const Runs& runs, Visit&& visit) {
  std::int64_t at = 0;
  T gathered[block_values];
  const std::int64_t ahead = runs.ahead<T>();
  for (std::int64_t o = 0; o < runs.outer; ++o)
    for (std::int64_t i = 0; i < runs.inner; ++i) {
      const T* const run = data + runs.first + o * runs.outer_stride + i * runs.inner_stride;
      std::int64_t x = 0;
      if (runs.stride == 1)
        for (; x + block_values <= runs.length; x += block_values, at += block_values) {  // whole blocks: the compiler knows the count
          if (ahead)
            for (int k = 0; k < block_values; k += 64 / int(sizeof(T))) __builtin_prefetch(run + ahead + x + k);
          if (!visit(run + x, at, block_values)) return;
        }
      while (x < runs.length) {
        const int n = int(std::min<std::int64_t>(block_values, runs.length - x));
        const T* from = run + x * runs.stride;
        if (runs.stride != 1) {
          for (int k = 0; k < n; ++k) gathered[k] = from[k * runs.stride];
          from = gathered;
        }
        if (!visit(from, at, n)) return;
        x += n, at += n;
      }
    }
}

template <class Visit>
void each_block(const MapView& map, const Runs& runs, Visit&& visit) {
  if (map.element == Element::f32) each_block_of(static_cast<const float*>(map.data), runs, visit);
  else each_block_of(static_cast<const std::uint8_t*>(map.data), runs, visit);
}

// visit(place for up to 64 values, how many); scattered afterwards where they do not lie side by side.
template <class T, class Visit>
void each_block_out_of(T* data, const Runs& runs, Visit&& visit) {
  T gathered[block_values];
  const std::int64_t ahead = runs.ahead<T>();
  for (std::int64_t o = 0; o < runs.outer; ++o)
    for (std::int64_t i = 0; i < runs.inner; ++i) {
      T* const run = data + runs.first + o * runs.outer_stride + i * runs.inner_stride;
      std::int64_t x = 0;
      if (runs.stride == 1)
        for (; x + block_values <= runs.length; x += block_values) {
          if (ahead)
            for (int k = 0; k < block_values; k += 64 / int(sizeof(T))) __builtin_prefetch(run + ahead + x + k, 1);
          visit(run + x, block_values);
        }
      while (x < runs.length) {
        const int n = int(std::min<std::int64_t>(block_values, runs.length - x));
        visit(runs.stride == 1 ? run + x : gathered, n);
        if (runs.stride != 1)
          for (int k = 0; k < n; ++k) run[(x + k) * runs.stride] = gathered[k];
        x += n;
      }
    }
}

template <class Visit>
void each_block_out(const MapView& map, const Runs& runs, Visit&& visit) {
  if (map.element == Element::f32) each_block_out_of(static_cast<float*>(map.data), runs, visit);
  else each_block_out_of(static_cast<std::uint8_t*>(map.data), runs, visit);
}

}  // namespace tensorpress::TP_ISA
