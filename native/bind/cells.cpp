// The cell kernels and the zero bitmap.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <vector>

#include "bind.h"
#include "tensorpress/cells.h"

namespace {

using namespace tensorpress;
using Map = nb::ndarray<nb::ndim<3>, nb::device::cpu>;  // any strides

template <class T>
using Words = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

// CellRules with memory of its own: made once for a codec, used by many calls.
class Rules {
 public:
  Rules(int zero, Words<std::uint8_t> symbol_of, Words<std::uint8_t> level_of, Words<std::int32_t> matrix, Words<std::uint8_t> keep,
        Words<std::uint32_t> forward, std::uint32_t offset, Words<std::int32_t> backward, Words<std::int32_t> shift, double lagrangian,
        std::uint32_t modes, bool zero_map, bool plane_codes, int width)
      : symbol_of_(copy(symbol_of)), level_of_(copy(level_of)), keep_(copy(keep)), matrix_(copy(matrix)), backward_(copy(backward)), shift_(copy(shift)),
        forward_(copy(forward)) {
    const int length = int(forward_.size());
    if (zero < 0 || zero > 255 || symbol_of_.size() != 256 || level_of_.size() != 256) throw std::invalid_argument("cell rules: zero point or level tables of the wrong size");
    if (length != 0 && length != 4 && length != 8 && length != 16 && length != 32) throw std::invalid_argument("cell rules: DCT length is not 0, 4, 8, 16 or 32");
    if (matrix_.size() != std::size_t(length) * length || backward_.size() != std::size_t(length) || shift_.size() != 3 * std::size_t(length) ||
        (length && keep_.empty()))
      throw std::invalid_argument("cell rules: DCT tables of the wrong size");
    if (width < 0 || width > 8) throw std::invalid_argument("cell rules: width is not 0 to 8");
    rules_ = {zero,   symbol_of_.data(), level_of_.data(), length, matrix_.data(), keep_.data(), int(keep_.size()), forward_.data(),
              offset, backward_.data(),  shift_.data(),    lagrangian, modes, zero_map, plane_codes, width};
  }
  const CellRules& get() const { return rules_; }

 private:
  template <class T>
  static std::vector<T> copy(const Words<T>& array) {
    return {array.data(), array.data() + array.size()};
  }
  std::vector<std::uint8_t> symbol_of_, level_of_, keep_;
  std::vector<std::int32_t> matrix_, backward_, shift_;
  std::vector<std::uint32_t> forward_;
  CellRules rules_;
};

MapView view_of(const Map& map, float reciprocal, float scale) {
  MapView view{};
  if (map.dtype() == nb::dtype<float>()) view.element = Element::f32;
  else if (map.dtype() == nb::dtype<std::uint8_t>()) view.element = Element::u8;
  else if (map.dtype() == nb::dtype<std::int8_t>()) view.element = Element::i8;
  else throw std::invalid_argument("the map must be float32, uint8 or int8");
  view.data = map.data();
  view.channels = std::int64_t(map.shape(0)), view.rows = std::int64_t(map.shape(1)), view.columns = std::int64_t(map.shape(2));
  view.channel_stride = map.stride(0), view.row_stride = map.stride(1), view.column_stride = map.stride(2);
  view.reciprocal = reciprocal, view.scale = scale;
  if (view.channels > (std::int64_t(1) << 31) || view.rows > (std::int64_t(1) << 31) || view.columns > (std::int64_t(1) << 31))
    throw std::invalid_argument("a dimension is larger than 2^31");
  if (stripe_count(view) && max_stripe_nbytes(view) > 0xFFFFFFFFll) throw std::invalid_argument("a stripe of 8 rows is larger than 4 GiB");
  return view;
}

using Result = std::tuple<int, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;  // fault, nbytes, stripe, cell, at
Result as_tuple(const Outcome& o) { return {int(o.fault), o.nbytes, o.stripe, o.cell, o.at}; }

}  // namespace

void bind_cells(nb::module_& m) {
  nb::class_<Rules>(m, "CellRules")
      .def(nb::init<int, Words<std::uint8_t>, Words<std::uint8_t>, Words<std::int32_t>, Words<std::uint8_t>, Words<std::uint32_t>, std::uint32_t,
                    Words<std::int32_t>, Words<std::int32_t>, double, std::uint32_t, bool, bool, int>(),
           nb::arg("zero"), nb::arg("symbol_of"), nb::arg("level_of"), nb::arg("matrix"), nb::arg("keep"), nb::arg("forward"), nb::arg("offset"),
           nb::arg("backward"), nb::arg("shift"), nb::arg("lagrangian"), nb::arg("modes"), nb::arg("zero_map"), nb::arg("plane_codes"),
           nb::arg("width"));

  m.def("max_payload_nbytes", [](const Map& map, std::size_t head_nbytes) { return max_payload_nbytes(view_of(map, 1, 1), head_nbytes); });

  m.def("encode_cells", [](const Map& map, const Rules& rules, float reciprocal, const Bytes& head, const ByteSink& out, int threads) {
    const MapView view = view_of(map, reciprocal, 1);
    nb::gil_scoped_release free_threads;
    return as_tuple(encode_cells(view, rules.get(), head.data(), head.size(), out.data(), std::int64_t(out.size()), threads));
  });

  m.def("decode_cells", [](const Bytes& payload, std::size_t head_nbytes, const Rules& rules, const Map& map, float scale, int threads) {
    const MapView view = view_of(map, 1, scale);
    if (head_nbytes + 8 * std::size_t(stripe_count(view)) > payload.size()) throw std::invalid_argument("payload is shorter than its stripe table");
    nb::gil_scoped_release free_threads;
    return as_tuple(decode_cells(payload.data(), std::int64_t(payload.size()), head_nbytes, rules.get(), view, threads));
  });

  m.def("count_modes", [](const Bytes& payload, std::size_t index_nbytes) {
    std::int64_t counts[4] = {};
    if (index_nbytes > payload.size()) throw std::invalid_argument("payload is shorter than its index");
    const MapView none{};
    const Outcome outcome = count_modes(payload.data(), std::int64_t(payload.size()), index_nbytes, none, counts);
    if (outcome.fault != Fault::none) throw std::invalid_argument("cells do not end where the payload ends");
    return std::vector<std::int64_t>(counts, counts + 4);
  });

  m.def("zero_bitmap_encode", [](const Bytes& words, int word_nbytes, const ByteSink& out) {
    if (word_nbytes != 1 && word_nbytes != 2 && word_nbytes != 4 && word_nbytes != 8) throw std::invalid_argument("words have 1, 2, 4 or 8 bytes");
    const std::int64_t count = std::int64_t(words.size()) / word_nbytes;
    if (std::int64_t(out.size()) < (count + 7) / 8 + (count + 1) * word_nbytes) throw std::invalid_argument("output is too small");
    nb::gil_scoped_release free_threads;
    return zero_bitmap_encode(words.data(), count, word_nbytes, out.data());
  });

  m.def("zero_bitmap_decode", [](const Bytes& data, int word_nbytes, const ByteSink& out) {
    if (word_nbytes != 1 && word_nbytes != 2 && word_nbytes != 4 && word_nbytes != 8) throw std::invalid_argument("words have 1, 2, 4 or 8 bytes");
    nb::gil_scoped_release free_threads;
    return zero_bitmap_decode(data.data(), std::int64_t(data.size()), std::int64_t(out.size()) / word_nbytes, word_nbytes, out.data());
  });
}
