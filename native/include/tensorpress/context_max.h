// The context codec's back-end `max`: every value under two adaptive distributions of 16 symbols, averaged; rANS. Integers only,
// but for the encoder's choice of a quantised value. The slow twin is src/tensorpress/blocks/context_max_twin.py; FORMAT.md has the bytes.
//
//   W N NW NE WW NN, channels coded before, reference -> p -> class -+-> row of (class, W, texture)  -+-> mean -> symbol, rANS -> extra bits
//                                                                    +-> row of (class, channel group, N) +    both rows learn the symbol
//
// The eight rows of a stripe are eight lanes, each two columns behind the one above, so that all values of a step are known apart from
// each other: they see the rows as they were before the step.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensorpress/map.h"

namespace tensorpress {

inline constexpr int max_spatial = 6;     // W N NW NE WW NN
inline constexpr int max_around = 5;      // same, E, S, W, N: of the first earlier channel and of the reference
inline constexpr int max_bins = 1024;     // entries of the class look-up
inline constexpr int max_symbols = 16;
inline constexpr int max_near = 8, max_other = 4, max_row_count = max_near * max_other;  // rows of a class, of either kind
inline constexpr int max_part_columns = 12;  // of a part; a narrower map has one part
inline constexpr int max_grid = 64;       // steps in which a root or a difference of roots is looked up

// Of a class: which rows its surroundings ask for, counted in numbers from the first row of a kind, and its symbols.
struct MaxClass {
  std::uint16_t w_row[max_grid], t_row[max_grid], n_row[max_grid];
  std::int16_t first[max_symbols];       // the first value of a symbol
  std::uint8_t extra_bits[max_symbols];  // it has 2^this values
  std::uint8_t symbol[256];              // of value + low
};

// What the encoder weighs of a value, in a class: what it decodes to, in steps, and its bits before adaptation.
struct MaxOption {
  float decoded, bits;
};

struct MaxModel {
  std::size_t channels = 0;
  int low = 0, high = 0;    // quantised values lie in [-low, high]
  int earlier = 0;          // channels coded before that a prediction reads
  int parts = 1;            // the columns of a map's last stripes are coded in so many parts, each alone
  int classes = 0;
  bool reference = false;   // a second tensor of the same shape is at hand on both sides
  int grid_low = 0, grid_shift = 0;  // a root's place in the grid: (root - low) >> shift
  std::int32_t bins_low = 0;
  int bins_shift = 0;
  std::vector<std::uint8_t> class_of;           // [max_bins]
  bool centroids = false;                       // whether one is not zero
  std::vector<std::int8_t> weights;             // [channels][features]
  std::vector<std::int32_t> bias;               // [channels]
  std::vector<std::int32_t> channel;            // [channels][earlier]; -1: none
  std::vector<std::uint8_t> group;              // [channels]: below max_near
  std::vector<std::int16_t> root;               // [low + high + 1]
  std::vector<MaxClass> class_;                 // [classes]
  std::vector<std::uint16_t> start;             // [2][classes][max_row_count][max_symbols]: P(symbol < s) of 2^16
  std::vector<std::int8_t> centroid;            // [classes][4], 1/128 of a step
  std::vector<MaxOption> options;               // [classes][low + high + 1]
  std::vector<float> step128, reciprocal;       // [channels]

  int features() const { return max_spatial + (earlier ? max_around + earlier - 1 : 0) + (reference ? max_around : 0); }
  int parts_of(std::int64_t columns) const { return columns < max_part_columns * parts ? 1 : parts; }
};

// One part of a stripe: some columns of up to eight rows of the map.
struct MaxTask {
  const MapView* map;      // what is coded, or where decoded values go
  const float* before;     // the reference, (channels, rows, columns) contiguous, or null
  std::int64_t row, column;
  int rows, columns;
};

// The encoder's choice: least (x - decoded)^2 + lagrangian * bits, in steps; nearest where lagrangian is 0, zero drawn by `rounding`.
struct MaxChoice {
  double lagrangian, rounding;
};

// What a fit needs of every value: what the encoder takes, and its prediction. [channels][rows][columns] of the map, or null.
struct MaxTrace {
  std::int16_t* q = nullptr;
  std::int32_t* prediction = nullptr;
};

struct MaxBody {
  // Appends to `out`; writes what a decoder gives to `decoded`, if any; nothing is coded where there is a trace.
  void (*encode)(const MaxModel&, const MaxTask&, const MaxChoice&, std::vector<std::uint8_t>& out, const MapView* decoded, const MaxTrace& trace);
  // False where the bytes are no part of this shape.
  bool (*decode)(const MaxModel&, const MaxTask&, const std::uint8_t* data, std::size_t nbytes);
};

namespace scalar { extern const MaxBody max_body; }
namespace avx2 { extern const MaxBody max_body; }
namespace avx512 { extern const MaxBody max_body; }

// Every stripe of the map; the first `whole` of them in one part, the others' parts one after another, each but the last behind its size.
void max_encode(const MaxModel& model, const MapView& map, const float* before, std::int64_t whole, int threads, const double* lagrangian, double rounding,
                std::vector<std::vector<std::uint8_t>>& stripes, const MapView* decoded, const MaxTrace& trace);

struct MaxBytes {
  const std::uint8_t* data;
  std::size_t nbytes;
};

// The first damaged stripe, or -1.
std::int64_t max_decode(const MaxModel& model, const std::vector<MaxBytes>& stripes, const float* before, std::int64_t whole, int threads, const MapView& map);

}  // namespace tensorpress
