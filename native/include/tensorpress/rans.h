// Interleaved static rANS: 32-bit states in [2^16, 2^32), 16-bit words, four lanes, symbol i in lane i % 4.
// Data: four u32 (the decoder's first states), then u16 words in the order in which the decoder takes them, little endian.
// The slow twin is src/tensorpress/coding/reference.py.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tensorpress {

inline constexpr std::size_t rans_lanes = 4;
inline constexpr std::uint32_t rans_low = 1u << 16;
inline constexpr std::size_t rans_cut = ~std::size_t{0};  // what rans_decode returns when the words run out

// One symbol for the encoder: x -> x + bias + (x / frequency) * complement, the division by a multiplication.
struct RansStep {
  std::uint64_t reciprocal;
  std::uint32_t bias, complement;  // complement = 2^bits - frequency
};

// A prepared set of table rows. The memory belongs to the caller.
struct RansView {
  int bits;
  std::size_t rows, symbols;
  const RansStep* steps;       // [rows][symbols]
  const std::uint32_t* spans;  // [rows][symbols]: start << 16 | frequency - 1
  const std::uint16_t* slots;  // [rows][2^bits]: the symbol that owns the slot
};

// Fills `steps`, `spans` and `slots` from CDF rows [rows][symbols + 1]. False unless each row rises strictly from 0 to
// 2^bits with 10 <= bits <= 16.
bool rans_prepare(const std::uint32_t* cdf, std::size_t rows, std::size_t symbols, int bits, RansStep* steps,
                  std::uint32_t* spans, std::uint16_t* slots);

// Codes `count` symbols backwards, the first of which is number `first` of the whole sequence; words grow down from
// out[end]. `index` (or null: row 0) names each symbol's row. Needs end >= 2 * count, symbols and index in range.
// Returns where the words begin. Symbol and Index are std::uint8_t or std::uint16_t.
template <class Symbol, class Index>
std::size_t rans_encode(const RansView& table, const Symbol* symbols, const Index* index, std::size_t count,
                        std::size_t first, std::uint32_t* states, std::uint8_t* out, std::size_t end);

// The inverse, forwards from data[at]; never reads at or beyond data[nbytes]. Needs states >= 2^16 and index in range.
// Returns the position after the last word taken, or rans_cut.
template <class Symbol, class Index>
std::size_t rans_decode(const RansView& table, const std::uint8_t* data, std::size_t nbytes, std::size_t at,
                        const Index* index, std::size_t count, std::size_t first, std::uint32_t* states, Symbol* out);

}  // namespace tensorpress
