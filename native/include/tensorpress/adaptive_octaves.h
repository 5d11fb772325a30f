// 16 log2(x + 1), downwards, from the eight bits behind the leading one.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace tensorpress {

struct Octaves {
  static constexpr std::size_t near = 4096;
  std::uint8_t sixteenth[256]{};
  std::uint8_t table[near]{};  // of the first ones
  constexpr Octaves() {
    constexpr int from[16] = {256, 268, 280, 292, 305, 318, 332, 347, 363, 379, 395, 413, 431, 450, 470, 491};  // ceil(2^8 * 2^(k / 16))
    int k = 0;
    for (int i = 0; i < 256; ++i) {
      while (k < 15 && from[k + 1] <= 256 + i) ++k;
      sixteenth[i] = static_cast<std::uint8_t>(k);
    }
    for (std::uint32_t y = 1, exponent = 0; y <= near; ++y) {
      if (y >> exponent > 1) ++exponent;
      table[y - 1] = static_cast<std::uint8_t>(16 * exponent + sixteenth[(y << 8 >> exponent) & 255]);
    }
  }
};

static constexpr Octaves octaves;

}  // namespace tensorpress
