// Cells, planes of roots, and which lanes have a value where.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "tensorpress/context_lanes.h"

namespace tensorpress {
namespace {

using std::int16_t, std::int32_t, std::int64_t, std::size_t, std::uint16_t, std::uint32_t, std::uint64_t, std::uint8_t;

constexpr int lanes = 32, strands = 2, side = 8, area = side * side, block = 32;
constexpr int bits = context_table_bits;
constexpr uint32_t first_state = 1u << 16;

// A channel of a cell: roots in rows of eight, as bytes from `offset` on; `offset` stands around them, and where the cell has no value.
constexpr int plane_lead = 16, plane_size = plane_lead + area + 16;
struct alignas(32) Plane {
  uint8_t at[plane_size];
  uint8_t* values() { return at + plane_lead; }
  const uint8_t* values() const { return at + plane_lead; }
};
// Sums of a channel in 16 bits stand as byte operations leave them: rows 0 2 4 6, then 1 3 5 7.
constexpr int place_of(int y, int x) { return (y % 2) * area / 2 + y / 2 * side + x; }

struct Cell {
  int64_t stripe, channel, row, column;  // where it begins
  int channels, rows, columns;
  uint64_t there;  // places of a channel that hold a value
  uint32_t entry = 0;  // in its stripe's table
  uint32_t at = 0, nbytes = 0;  // its body

  int values() const { return channels * rows * columns; }
};

std::vector<Cell> cells_of(const ContextModel& m, int64_t rows, int64_t columns) {
  const int64_t channels = int64_t(m.channels);
  std::vector<Cell> cells;
  for (int64_t y = 0; y < rows; y += side)
    for (int64_t c = 0; c < channels; c += block)
      for (int64_t x = 0; x < columns; x += side) {
        Cell cell{y / side, c, y, x, int(std::min<int64_t>(block, channels - c)), int(std::min<int64_t>(side, rows - y)),
                  int(std::min<int64_t>(side, columns - x)), 0};
        for (int row = 0; row < cell.rows; ++row) cell.there |= ((uint64_t{1} << cell.columns) - 1) << side * row;
        cells.push_back(cell);
      }
  return cells;
}

// Cells of like shapes stand together, so that few lanes wait for others.
inline std::vector<uint32_t> in_groups(const std::vector<Cell>& cells, std::vector<uint32_t> order) {
  const auto larger = [&](uint32_t a, uint32_t b) {
    const Cell &p = cells[a], &q = cells[b];
    return std::tuple(p.channels, p.rows, p.columns) > std::tuple(q.channels, q.rows, q.columns);
  };
  if (!std::is_sorted(order.begin(), order.end(), larger)) std::stable_sort(order.begin(), order.end(), larger);
  return order;
}

// Which lanes of a strand have a value at a place: by channel, row and column.
struct Presence {
  uint32_t channel[block] = {}, row[side] = {}, column[side] = {};
  void add(int lane, const Cell& cell) {
    for (int c = 0; c < cell.channels; ++c) channel[c] |= 1u << lane;
    for (int y = 0; y < cell.rows; ++y) row[y] |= 1u << lane;
    for (int x = 0; x < cell.columns; ++x) column[x] |= 1u << lane;
  }
  uint32_t at(int c, int y, int x) const { return channel[c] & row[y] & column[x]; }
};

// The box that holds every cell of a group.
struct Extent {
  int channels = 0, rows = 0, columns = 0;
  void add(const Cell& cell) {
    channels = std::max(channels, cell.channels), rows = std::max(rows, cell.rows), columns = std::max(columns, cell.columns);
  }
};

// Memory that a thread keeps from call to call; zeros at first, and where planes end they stay.
template <class Memory>
Memory& kept() {
  thread_local const std::unique_ptr<Memory> memory(new Memory{});
  return *memory;
}

// What stands around planes is the offset of the model at hand.
template <class Memory>
void surround(Memory& memory, int offset) {
  if (memory.offset == offset) return;
  memory.each_plane([&](Plane& plane) { std::memset(plane.at, offset, sizeof plane.at); });
  memory.offset = offset;
}

}  // namespace
}  // namespace tensorpress
