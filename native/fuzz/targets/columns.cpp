// Compressed columns, of the codec `csc`.
#include "packed.h"
#include "tensorpress/words.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  const std::int64_t columns = in.within<std::uint8_t>(0, 40), length = in.within<std::uint16_t>(0, columns ? 1200 / columns : 600);
  packed(
      in, std::size_t(columns * length),
      [&](const Bytes& data, Bytes& words) { return columns_decode(begin_of(data), std::int64_t(data.size()), columns, length, begin_of(words)) == words_fine; },
      [&](const Bytes& words) {
        Bytes out(std::size_t(columns_capacity(columns, length)));
        out.resize(std::size_t(columns_encode(begin_of(words), columns, length, begin_of(out))));
        return out;
      });
}
