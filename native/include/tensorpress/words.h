// Words of 8 bits, 0 for zero: from a tensor to them and back, and the packers of a stripe of them. FORMAT.md, sections 3, 15 and 17.
// The slow twins of the packers are in src/tensorpress/coding/word_reference.py; that of the front is the chain of stages.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tensorpress {

inline constexpr std::int64_t words_fine = -1;   // a decoder found nothing wrong
inline constexpr std::int64_t words_wrong = -2;  // lengths or padding bits of the whole stripe are wrong

// --- the front: one table from level to word, one from word to value --------------------------------------------------

// words[i] = table[clamp(round(x[i] * reciprocal), -zero, 255 - zero) + zero], half to even. Returns the first i where x is not finite, or -1.
std::int64_t floats_to_words(const float* x, std::int64_t count, float reciprocal, int zero, const std::uint8_t* table, std::uint8_t* words);
void bytes_to_words(const std::uint8_t* x, std::int64_t count, const std::uint8_t* table, std::uint8_t* words);
void words_to_floats(const std::uint8_t* words, std::int64_t count, const float* table, float* x);

// --- zero runs: a run of `bits` bits and a word of 8, end to end ------------------------------------------------------

// Needs zero_runs_capacity bytes.
inline constexpr std::int64_t zero_runs_capacity(std::int64_t count) { return (13 * count + 7) / 8; }
std::int64_t zero_runs_encode(const std::uint8_t* words, std::int64_t count, std::uint8_t* out);
// words_fine, words_wrong, or the number of the pair that runs past the words.
std::int64_t zero_runs_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t count, std::uint8_t* words);

// --- compressed columns: counts, runs of 4 bits, words ----------------------------------------------------------------

// `columns` lines of `length` words each, length < 2^32. Needs columns_capacity bytes.
inline constexpr std::int64_t columns_capacity(std::int64_t columns, std::int64_t length) { return 4 * columns + 3 * columns * length / 2 + 2; }
std::int64_t columns_encode(const std::uint8_t* words, std::int64_t columns, std::int64_t length, std::uint8_t* out);
// words_fine, words_wrong, or the number of the column whose entries do not fit it.
std::int64_t columns_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t columns, std::int64_t length, std::uint8_t* words);

// --- slots: cells of 2,048 words, each group of 16 in the form of fewer bits -------------------------------------------

inline constexpr std::int64_t slot_nbytes = 2112;  // 2,048 words and 128 codes of 4 bits

struct CellGrid {  // of one stripe of (channels, rows, columns) words; a cell has all rows
  std::int64_t channels, rows, columns;
  std::int64_t cell_channels, cell_columns;  // rows * cell_channels * cell_columns <= 2,048
  bool padded;                               // every cell fills its slot; otherwise cells stand end to end behind their sizes
};

std::int64_t cell_count(const CellGrid& grid);
std::int64_t slots_capacity(const CellGrid& grid);
// Needs slots_capacity bytes.
std::int64_t slots_encode(const CellGrid& grid, const std::uint8_t* words, std::uint8_t* out);
// words_fine, words_wrong, or the number of the cell that is wrong.
std::int64_t slots_decode(const CellGrid& grid, const std::uint8_t* data, std::int64_t nbytes, std::uint8_t* words);

// --- ranges: a word as the number of its range and an offset in it ------------------------------------------------------

struct Ranges {
  std::uint8_t starts[16], bits[16];          // of each range; bits of its offsets
  std::uint8_t range_of[256];
};

// Numbers of the words' ranges, and their offsets end to end, least significant bit first. Needs count + 8 bytes at out; returns those used.
std::int64_t ranges_encode(const Ranges& ranges, const std::uint8_t* words, std::int64_t count, std::uint8_t* numbers, std::uint8_t* out);
// Needs numbers below 16. words_fine, words_wrong, or the first word whose offset leads out of its range.
std::int64_t ranges_decode(const Ranges& ranges, const std::uint8_t* numbers, const std::uint8_t* data, std::int64_t nbytes, std::int64_t count,
                           std::uint8_t* words);

}  // namespace tensorpress
