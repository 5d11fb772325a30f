// The head of a frame and the index of a payload, as the bytes come.
#include "input.h"
#include "tensorpress/frame.h"

using namespace fuzz;
using namespace tensorpress;

TARGET(in) {
  const bool framed = in.below(2);
  const Bytes data = in.rest();
  const auto nbytes = std::int64_t(data.size());
  Index index;
  if (framed) {
    Frame frame;
    if (!read_frame_head(begin_of(data), nbytes, frame)) return;
    must(frame.start > 0 && frame.start + frame.nbytes <= nbytes, "a frame ends past the data");
    must(read_index(begin_of(data) + frame.start, frame.nbytes, index), "a frame's index is no index");
  } else if (!read_index(begin_of(data), nbytes, index)) {
    return;
  }
  const std::int64_t whole = framed ? -1 : nbytes;
  must(index.rank >= 0 && index.rank <= 8 && index.stripes >= 0 && index.head_nbytes >= 2, "an index out of range");
  must(whole < 0 || index.head_nbytes + 8 * index.stripes + index.stripes_nbytes == whole, "an index of another length");
  std::int64_t size = 1;
  for (int axis = 0; axis < index.rank; ++axis) must(index.shape[axis] >= 0 && index.shape[axis] <= std::int64_t{1} << 40, "a dimension out of range"), size *= std::max<std::int64_t>(index.shape[axis], 1);
  must(size <= std::int64_t{1} << 40, "more values than are allowed");
}
