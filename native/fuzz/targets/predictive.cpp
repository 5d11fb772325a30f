// Prediction and Golomb-Rice residuals under the range coder, of the codec `predictive`.
#include "packed.h"
#include "tensorpress/planes.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  const auto by = static_cast<Predictor>(in.below(3));
  const int rows = 1 + in.below(8), columns = 1 + in.below(20);
  const std::size_t plane = std::size_t(rows * columns), channels = in.within<std::uint8_t>(0, std::int64_t(600 / plane));
  packed(
      in, channels * plane,
      [&](const Bytes& data, Bytes& words) { return predictive_decode(begin_of(data), data.size(), begin_of(words), channels, plane, rows, columns, by); },
      [&](const Bytes& words) {
        Bytes out;
        predictive_encode(begin_of(words), channels, plane, rows, columns, by, out);
        return out;
      });
}
