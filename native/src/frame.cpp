#include "tensorpress/frame.h"

#include "tensorpress/crc32c.h"

namespace tensorpress {
namespace {

constexpr std::uint32_t version = 1, wide_site = 0xFF, wide_length = 0x3FFFFF;

std::uint8_t* put(std::uint8_t* out, std::uint64_t value, int nbytes) {
  for (int i = 0; i < nbytes; ++i) *out++ = std::uint8_t(value >> 8 * i);
  return out;
}

}  // namespace

std::size_t write_frame_head(std::uint8_t* out, std::uint32_t site, std::uint32_t plan_id, std::uint64_t payload_nbytes, const std::uint8_t* index,
                             std::size_t index_nbytes) {
  const bool wide = site >= wide_site || payload_nbytes >= wide_length;
  const std::uint32_t length = wide ? wide_length : std::uint32_t(payload_nbytes);
  std::uint8_t* at = put(out, version | (wide ? wide_site : site) << 2 | length << 10, 4);
  if (wide) at = put(put(at, site, 4), payload_nbytes, 8);
  at = put(at, plan_id, 4);
  const std::uint32_t check = crc32c(index, index_nbytes, crc32c(out, std::size_t(at - out), 0));
  return std::size_t(put(at, check, 4) - out);
}

}  // namespace tensorpress
