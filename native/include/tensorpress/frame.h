// The head of a plan-bound stream: 12 bytes before a payload, 24 where site or length are wide. FORMAT.md, section 4.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensorpress/payload.h"

namespace tensorpress {

constexpr std::size_t max_frame_head_nbytes = 24;

// index: the payload's head and stripe table, which the check covers. Returns the bytes written to `out`.
std::size_t write_frame_head(std::uint8_t* out, std::uint32_t site, std::uint32_t plan_id, std::uint64_t payload_nbytes, const std::uint8_t* index,
                             std::size_t index_nbytes);

struct Frame {
  std::uint32_t site, plan_id;
  std::int64_t start, nbytes;  // of the payload; from the frame's first byte
  Index index;                 // of the payload
};
// The frame at the front of `data`. False where anything is wrong with its head or its payload's index: core/stream.py says what.
bool read_frame_head(const std::uint8_t* data, std::int64_t nbytes, Frame& frame);

}  // namespace tensorpress
