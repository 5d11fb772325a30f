// One stripe of `zvc`, compiled once for each instruction set.
#include "tensorpress/runs.h"
#include "tensorpress/wide.h"
#include "tensorpress/zero_bitmap.h"

namespace tensorpress::TP_ISA {
namespace {

using std::int64_t, std::uint64_t, std::uint8_t;

struct Writer {
  uint8_t *bits, *words;
  uint64_t held = 0;
  int fill = 0;

  [[gnu::always_inline]] void put(Block block, int n) {
    const uint64_t there = nonzero(block);
    squeeze(block, there, words);
    words += std::popcount(there);
    held |= there << fill;
    fill += n;
    if (fill < 64) return;
    std::memcpy(bits, &held, 8);
    bits += 8, fill -= 64;
    held = fill ? there >> (n - fill) : 0;
  }
  void close() const { std::memcpy(bits, &held, std::size_t(fill + 7) / 8); }
};

Outcome encode(const MapView& map, const ByteTables& tables, int64_t stripe, uint8_t* out) {
  const Runs runs(map, stripe);
  Outcome result;
  result.stripe = stripe;
  Writer writer{out, out + (runs.values + 7) / 8};
  const Table word_of(tables.word_of, tables.same);
  each_block(map, runs, [&](auto* p, int64_t at, int n) __attribute__((always_inline)) {
    Block levels;
    if constexpr (sizeof(*p) == 4) {
      if (!quantise(p, n, map.reciprocal, tables.zero, levels)) {
        result.fault = Fault::not_finite, result.at = at;
        return false;
      }
    } else {
      levels = load(p, n);
      if (map.element == Element::i8) levels = flip(levels, 0x80);
    }
    Block words = word_of(levels);
    if (n < block_size) words = keep(words, n);  // nothing stands behind the run
    writer.put(words, n);
    return true;
  });
  writer.close();
  result.nbytes = writer.words - out;
  if (result.fault == Fault::not_finite) result.at = first_not_finite(map, stripe, result.at);
  return result;
}

int64_t ones(const uint8_t* data, int64_t nbytes) {
  int64_t count = 0, i = 0;
  uint64_t word;
  for (; i + 8 <= nbytes; i += 8) {
    std::memcpy(&word, data + i, 8);
    count += std::popcount(word);
  }
  for (; i < nbytes; ++i) count += std::popcount(data[i]);
  return count;
}

// Bits at … at + 63 of a string that ends at `end`; zeros behind it.
uint64_t bits_at(const uint8_t* data, const uint8_t* end, int64_t at) {
  const uint8_t* p = data + at / 8;
  const int shift = int(at % 8);
  uint8_t buffer[9] = {};
  if (end - p < 9) {
    std::memcpy(buffer, p, std::size_t(end - p));
    p = buffer;
  }
  uint64_t low;
  std::memcpy(&low, p, 8);
  return shift ? low >> shift | uint64_t{p[8]} << (64 - shift) : low;
}

Outcome decode(const uint8_t* data, int64_t nbytes, const MapView& map, const ByteTables& tables, int64_t stripe) {
  const Runs runs(map, stripe);
  Outcome result;
  result.stripe = stripe;
  const uint8_t* const end = data + nbytes;
  const int64_t bitmap = (runs.values + 7) / 8;
  if (nbytes < bitmap) {
    result.fault = Fault::section_cut;
    return result;
  }
  if (runs.values % 8 && data[bitmap - 1] >> runs.values % 8) {
    result.fault = Fault::padding;
    return result;
  }
  if (nbytes != bitmap + ones(data, bitmap)) {
    result.fault = Fault::length_wrong;
    return result;
  }
  const Table level_of(tables.level_of, tables.same);
  const uint8_t* words = data + bitmap;
  int64_t at = 0;
  each_block_out(map, runs, [&](auto* p, int n) __attribute__((always_inline)) {
    const uint64_t bits = bits_at(data, data + bitmap, at) & first_bits(n);
    const int count = std::popcount(bits);
    const Block levels = level_of(spread(end - words >= block_size ? load(words, block_size) : load(words, count), bits));
    words += count, at += n;
    if constexpr (sizeof(*p) == 4) dequantise(levels, n, tables.zero, map.scale, p);
    else store(p, map.element == Element::i8 ? flip(levels, 0x80) : levels, n);
  });
  result.nbytes = nbytes;
  return result;
}

}  // namespace

extern const ZeroBitmapBody zero_bitmap_body;
const ZeroBitmapBody zero_bitmap_body{encode, decode};

}  // namespace tensorpress::TP_ISA
