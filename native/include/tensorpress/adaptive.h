// Quantised weights to one string: each value is foretold by those before it, and what was learned from a tensor goes on to the next.
// A tensor is seen as (rows, columns, taps): filters, input channels, places in the kernel.
// The slow twins are src/tensorpress/coding/adaptive_reference.py and adaptive_fast_reference.py.
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

// The first byte of a string.
enum class AdaptiveForm : std::uint8_t {
  small,  // binary decisions, eight contexts mixed, range coder: the fewest bytes
  fast,   // symbols, one context, counts, rANS in four lanes: ten times the speed
};

class AdaptiveEncoder {
 public:
  static std::unique_ptr<AdaptiveEncoder> make(AdaptiveForm form);
  virtual ~AdaptiveEncoder() = default;
  virtual void put(const std::int32_t* values, const AdaptiveShape& shape) = 0;
  // The string; nothing may be put after it.
  virtual const std::vector<std::uint8_t>& finish() = 0;
};

// Never reads beyond data[nbytes]; `data` must outlive it.
class AdaptiveDecoder {
 public:
  // Null where the first byte names no form.
  static std::unique_ptr<AdaptiveDecoder> make(const std::uint8_t* data, std::size_t nbytes);
  virtual ~AdaptiveDecoder() = default;
  // How many of the values were decoded: fewer than all where the string was seen to end, or holds a value that no int32 is.
  virtual std::size_t take(std::int32_t* values, const AdaptiveShape& shape) = 0;
  virtual bool beyond() const = 0;  // the last take stopped at such a value
  // The string is exactly what an encoder of the values taken so far would have written.
  virtual bool done() const = 0;
};

// What the small form spends on each magnitude, in bits, as it learns from tensor to tensor.
class AdaptiveCosts {
 public:
  static constexpr std::size_t magnitudes = 16;  // the last stands for all from there on
  double bits[magnitudes] = {};
  std::uint64_t counts[magnitudes] = {};
  AdaptiveCosts();
  ~AdaptiveCosts();
  void put(const std::int32_t* values, const AdaptiveShape& shape);

 private:
  struct Model;
  std::unique_ptr<Model> model_;
};

}  // namespace tensorpress
