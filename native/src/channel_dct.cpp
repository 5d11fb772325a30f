// Which body of the fixed profile runs.
#include "tensorpress/channel_dct.h"

#include <algorithm>

#include "tensorpress/isa.h"

namespace tensorpress {

// A plane of n values takes n + 1 bytes at most, and half a byte of code.
std::int64_t ChannelDct::max_stripe_nbytes(const MapView& map) const {
  const std::int64_t pixels = std::min<std::int64_t>(map.rows, stripe_rows) * map.columns;
  return map.channels * (pixels + 2 * ((pixels + 63) / 64)) + 64;
}

Outcome ChannelDct::encode(const MapView& map, std::int64_t number, std::uint8_t* out) const {
  return TP_CHOOSE(channel_dct_body).encode(map, rules_, number, out);
}

Outcome ChannelDct::decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const {
  return TP_CHOOSE(channel_dct_body).decode(data, nbytes, map, rules_, number);
}

}  // namespace tensorpress
