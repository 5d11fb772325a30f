// Tables of `uniform_rans`, and which body of it runs.
#include "tensorpress/rans_lanes.h"

#include <algorithm>

#include "tensorpress/isa.h"

namespace tensorpress {

bool lane_tables(const std::uint32_t* frequencies, int symbols, std::uint32_t escape, int bits, LaneTables& tables) {
  if (bits < 11 || bits > 12 || symbols < 2 || symbols > 256) return false;
  const std::uint32_t total = 1u << bits;
  tables.bits = bits, tables.escape = escape;
  tables.slots.assign(total, 0);
  std::uint32_t start = 0;
  const auto place = [&](std::uint32_t frequency, std::uint32_t symbol) {
    if (frequency > total - start || frequency == 4096) return false;
    for (std::uint32_t k = 0; k < frequency; ++k) tables.slots[start + k] = frequency << 20 | k << 8 | symbol;
    start += frequency;
    return true;
  };
  const auto step = [](std::uint32_t from, std::uint32_t frequency) {  // ceil(2^64 / f), exact for every x < 2^32; 2^64 itself does not fit
    return LaneStep{frequency == 1 ? 0 : ~std::uint64_t{0} / frequency + 1, from, frequency};
  };
  if (!place(escape, 0)) return false;
  for (int s = 0; s < 256; ++s) {
    const std::uint32_t frequency = s < symbols ? frequencies[s] : 0;
    if (s < symbols && !frequency && !escape) return false;
    tables.known[s] = s >= symbols ? 0 : frequency ? 1 : 2;
    tables.steps[s] = frequency ? step(start, frequency) : step(0, std::max(escape, 1u));
    const std::uint32_t span = tables.spans[s] = tables.steps[s].start << 16 | tables.steps[s].frequency;
    for (int plane = 0; plane < 4; ++plane) tables.planes[plane][s] = std::uint8_t(span >> 8 * plane);
    if (!place(frequency, std::uint32_t(s))) return false;
  }
  return start == total;
}

std::int64_t LanedRans::max_stripe_nbytes(const MapView& map) const {
  return map.channels * std::min<std::int64_t>(map.rows, stripe_rows) * map.columns;
}

Outcome LanedRans::encode(const MapView& map, std::int64_t number, std::uint8_t* out) const {
  return TP_CHOOSE(laned_rans_body).encode(map, tables_, number, out);
}

Outcome LanedRans::decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const {
  return TP_CHOOSE(laned_rans_body).decode(data, nbytes, map, tables_, number);
}

std::uint8_t* lane_scratch(std::int64_t nbytes) {
  thread_local std::vector<std::uint8_t> scratch;
  if (std::int64_t(scratch.size()) < nbytes) scratch.resize(std::size_t(nbytes));
  return scratch.data();
}

}  // namespace tensorpress
