// The head of a plan-bound stream: 12 bytes before a payload, 24 where site or length are wide. FORMAT.md, section 4.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tensorpress {

constexpr std::size_t max_frame_head_nbytes = 24;

// index: the payload's head and stripe table, which the check covers. Returns the bytes written to `out`.
std::size_t write_frame_head(std::uint8_t* out, std::uint32_t site, std::uint32_t plan_id, std::uint64_t payload_nbytes, const std::uint8_t* index,
                             std::size_t index_nbytes);

}  // namespace tensorpress
