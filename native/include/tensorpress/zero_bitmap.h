// The codec `zvc`: a stripe is a bitmap of its words, least significant bit first, then the words that are not zero. FORMAT.md, section 7.
// The slow twin is blocks/stepped.py >> blocks/words.py.
#pragma once
#include <cstdint>

#include "tensorpress/payload.h"

namespace tensorpress {

struct ByteTables {
  int zero;                   // level of 0.0
  std::uint8_t word_of[256];  // level -> word; 0 stands for the zero point
  std::uint8_t level_of[256];
  bool same;  // level and word are one
};

class ZeroBitmap : public MapKernel {
 public:
  explicit ZeroBitmap(const ByteTables& tables) : tables_(tables) {}
  std::int64_t max_stripe_nbytes(const MapView& map) const override;
  Outcome encode(const MapView& map, std::int64_t number, std::uint8_t* out) const override;
  Outcome decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const override;

 private:
  ByteTables tables_;
};

// Words of 1, 2, 4 or 8 bytes, one string of them: ceil(n / 8) bytes of bitmap, then the non-zero words. Returns bytes written.
std::int64_t zero_bitmap_encode(const std::uint8_t* words, std::int64_t count, int word_nbytes, std::uint8_t* out);
// Returns false where the data is cut, too long, or its padding bits are set.
bool zero_bitmap_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t count, int word_nbytes, std::uint8_t* words);

struct ZeroBitmapBody {  // of one stripe, for one instruction set
  Outcome (*encode)(const MapView&, const ByteTables&, std::int64_t number, std::uint8_t* out);
  Outcome (*decode)(const std::uint8_t* data, std::int64_t nbytes, const MapView&, const ByteTables&, std::int64_t number);
};
namespace scalar { extern const ZeroBitmapBody zero_bitmap_body; }
namespace avx2 { extern const ZeroBitmapBody zero_bitmap_body; }
namespace avx512 { extern const ZeroBitmapBody zero_bitmap_body; }

}  // namespace tensorpress
