// The context codec's back-end `fast`: predict each value's magnitude from what is decoded already, code it under its class, in
// cells of 8x8x32 values, each alone, with static rANS. Integers only, but for the encoder's choice of a quantised value.
// The slow twin is src/tensorpress/blocks/context_twin.py; the bytes are in FORMAT.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tensorpress {

inline constexpr int context_spatial = 6;     // W N NW NE WW NN
inline constexpr int context_positions = 5;   // same, E, S, W, N: of the first earlier channel and of the reference
inline constexpr int context_bins = 1024;     // entries of a class look-up
inline constexpr int context_table_bits = 11;
inline constexpr int context_lane_bins = 128;  // of the grid, all that the fast coder uses

// Which class a prediction falls in: lut[clamp((p - low) >> shift, 0, 1023)].
struct ContextBins {
  std::int32_t low = 0;
  int shift = 0;
  std::uint8_t lut[context_bins] = {};
  int operator()(std::int32_t p) const {
    const std::int64_t i = (std::int64_t{p} - low) >> shift;
    return lut[i < 0 ? 0 : i >= context_bins ? context_bins - 1 : i];
  }
};

// What the lanes of context_lanes.cpp look up.
struct ContextLanes {
  bool usable = false;                 // sums fit into 16 bits, and tables are as they expect
  int offset = 0;                      // what roots are stored with: 128 where they have signs
  bool whole = false, exact = false;   // reciprocals are 1; and so are steps, and no centroid moves a value
  std::uint8_t class_of[context_lane_bins] = {};  // class << 3, by step of the grid
  std::uint8_t root_of[256] = {};      // root + offset, by value + low
  int pair_count = 0;                  // of weights, for a channel
  std::vector<std::uint32_t> pairs;    // [channels][pairs] two weights as bytes, in both halves: those that context_lanes.cpp adds up together
  std::vector<std::uint32_t> bias;     // [channels] in both halves; less the low end of the grid, and what the offset adds to sums
  std::vector<std::uint8_t> earlier;   // [channels][earlier] in the block of 32; 0, with weights of 0, for none
  std::vector<std::uint32_t> encode;   // [classes][256], by value + low: frequency << 20 | start << 8 | extra bits << 4 | extra
  std::vector<std::uint32_t> decode;   // [classes][2^11], by slot: frequency << 20 | slot - start << 8 | first value + low
  std::vector<std::int32_t> centroid;  // [classes][4]
};

struct ContextModel {
  std::size_t channels = 0;
  int low = 0, high = 0;  // quantised values lie in [-low, high]
  int earlier = 0;        // channels coded before that a prediction reads
  bool reference = false;  // a second tensor of the same shape is at hand on both sides
  int classes = 0, tokens = 0;
  std::vector<std::int8_t> weights;    // [channels][features]
  std::vector<std::int32_t> bias;      // [channels]
  std::vector<std::int32_t> channel;   // [channels][earlier]; -1: none
  ContextBins bins;
  std::vector<std::int16_t> root;      // [low + high + 1]: a value as predictions see it
  std::vector<std::uint8_t> token, extra_bits;  // [values]
  std::vector<std::uint16_t> extra;             // [values]
  std::vector<std::uint8_t> token_bits;         // [tokens]: extra bits
  std::vector<std::int16_t> token_first;        // [tokens]: value with all extra bits 0
  std::vector<std::int8_t> token_sign;          // [tokens]: direction in which extra bits count
  std::vector<std::uint32_t> cdf;               // [classes][tokens + 1], of 2^11
  std::vector<std::uint16_t> slots;             // [classes][2^11]
  std::vector<std::int8_t> centroid;            // [classes][4], 1/128 of a step
  std::vector<std::int32_t> price;              // [classes][values]: 1/256 bit, for the encoder's choice
  std::vector<float> step128, reciprocal;       // [channels]
  ContextLanes lanes;

  int features() const {
    return context_spatial + (earlier ? context_positions + earlier - 1 : 0) + (reference ? context_positions : 0);
  }
  void prepare_lanes();
  void prepare();  // slots and lanes
};

// One stripe of (channels, rows, columns) float32 values with `plane` values from channel to channel, rows contiguous,
// of a map of `map_rows` rows. `before` is the reference in the same layout, or null. Appends to `out`; writes what a decoder gives to
// `decoded`, if any. // `lagrangian`: squared error, in steps, of a bit.
void context_encode(const ContextModel& model, const float* x, const float* before, std::size_t plane, int rows, int columns,
                    int map_rows, double lagrangian, double rounding, std::vector<std::uint8_t>& out, float* decoded = nullptr);

// The inverse; writes decoded values, of the cell `only` alone where it is not negative. False where the bytes are no stripe of
// this shape.
bool context_decode(const ContextModel& model, const std::uint8_t* data, std::size_t nbytes, const float* before, std::size_t plane,
                    int rows, int columns, int map_rows, float* out, std::ptrdiff_t only = -1);

// What a fit needs: the value that the encoder takes, and its prediction in two parts (neighbours; the rest with the bias).
void context_trace(const ContextModel& model, const float* x, const float* before, std::size_t plane, int rows, int columns,
                   int map_rows, double lagrangian, double rounding, std::int16_t* q, std::int32_t* spatial, std::int32_t* cross);

}  // namespace tensorpress
