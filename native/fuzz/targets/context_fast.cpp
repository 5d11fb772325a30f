// The context codec's back-end `fast`: stripe by stripe, and where this machine has lanes, whole payloads in lanes; both give the same.
#include "context.h"
#include "tensorpress/context.h"
#include "tensorpress/context_lanes.h"

using namespace fuzz;

namespace {

std::unique_ptr<ContextModel> model_of(Input& in) {
  auto m = std::make_unique<ContextModel>();
  const ModelFront front = front_of(in, true);
  m->channels = front.channels, m->low = front.low, m->high = front.high, m->earlier = front.earlier, m->reference = front.reference;
  m->classes = front.classes(), m->weights = front.weights, m->bias = front.bias, m->channel = front.channel, m->centroid = front.centroid;
  m->step128 = front.step128, m->reciprocal = front.reciprocal;
  m->bins.low = front.bins_low, m->bins.shift = front.bins_shift;
  for (int i = 0; i < context_bins; ++i) m->bins.lut[i] = std::uint8_t(front.class_of(i));
  for (int v = -m->low; v <= m->high; ++v) {  // tokens: magnitudes below 16, then eight an octave; signs alternate
    const int size = std::abs(v);
    int e = 0;
    while (size >> (e + 1)) ++e;
    const int bits = size < 16 ? 0 : e - 3, magnitude = size < 16 ? size : 16 + (e - 4) * 8 + (size >> (e - 3) & 7);
    const int token = m->low == 0 || v == 0 ? magnitude : 2 * magnitude - (v > 0), extra = size & ((1 << bits) - 1);
    m->root.push_back(std::int16_t(front.root(v, true)));
    m->token.push_back(std::uint8_t(token)), m->extra_bits.push_back(std::uint8_t(bits)), m->extra.push_back(std::uint16_t(extra));
    m->tokens = std::max(m->tokens, token + 1);
    m->token_bits.resize(std::size_t(m->tokens), 0), m->token_first.resize(std::size_t(m->tokens), 0), m->token_sign.resize(std::size_t(m->tokens), 1);
    m->token_bits[std::size_t(token)] = std::uint8_t(bits), m->token_sign[std::size_t(token)] = std::int8_t(v < 0 ? -1 : 1);
    m->token_first[std::size_t(token)] = std::int16_t(v < 0 ? v + extra : v - extra);
  }
  const std::size_t width = std::size_t(m->tokens) + 1, classes = std::size_t(m->classes);
  m->cdf.assign(classes * width, 0);
  for (std::size_t t = 1; t < width; ++t)
    for (std::size_t k = 0; k < classes; ++k) {
      std::uint32_t* const row = m->cdf.data() + k * width;
      const std::int64_t spare = (1 << context_table_bits) - row[t - 1] - std::int64_t(width - t);
      row[t] = row[t - 1] + 1 + in.within<std::uint16_t>(0, spare);
      if (t + 1 == width) row[t] = 1u << context_table_bits;
    }
  for (std::size_t i = 0; i < classes * std::size_t(front.values()); ++i) m->price.push_back(std::int32_t(i * 37 % 2048));
  m->prepare();
  return m;
}

struct Frame {
  std::int64_t rows, columns;
  std::size_t plane;
  std::vector<float> before;

  int stripes() const { return int((rows + 7) / 8); }
  int rows_of(int s) const { return int(std::min<std::int64_t>(8, rows - 8 * s)); }
  std::size_t at(int s) const { return std::size_t(8 * s * columns); }
};

std::optional<std::vector<float>> by_stripes(const ContextModel& m, const Frame& f, const std::vector<Bytes>& stripes) {
  std::vector<float> out(m.channels * f.plane, 77);
  bool good = true;
  for (int s = 0; s < f.stripes(); ++s)
    good = context_decode(m, begin_of(stripes[std::size_t(s)]), stripes[std::size_t(s)].size(), m.reference ? f.before.data() + f.at(s) : nullptr, f.plane, f.rows_of(s),
                          int(f.columns), int(f.rows), begin_of(out) + f.at(s)) && good;
  if (!good) return std::nullopt;
  return out;
}

MapView view_of(const ContextModel& m, const Frame& f, void* data, Element element) {
  const std::int64_t plane = std::int64_t(f.plane);
  return {data, element, std::int64_t(m.channels), f.rows, f.columns, plane, f.columns, 1, 1, 1};
}

void agree_in_lanes(const ContextModel& m, Frame& f, const std::vector<Bytes>& stripes, const std::optional<std::vector<float>>& expected) {
  Bytes payload{0, 0};  // a head; what stands in it is for the check alone
  payload.resize(2 + 8 * stripes.size());
  const PayloadTable table(payload.data(), 2);
  for (std::size_t s = 0; s < stripes.size(); ++s) table.put(payload.data(), std::int64_t(s), begin_of(stripes[s]), stripes[s].size());
  for (const Bytes& stripe : stripes) payload.insert(payload.end(), stripe.begin(), stripe.end());
  const MapView before = view_of(m, f, f.before.data(), Element::f32);
  const MapView* const beside = m.reference ? &before : nullptr;
  std::vector<float> out(m.channels * f.plane, 33);
  const Outcome outcome = context_lanes_decode(m, payload.data(), std::int64_t(payload.size()), 2, beside, view_of(m, f, begin_of(out), Element::f32), 1);
  must((outcome.fault == Fault::none) == expected.has_value(), "lanes accept what stripes refuse, or refuse what they accept");
  if (!expected) return;
  must(out.empty() || !std::memcmp(begin_of(out), expected->data(), out.size() * sizeof(float)), "lanes decode to other values");
  if (!context_exact(m)) return;
  Bytes levels(out.size());
  must(context_lanes_decode(m, payload.data(), std::int64_t(payload.size()), 2, beside, view_of(m, f, levels.data(), Element::u8), 1).fault == Fault::none, "lanes refuse integers");
  for (std::size_t i = 0; i < levels.size(); ++i) must(levels[i] == std::uint8_t(std::clamp(out[i], 0.0f, 255.0f)), "lanes decode to other integers");
}

}  // namespace

TARGET(in) {
  std::unique_ptr<ContextModel> own;
  const ContextModel& m = kept<ContextModel>(in, own, model_of);
  if (m.channels == 0) return;  // no stripes
  const int mode = in.byte();
  Frame f{in.within<std::uint8_t>(1, 17), in.within<std::uint8_t>(1, 20), 0, {}};
  const auto channels = std::int64_t(m.channels);
  if (mode < 224) f.columns = std::min<std::int64_t>(f.columns, std::max<std::int64_t>(384 / channels, 2)), f.rows = std::min<std::int64_t>(f.rows, 1 + 384 / (channels * f.columns));
  f.plane = std::size_t(f.rows * f.columns);
  const int edits = mode & 1 ? mode >> 1 & 3 : 0;
  Input edited = in;
  for (int i = 0; i < 3 * edits; ++i) in.byte();
  std::vector<std::size_t> sizes;
  for (int s = 0; s + 1 < f.stripes(); ++s) sizes.push_back(in.number<std::uint16_t>());
  const Bytes rest = in.rest();
  const float step = 128 * m.step128[0];
  f.before = floats_of(m.reference ? m.channels * f.plane : 0, rest, step);
  std::vector<Bytes> stripes(std::size_t(f.stripes()));
  if (mode & 1) {
    const std::vector<float> x = floats_of(m.channels * f.plane, rest, step);
    const double lagrangian = mode & 8 ? 0.1 : 0;
    std::vector<float> promised(x.size());
    for (int s = 0; s < f.stripes(); ++s)
      context_encode(m, x.data() + f.at(s), m.reference ? f.before.data() + f.at(s) : nullptr, f.plane, f.rows_of(s), int(f.columns), int(f.rows), lagrangian, 0.5,
                     stripes[std::size_t(s)], promised.data() + f.at(s));
    must(by_stripes(m, f, stripes) == promised, "what an encoder wrote does not come back");
    if (context_lanes(m, f.rows, f.columns)) agree_in_lanes(m, f, stripes, promised);
    if (!lagrangian && context_lanes(m, f.rows, f.columns)) {  // the other encoder
      const std::uint8_t head[2] = {0, 0};
      Bytes out(std::size_t(context_lanes_capacity(m, f.rows, f.columns, 2))), plain;
      std::vector<float> source = x;
      const MapView before = view_of(m, f, f.before.data(), Element::f32);
      out.resize(std::size_t(context_lanes_encode(m, view_of(m, f, source.data(), Element::f32), m.reference ? &before : nullptr, head, 2, begin_of(out), 1)));
      for (const Bytes& stripe : stripes) plain.insert(plain.end(), stripe.begin(), stripe.end());
      must(Bytes(out.begin() + 2 + 8 * f.stripes(), out.end()) == plain, "lanes encode to other bytes");
    }
    if (!edits) return;
    for (Bytes& stripe : stripes) edit(edited, edits, stripe), stripe = Bytes(stripe);
  } else {
    std::size_t at = 0;
    for (std::size_t s = 0; s < stripes.size(); ++s) {
      const std::size_t size = s < sizes.size() ? std::min(sizes[s], rest.size() - at) : rest.size() - at;
      stripes[s] = Bytes(rest.begin() + std::ptrdiff_t(at), rest.begin() + std::ptrdiff_t(at + size));
      at += size;
    }
  }
  const std::optional<std::vector<float>> found = by_stripes(m, f, stripes);
  if (context_lanes(m, f.rows, f.columns)) agree_in_lanes(m, f, stripes, found);
}
