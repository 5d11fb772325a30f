// The adaptive coder of weights, both forms: what is decoded to the end is what an encoder writes, and values come back.
#include "input.h"
#include "tensorpress/adaptive.h"

using namespace fuzz;
using namespace tensorpress;

namespace {

using Tensor = std::vector<std::int32_t>;

Bytes encoded(AdaptiveForm form, const std::vector<AdaptiveShape>& shapes, const std::vector<Tensor>& tensors) {
  const auto coder = AdaptiveEncoder::make(form);
  for (std::size_t i = 0; i < shapes.size(); ++i) coder->put(begin_of(tensors[i]), shapes[i]);
  return coder->finish();
}

// Whether the string is whole. Goes on after the first fault: a decoder must bear it.
bool decoded(const Bytes& data, const std::vector<AdaptiveShape>& shapes, std::vector<Tensor>& tensors) {
  const auto coder = AdaptiveDecoder::make(begin_of(data), data.size());
  if (!coder) return false;
  bool whole = true;
  for (const AdaptiveShape& shape : shapes) {
    Tensor& found = tensors.emplace_back(shape.count());
    const std::size_t done = coder->take(begin_of(found), shape);
    must(done <= shape.count(), "more values than there are");
    whole = whole && done == shape.count();
  }
  return coder->done() && whole;
}

}  // namespace

TARGET(in) {
  std::vector<AdaptiveShape> shapes(std::size_t(in.below(4)));
  for (AdaptiveShape& shape : shapes) {
    shape.rows = std::size_t(in.below(20)), shape.columns = std::size_t(in.below(20));
    shape.taps = std::size_t(in.below(20));
    if (shape.taps > 16) shape.taps = shape.taps == 17 ? 25 : shape.taps == 18 ? 49 : 100;
    if (shape.taps > 16) shape.rows %= 8, shape.columns %= 8;
  }
  std::vector<Tensor> tensors;
  if (in.below(2) == 0) {
    const Bytes data = in.rest();
    if (decoded(data, shapes, tensors)) must(encoded(AdaptiveForm(data[0]), shapes, tensors) == data, "the string of what was decoded is another");
    return;
  }
  const AdaptiveForm form = in.below(2) ? AdaptiveForm::fast : AdaptiveForm::small;
  for (const AdaptiveShape& shape : shapes) {
    Tensor& values = tensors.emplace_back(shape.count());
    for (std::int32_t& value : values) {
      const std::uint8_t byte = in.byte();
      value = byte < 250 ? std::int8_t(byte) / 16 : in.number<std::int32_t>();
    }
  }
  std::vector<Tensor> again;
  const Bytes data = encoded(form, shapes, tensors);
  must(decoded(data, shapes, again), "what was encoded is refused");
  must(again == tensors, "values do not come back");
  if (shapes.empty()) return;
  AdaptiveCosts costs;
  std::size_t count = 0;
  for (std::size_t i = 0; i < shapes.size(); ++i) costs.put(begin_of(tensors[i]), shapes[i]), count += shapes[i].count();
  for (const std::uint64_t n : costs.counts) count -= n;
  must(count == 0, "not every value has its costs");
}
