// The count of modes, which walks a payload by the headers of its cells alone.
#include "input.h"
#include "tensorpress/cells.h"

TARGET(in) {
  const std::size_t index = in.byte();
  const fuzz::Bytes data = in.rest();
  if (index > data.size()) return;
  std::int64_t counts[4] = {};
  const auto outcome = tensorpress::count_modes(fuzz::begin_of(data), std::int64_t(data.size()), index, counts);
  const std::int64_t cells = counts[0] + counts[1] + counts[2] + counts[3];
  fuzz::must(cells * tensorpress::cell_header_nbytes <= std::int64_t(data.size() - index), "more cells than bytes");
  fuzz::must(outcome.fault != tensorpress::Fault::none || index == data.size() || cells > 0, "bytes, but no cell");
}
