// Byte maps through ebpc and predictive, words of any width through float_planes: one stripe a call.
#include "bind.h"
#include "tensorpress/byte_planes.h"
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

WordLayout layout_of(int itemsize, int mantissa, bool folded, std::size_t nbytes) {
  if (itemsize != 1 && itemsize != 2 && itemsize != 4 && itemsize != 8) throw nb::value_error("words have 1, 2, 4 or 8 bytes");
  if (mantissa < 0 || mantissa >= 8 * itemsize - 1) throw nb::value_error("the mantissa does not fit the words");
  if (nbytes % std::size_t(itemsize)) throw nb::value_error("the bytes are no whole words");
  return {itemsize, mantissa, folded};
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
  m.def("byte_planes_encode", [](Bytes words, int itemsize, int mantissa, bool folded, int mode) {
    const WordLayout layout = layout_of(itemsize, mantissa, folded, words.size());
    return bytes_of(without_gil([&] { return encode_planes(words.data(), std::int64_t(words.size()) / itemsize, layout, mode); }));
  });
  m.def("byte_planes_decode", [](Bytes data, int itemsize, int mantissa, bool folded, ByteSink words) {
    const WordLayout layout = layout_of(itemsize, mantissa, folded, words.size());
    return without_gil([&] { return decode_planes(data.data(), std::int64_t(data.size()), layout, words.data(), std::int64_t(words.size()) / itemsize); });
  });
}
