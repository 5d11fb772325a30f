// Canonical Huffman codes of at most 15 bits, most significant bit first; the last byte is filled up with zero bits.
// Codes go by (length, symbol). A row of one symbol has a code of length 0. The slow twin is coding/reference.py.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tensorpress {

inline constexpr int huffman_longest = 15;
inline constexpr int huffman_quick = 11;  // bits of a look-up: up to three codes that end within them
inline constexpr std::size_t huffman_cut = ~std::size_t{0};
inline constexpr std::size_t huffman_slack = 9;  // bytes which the encoder may touch after its last bit

// A prepared set of code rows. The memory belongs to the caller.
struct HuffmanView {
  std::size_t rows, symbols;
  const std::uint32_t* codes;   // [rows][symbols]: length << 16 | code, left-aligned in 16 bits
  const std::uint64_t* quick;   // [rows][2^huffman_quick]: three symbols of 16 bits, 4 bits for the first's length, 4 for that of all, how
                                // many there are; 0 for a longer code
  const std::uint32_t* limits;  // [rows][16]: first 15-bit value above all codes of this length or less
  const std::int32_t* places;   // [rows][16]: what turns a code of this length into a place in `sorted`
  const std::uint16_t* sorted;  // [rows][symbols]: symbols by (length, symbol)
};

// Fills the arrays from code lengths [rows][symbols]. False unless each row is a complete code (Kraft sum exactly 1).
bool huffman_prepare(const std::uint8_t* lengths, std::size_t rows, std::size_t symbols, std::uint32_t* codes,
                     std::uint64_t* quick, std::uint32_t* limits, std::int32_t* places, std::uint16_t* sorted);

// Appends `count` codes at bit `bit` of `out`; needs (bit + 15 * count) / 8 + huffman_slack bytes, symbols and index in
// range. Returns the bit after the last; what follows it in its byte is zero.
template <class Symbol, class Index>
std::size_t huffman_encode(const HuffmanView& table, const Symbol* symbols, const Index* index, std::size_t count,
                           std::uint8_t* out, std::size_t bit);

// The inverse from bit `bit`; never reads at or beyond data[nbytes]. Returns the bit after the last, or huffman_cut.
template <class Symbol, class Index>
std::size_t huffman_decode(const HuffmanView& table, const std::uint8_t* data, std::size_t nbytes, std::size_t bit,
                           const Index* index, std::size_t count, Symbol* out);

}  // namespace tensorpress
