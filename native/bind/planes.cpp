// Byte maps through ebpc and predictive: one stripe a call.
#include "bind.h"
#include "tensorpress/planes.h"

namespace {

using namespace tensorpress;
using Box = Whole<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using BoxOut = Sink<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

nb::bytes bytes_of(const std::vector<std::uint8_t>& data) { return nb::bytes(data.data(), data.size()); }

Predictor predictor_of(int number) {
  if (number < 0 || number > 2) throw nb::value_error("predictor is 0, 1 or 2");
  return static_cast<Predictor>(number);
}

}  // namespace

void bind_planes(nb::module_& m) {
  m.def("ebpc_encode", [](Bytes words) {
    std::vector<std::uint8_t> out;
    without_gil([&] { ebpc_encode(words.data(), words.size(), out); });
    return bytes_of(out);
  });
  m.def("ebpc_decode", [](Bytes data, ByteSink words) {
    return without_gil([&] { return ebpc_decode(data.data(), data.size(), words.data(), words.size()); });
  });
  m.def("predictive_encode", [](Box words, int predictor) {
    std::vector<std::uint8_t> out;
    const Predictor by = predictor_of(predictor);
    without_gil([&] { predictive_encode(words.data(), words.shape(0), words.shape(1) * words.shape(2), static_cast<int>(words.shape(1)), static_cast<int>(words.shape(2)), by, out); });
    return bytes_of(out);
  });
  m.def("predictive_decode", [](Bytes data, BoxOut words, int predictor) {
    const Predictor by = predictor_of(predictor);
    return without_gil([&] { return predictive_decode(data.data(), data.size(), words.data(), words.shape(0), words.shape(1) * words.shape(2), static_cast<int>(words.shape(1)), static_cast<int>(words.shape(2)), by); });
  });
}
