// Runs of zeros and words, of the codec `rle`.
#include "packed.h"
#include "tensorpress/words.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  packed(
      in, in.within<std::uint16_t>(0, 600),
      [](const Bytes& data, Bytes& words) { return zero_runs_decode(begin_of(data), std::int64_t(data.size()), std::int64_t(words.size()), begin_of(words)) == words_fine; },
      [](const Bytes& words) {
        Bytes out(std::size_t(zero_runs_capacity(std::int64_t(words.size()))));
        out.resize(std::size_t(zero_runs_encode(begin_of(words), std::int64_t(words.size()), begin_of(out))));
        return out;
      });
}
