// The adaptive coder of weights: its states live in objects, one thread at a time in each.
#include <mutex>
#include <memory>
#include <utility>
#include <vector>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "tensorpress/adaptive.h"

namespace {

using namespace tensorpress;

using Values = Whole<std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using ValueSink = Sink<std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class Array>
AdaptiveShape shape_of(const Array& array) {
  return {array.shape(0), array.shape(1), array.shape(2)};
}

class Encoder {
 public:
  explicit Encoder(bool fast) : coder_(AdaptiveEncoder::make(fast ? AdaptiveForm::fast : AdaptiveForm::small)) {}
  void put(Values values) {
    without_gil([&] {
      const std::lock_guard hold(busy_);
      coder_->put(values.data(), shape_of(values));
    });
  }
  nb::bytes finish() {
    const std::vector<std::uint8_t>* found = nullptr;
    without_gil([&] {
      const std::lock_guard hold(busy_);
      found = &coder_->finish();
    });
    return nb::bytes(reinterpret_cast<const char*>(found->data()), found->size());
  }

 private:
  std::mutex busy_;
  const std::unique_ptr<AdaptiveEncoder> coder_;
};

class Decoder {
 public:
  explicit Decoder(Bytes data) : data_(data), coder_(AdaptiveDecoder::make(data.data(), data.size())) {
    if (!coder_) throw nb::value_error("the first byte names no form");
  }
  // How many values were decoded; fewer than there are where the string ends or holds none that fits.
  std::size_t take(ValueSink out) {
    return without_gil([&] {
      const std::lock_guard hold(busy_);
      return coder_->take(out.data(), shape_of(out));
    });
  }
  bool beyond() const { return coder_->beyond(); }
  bool done() const { return coder_->done(); }

 private:
  Bytes data_;  // holds the buffer
  std::mutex busy_;
  const std::unique_ptr<AdaptiveDecoder> coder_;
};

// Bits and counts of each magnitude.
std::pair<std::vector<double>, std::vector<std::uint64_t>> costs(const std::vector<Values>& tensors) {
  AdaptiveCosts found;
  without_gil([&] {
    for (const Values& values : tensors) found.put(values.data(), shape_of(values));
  });
  return {{found.bits, found.bits + AdaptiveCosts::magnitudes}, {found.counts, found.counts + AdaptiveCosts::magnitudes}};
}

}  // namespace

void bind_adaptive(nb::module_& m) {
  nb::class_<Encoder>(m, "AdaptiveEncoder", "Codes int32 (rows, columns, taps) one after another; its states go on.")
      .def(nb::init<bool>(), nb::arg("fast"))
      .def("put", &Encoder::put, nb::arg("values").noconvert())
      .def("finish", &Encoder::finish);
  nb::class_<Decoder>(m, "AdaptiveDecoder", "Gives back what an AdaptiveEncoder took.")
      .def(nb::init<Bytes>(), nb::arg("data").noconvert())
      .def("take", &Decoder::take, nb::arg("out").noconvert())
      .def("beyond", &Decoder::beyond)
      .def("done", &Decoder::done);
  m.def("adaptive_costs", &costs, nb::arg("tensors").noconvert());
}
