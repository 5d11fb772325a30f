// Which body of `zvc` runs; and the zero bitmap of wider words.
#include "tensorpress/zero_bitmap.h"

#include <algorithm>
#include <cstring>

#include "tensorpress/isa.h"

namespace tensorpress {

std::int64_t ZeroBitmap::max_stripe_nbytes(const MapView& map) const {
  const std::int64_t values = map.channels * std::min<std::int64_t>(map.rows, stripe_rows) * map.columns;
  return (values + 7) / 8 + values;
}

Outcome ZeroBitmap::encode(const MapView& map, std::int64_t number, std::uint8_t* out) const {
  return TP_CHOOSE(zero_bitmap_body).encode(map, tables_, number, out);
}

Outcome ZeroBitmap::decode(const std::uint8_t* data, std::int64_t nbytes, const MapView& map, std::int64_t number) const {
  return TP_CHOOSE(zero_bitmap_body).decode(data, nbytes, map, tables_, number);
}

namespace {

template <class Word>
std::int64_t bitmap_encode(const std::uint8_t* words, std::int64_t count, std::uint8_t* out) {
  std::uint8_t* values = out + (count + 7) / 8;
  for (std::int64_t i = 0; i < count; i += 8) {
    std::uint8_t bits = 0;
    const int n = count - i < 8 ? int(count - i) : 8;
    for (int k = 0; k < n; ++k) {
      Word word;
      std::memcpy(&word, words + (i + k) * sizeof(Word), sizeof(Word));
      std::memcpy(values, &word, sizeof(Word));  // always written, kept only where the pointer moves on: no branch
      const bool nonzero = word != 0;
      bits |= std::uint8_t(nonzero << k);
      values += nonzero ? sizeof(Word) : 0;
    }
    out[i / 8] = bits;
  }
  return values - out;
}

template <class Word>
bool bitmap_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t count, std::uint8_t* words) {
  const std::int64_t bitmap = (count + 7) / 8;
  if (nbytes < bitmap || (count % 8 && data[bitmap - 1] >> count % 8)) return false;
  std::int64_t nonzeros = 0;
  for (std::int64_t i = 0; i < bitmap; ++i) nonzeros += __builtin_popcount(data[i]);
  if (nbytes != bitmap + nonzeros * std::int64_t(sizeof(Word))) return false;
  const std::uint8_t* values = data + bitmap;
  const std::uint8_t* const end = data + nbytes;
  std::int64_t i = 0;
  for (; i + 8 <= count && end - values >= std::int64_t(8 * sizeof(Word)); i += 8) {  // every word is read, kept or not: no branch
    const unsigned bits = data[i / 8];
    for (int k = 0; k < 8; ++k) {
      const unsigned there = bits >> k & 1;
      Word word;
      std::memcpy(&word, values, sizeof(Word));
      word = Word(word & (Word(0) - Word(there)));
      values += there * sizeof(Word);
      std::memcpy(words + (i + k) * sizeof(Word), &word, sizeof(Word));
    }
  }
  for (; i < count; ++i) {
    Word word = 0;
    if (data[i / 8] >> i % 8 & 1) {
      std::memcpy(&word, values, sizeof(Word));
      values += sizeof(Word);
    }
    std::memcpy(words + i * sizeof(Word), &word, sizeof(Word));
  }
  return true;
}

}  // namespace

std::int64_t zero_bitmap_encode(const std::uint8_t* words, std::int64_t count, int word_nbytes, std::uint8_t* out) {
  switch (word_nbytes) {
    case 1: return bitmap_encode<std::uint8_t>(words, count, out);
    case 2: return bitmap_encode<std::uint16_t>(words, count, out);
    case 4: return bitmap_encode<std::uint32_t>(words, count, out);
    default: return bitmap_encode<std::uint64_t>(words, count, out);
  }
}

bool zero_bitmap_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t count, int word_nbytes, std::uint8_t* words) {
  switch (word_nbytes) {
    case 1: return bitmap_decode<std::uint8_t>(data, nbytes, count, words);
    case 2: return bitmap_decode<std::uint16_t>(data, nbytes, count, words);
    case 4: return bitmap_decode<std::uint32_t>(data, nbytes, count, words);
    default: return bitmap_decode<std::uint64_t>(data, nbytes, count, words);
  }
}

}  // namespace tensorpress
