// Numbers of ranges and offsets in them, of the codec `apack`.
#include "input.h"
#include "tensorpress/words.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  Ranges ranges{};
  if (in.below(4)) {  // rising starts, as the state of a stream gives them
    Bytes starts = in.list<std::uint8_t>(15, 1, 255);
    std::sort(starts.begin(), starts.end());
    std::copy(starts.begin(), starts.end(), ranges.starts + 1);
    for (int r = 0; r < 16; ++r) {
      const int size = (r < 15 ? ranges.starts[r + 1] : 256) - ranges.starts[r];
      while (1 << ranges.bits[r] < size) ++ranges.bits[r];
      for (int w = ranges.starts[r]; w < ranges.starts[r] + size; ++w) ranges.range_of[w] = std::uint8_t(r);
    }
  } else {  // whatever the binding lets pass
    for (int r = 0; r < 16; ++r) ranges.starts[r] = in.byte(), ranges.bits[r] = std::uint8_t(in.below(9));
    for (std::uint8_t& number : ranges.range_of) number = std::uint8_t(in.below(16));
  }
  const std::size_t count = in.within<std::uint16_t>(0, 300);
  const Bytes numbers = in.list<std::uint8_t>(count, 0, 15), data = in.rest();
  Bytes words(count, 0xA5), again(count, 0x5A), own(count), out(count + 8);
  if (ranges_decode(ranges, begin_of(numbers), begin_of(data), std::int64_t(data.size()), std::int64_t(count), begin_of(words)) != words_fine) return;
  for (std::size_t i = 0; i < count; ++i) must(ranges.range_of[words[i]] == numbers[i], "a word lies outside of its range");
  out.resize(std::size_t(ranges_encode(ranges, begin_of(words), std::int64_t(count), begin_of(own), begin_of(out))));
  must(own == numbers && out == data, "decoded words have other offsets");
}
