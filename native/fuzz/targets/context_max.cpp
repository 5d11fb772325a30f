// The context codec's back-end `max`: single parts by two bodies, and maps whose last stripes are in parts.
#include "context.h"
#include "tensorpress/context_max.h"

using namespace fuzz;

namespace {

std::unique_ptr<MaxModel> model_of(Input& in) {
  auto m = std::make_unique<MaxModel>();
  const ModelFront front = front_of(in, false);
  m->channels = front.channels, m->low = front.low, m->high = front.high, m->earlier = front.earlier, m->parts = front.kind, m->classes = front.classes();
  m->reference = front.reference, m->bins_low = front.bins_low, m->bins_shift = front.bins_shift, m->weights = front.weights, m->bias = front.bias;
  m->channel = front.channel, m->group = front.group, m->centroid = front.centroid, m->step128 = front.step128, m->reciprocal = front.reciprocal;
  m->centroids = std::any_of(m->centroid.begin(), m->centroid.end(), [](std::int8_t v) { return v != 0; });
  for (int i = 0; i < max_bins; ++i) m->class_of.push_back(std::uint8_t(front.class_of(i)));
  for (int v = -m->low; v <= m->high; ++v) m->root.push_back(std::int16_t(front.root(v, false)));
  m->grid_low = m->root.front();
  while ((m->root.back() - m->grid_low) >> m->grid_shift >= max_grid) ++m->grid_shift;
  const std::size_t classes = std::size_t(m->classes), values = std::size_t(front.values());
  m->class_.resize(classes);
  std::vector<Bytes> edges(classes);
  for (int e = 0; e < 13; ++e)
    for (Bytes& own : edges) own.push_back(in.within<std::uint8_t>(0, max_grid));
  for (std::size_t k = 0; k < classes; ++k) {
    Bytes& e = edges[k];
    std::sort(e.begin(), e.begin() + 7), std::sort(e.begin() + 7, e.begin() + 10), std::sort(e.begin() + 10, e.end());
    const auto row = [&](int first, int last, int step) { return int(std::upper_bound(e.begin() + first, e.begin() + last, step) - e.begin()) - first; };
    for (int step = 0; step < max_grid; ++step) {
      m->class_[k].w_row[step] = std::uint16_t((int(k) * max_row_count + row(0, 7, step) * max_other) * max_symbols);
      m->class_[k].t_row[step] = std::uint16_t(row(7, 10, step) * max_symbols);
      m->class_[k].n_row[step] = std::uint16_t((int(k) * max_row_count + row(10, 13, step)) * max_symbols);
    }
  }
  for (int s = 0; s < max_symbols; ++s)
    for (std::size_t k = 0; k < classes; ++k) m->class_[k].extra_bits[s] = in.within<std::uint8_t>(0, 8);
  for (MaxClass& of : m->class_) {
    int sum = 0;
    for (const std::uint8_t bits : of.extra_bits) sum += 1 << bits;
    if (sum < int(values)) of.extra_bits[0] = 8;  // else no symbol reaches the largest values
    int begin[max_symbols], at = 0;
    for (int s = 0; s < max_symbols; ++s) begin[s] = std::min(at - m->low, 255), of.first[s] = std::int16_t(begin[s]), at += 1 << of.extra_bits[s];
    for (int v = 0; v < 256; ++v) of.symbol[v] = std::uint8_t(std::upper_bound(begin, begin + max_symbols, v - m->low) - begin - 1);
  }
  std::vector<Bytes> codes(classes * (1 + 2 * max_row_count), Bytes(max_symbols));
  for (int s = 0; s < max_symbols; ++s)
    for (std::size_t row = 0; row < 1 + 2 * max_row_count; ++row)
      for (std::size_t k = 0; k < classes; ++k) {
        Bytes& own = codes[k * (1 + 2 * max_row_count) + row];
        own[std::size_t(s)] = std::uint8_t(in.byte() + (row ? codes[k * (1 + 2 * max_row_count)][std::size_t(s)] : 0)) & 127;
      }
  for (std::size_t kind = 0; kind < 2; ++kind)
    for (std::size_t k = 0; k < classes; ++k)
      for (std::size_t row = 0; row < max_row_count; ++row) {
        const Bytes& own = codes[k * (1 + 2 * max_row_count) + 1 + kind * max_row_count + row];
        std::uint64_t sum = 0, before = 0;
        for (const std::uint8_t code : own) sum += std::uint64_t(8 + code % 8) << code / 8;
        for (const std::uint8_t code : own) m->start.push_back(std::uint16_t(std::min<std::uint64_t>((before << 16) / sum, 65535))), before += std::uint64_t(8 + code % 8) << code / 8;
      }
  for (std::size_t k = 0; k < classes; ++k)
    for (std::size_t i = 0; i < values; ++i) {
      const int v = int(i) - m->low, shift = m->centroid[4 * k + std::size_t(std::min(std::abs(v), 3))];
      m->options.push_back({float(v) + float(v < 0 ? -shift : shift) / 128, float((i * 37 + k) % 9)});
    }
  return m;
}

Shape shape_for(const MaxModel& m, Input& in) {
  Shape s{};
  const int kind = in.byte();
  s.element = Element(kind % 3), s.layout = kind / 3 % 4, s.channels = std::int64_t(m.channels);
  s.rows = in.within<std::uint8_t>(1, 24), s.columns = in.within<std::uint8_t>(1, 40);
  if (kind < 248) s.columns = std::min<std::int64_t>(s.columns, std::max<std::int64_t>(256 / s.channels, 2)), s.rows = std::min<std::int64_t>(s.rows, 1 + 256 / (s.channels * s.columns));
  s.stripe = in.below(int((s.rows + 7) / 8));
  return s;
}

// One stripe as one part.
void part(Input& in, const MaxModel& m, const Shape& s) {
  const auto bodies = BODIES(max_body, in);
  const int mode = in.byte(), edits = mode >> 1 & 3, rows = int(std::min<std::int64_t>(8, s.rows - 8 * s.stripe));
  Input edited = in;
  for (int i = 0; i < 3 * (mode & 1 ? edits : 0); ++i) in.byte();
  Bytes data = in.rest();
  const std::vector<float> before = floats_of(m.reference ? std::size_t(s.values()) : 0, data, 128 * m.step128[0]);
  const auto task = [&](const MapView& view) { return MaxTask{&view, m.reference ? before.data() : nullptr, 8 * s.stripe, 0, rows, int(s.columns)}; };
  std::uint8_t fill = 0;
  const auto decoded = [&](const MaxBody& body) {
    fill ^= 0xA5;
    return read(s, fill, [&](const MapView& view) { return body.decode(m, task(view), begin_of(data), data.size()); });
  };
  if (mode & 1) {
    Map map(s, 0), first(s, 1), second(s, 2);
    map.put(values_of(s, data, false));
    const MaxChoice choice{mode & 8 ? 0.2 : 0, 0.5};
    Bytes plain, other;
    bodies.plain->encode(m, task(map.view), choice, plain, &first.view, {});
    bodies.other->encode(m, task(map.view), choice, other, &second.view, {});
    must(plain == other, "two instruction sets encode otherwise");
    const Bytes promised = first.taken();
    must(promised == second.taken(), "two instruction sets promise otherwise");
    data = plain;
    must(decoded(*bodies.other) == promised, "what an encoder wrote does not come back");
    if (!edits) return;
    edit(edited, edits, data);
    data = Bytes(data);
  }
  must(decoded(*bodies.plain) == decoded(*bodies.other), "two instruction sets decode otherwise");
}

// A map of several stripes, the last ones in parts: `threads` change nothing.
void whole(Input& in, const MaxModel& m, Shape s) {
  s.layout = 0, s.element = Element::f32, s.stripe = 0;
  const std::int64_t count = (s.rows + 7) / 8, stripes_whole = std::max<std::int64_t>(count - 2, 0);
  std::vector<std::size_t> sizes;
  for (int i = 0; i < count; ++i) sizes.push_back(in.number<std::uint16_t>());
  const bool encode = in.below(2);
  Input edited = in;
  if (encode)
    for (int i = 0; i < 3; ++i) in.byte();
  const Bytes rest = in.rest();
  const std::vector<float> x = floats_of(std::size_t(s.values()), rest, 128 * m.step128[0]);
  const float* const before = m.reference ? x.data() : nullptr;
  std::vector<float> out(x.size(), 1), again(x.size(), 2);
  std::vector<Bytes> stripes(static_cast<std::size_t>(count));
  const auto view_of = [&](const float* data) {
    return MapView{const_cast<float*>(data), Element::f32, s.channels, s.rows, s.columns, s.rows * s.columns, s.columns, 1, 1, 1};
  };
  const MapView view = view_of(begin_of(out)), other = view_of(begin_of(again));
  if (encode) {
    const std::vector<double> lagrangian(std::size_t(count), 0.0);
    max_encode(m, view_of(x.data()), before, stripes_whole, 1, lagrangian.data(), 0.5, stripes, nullptr, {});
    if (!stripes.empty()) edit(edited, 1, stripes.back()), stripes.back() = Bytes(stripes.back());
  } else {
    std::size_t at = 0;
    for (std::size_t i = 0; i < stripes.size(); ++i) {
      const std::size_t size = i + 1 < stripes.size() ? std::min(sizes[i], rest.size() - at) : rest.size() - at;
      stripes[i] = Bytes(rest.begin() + std::ptrdiff_t(at), rest.begin() + std::ptrdiff_t(at + size));
      at += size;
    }
  }
  std::vector<MaxBytes> data;
  for (const Bytes& stripe : stripes) data.push_back({stripe.data(), stripe.size()});
  const std::int64_t first = max_decode(m, data, before, stripes_whole, 1, view);
  must(first == max_decode(m, data, before, stripes_whole, 3, other), "threads change what is refused");
  must(first >= 0 || !out.size() || !std::memcmp(begin_of(out), begin_of(again), out.size() * sizeof(float)), "threads change what is decoded");
}

}  // namespace

TARGET(in) {
  std::unique_ptr<MaxModel> own;
  const MaxModel& m = kept<MaxModel>(in, own, model_of);
  if (m.channels == 0) return;  // no stripes
  const bool parts = in.below(3) == 2;
  const Shape shape = shape_for(m, in);
  if (parts) whole(in, m, shape);
  else part(in, m, shape);
}
