// The cell codec: levels in boxes of up to 2,048 values, each in the mode that costs least. FORMAT.md, section 6.
// The slow twin that says what every step computes is src/tensorpress/blocks/cells.py.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensorpress/map.h"
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

std::int64_t max_stripe_nbytes(const MapView& map);
std::int64_t max_payload_nbytes(const MapView& map, std::size_t head_nbytes);  // slack included

// head: the payload's head (type and shape), copied in front and the seed of every stripe check. Writes a whole payload.
Outcome encode_cells(const MapView& map, const CellRules& rules, const std::uint8_t* head, std::size_t head_nbytes, std::uint8_t* out,
                     std::int64_t capacity, int threads);

// payload: whole, with its head of head_nbytes and a stripe table whose sums were checked by the caller.
Outcome decode_cells(const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes, const CellRules& rules, const MapView& map,
                     int threads);

// How many cells took each mode, read from headers alone: counts[4], and bytes by part: headers, codes … of the payload.
Outcome count_modes(const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes, const MapView& map, std::int64_t counts[4]);

// Plain zero bitmap: ceil(n / 8) bytes of bitmap (LSB first), then the non-zero words. Returns bytes written.
std::int64_t zero_bitmap_encode(const std::uint8_t* words, std::int64_t count, int word_nbytes, std::uint8_t* out);
// Returns false where the data is cut, too long, or its padding bits are set.
bool zero_bitmap_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t count, int word_nbytes, std::uint8_t* words);

}  // namespace tensorpress
