// Zero runs and bit planes, of the codec `ebpc`.
#include "packed.h"
#include "tensorpress/planes.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  packed(
      in, in.within<std::uint16_t>(0, 600), [](const Bytes& data, Bytes& words) { return ebpc_decode(begin_of(data), data.size(), begin_of(words), words.size()); },
      [](const Bytes& words) {
        Bytes out;
        ebpc_encode(begin_of(words), words.size(), out);
        return out;
      });
}
