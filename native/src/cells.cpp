// Payloads of cells: head, stripe table, stripes; which body runs; what stands in a payload.
#include "tensorpress/cells.h"

#include <cstring>

#include "tensorpress/cells_body.h"
#include "tensorpress/isa.h"

namespace tensorpress {
namespace {

const StripeBody& body() {
#if defined(TP_X86)
  return choose(scalar::stripe_body, avx2::stripe_body, avx512::stripe_body);
#else
  return scalar::stripe_body;
#endif
}

}  // namespace

std::int64_t max_stripe_nbytes(const MapView& map) {
  const std::int64_t rows = map.rows < stripe_rows ? map.rows : stripe_rows;
  const std::int64_t depth = channels_of_cell(map);
  const std::int64_t cells = (map.channels + depth - 1) / depth * ((map.columns + cell_columns - 1) / cell_columns);
  return rows * map.columns * map.channels + cell_header_nbytes * cells;
}

std::int64_t max_payload_nbytes(const MapView& map, std::size_t head_nbytes) {
  const std::int64_t stripes = stripe_count(map);
  return payload_capacity(head_nbytes, stripes, stripes ? max_stripe_nbytes(map) : 0);
}

Outcome encode_cells(const MapView& map, const CellRules& rules, const std::uint8_t* head, std::size_t head_nbytes, std::uint8_t* out,
                     std::int64_t capacity, int threads) {
  const std::int64_t stripes = stripe_count(map);
  const StripeBody& stripe = body();
  return write_payload(head, head_nbytes, stripes, stripes ? max_stripe_nbytes(map) : 0, threads, out, capacity,
                       [&](std::int64_t s, std::uint8_t* at) { return stripe.encode(map, rules, s, at); });
}

Outcome decode_cells(const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes, const CellRules& rules, const MapView& map,
                     int threads) {
  const StripeBody& stripe = body();
  return read_payload(payload, nbytes, head_nbytes, stripe_count(map), threads,
                      [&](std::int64_t s, const std::uint8_t* at, std::int64_t size) { return stripe.decode(at, size, map, rules, s); });
}

Outcome count_modes(const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes, const MapView& map, std::int64_t counts[4]) {
  Outcome result;
  const std::uint8_t* at = payload + head_nbytes + 8 * stripe_count(map);
  const std::uint8_t* end = payload + nbytes;
  while (at < end) {
    if (end - at < cell_header_nbytes || end - at < cell_header_nbytes + (at[1] | at[2] << 8)) {
      result.fault = Fault::header_cut;
      return result;
    }
    ++counts[at[0] & 3];
    at += cell_header_nbytes + (at[1] | at[2] << 8);
  }
  return result;
}

// --- the plain zero bitmap --------------------------------------------------------------------------------------------

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
