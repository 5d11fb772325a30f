#include "tensorpress/frame.h"

#include "tensorpress/crc32c.h"

namespace tensorpress {
namespace {

constexpr std::uint32_t version = 1, wide_site = 0xFF, wide_length = 0x3FFFFF;

std::uint8_t* put(std::uint8_t* out, std::uint64_t value, int nbytes) {
  for (int i = 0; i < nbytes; ++i) *out++ = std::uint8_t(value >> 8 * i);
  return out;
}

std::uint64_t get(const std::uint8_t* p, int nbytes) {
  std::uint64_t value = 0;
  for (int i = 0; i < nbytes; ++i) value |= std::uint64_t{p[i]} << 8 * i;
  return value;
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

bool read_frame_head(const std::uint8_t* data, std::int64_t nbytes, Frame& frame) {
  if (nbytes < 12) return false;
  const std::uint32_t word = std::uint32_t(get(data, 4));
  frame.site = word >> 2 & wide_site;
  std::uint64_t length = word >> 10;
  std::int64_t at = 4;
  if (frame.site == wide_site || length == wide_length) {
    if (nbytes < std::int64_t(max_frame_head_nbytes)) return false;
    frame.site = std::uint32_t(get(data + 4, 4)), length = get(data + 8, 8), at = 16;
  }
  frame.plan_id = std::uint32_t(get(data + at, 4));
  frame.start = at + 8;
  if ((word & 3) != version || length > std::uint64_t(nbytes - frame.start)) return false;
  frame.nbytes = std::int64_t(length);
  const std::uint8_t* const payload = data + frame.start;
  if (!read_index(payload, frame.nbytes, frame.index)) return false;
  const std::size_t index_nbytes = std::size_t(frame.index.head_nbytes + 8 * frame.index.stripes);
  return crc32c(payload, index_nbytes, crc32c(data, std::size_t(at + 4), 0)) == get(data + at + 4, 4);
}

}  // namespace tensorpress
