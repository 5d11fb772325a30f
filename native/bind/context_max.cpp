// The model of the context codec's back-end `max` as a Python object, and its stripes.
#include <algorithm>
#include <vector>

#include "bind.h"
#include "parts.h"
#include "views.h"
#include "tensorpress/context_max.h"

#include <nanobind/stl/vector.h>

namespace {

using namespace tensorpress;

using Reference = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Map = nb::ndarray<nb::ro, nb::ndim<3>, nb::device::cpu>;  // any strides
using MapOut = Sink<nb::ndim<3>, nb::device::cpu>;
using Quantised = Sink<std::int16_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Predictions = Sink<std::int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void below(const std::vector<std::uint8_t>& list, int limit, const char* what) {
  for (const std::uint8_t v : list) need(v < limit, what);
}

MaxModel model_of(const nb::dict& d) {
  MaxModel m;
  m.channels = static_cast<std::size_t>(number(d, "channels")), m.low = number(d, "low"), m.high = number(d, "high");
  m.earlier = number(d, "earlier"), m.parts = number(d, "parts"), m.classes = number(d, "classes");
  m.reference = number(d, "reference") != 0;
  m.bins_low = number(d, "bins_low"), m.bins_shift = number(d, "bins_shift");
  need(m.channels < std::size_t{1} << 24 && m.low >= 0 && m.high >= 0 && m.low + m.high <= 255, "range");
  need(m.earlier >= 0 && m.earlier <= 16 && m.classes >= 1 && m.classes <= 64 && m.parts >= 1 && m.parts <= 16, "counts");
  need(m.bins_low > -(1 << 30) && m.bins_low < 1 << 30 && m.bins_shift >= 0 && m.bins_shift < 31, "bins");
  const std::size_t c = m.channels, k = static_cast<std::size_t>(m.classes), values = static_cast<std::size_t>(m.low + m.high + 1);
  m.class_of = taken<std::uint8_t>(d, "class_of", max_bins);
  below(m.class_of, m.classes, "class_of");
  m.weights = taken<std::int8_t>(d, "weights", c * static_cast<std::size_t>(m.features()));
  m.bias = taken<std::int32_t>(d, "bias", c);
  m.channel = taken<std::int32_t>(d, "channel", c * static_cast<std::size_t>(m.earlier));
  m.group = taken<std::uint8_t>(d, "group", c);
  m.root = taken<std::int16_t>(d, "root", values);
  m.grid_low = number(d, "grid_low"), m.grid_shift = number(d, "grid_shift");
  need(m.grid_low > -1024 && m.grid_low <= 0 && m.grid_shift >= 0 && m.grid_shift < 8, "grid");
  const auto w_of = taken<std::uint8_t>(d, "w_of", k * max_grid), t_of = taken<std::uint8_t>(d, "t_of", k * max_grid),
             n_of = taken<std::uint8_t>(d, "n_of", k * max_grid), extra_bits = taken<std::uint8_t>(d, "extra_bits", k * max_symbols),
             symbol = taken<std::uint8_t>(d, "symbol", k * 256);
  const auto first = taken<std::int16_t>(d, "first", k * max_symbols);
  below(w_of, max_near, "w_of"), below(t_of, max_other, "t_of"), below(n_of, max_other, "n_of");
  below(symbol, max_symbols, "symbol"), below(extra_bits, 9, "extra_bits");
  for (const std::int16_t f : first) need(f >= -m.low && f <= 255, "first");
  m.class_.resize(k);
  for (std::size_t of = 0; of < k; ++of) {
    MaxClass& to = m.class_[of];
    for (std::size_t i = 0, at = of * max_grid; i < max_grid; ++i, ++at) {
      to.w_row[i] = static_cast<std::uint16_t>((of * max_row_count + w_of[at] * max_other) * max_symbols);
      to.t_row[i] = static_cast<std::uint16_t>(t_of[at] * max_symbols);
      to.n_row[i] = static_cast<std::uint16_t>((of * max_row_count + n_of[at]) * max_symbols);
    }
    std::copy_n(first.data() + of * max_symbols, max_symbols, to.first);
    std::copy_n(extra_bits.data() + of * max_symbols, max_symbols, to.extra_bits);
    std::copy_n(symbol.data() + of * 256, 256, to.symbol);
    for (std::size_t v = 0; v < values; ++v) {  // every value lies in its symbol's interval
      const int extra = static_cast<int>(v) - m.low - to.first[to.symbol[v]];
      need(extra >= 0 && extra >> to.extra_bits[to.symbol[v]] == 0, "symbol");
    }
  }
  m.start = taken<std::uint16_t>(d, "start", 2 * k * max_row_count * max_symbols);
  m.centroid = taken<std::int8_t>(d, "centroid", k * 4);
  const auto decoded = taken<float>(d, "decoded", k * values), bits = taken<float>(d, "bits", k * values);
  for (std::size_t i = 0; i < k * values; ++i) m.options.push_back({decoded[i], bits[i]});
  m.step128 = taken<float>(d, "step128", c), m.reciprocal = taken<float>(d, "reciprocal", c);
  below(m.group, max_near, "group");
  m.centroids = std::any_of(m.centroid.begin(), m.centroid.end(), [](std::int8_t v) { return v != 0; });
  for (std::size_t i = 0; i < c; ++i)
    for (int j = 0; j < m.earlier; ++j) need(m.channel[i * m.earlier + j] >= -1 && m.channel[i * m.earlier + j] < static_cast<std::int64_t>(i), "channel");
  for (std::size_t i = 0; i < m.start.size(); ++i) need(i % max_symbols ? m.start[i - 1] <= m.start[i] : m.start[i] == 0, "start");
  for (const std::int16_t r : m.root) need(r > -512 && r < 512, "root");
  for (const std::int32_t b : m.bias) need(b > -(1 << 24) && b < 1 << 24, "bias");
  return m;
}

template <class Array>
MapView fitting_view(const MaxModel& m, const Array& map) {
  const MapView view = view_of(map);
  need(map.shape(0) == m.channels, "the tensor has other channels than the model");
  need(map.shape(1) < 1u << 30 && map.shape(2) < 1u << 27, "the tensor is too large");
  return view;
}

// The reference's values, or null where the model takes none.
const float* reference_of(const MaxModel& m, const MapView& map, const nb::object& before, Reference& reference) {
  need(before.is_none() != m.reference, m.reference ? "the model needs its reference" : "the model takes no reference");
  if (!m.reference) return nullptr;
  if (!nb::try_cast(before, reference, false)) throw nb::type_error("the reference must be contiguous float32 (C, H, W)");
  need(std::int64_t(reference.shape(0)) == map.channels && std::int64_t(reference.shape(1)) == map.rows && std::int64_t(reference.shape(2)) == map.columns,
       "the reference has another shape");
  return reference.data();
}

bool same(const MapView& a, const MapView& b) { return a.rows == b.rows && a.columns == b.columns; }

}  // namespace

void bind_context_max(nb::module_& m) {
  nb::class_<MaxModel>(m, "ContextMaxModel")
      .def("__init__", [](MaxModel* self, const nb::dict& d) { new (self) MaxModel(model_of(d)); })
      .def("encode",
           [](const MaxModel& self, Map x, nb::object before, std::int64_t whole, std::vector<double> lagrangian, double rounding, int threads, nb::object decoded) {
             const MapView map = fitting_view(self, x);
             Reference reference;
             const float* const beside = reference_of(self, map, before, reference);
             MapView to{};
             if (!decoded.is_none()) {
               to = fitting_view(self, nb::cast<MapOut>(decoded));
               need(same(to, map), "decoded has another shape");
             }
             need(whole >= 0 && whole <= stripe_count(map), "more whole stripes than there are");
             need(lagrangian.size() == static_cast<std::size_t>(stripe_count(map)), "one lagrangian a stripe");
             std::vector<std::vector<std::uint8_t>> stripes;
             without_gil([&] { max_encode(self, map, beside, whole, threads, lagrangian.data(), rounding, stripes, decoded.is_none() ? nullptr : &to, {}); });
             nb::list out;
             for (const auto& stripe : stripes) out.append(nb::bytes(stripe.data(), stripe.size()));
             return out;
           },
           nb::arg("x"), nb::arg("before").none(), nb::arg("whole"), nb::arg("lagrangian"), nb::arg("rounding"), nb::arg("threads"), nb::arg("decoded").none() = nb::none())
      .def("trace",
           [](const MaxModel& self, Map x, nb::object before, std::int64_t whole, double lagrangian, double rounding, Quantised q, Predictions prediction, int threads) {
             const MapView map = fitting_view(self, x);
             Reference reference;
             const float* const beside = reference_of(self, map, before, reference);
             need(whole >= 0 && whole <= stripe_count(map), "more whole stripes than there are");
             need(q.size() == x.size() && prediction.size() == x.size(), "the outputs have another shape");
             const std::vector<double> prices(static_cast<std::size_t>(stripe_count(map)), lagrangian);
             std::vector<std::vector<std::uint8_t>> none;
             without_gil([&] { max_encode(self, map, beside, whole, threads, prices.data(), rounding, none, nullptr, {q.data(), prediction.data()}); });
           },
           nb::arg("x"), nb::arg("before").none(), nb::arg("whole"), nb::arg("lagrangian"), nb::arg("rounding"), nb::arg("q"), nb::arg("prediction"), nb::arg("threads"))
      .def("decode",
           [](const MaxModel& self, std::vector<Bytes> data, nb::object before, std::int64_t whole, MapOut out, int threads) {
             const MapView map = fitting_view(self, out);
             Reference reference;
             const float* const beside = reference_of(self, map, before, reference);
             need(whole >= 0 && whole <= stripe_count(map), "more whole stripes than there are");
             need(data.size() == static_cast<std::size_t>(stripe_count(map)), "another number of stripes");
             std::vector<MaxBytes> stripes;
             for (const Bytes& d : data) stripes.push_back({d.data(), d.shape(0)});
             return without_gil([&] { return max_decode(self, stripes, beside, whole, threads, map); });  // the first damaged stripe, if any
           },
           nb::arg("stripes"), nb::arg("before").none(), nb::arg("whole"), nb::arg("out"), nb::arg("threads"));
}
