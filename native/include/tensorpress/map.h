// A (channels, rows, columns) map in the caller's memory, and its stripes of 8 rows.
#pragma once
#include <cstdint>

namespace tensorpress {

enum class Element : int { f32, u8, i8 };

struct MapView {
  void* data;
  Element element;
  std::int64_t channels, rows, columns;
  std::int64_t channel_stride, row_stride, column_stride;  // in elements, of any sign
  float reciprocal, scale;                                 // of one level, where the element is f32
};

constexpr int stripe_rows = 8;

inline std::int64_t stripe_count(const MapView& map) { return map.channels && map.columns ? (map.rows + stripe_rows - 1) / stripe_rows : 0; }

}  // namespace tensorpress
