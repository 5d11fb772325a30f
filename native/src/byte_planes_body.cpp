// Words to planes of bytes and back, compiled once for each instruction set: plain loops over short blocks, which the compiler turns into shuffles.
#include "tensorpress/byte_planes.h"

#include <algorithm>
#include <cstring>

namespace tensorpress::TP_ISA {
namespace {

using std::int64_t, std::uint8_t;
constexpr int64_t block = 256;  // words that stay in the first cache

template <class Word>
struct Bits {  // of a float: sign | exponent | mantissa outside, exponent | sign | mantissa here
  int across;  // from the sign to the bit above the mantissa
  Word mantissa, above, exponent;
  explicit Bits(const WordLayout& layout)
      : across(8 * int(sizeof(Word)) - 1 - layout.mantissa),
        mantissa(Word((Word(1) << layout.mantissa) - 1)),
        above(Word(Word(1) << layout.mantissa)),
        exponent(Word(Word(Word(~Word(0)) >> 1) ^ mantissa)) {}
};

template <class Word>
void part(const uint8_t* words, int64_t count, const WordLayout& layout, uint8_t* planes, int64_t stride) {
  constexpr int top = 8 * sizeof(Word) - 1;
  const Bits<Word> bits(layout);
  for (int64_t at = 0; at < count; at += block) {
    Word row[block];
    const int n = int(std::min(block, count - at));
    std::memcpy(row, words + at * sizeof(Word), n * sizeof(Word));
    if (layout.folded)
      for (int i = 0; i < n; ++i) row[i] = Word(Word(row[i] << 1) ^ Word(0 - (row[i] >> top)));
    else if (layout.mantissa)
      for (int i = 0; i < n; ++i) row[i] = Word(Word(row[i] & bits.exponent) << 1) | Word(Word(row[i] >> bits.across) & bits.above) | Word(row[i] & bits.mantissa);
    for (int plane = 0; plane < int(sizeof(Word)); ++plane) {
      uint8_t* const to = planes + plane * stride + at;
      const int shift = 8 * (int(sizeof(Word)) - 1 - plane);
      for (int i = 0; i < n; ++i) to[i] = uint8_t(row[i] >> shift);
    }
  }
}

template <class Word>
void join(const uint8_t* planes, int64_t stride, int64_t count, const WordLayout& layout, uint8_t* words) {
  const Bits<Word> bits(layout);
  for (int64_t at = 0; at < count; at += block) {
    Word row[block];
    const int n = int(std::min(block, count - at));
    for (int i = 0; i < n; ++i) row[i] = planes[at + i];
    for (int plane = 1; plane < int(sizeof(Word)); ++plane) {
      const uint8_t* const from = planes + plane * stride + at;
      for (int i = 0; i < n; ++i) row[i] = Word(Word(row[i] << (8 % (8 * sizeof(Word)))) | from[i]);
    }
    if (layout.folded)
      for (int i = 0; i < n; ++i) row[i] = Word(row[i] >> 1) ^ Word(0 - (row[i] & 1));
    else if (layout.mantissa)
      for (int i = 0; i < n; ++i) row[i] = Word(Word(row[i] & bits.above) << bits.across) | Word(Word(row[i] >> 1) & bits.exponent) | Word(row[i] & bits.mantissa);
    std::memcpy(words + at * sizeof(Word), row, n * sizeof(Word));
  }
}

template <class Word>
Word word_at(const uint8_t* words, int64_t i) {
  Word word;
  std::memcpy(&word, words + i * sizeof(Word), sizeof(Word));
  return word;
}

template <class Word>
int64_t zeros(const uint8_t* words, int64_t count) {
  int64_t found = 0;
  for (int64_t at = 0; at < count; at += block) {
    int here = 0;
    const int n = int(std::min(block, count - at));
    for (int i = 0; i < n; ++i) here += Word(word_at<Word>(words, at + i) << 1) == 0;
    found += here;
  }
  return found;
}

template <class Word>
int64_t others(const uint8_t* words, int64_t count, uint8_t* out) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Word word = word_at<Word>(words, i);
    std::memcpy(out + kept * sizeof(Word), &word, sizeof(Word));
    kept += Word(word << 1) != 0;
  }
  return kept;
}

template <class Word>
void mark(const uint8_t* words, int64_t count, uint8_t plus, uint8_t minus, uint8_t* first) {
  for (int64_t i = 0; i < count; ++i) {
    const Word word = word_at<Word>(words, i);
    const uint8_t zero = word ? minus : plus;
    first[i] = Word(word << 1) ? first[i] : zero;
  }
}

template <class Word>
void place(const uint8_t* from, const uint8_t* first, int64_t count, uint8_t plus, uint8_t minus, uint8_t* words) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool other = (first[i] != plus) & (first[i] != minus);
    const Word zero = first[i] == plus ? 0 : Word(Word(1) << (8 * sizeof(Word) - 1)), word = word_at<Word>(from, kept), chosen = other ? word : zero;
    std::memcpy(words + i * sizeof(Word), &chosen, sizeof(Word));
    kept += other;
  }
}

// f(a word of that size), for floats.
template <class F>
auto with_word(int itemsize, F f) {
  return itemsize == 2 ? f(std::uint16_t()) : itemsize == 4 ? f(std::uint32_t()) : f(std::uint64_t());
}

int64_t zeros_any(const uint8_t* words, int64_t count, int itemsize) {
  return with_word(itemsize, [&](auto word) { return zeros<decltype(word)>(words, count); });
}

int64_t others_any(const uint8_t* words, int64_t count, int itemsize, uint8_t* out) {
  return with_word(itemsize, [&](auto word) { return others<decltype(word)>(words, count, out); });
}

void mark_any(const uint8_t* words, int64_t count, int itemsize, uint8_t plus, uint8_t minus, uint8_t* first) {
  with_word(itemsize, [&](auto word) { mark<decltype(word)>(words, count, plus, minus, first); });
}

void place_any(const uint8_t* from, const uint8_t* first, int64_t count, int itemsize, uint8_t plus, uint8_t minus, uint8_t* words) {
  with_word(itemsize, [&](auto word) { place<decltype(word)>(from, first, count, plus, minus, words); });
}

void part_any(const uint8_t* words, int64_t count, const WordLayout& layout, uint8_t* planes, int64_t stride) {
  switch (layout.itemsize) {
    case 1: return part<std::uint8_t>(words, count, layout, planes, stride);
    case 2: return part<std::uint16_t>(words, count, layout, planes, stride);
    case 4: return part<std::uint32_t>(words, count, layout, planes, stride);
    default: return part<std::uint64_t>(words, count, layout, planes, stride);
  }
}

void join_any(const uint8_t* planes, int64_t stride, int64_t count, const WordLayout& layout, uint8_t* words) {
  switch (layout.itemsize) {
    case 1: return join<std::uint8_t>(planes, stride, count, layout, words);
    case 2: return join<std::uint16_t>(planes, stride, count, layout, words);
    case 4: return join<std::uint32_t>(planes, stride, count, layout, words);
    default: return join<std::uint64_t>(planes, stride, count, layout, words);
  }
}

}  // namespace

extern const BytePlanesBody byte_planes_body;
const BytePlanesBody byte_planes_body{zeros_any, others_any, mark_any, place_any, part_any, join_any};

}  // namespace tensorpress::TP_ISA
