// Which body of the cell codec runs; and what stands in a payload of cells.
#include "tensorpress/cells.h"

#include "tensorpress/cells_body.h"
#include "tensorpress/isa.h"

namespace tensorpress {

std::int64_t Cells::max_stripe_nbytes(const MapView& map) const {
  const std::int64_t rows = map.rows < stripe_rows ? map.rows : stripe_rows;
  const std::int64_t depth = channels_of_cell(map);
  const std::int64_t cells = (map.channels + depth - 1) / depth * ((map.columns + cell_columns - 1) / cell_columns);
  return rows * map.columns * map.channels + cell_header_nbytes * cells;
}

Outcome Cells::encode(const MapView& map, std::int64_t number, std::uint8_t* out) const {
  return TP_CHOOSE(stripe_body).encode(map, rules_, number, out);
}

Outcome Cells::decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const {
  return TP_CHOOSE(stripe_body).decode(data, nbytes, map, rules_, number);
}

Outcome count_modes(const std::uint8_t* payload, std::int64_t nbytes, std::size_t index_nbytes, std::int64_t counts[4]) {
  Outcome result;
  const std::uint8_t* at = payload + index_nbytes;
  const std::uint8_t* end = payload + nbytes;
  while (at < end) {
    if (end - at < cell_header_nbytes || end - at < cell_header_nbytes + (at[1] | at[2] << 8)) {
      result.fault = Fault::header_cut;
      return result;
    }
    ++counts[at[0] & 3];
    at += cell_header_nbytes + (at[1] | at[2] << 8);
  }
  return result;
}

}  // namespace tensorpress
