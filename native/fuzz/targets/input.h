// A fuzzer's bytes as numbers, and what a target says where a promise is broken.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#define TARGET(in) \
  void target(fuzz::Input& in); \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) { \
    fuzz::Input input(data, size); \
    target(input); \
    return 0; \
  } \
  void target(fuzz::Input& in)

namespace fuzz {

using Bytes = std::vector<std::uint8_t>;

inline void must(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

// Little-endian numbers, one after another; zeros behind the last byte. Made from a seed it has no end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}
  explicit Input(const Bytes& data) : Input(data.data(), data.size()) {}
  explicit Input(std::uint64_t seed) : endless_(seed * 0x9E3779B97F4A7C15u | 1) {}

  bool endless() const { return endless_; }
  std::uint8_t byte() {
    if (at_ != end_) return *at_++;
    if (!endless_) return 0;
    endless_ ^= endless_ << 13, endless_ ^= endless_ >> 7, endless_ ^= endless_ << 17;
    return std::uint8_t(endless_ >> 32);
  }
  template <class T>
  T number() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::uint64_t{byte()} << 8 * i;
    return T(value);
  }
  // From low to high: the number itself where it lies there.
  template <class T>
  T within(std::int64_t low, std::int64_t high) {
    const std::int64_t span = high - low + 1, value = (std::int64_t(number<T>()) - low) % span;
    return T(low + value + (value < 0 ? span : 0));
  }
  int below(int limit) { return within<std::uint8_t>(0, limit - 1); }
  template <class T>
  std::vector<T> list(std::size_t count, std::int64_t low, std::int64_t high) {
    std::vector<T> found(count);
    for (T& value : found) value = within<T>(low, high);
    return found;
  }
  Bytes rest() {  // memory of its own, so that a byte beyond it is seen
    Bytes found(at_, end_);
    at_ = end_;
    return found;
  }

 private:
  const std::uint8_t *at_ = nullptr, *end_ = nullptr;
  std::uint64_t endless_ = 0;
};

// Where they begin: never null, and where there are none, no byte may be read.
template <class List>
auto* begin_of(List& list) {
  static auto* const one = new typename List::value_type[1];
  return list.empty() ? one + 1 : list.data();
}

// A few bytes changed, as the input says: each by its place and its new value.
inline void edit(Input& in, int count, Bytes& data) {
  for (int i = 0; i < count && !data.empty(); ++i) {
    const std::uint16_t place = in.number<std::uint16_t>();
    const std::uint8_t value = in.byte();
    if (place == 0xFFFF) data.resize(data.size() - std::min<std::size_t>(value, data.size()));
    else if (place == 0xFFFE) data.insert(data.end(), value % 8, value);
    else data[place % data.size()] = value;
  }
}

// A golden stream's tables, as seeds.py wrote them for this program; none where there are fewer.
inline Bytes golden_tables(int number) {
  const char* const folder = std::getenv("TENSORPRESS_FUZZ_TABLES");
  std::ifstream file(folder ? std::string(folder) + "/" + std::to_string(number) : std::string(), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Tables are costly to make, so they are made once for an input's first byte. 0: they stand in the input; a small number: those of a
// golden stream; else they follow from it.
template <class T, class Make>
const T& kept(Input& in, std::unique_ptr<T>& own, Make make) {
  static std::unique_ptr<T> known[256];
  const std::uint8_t seed = in.byte();
  if (seed == 0) return *(own = make(in));
  if (!known[seed]) {
    const Bytes golden = golden_tables(seed);
    Input own_tables(golden), endless{std::uint64_t{seed}};
    known[seed] = make(golden.empty() ? endless : own_tables);
  }
  return *known[seed];
}

}  // namespace fuzz
