// One stripe of cells, compiled once for each instruction set (cells_body.cpp) and chosen at run time (cells.cpp).
#pragma once
#include "tensorpress/cells.h"

namespace tensorpress {

struct StripeBody {
  Outcome (*encode)(const MapView&, const CellRules&, std::int64_t stripe, std::uint8_t* out);
  Outcome (*decode)(const std::uint8_t* data, std::int64_t nbytes, const MapView&, const CellRules&, std::int64_t stripe);
};

namespace scalar { extern const StripeBody stripe_body; }
namespace avx2 { extern const StripeBody stripe_body; }
namespace avx512 { extern const StripeBody stripe_body; }

// Channels of a cell: 32, or more where the map has too few pixels to fill 2,048 values. (static: each instruction set
// must keep its own copy)
static inline std::int64_t channels_of_cell(const MapView& map) {
  const std::int64_t rows = map.rows < stripe_rows ? map.rows : stripe_rows;
  const std::int64_t columns = map.columns < cell_columns ? map.columns : cell_columns;
  return cell_channels * (plane_size / (rows * columns));
}

}  // namespace tensorpress
