// The context codec's model as a Python object, and its stripes coded side by side in threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include "bind.h"
#include "parts.h"
#include "views.h"
#include "tensorpress/context.h"
#include "tensorpress/context_lanes.h"
#include "tensorpress/pool.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

namespace {

using namespace tensorpress;

using Map = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using MapOut = Sink<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

ContextBins bins(const nb::dict& from, const char* name, int limit) {
  const auto words = taken<std::int32_t>(from, name, 2 + context_bins);
  ContextBins found;
  found.low = words[0], found.shift = words[1];
  need(found.shift >= 0 && found.shift < 31, name);
  for (int i = 0; i < context_bins; ++i) {
    need(words[2 + i] >= 0 && words[2 + i] < limit, name);
    found.lut[i] = static_cast<std::uint8_t>(words[2 + i]);
  }
  return found;
}

ContextModel model_of(const nb::dict& d) {
  ContextModel m;
  m.channels = static_cast<std::size_t>(number(d, "channels")), m.low = number(d, "low"), m.high = number(d, "high");
  m.earlier = number(d, "earlier"), m.reference = number(d, "reference") != 0;
  m.classes = number(d, "classes"), m.tokens = number(d, "tokens");
  need(m.channels < std::size_t{1} << 24 && m.low >= 0 && m.high >= 0 && m.low + m.high <= 255, "range");
  need(m.earlier >= 0 && m.earlier <= 16 && m.classes >= 1 && m.classes <= 64 && m.tokens >= 1 && m.tokens <= 256, "counts");
  const std::size_t c = m.channels, values = static_cast<std::size_t>(m.low + m.high + 1), tokens = static_cast<std::size_t>(m.tokens);
  m.weights = taken<std::int8_t>(d, "weights", c * static_cast<std::size_t>(m.features()));
  m.bias = taken<std::int32_t>(d, "bias", c);
  m.channel = taken<std::int32_t>(d, "channel", c * static_cast<std::size_t>(m.earlier));
  m.step128 = taken<float>(d, "step128", c), m.reciprocal = taken<float>(d, "reciprocal", c);
  for (std::size_t i = 0; i < c; ++i)
    for (int k = 0; k < m.earlier; ++k) {
      const std::int64_t of = m.channel[i * m.earlier + k];
      need(of >= -1 && of < static_cast<std::int64_t>(i) && (of < 0 || of / 32 == static_cast<std::int64_t>(i / 32)), "channel");
    }
  m.bins = bins(d, "bins", m.classes);
  m.root = taken<std::int16_t>(d, "root", values);
  m.token = taken<std::uint8_t>(d, "token", values), m.extra_bits = taken<std::uint8_t>(d, "extra_bits", values);
  m.extra = taken<std::uint16_t>(d, "extra", values);
  m.token_bits = taken<std::uint8_t>(d, "token_bits", tokens), m.token_first = taken<std::int16_t>(d, "token_first", tokens);
  m.token_sign = taken<std::int8_t>(d, "token_sign", tokens);
  m.centroid = taken<std::int8_t>(d, "centroid", static_cast<std::size_t>(m.classes) * 4);
  m.price = taken<std::int32_t>(d, "price", static_cast<std::size_t>(m.classes) * values);
  for (std::size_t v = 0; v < values; ++v) need(m.token[v] < m.tokens && m.extra_bits[v] == m.token_bits[m.token[v]], "token");
  for (const std::uint8_t bits : m.token_bits) need(bits <= 4, "token_bits");
  for (const std::int16_t r : m.root) need(r > -1024 && r < 1024, "root");
  for (const std::int32_t b : m.bias) need(b > -(1 << 24) && b < 1 << 24, "bias");
  m.cdf = taken<std::uint32_t>(d, "cdf", static_cast<std::size_t>(m.classes) * (tokens + 1));
  for (int row = 0; row < m.classes; ++row) {
    const std::uint32_t* const line = m.cdf.data() + row * (tokens + 1);
    need(line[0] == 0 && line[tokens] == 1u << context_table_bits, "cdf");
    for (std::size_t t = 0; t < tokens; ++t) need(line[t] < line[t + 1], "cdf");
  }
  m.prepare();
  return m;
}

void check(const ContextModel& m, std::size_t channels, const nb::object& before, std::size_t rows, std::size_t columns, Map& reference) {
  need(channels == m.channels, "the tensor has other channels than the model");
  need(rows < 1u << 30 && columns < 1u << 30, "the tensor is too large");
  need(before.is_none() != m.reference, m.reference ? "the model needs its reference" : "the model takes no reference");
  if (!m.reference) return;
  if (!nb::try_cast(before, reference, false)) throw nb::type_error("the reference must be contiguous float32 (C, H, W)");
  need(reference.shape(0) == channels && reference.shape(1) == rows && reference.shape(2) == columns, "the reference has another shape");
}

using Source = nb::ndarray<nb::ro, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Target = Sink<nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class Array>
MapView laned_view(const Array& map, const ContextModel& m) {
  need(map.shape(0) == m.channels, "the tensor has other channels than the model");
  need(context_lanes(m, std::int64_t(map.shape(1)), std::int64_t(map.shape(2))), "the tensor's shape is none for lanes");
  need(map.size() < std::size_t{1} << 30, "the tensor is too large");
  MapView view = view_of(map);
  view.channel_stride = view.rows * view.columns, view.row_stride = view.columns, view.column_stride = 1;  // as an axis of one element may not say
  return view;
}

// A reference of the map's shape, where the model has one.
bool with_reference(const ContextModel& m, const std::optional<Source>& before, const MapView& map, MapView& view) {
  need(before.has_value() == m.reference, m.reference ? "the model needs its reference" : "the model takes no reference");
  if (!before) return false;
  view = laned_view(*before, m);
  need(view.rows == map.rows && view.columns == map.columns, "the reference has another shape");
  return true;
}

nb::object encode_lanes(const ContextModel& m, const Source& x, std::optional<Source> before, nb::bytes head, std::optional<ByteSink> out, int threads) {
  const MapView map = laned_view(x, m);
  MapView reference;
  const bool referenced = with_reference(m, before, map, reference);
  const std::int64_t capacity = context_lanes_capacity(m, map.rows, map.columns, head.size());
  if (out && std::int64_t(out->size()) < capacity) return nb::none();
  Room room(out, capacity);
  std::int64_t nbytes;
  without_gil([&] { nbytes = context_lanes_encode(m, map, referenced ? &reference : nullptr, reinterpret_cast<const std::uint8_t*>(head.c_str()), head.size(), room.data(), threads); });
  return room.filled(nbytes);
}

nb::tuple decode_lanes(const ContextModel& m, const Bytes& payload, std::size_t head_nbytes, std::optional<Source> before, const Target& out, int threads) {
  const MapView map = laned_view(out, m);
  need(map.element == Element::f32 || context_exact(m), "values that are no whole numbers do not fit into 8-bit integers");
  need(head_nbytes + 8 * std::size_t(stripe_count(map)) <= payload.size() && payload.size() < std::size_t{1} << 31, "the payload is cut or too large");
  MapView reference;
  const bool referenced = with_reference(m, before, map, reference);
  Outcome outcome;
  without_gil([&] { outcome = context_lanes_decode(m, payload.data(), std::int64_t(payload.size()), head_nbytes, referenced ? &reference : nullptr, map, threads); });
  return nb::make_tuple(int(outcome.fault), outcome.stripe);
}

}  // namespace

void bind_context(nb::module_& m) {
  nb::class_<ContextModel>(m, "ContextModel")
      .def("__init__", [](ContextModel* self, const nb::dict& d) { new (self) ContextModel(model_of(d)); })
      .def("encode",
           [](const ContextModel& self, Map x, nb::object before, std::vector<double> lagrangian, double rounding, int threads,
              std::size_t map_rows, nb::object decoded) {
             const std::size_t rows = x.shape(1), columns = x.shape(2), plane = rows * columns;
             Map reference;
             check(self, x.shape(0), before, rows, columns, reference);
             MapOut values;
             if (!decoded.is_none()) {
               if (!nb::try_cast(decoded, values, false)) throw nb::type_error("decoded must be contiguous float32 (C, H, W)");
               need(values.size() == x.size(), "decoded has another shape");
             }
             float* const to = decoded.is_none() ? nullptr : values.data();
             const int stripes = columns && self.channels ? static_cast<int>((rows + stripe_rows - 1) / stripe_rows) : 0;
             need(lagrangian.size() == static_cast<std::size_t>(stripes), "one lagrangian a stripe");
             std::vector<std::vector<std::uint8_t>> found(static_cast<std::size_t>(stripes));
             without_gil([&] {
               parallel(stripes, threads, [&](int s) {
                 const std::size_t offset = static_cast<std::size_t>(s) * stripe_rows * columns;
                 const int here = static_cast<int>(std::min<std::size_t>(stripe_rows, rows - static_cast<std::size_t>(s) * stripe_rows));
                 context_encode(self, x.data() + offset, self.reference ? reference.data() + offset : nullptr, plane, here,
                                static_cast<int>(columns), static_cast<int>(map_rows ? map_rows : rows), lagrangian[s], rounding, found[s],
                                to ? to + offset : nullptr);
               });
             });
             nb::list out;
             for (const auto& stripe : found) out.append(nb::bytes(stripe.data(), stripe.size()));
             return out;
           },
           nb::arg("x"), nb::arg("before").none(), nb::arg("lagrangian"), nb::arg("rounding"), nb::arg("threads"), nb::arg("map_rows") = 0,
           nb::arg("decoded").none() = nb::none())
      .def("lanes", [](const ContextModel& self, std::int64_t rows, std::int64_t columns) { return context_lanes(self, rows, columns); })
      .def("capacity",
           [](const ContextModel& self, std::int64_t rows, std::int64_t columns, std::size_t head_nbytes) {
             return context_lanes_capacity(self, rows, columns, head_nbytes);
           })
      .def_prop_ro("exact", [](const ContextModel& self) { return context_exact(self); })
      .def("encode_payload", encode_lanes, nb::arg("x"), nb::arg("before").none(), nb::arg("head"), nb::arg("out").none(), nb::arg("threads"))
      .def("decode_payload", decode_lanes, nb::arg("payload"), nb::arg("head_nbytes"), nb::arg("before").none(), nb::arg("out"),
           nb::arg("threads"))
      .def("trace",
           [](const ContextModel& self, Map x, nb::object before, double lagrangian, double rounding,
              Sink<std::int16_t, nb::ndim<3>, nb::c_contig, nb::device::cpu> q,
              Sink<std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu> spatial,
              Sink<std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu> cross, int threads) {
             const std::size_t rows = x.shape(1), columns = x.shape(2), plane = rows * columns;
             Map reference;
             check(self, x.shape(0), before, rows, columns, reference);
             need(q.size() == x.size() && spatial.size() == x.size() && cross.size() == x.size(), "the outputs have another shape");
             const int stripes = columns && self.channels ? static_cast<int>((rows + stripe_rows - 1) / stripe_rows) : 0;
             without_gil([&] { parallel(stripes, threads, [&](int s) {
               const std::size_t offset = static_cast<std::size_t>(s) * stripe_rows * columns;
               const int here = static_cast<int>(std::min<std::size_t>(stripe_rows, rows - static_cast<std::size_t>(s) * stripe_rows));
               context_trace(self, x.data() + offset, self.reference ? reference.data() + offset : nullptr, plane, here,
                             static_cast<int>(columns), static_cast<int>(rows), lagrangian, rounding, q.data() + offset,
                             spatial.data() + offset, cross.data() + offset);
             }); });
           },
           nb::arg("x"), nb::arg("before").none(), nb::arg("lagrangian"), nb::arg("rounding"), nb::arg("q"), nb::arg("spatial"),
           nb::arg("cross"), nb::arg("threads"))
      .def("decode", [](const ContextModel& self, std::vector<Bytes> stripes, nb::object before, MapOut out, int threads, std::ptrdiff_t only, std::size_t map_rows) {
        const std::size_t rows = out.shape(1), columns = out.shape(2), plane = rows * columns;
        Map reference;
        check(self, out.shape(0), before, rows, columns, reference);
        const int count = columns && self.channels ? static_cast<int>((rows + stripe_rows - 1) / stripe_rows) : 0;
        need(stripes.size() == static_cast<std::size_t>(count), "another number of stripes");
        std::vector<std::uint8_t> good(static_cast<std::size_t>(count), 0);
        without_gil([&] { parallel(count, threads, [&](int s) {
          const std::size_t offset = static_cast<std::size_t>(s) * stripe_rows * columns;
          const int here = static_cast<int>(std::min<std::size_t>(stripe_rows, rows - static_cast<std::size_t>(s) * stripe_rows));
          good[s] = context_decode(self, stripes[s].data(), stripes[s].shape(0), self.reference ? reference.data() + offset : nullptr, plane,
                                   here, static_cast<int>(columns), static_cast<int>(map_rows ? map_rows : rows), out.data() + offset, only);
        }); });
        for (int s = 0; s < count; ++s)
          if (!good[s]) return s;
        return -1;  // the first damaged stripe, if any
      },
      nb::arg("stripes"), nb::arg("before").none(), nb::arg("out"), nb::arg("threads"), nb::arg("only") = -1,
      nb::arg("map_rows") = 0);
}
