// The fixed profile of `dct_cm`: a DCT over channels, a quantiser and planes of fixed width, without a choice by cost. FORMAT.md, section 6.
// The slow twin is src/tensorpress/blocks/channel_dct.py.
#pragma once
#include <cstdint>

#include "tensorpress/payload.h"

namespace tensorpress {

constexpr int max_dct_length = 32, untransformed_planes = 8;  // planes of a group: the DCT's length, or so many without one

struct ChannelDctRules {  // blocks/channel_dct.py, Rules
  int zero;
  std::uint8_t symbol_of[256], level_of[256];  // of planes that are not transformed
  bool same;                                   // those symbols are the levels
  int length;                                  // 4, 8, 16, 32; 0: no transform
  const std::uint8_t* keep;                    // [keep_size] of each coefficient of each group in turn
  std::int64_t keep_size;
  bool keeps_all;
  std::uint16_t multiplier[max_dct_length], offset[max_dct_length];
  std::int16_t backward[max_dct_length];
  int fraction;  // bits behind the point of what the inverse adds up
};

class ChannelDct : public MapKernel {
 public:
  explicit ChannelDct(const ChannelDctRules& rules) : rules_(rules) {}
  std::int64_t max_stripe_nbytes(const MapView& map) const override;
  Outcome encode(const MapView& map, std::int64_t number, std::uint8_t* out) const override;
  Outcome decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const override;

 protected:
  ChannelDct() = default;
  ChannelDctRules rules_{};
};

struct ChannelDctBody {  // of one stripe, for one instruction set
  Outcome (*encode)(const MapView&, const ChannelDctRules&, std::int64_t number, std::uint8_t* out);
  Outcome (*decode)(const std::uint8_t* data, std::int64_t nbytes, const MapView&, const ChannelDctRules&, std::int64_t number);
};
namespace scalar { extern const ChannelDctBody channel_dct_body; }
namespace avx2 { extern const ChannelDctBody channel_dct_body; }
namespace avx512 { extern const ChannelDctBody channel_dct_body; }

}  // namespace tensorpress
