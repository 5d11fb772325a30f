// Stripes of byte planes, of the codec `float_planes`: words of every width and layout.
#include "packed.h"
#include "tensorpress/byte_planes.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  constexpr WordLayout layouts[] = {{1, 0, false}, {1, 0, true}, {2, 0, true}, {2, 7, false}, {2, 10, false}, {4, 23, false}, {4, 0, false}, {8, 52, false}};
  const WordLayout layout = layouts[in.below(8)];
  const std::int64_t count = in.within<std::uint16_t>(1, 12000);  // strings of 4 lanes and of 32
  packed(
      in, std::size_t(count * layout.itemsize),
      [&](const Bytes& data, Bytes& words) {
        if (data.empty()) return false;
        const Bytes body(data.begin() + 1, data.end());
        if (data[0]) return decode_planes(begin_of(body), std::int64_t(body.size()), layout, words.data(), count);
        if (body.size() == words.size()) words = body;
        return body.size() == words.size();
      },
      [&](const Bytes& words) {
        Bytes found = encode_planes(words.data(), count, layout, 1);
        must(found.size() <= words.size(), "a stripe is longer than its bound");
        if (!found.empty()) return found;
        found = words;
        found.insert(found.begin(), 0);
        return found;
      });
}
