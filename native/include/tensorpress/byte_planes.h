// The codec `float_planes`: words parted into planes of bytes, each chunk of a plane in the fewest bytes. The slow twin is blocks/float_planes.py.
#pragma once
#include <cstdint>
#include <vector>

#include "tensorpress/lane_model.h"

namespace tensorpress {

constexpr std::int64_t plane_chunk = most_counted;  // values

struct WordLayout {
  int itemsize;   // 1, 2, 4 or 8 bytes
  int mantissa;   // bits of a float's; 0: no float
  bool folded;    // integers with a sign
};

// The stripe of these words, which follow its first byte, `mode`; empty where they take no more as they are.
std::vector<std::uint8_t> encode_planes(const std::uint8_t* words, std::int64_t count, const WordLayout& layout, int mode);
// What follows the first byte of a stripe. False where it is no stripe of so many words.
bool decode_planes(const std::uint8_t* data, std::int64_t nbytes, const WordLayout& layout, std::uint8_t* words, std::int64_t count);

struct BytePlanesBody {  // for one instruction set; plane p of a chunk begins at planes + p * stride, the most significant one first
  // Of floats, zeros of either sign: how many; the others in a row, how many; their bytes in the first plane, and back.
  std::int64_t (*zeros)(const std::uint8_t* words, std::int64_t count, int itemsize);
  std::int64_t (*others)(const std::uint8_t* words, std::int64_t count, int itemsize, std::uint8_t* out);  // a word more may be written
  void (*mark)(const std::uint8_t* words, std::int64_t count, int itemsize, std::uint8_t plus, std::uint8_t minus, std::uint8_t* first);
  void (*place)(const std::uint8_t* others, const std::uint8_t* first, std::int64_t count, int itemsize, std::uint8_t plus, std::uint8_t minus, std::uint8_t* words);  // a word more may be read
  void (*part)(const std::uint8_t* words, std::int64_t count, const WordLayout&, std::uint8_t* planes, std::int64_t stride);
  void (*join)(const std::uint8_t* planes, std::int64_t stride, std::int64_t count, const WordLayout&, std::uint8_t* words);
};
namespace scalar { extern const BytePlanesBody byte_planes_body; }
namespace avx2 { extern const BytePlanesBody byte_planes_body; }
namespace avx512 { extern const BytePlanesBody byte_planes_body; }

}  // namespace tensorpress
