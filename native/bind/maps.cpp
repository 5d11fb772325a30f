// Kernels that turn a map into a whole payload and back, and the zero bitmap among them.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <cstring>
#include <optional>
#include <stdexcept>

#include "bind.h"
#include "views.h"
#include "tensorpress/payload.h"
#include "tensorpress/rans_lanes.h"
#include "tensorpress/zero_bitmap.h"

namespace {

using namespace tensorpress;
using Source = nb::ndarray<nb::ro, nb::ndim<3>, nb::device::cpu>;  // any strides
using Target = Sink<nb::ndim<3>, nb::device::cpu>;
using Table = Whole<std::uint8_t, nb::shape<256>, nb::c_contig, nb::device::cpu>;
using Result = std::tuple<nb::object, int, std::int64_t, std::int64_t, std::int64_t>;  // payload or its size, fault, stripe, cell, at

template <class Map>
MapView bounded_view(const Map& map, const MapKernel& kernel, float reciprocal, float scale) {
  MapView view = view_of(map);
  view.reciprocal = reciprocal, view.scale = scale;
  if (view.channels > (std::int64_t(1) << 31) || view.rows > (std::int64_t(1) << 31) || view.columns > (std::int64_t(1) << 31))
    throw std::invalid_argument("a dimension is larger than 2^31");
  if (stripe_count(view) && kernel.max_stripe_nbytes(view) > 0xFFFFFFFFll) throw std::invalid_argument("a stripe of 8 rows is larger than 4 GiB");
  return view;
}

Result failed(const Outcome& o) { return {nb::none(), int(o.fault), o.stripe, o.cell, o.at}; }

// Into the caller's buffer, or into bytes of our own that are cut to size where they lie.
Result encode(const MapKernel& kernel, const Source& map, float reciprocal, nb::bytes head, std::optional<ByteSink> out, int threads) {
  const MapView view = bounded_view(map, kernel, reciprocal, 1);
  const auto* const head_data = reinterpret_cast<const std::uint8_t*>(head.c_str());
  Room room(out, out ? 0 : max_payload_nbytes(kernel, view, head.size()));
  Outcome outcome;
  without_gil([&] { outcome = encode_payload(kernel, view, head_data, head.size(), room.data(), room.size(), threads); });
  if (outcome.fault != Fault::none) return failed(outcome);
  return {room.filled(outcome.nbytes), 0, 0, 0, 0};
}

Result decode(const MapKernel& kernel, const Bytes& payload, std::size_t head_nbytes, const Target& map, float scale, int threads) {
  const MapView view = bounded_view(map, kernel, 1, scale);
  Outcome outcome;
  without_gil([&] { outcome = decode_payload(kernel, payload.data(), std::int64_t(payload.size()), head_nbytes, view, threads); });
  return failed(outcome);
}

ByteTables tables_of(int zero, const Table& word_of, const Table& level_of) {
  if (zero < 0 || zero > 255) throw std::invalid_argument("the zero point is not 0 to 255");
  ByteTables tables{zero, {}, {}, true};
  std::memcpy(tables.word_of, word_of.data(), 256);
  std::memcpy(tables.level_of, level_of.data(), 256);
  for (int i = 0; i < 256; ++i) tables.same = tables.same && tables.word_of[i] == i && tables.level_of[i] == i;
  return tables;
}

void check_words(int word_nbytes) {
  if (word_nbytes != 1 && word_nbytes != 2 && word_nbytes != 4 && word_nbytes != 8) throw std::invalid_argument("words have 1, 2, 4 or 8 bytes");
}

}  // namespace

void bind_maps(nb::module_& m) {
  m.def("read_index", [](const Bytes& payload) -> nb::object {
    Index index;
    if (!read_index(payload.data(), std::int64_t(payload.size()), index)) return nb::none();
    PyObject* const shape = PyTuple_New(index.rank);
    for (int axis = 0; axis < index.rank; ++axis) PyTuple_SET_ITEM(shape, axis, PyLong_FromLongLong(index.shape[axis]));
    return nb::make_tuple(index.dtype, nb::steal(shape), index.head_nbytes, index.stripes);
  });

  nb::class_<MapKernel>(m, "MapKernel")
      .def("capacity",
           [](const MapKernel& kernel, std::int64_t channels, std::int64_t rows, std::int64_t columns, std::size_t head_nbytes) {
             MapView view{};
             view.channels = channels, view.rows = rows, view.columns = columns;
             return max_payload_nbytes(kernel, view, head_nbytes);
           })
      .def("encode", encode, nb::arg("map"), nb::arg("reciprocal"), nb::arg("head"), nb::arg("out").none(), nb::arg("threads"))
      .def("decode", decode, nb::arg("payload"), nb::arg("head_nbytes"), nb::arg("map"), nb::arg("scale"), nb::arg("threads"));

  nb::class_<ZeroBitmap, MapKernel>(m, "ZeroBitmap").def("__init__", [](ZeroBitmap* self, int zero, const Table& word_of, const Table& level_of) {
    new (self) ZeroBitmap(tables_of(zero, word_of, level_of));
  });

  nb::class_<LanedRans, MapKernel>(m, "LanedRans")
      .def("__init__", [](LanedRans* self, const Whole<std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& frequencies,
                          std::uint32_t escape, int bits, int zero, const Table& word_of, const Table& level_of) {
        LaneTables tables{};
        tables.bytes = tables_of(zero, word_of, level_of);
        if (!lane_tables(frequencies.data(), int(std::min<std::size_t>(frequencies.size(), 257)), escape, bits, tables))
          throw std::invalid_argument("the frequencies of 2 to 256 symbols and of the escape do not sum to 2^11 or 2^12");
        for (const std::uint8_t word : tables.bytes.word_of)
          if (!tables.known[word]) throw std::invalid_argument("a level has a symbol that has no frequency");
        new (self) LanedRans(std::move(tables));
      });

  m.def("zero_bitmap_encode", [](const Bytes& words, int word_nbytes, const ByteSink& out) {
    check_words(word_nbytes);
    const std::int64_t count = std::int64_t(words.size()) / word_nbytes;
    if (std::int64_t(out.size()) < (count + 7) / 8 + (count + 1) * word_nbytes) throw std::invalid_argument("output is too small");
    return without_gil([&] { return zero_bitmap_encode(words.data(), count, word_nbytes, out.data()); });
  });

  m.def("zero_bitmap_decode", [](const Bytes& data, int word_nbytes, const ByteSink& out) {
    check_words(word_nbytes);
    return without_gil([&] { return zero_bitmap_decode(data.data(), std::int64_t(data.size()), std::int64_t(out.size()) / word_nbytes, word_nbytes, out.data()); });
  });
}
