// The cell codec: levels in boxes of up to 2,048 values, each in the mode that costs least. FORMAT.md, section 6.
// The slow twin that says what every step computes is src/tensorpress/blocks/cells.py.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensorpress/payload.h"

namespace tensorpress {

// The integers both sides work with: blocks/cells.py, CellRules. All pointers outlive the call.
struct CellRules {
  int zero;
  const std::uint8_t* symbol_of;  // [256]
  const std::uint8_t* level_of;   // [256]
  int length;                     // of the DCT: 4, 8, 16, 32, or 0
  const std::int32_t* matrix;     // [length][length]
  const std::uint8_t* keep;       // [keep_size]
  int keep_size;
  const std::uint32_t* forward;  // [length]
  std::uint32_t offset;
  const std::int32_t* backward;  // [length]
  const std::int32_t* shift;     // [3][length]
  double lagrangian;
  std::uint32_t modes;
  bool zero_map, plane_codes;
  int width;
};

constexpr int cell_columns = 8, cell_channels = 32, plane_size = 64;
constexpr int cell_header_nbytes = 3;

class Cells : public MapKernel {
 public:
  explicit Cells(const CellRules& rules) : rules_(rules) {}
  std::int64_t max_stripe_nbytes(const MapView& map) const override;
  Outcome encode(const MapView& map, std::int64_t number, std::uint8_t* out) const override;
  Outcome decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const override;

 protected:
  Cells() = default;
  CellRules rules_{};
};

// How many cells of a payload took each mode, read from headers alone.
Outcome count_modes(const std::uint8_t* payload, std::int64_t nbytes, std::size_t index_nbytes, std::int64_t counts[4]);

}  // namespace tensorpress
