// The codec `uniform_rans`: a stripe's symbols as static rANS in lanes side by side, symbol i in lane i % lanes. FORMAT.md, section 9.
// Rare symbols share one interval, the escape, and stand as bytes of their own. The slow twin is blocks/laned_stage.py.
#pragma once
#include <cstdint>
#include <vector>

#include "tensorpress/payload.h"
#include "tensorpress/zero_bitmap.h"

namespace tensorpress {

// Many lanes keep wide registers busy; each must be begun and ended, which costs half a byte, and those kept for the last symbols two.
constexpr std::int64_t some_values = 1 << 13, many_values = 3 << 14;
constexpr int few_lanes = 4, some_lanes = 32, many_lanes = 64;  // below some_values symbols, below many_values, and from there on
constexpr int most_kept = 16;
constexpr std::uint32_t lane_low = 1u << 16;          // states lie in [2^16, 2^32); they begin with this one

struct LaneStep {  // x -> x + start + (x / frequency) * (2^bits - frequency), the division by a multiplication
  std::uint64_t reciprocal;
  std::uint32_t start, frequency;
};

struct LaneTables {
  ByteTables bytes;               // word_of: level -> symbol
  int bits;                       // 11 or 12: quotients of states have at most 21 bits, which floats hold
  std::uint32_t escape;           // frequency of the escape, whose interval begins at 0; 0: there is none
  LaneStep steps[256];            // by symbol; a rare one's are the escape's
  std::uint32_t spans[256];       // by symbol: start << 16 | frequency
  std::uint8_t planes[4][256];    // and its bytes apart
  std::uint8_t known[256];        // 1: a symbol of the codec; 2: a rare one
  std::vector<std::uint32_t> slots;  // frequency << 20 | (slot - start) << 8 | symbol
};

// frequencies: of every symbol, 0 where it is rare; with `escape` they sum to 2^bits. False where they do not.
bool lane_tables(const std::uint32_t* frequencies, int symbols, std::uint32_t escape, int bits, LaneTables& tables);

class LanedRans : public MapKernel {
 public:
  explicit LanedRans(LaneTables tables) : tables_(std::move(tables)) {}
  std::int64_t max_stripe_nbytes(const MapView& map) const override;
  Outcome encode(const MapView& map, std::int64_t number, std::uint8_t* out) const override;
  Outcome decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const override;

 private:
  LaneTables tables_;
};

struct LanedRansBody {  // of one stripe, for one instruction set
  Outcome (*encode)(const MapView&, const LaneTables&, std::int64_t number, std::uint8_t* out);
  Outcome (*decode)(const std::uint8_t* data, std::int64_t nbytes, const MapView&, const LaneTables&, std::int64_t number);
};
namespace scalar { extern const LanedRansBody laned_rans_body; }
namespace avx2 { extern const LanedRansBody laned_rans_body; }
namespace avx512 { extern const LanedRansBody laned_rans_body; }

// Memory of a thread for one stripe at a time, kept from call to call.
std::uint8_t* lane_scratch(std::int64_t nbytes);

}  // namespace tensorpress
