// The fast coder of `context` on machines with AVX-512: 32 cells side by side, one in each lane. Same bytes as context.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensorpress/context.h"
#include "tensorpress/payload.h"

namespace tensorpress {

// Whether this machine, model and shape are ones that lanes can take.
bool context_lanes(const ContextModel& model, std::int64_t rows, std::int64_t columns);

std::int64_t context_lanes_capacity(const ContextModel& model, std::int64_t rows, std::int64_t columns, std::size_t head_nbytes);

// A whole payload, by plain rounding. x, and the reference where the model has one: contiguous (C, H, W). Returns its bytes.
std::int64_t context_lanes_encode(const ContextModel& model, const MapView& x, const MapView* before, const std::uint8_t* head,
                                  std::size_t head_nbytes, std::uint8_t* out, int threads);

// The inverse. out: contiguous; 8-bit integers only where context_exact. The outcome is that of the first stripe at fault.
Outcome context_lanes_decode(const ContextModel& model, const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes,
                             const MapView* before, const MapView& out, int threads);

// Whether decoded values are whole: v - low for every quantised value v.
bool context_exact(const ContextModel& model);

}  // namespace tensorpress
