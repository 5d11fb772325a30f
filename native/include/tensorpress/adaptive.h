// Quantised weights to one arithmetic-coded string: binary decisions, each foretold by what was coded before it.
// A tensor is seen as (rows, columns, taps): filters, input channels, places in the kernel. What was learned from a tensor goes on to the next.
// The slow twin is src/tensorpress/coding/adaptive_reference.py.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace tensorpress {

struct AdaptiveShape {
  std::size_t rows, columns, taps;
  std::size_t count() const { return rows * columns * taps; }
};

struct AdaptiveMix;  // the states of the mixing model

class AdaptiveEncoder {
 public:
  AdaptiveEncoder();
  ~AdaptiveEncoder();
  void put(const std::int32_t* values, const AdaptiveShape& shape);
  // The string; nothing may be put after it.
  std::vector<std::uint8_t>& finish();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Never reads beyond data[nbytes]; `data` must outlive it.
class AdaptiveDecoder {
 public:
  AdaptiveDecoder(const std::uint8_t* data, std::size_t nbytes);
  ~AdaptiveDecoder();
  // How many of the values were decoded: fewer than all where the string was seen to end, or holds a value that no int32 is.
  std::size_t take(std::int32_t* values, const AdaptiveShape& shape);
  bool beyond() const;  // the last take stopped at such a value
  // The string is exactly what an encoder of the values taken so far would have written.
  bool done() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace tensorpress
