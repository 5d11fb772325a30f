// A binary range coder: 32-bit interval, probabilities of 16 bits, bytes out as soon as they are known.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tensorpress {

struct BinaryTail {
  std::uint32_t value;
  int nbytes;
};

// The shortest bytes, zeros following them, that lie in the interval.
inline BinaryTail binary_tail(std::uint32_t low, std::uint32_t high) {
  for (int keep = 0; keep < 4; ++keep) {
    const std::uint32_t mask = keep == 0 ? 0 : ~std::uint32_t{0} << (32 - 8 * keep);
    const std::uint32_t value = (low & mask) == low ? low : (low & mask) + (keep == 0 ? 0 : ~mask + 1);
    if (value >= low && value <= high && (keep > 0 || low == 0)) return {value, keep};
  }
  return {low, 4};
}

class BinaryWriter {
 public:
  explicit BinaryWriter(std::vector<std::uint8_t>& out) : out_(out) {}
  // `p`: probability of a 1, of 2^16, between 1 and 65535.
  void put(int bit, std::uint32_t p) {
    const std::uint32_t middle = low_ + static_cast<std::uint32_t>((std::uint64_t{high_ - low_} * p) >> 16);
    if (bit) high_ = middle; else low_ = middle + 1;
    while (((low_ ^ high_) >> 24) == 0) {
      out_.push_back(static_cast<std::uint8_t>(high_ >> 24));
      low_ <<= 8, high_ = high_ << 8 | 255;
    }
  }
  void finish() {
    const BinaryTail tail = binary_tail(low_, high_);
    for (int i = 0; i < tail.nbytes; ++i) out_.push_back(static_cast<std::uint8_t>(tail.value >> (24 - 8 * i)));
  }

 private:
  std::vector<std::uint8_t>& out_;
  std::uint32_t low_ = 0, high_ = ~std::uint32_t{0};
};

class BinaryReader {
 public:
  BinaryReader(const std::uint8_t* data, std::size_t nbytes) : data_(data), nbytes_(nbytes) {
    for (int i = 0; i < 4; ++i) value_ = value_ << 8 | next();
  }
  int take(std::uint32_t p) {
    const std::uint32_t middle = low_ + static_cast<std::uint32_t>((std::uint64_t{high_ - low_} * p) >> 16);
    const int bit = value_ <= middle;
    if (bit) high_ = middle; else low_ = middle + 1;
    while (((low_ ^ high_) >> 24) == 0) {
      low_ <<= 8, high_ = high_ << 8 | 255;
      value_ = value_ << 8 | next();
    }
    return bit;
  }
  bool done() const { return nbytes_ <= at_; }  // no byte was left over
  bool cut() const { return at_ > nbytes_ + 4; }  // no writer's string ends so early
  // Exactly the bytes that a writer of the same decisions leaves.
  bool exact() const {
    const BinaryTail tail = binary_tail(low_, high_);
    return nbytes_ == at_ - 4 + static_cast<std::size_t>(tail.nbytes) && value_ == tail.value;
  }

 private:
  std::uint32_t next() { return at_++ < nbytes_ ? data_[at_ - 1] : 0; }  // beyond the end there are zeros
  const std::uint8_t* data_;
  std::size_t nbytes_, at_ = 0;
  std::uint32_t low_ = 0, high_ = ~std::uint32_t{0}, value_ = 0;
};

}  // namespace tensorpress
