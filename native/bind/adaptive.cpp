// The adaptive coder of weights: its states live in objects, one thread at a time in each.
#include <mutex>
#include <optional>
#include <vector>

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
  void put(Values values) {
    without_gil([&] {
      const std::lock_guard hold(busy_);
      coder_.put(values.data(), shape_of(values));
    });
  }
  nb::bytes finish() {
    std::vector<std::uint8_t>* found = nullptr;
    without_gil([&] {
      const std::lock_guard hold(busy_);
      found = &coder_.finish();
    });
    return nb::bytes(reinterpret_cast<const char*>(found->data()), found->size());
  }

 private:
  std::mutex busy_;
  AdaptiveEncoder coder_;
};

class Decoder {
 public:
  explicit Decoder(Bytes data) : data_(data), coder_(data.data(), data.size()) {}
  // How many values were decoded; fewer than there are where the string ends or holds none that fits.
  std::size_t take(ValueSink out) {
    return without_gil([&] {
      const std::lock_guard hold(busy_);
      return coder_.take(out.data(), shape_of(out));
    });
  }
  bool beyond() const { return coder_.beyond(); }
  bool done() const { return coder_.done(); }

 private:
  Bytes data_;  // holds the buffer
  std::mutex busy_;
  AdaptiveDecoder coder_;
};

}  // namespace

void bind_adaptive(nb::module_& m) {
  nb::class_<Encoder>(m, "AdaptiveEncoder", "Codes int32 (rows, columns, taps) one after another; its states go on.")
      .def(nb::init<>())
      .def("put", &Encoder::put, nb::arg("values").noconvert())
      .def("finish", &Encoder::finish);
  nb::class_<Decoder>(m, "AdaptiveDecoder", "Gives back what an AdaptiveEncoder took.")
      .def(nb::init<Bytes>(), nb::arg("data").noconvert())
      .def("take", &Decoder::take, nb::arg("out").noconvert())
      .def("beyond", &Decoder::beyond)
      .def("done", &Decoder::done);
}
