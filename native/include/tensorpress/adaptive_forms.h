// What the forms of the adaptive coder foretell with: logistic functions and logarithms of integers. And how each is made.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensorpress/adaptive.h"
#include "tensorpress/adaptive_octaves.h"

namespace tensorpress {

// ln(p / (1 - p)) and back. x is in 1/256; p of 2^16 for squash, of 2^12 for stretch.
struct Logistic {
  static constexpr int reach = 3072;
  std::array<std::uint16_t, 2 * reach + 1> squashed{};
  std::array<std::int16_t, 4096> stretched{};
  Logistic() {
    // round(2^16 / (1 + exp(-k / 2))), straight lines between them
    constexpr int knots[25] = {32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374,
                               65438, 65476, 65500, 65514, 65523, 65528, 65531, 65533, 65534, 65535, 65535, 65535};
    for (int x = 0; x <= reach; ++x) {
      const int at = x >> 7, part = x & 127;
      const int p = at < 24 ? (knots[at] * (128 - part) + knots[at + 1] * part + 64) >> 7 : knots[24];
      squashed[static_cast<std::size_t>(reach + x)] = static_cast<std::uint16_t>(p);
      squashed[static_cast<std::size_t>(reach - x)] = static_cast<std::uint16_t>(65536 - p);
    }
    int x = 0;  // the least x that squash takes to the middle of a probability, or beyond
    for (int p = 0; p < 4096; ++p) {
      while (x < 2 * reach && squashed[static_cast<std::size_t>(x)] < 16 * p + 8) ++x;
      stretched[static_cast<std::size_t>(p)] = static_cast<std::int16_t>(x - reach);
    }
  }
  std::uint32_t squash(std::int64_t x) const {
    return squashed[static_cast<std::size_t>(std::clamp<std::int64_t>(x, -reach, reach) + reach)];
  }
  std::int32_t stretch(std::uint32_t p) const { return stretched[p]; }
};

// 16 log2(x + 1), as Octaves tells it, of any x; beyond 2^16 as there.
inline int octave_of(std::int64_t x) {
  const auto y = static_cast<std::uint64_t>(std::min<std::int64_t>(x, 65535)) + 1;
  const int exponent = static_cast<int>(std::bit_width(y)) - 1;
  return 16 * exponent + octaves.sixteenth[(y << 8 >> exponent) & 255];
}

inline const Logistic logistic;

// A kernel's width, where it is a square.
inline std::size_t kernel_width(std::size_t taps) {
  std::size_t across = 1;
  while (across * across < taps) ++across;
  return across * across == taps ? across : 2;
}

// `data` begins behind the byte that names the form.
std::unique_ptr<AdaptiveEncoder> make_small_encoder();
std::unique_ptr<AdaptiveDecoder> make_small_decoder(const std::uint8_t* data, std::size_t nbytes);
std::unique_ptr<AdaptiveEncoder> make_fast_encoder();
std::unique_ptr<AdaptiveDecoder> make_fast_decoder(const std::uint8_t* data, std::size_t nbytes);

}  // namespace tensorpress
