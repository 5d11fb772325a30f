// Tables of laned rANS as they are fitted, priced and stored: the twin of coding/lanes.py LaneTables and coding/cost.py, number for number.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "tensorpress/rans_lanes.h"

namespace tensorpress {

using ByteCounts = std::array<std::uint32_t, 256>;

constexpr int model_bits = 12;
constexpr std::uint32_t most_counted = 1u << 16;  // values that a length may be asked for

struct LaneModel {
  std::array<std::uint32_t, 256> frequencies;  // 0 where a symbol is rare
  std::uint32_t escape;

  LanedRans coder() const;
  std::vector<std::uint8_t> bytes() const;
  std::int64_t nbytes_of(const ByteCounts& counts) const;  // of a string, about
};

void count_bytes(const std::uint8_t* data, std::int64_t nbytes, ByteCounts& counts);
LaneModel model_of(const std::array<std::uint64_t, 256>& counts);  // not all 0
std::int64_t entropy_nbytes(const ByteCounts& counts);             // of at most most_counted values

// The next varint of at most 63 bits; false where it is cut or not the shortest form.
bool take_varint(const std::uint8_t*& p, const std::uint8_t* end, std::uint64_t& value);
void put_varint(std::vector<std::uint8_t>& out, std::uint64_t value);
// False unless `data` is exactly what bytes() writes.
bool read_model(const std::uint8_t* data, std::int64_t nbytes, LaneModel& model);

}  // namespace tensorpress
