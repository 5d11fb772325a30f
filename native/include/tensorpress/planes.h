// Two lossless coders of byte maps: extended bit-plane compression, and prediction with Golomb-Rice residuals.
// The bytes are in FORMAT.md; slow twins of the encoders are in tests/systems/test_published.py.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tensorpress {

// `out` becomes the two bit streams of `count` words: zeros and runs; blocks of 8 non-zero words in bit planes.
void ebpc_encode(const std::uint8_t* words, std::size_t count, std::vector<std::uint8_t>& out);
// False where the data is not exactly that of `count` words.
bool ebpc_decode(const std::uint8_t* data, std::size_t nbytes, std::uint8_t* words, std::size_t count);

enum class Predictor : int { spatial = 0, channel = 1, both = 2 };

// (channels, rows, columns) words, channel after channel with `plane` words between them.
void predictive_encode(const std::uint8_t* words, std::size_t channels, std::size_t plane, int rows, int columns, Predictor predictor,
                       std::vector<std::uint8_t>& out);
bool predictive_decode(const std::uint8_t* data, std::size_t nbytes, std::uint8_t* words, std::size_t channels, std::size_t plane, int rows,
                       int columns, Predictor predictor);

}  // namespace tensorpress
