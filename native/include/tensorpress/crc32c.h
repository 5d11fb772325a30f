// CRC-32C (Castagnoli), the check of every header, section and stripe.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tensorpress {

// Continues from `seed` (0 at the start); crc32c(b, crc32c(a)) is the check of a followed by b.
std::uint32_t crc32c(const std::uint8_t* data, std::size_t nbytes, std::uint32_t seed);

}  // namespace tensorpress
