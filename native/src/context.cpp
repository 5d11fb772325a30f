#include "tensorpress/context.h"

#include "tensorpress/isa.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tensorpress {
namespace {

// --- fast: a cell alone, static rANS --------------------------------------------------------------------------------

constexpr std::uint32_t rans_low = 1u << 16;
constexpr int table_bits = context_table_bits;

struct FastEncoder {
  static constexpr bool encoding = true, tracing = false;
  const ContextModel& m;
  std::vector<std::uint16_t> classes, values;
  explicit FastEncoder(const ContextModel& model) : m(model) {}
  void put(int class_, int value) {
    classes.push_back(static_cast<std::uint16_t>(class_)), values.push_back(static_cast<std::uint16_t>(value));
  }
  // Words grow down from the end of `words`; returns how many there are, the state in front.
  std::size_t finish(std::vector<std::uint16_t>& words) const {
    words.resize(2 * values.size() + 2);
    std::size_t at = words.size();
    std::uint32_t x = rans_low;
    const std::size_t row = static_cast<std::size_t>(m.tokens) + 1;
    for (std::size_t i = values.size(); i-- > 0;) {
      const int k = m.extra_bits[values[i]];
      const std::uint32_t* const cdf = m.cdf.data() + classes[i] * row + m.token[values[i]];
      const std::uint32_t frequency = cdf[1] - cdf[0];
      if (x >= std::uint64_t{frequency} << (32 - table_bits - k)) words[--at] = static_cast<std::uint16_t>(x), x >>= 16;
      x = x << k | m.extra[values[i]];
      x = (x / frequency << table_bits) + x % frequency + cdf[0];
    }
    words[--at] = static_cast<std::uint16_t>(x >> 16);
    words[--at] = static_cast<std::uint16_t>(x);
    words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(at));
    return words.size();
  }
};

struct FastDecoder {
  static constexpr bool encoding = false;
  const ContextModel& m;
  const std::uint8_t* p;
  const std::uint8_t* end;
  std::uint32_t x;
  bool cut = false;
  FastDecoder(const ContextModel& model, const std::uint8_t* data, std::size_t nbytes) : m(model), p(data), end(data + nbytes) {
    x = word();
    x |= word() << 16;
    cut = cut || x < rans_low;
  }
  std::uint32_t word() {
    if (end - p < 2) {
      cut = true;
      return 1;
    }
    const std::uint32_t w = p[0] | std::uint32_t{p[1]} << 8;
    p += 2;
    return w;
  }
  int take(int class_) {
    const std::uint32_t slot = x & ((1u << table_bits) - 1);
    const std::size_t row = static_cast<std::size_t>(class_);
    const int token = m.slots[(row << table_bits) + slot];
    const std::uint32_t* const cdf = m.cdf.data() + row * (static_cast<std::size_t>(m.tokens) + 1) + token;
    x = (cdf[1] - cdf[0]) * (x >> table_bits) + slot - cdf[0];
    const int k = m.token_bits[token], extra = static_cast<int>(x & ((1u << k) - 1));
    x >>= k;
    if (x < rans_low) x = x << 16 | word();
    return std::clamp(m.token_first[token] + m.token_sign[token] * extra, -m.low, m.high);
  }
  bool done() const { return !cut && p == end && x == rans_low; }
};

// --- the walk ---------------------------------------------------------------------------------------

inline int quantised(float x, float reciprocal, int low, int high) {
  const float scaled = x * reciprocal;
  return scaled >= high ? high : scaled > -low ? static_cast<int>(std::rintf(scaled)) : -low;
}

// Planes of roots with a border of zeros, so that no neighbour needs a question.
struct Planes {
  int stride = 0;
  std::size_t plane = 0;
  std::vector<std::int16_t> roots;
  void shape(std::size_t channels, int rows, int columns) {
    stride = columns + 4;
    plane = static_cast<std::size_t>(stride) * (rows + 3);
    roots.assign(channels * plane, 0);
  }
  std::int16_t* row(std::size_t channel, int y) { return roots.data() + channel * plane + static_cast<std::size_t>(y + 2) * stride + 2; }
};

struct Box {
  std::size_t channel, channels;
  int rows, column, columns;
};

struct Choice {
  double lagrangian, rounding;
};

// The quantised value that the encoder takes: least (x - decoded)^2 + lagrangian * bits, or plain rounding.
inline int chosen(const ContextModel& m, int class_, float x, std::size_t channel, const Choice& choice) {
  const float scaled = x * m.reciprocal[channel];
  int q = scaled >= m.high ? m.high : scaled > -m.low ? static_cast<int>(std::rintf(scaled)) : -m.low;
  if (q == 0) return 0;
  const int toward = q > 0 ? -1 : 1;
  if (choice.lagrangian <= 0) {
    if (choice.rounding != 0.5 && std::fabs(scaled) + choice.rounding < std::abs(q)) q += toward;
    return q;
  }
  const std::int32_t* const price = m.price.data() + static_cast<std::size_t>(class_) * (m.low + m.high + 1) + m.low;
  const std::int8_t* const centroid = m.centroid.data() + class_ * 4;
  const auto cost = [&](int v) {
    const int magnitude = std::abs(v), shift = centroid[std::min(magnitude, 3)];
    const double error = double{scaled} - (v * 128 + (v < 0 ? -shift : shift)) / 128.0;
    return error * error + choice.lagrangian * price[v] / 256.0;
  };
  int best = q;
  double least = cost(q);
  for (const int v : {q + toward, 0}) {
    const double c = cost(v);
    if (c < least) least = c, best = v;
  }
  return best;
}

template <class Coder>
void walk(const ContextModel& m, Coder& coder, const Box& box, const float* x, const float* before, std::size_t plane, int columns,
          const Choice& choice, float* out, Planes& now, Planes& then, std::vector<std::int32_t>& cross) {
  const int low = m.low, features = m.features();
  now.shape(box.channels, box.rows, box.columns);
  if (m.reference) then.shape(1, box.rows, box.columns);
  cross.resize(static_cast<std::size_t>(box.columns));
  const int base = static_cast<int>(box.channel);
  for (std::size_t c = 0; c < box.channels; ++c) {
    const std::size_t channel = box.channel + c;
    const std::int8_t* const weights = m.weights.data() + channel * features;
    if (m.reference)
      for (int y = 0; y < box.rows; ++y) {
        const float* const from = before + channel * plane + static_cast<std::size_t>(y) * columns + box.column;
        std::int16_t* const to = then.row(0, y);
        for (int i = 0; i < box.columns; ++i) to[i] = m.root[quantised(from[i], m.reciprocal[channel], low, m.high) + low];
      }
    for (int y = 0; y < box.rows; ++y) {
      std::fill(cross.begin(), cross.end(), m.bias[channel]);
      const std::int8_t* w = weights + context_spatial;
      const auto five = [&](Planes& planes, std::size_t of) {
        const std::int16_t* const r = planes.row(of, y);
        const std::int16_t *const below = r + planes.stride, *const above = r - planes.stride;
        const int w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4];
        for (int i = 0; i < box.columns; ++i)
          cross[i] += w0 * r[i] + w1 * r[i + 1] + w2 * below[i] + w3 * r[i - 1] + w4 * above[i];
      };
      if (m.earlier) {
        const std::int32_t* const list = m.channel.data() + channel * m.earlier;
        if (list[0] >= 0) five(now, static_cast<std::size_t>(list[0] - base));
        w += context_positions;
        for (int k = 1; k < m.earlier; ++k, ++w)
          if (list[k] >= 0) {
            const std::int16_t* const r = now.row(static_cast<std::size_t>(list[k] - base), y);
            const int weight = *w;
            for (int i = 0; i < box.columns; ++i) cross[i] += weight * r[i];
          }
      }
      if (m.reference) five(then, 0);
      std::int16_t* const here = now.row(c, y);
      const std::int16_t *const up = here - now.stride, *const up2 = up - now.stride;
      const std::size_t offset = channel * plane + static_cast<std::size_t>(y) * columns + box.column;
      const int w0 = weights[0], w1 = weights[1], w2 = weights[2], w3 = weights[3], w4 = weights[4], w5 = weights[5];
      for (int i = 0; i < box.columns; ++i) {
        const std::int32_t spatial = w0 * here[i - 1] + w1 * up[i] + w2 * up[i - 1] + w3 * up[i + 1] + w4 * here[i - 2] + w5 * up2[i];
        const std::int32_t p = spatial + cross[i];
        const int class_ = m.bins(p);
        int q;
        if constexpr (Coder::encoding) {
          q = chosen(m, class_, x[offset + i], channel, choice);
          coder.put(class_, q + low);
          if constexpr (Coder::tracing) coder.note(offset + i, q, spatial, cross[i]);
        } else {
          q = coder.take(class_);
        }
        if (out) {
          const int shift = m.centroid[class_ * 4 + std::min(std::abs(q), 3)];
          out[offset + i] = static_cast<float>(q * 128 + (q < 0 ? -shift : shift)) * m.step128[channel];
        }
        here[i] = m.root[q + low];
      }
    }
  }
}

template <class Visit>
void each_cell(const ContextModel& m, int rows, int columns, int map_rows, Visit visit) {
  const int height = std::min(map_rows, 8), width = std::min(columns, 8);
  const std::size_t depth = 32 * static_cast<std::size_t>(64 / (height * width));
  for (std::size_t c = 0; c < m.channels; c += depth)
    for (int x = 0; x < columns; x += 8)
      visit(Box{c, std::min(depth, m.channels - c), rows, x, std::min(8, columns - x)});
}

}  // namespace

void ContextModel::prepare_lanes() {
  const int values = low + high + 1;
  const auto twice = [](int v) { return (static_cast<std::uint32_t>(v) & 0xFFFF) * 0x10001u; };
  bool fits = classes <= 32 && bins.shift <= 15 && bins.lut[0] == 0 && bins.lut[context_lane_bins - 1] == bins.lut[context_bins - 1];
  bool has_signs = false;
  int top = 0;
  for (int v = 0; v < values; ++v) has_signs = has_signs || root[v] < 0, top = std::max(top, std::abs(int{root[v]}));
  lanes.offset = has_signs ? 128 : 0;
  for (int v = 0; v < values; ++v) {
    fits = fits && root[v] >= -lanes.offset && root[v] <= 127;
    lanes.root_of[v] = static_cast<std::uint8_t>(root[v] + lanes.offset);
  }
  fits = fits && root[low] == 0;
  const int heaviest = has_signs ? 64 : 127;  // two products are added up in 16 bits
  for (std::size_t c = 0; c < channels; ++c) {
    std::vector<int> w(weights.begin() + c * features(), weights.begin() + (c + 1) * features());
    for (int k = 0; k < earlier; ++k) {
      const int of = channel[c * earlier + k];
      lanes.earlier.push_back(static_cast<std::uint8_t>(of < 0 ? 0 : of % 32));
      const int first = context_spatial + (k ? context_positions + k - 1 : 0);
      if (of < 0) std::fill_n(w.begin() + first, k ? 1 : context_positions, 0);
    }
    std::int64_t most = std::abs(std::int64_t{bias[c]} - bins.low), sum = 0;
    for (const int one : w) most += std::int64_t{top} * std::abs(one), sum += one, fits = fits && std::abs(one) <= heaviest;
    fits = fits && most <= 32767;
    lanes.bias.push_back(twice(static_cast<int>(bias[c] - bins.low - lanes.offset * sum)));
    // groups that pairs do not reach across: neighbours; earlier channels; the reference
    const auto pair_up = [&](int first, int count) {
      for (int k = 0; k < count; k += 2)
        lanes.pairs.push_back(twice((w[first + k] & 255) | (k + 1 < count ? (w[first + k + 1] & 255) << 8 : 0)));
    };
    const int others = earlier ? context_positions + earlier - 1 : 0;
    pair_up(0, context_spatial), pair_up(context_spatial, others);
    if (reference) pair_up(context_spatial + others, context_positions);
  }
  lanes.pair_count = channels ? static_cast<int>(lanes.pairs.size() / channels) : 0;
  lanes.whole = std::all_of(reciprocal.begin(), reciprocal.end(), [](float r) { return r == 1; });
  lanes.exact = lanes.whole && std::all_of(step128.begin(), step128.end(), [](float s) { return s * 128 == 1; }) &&
                std::all_of(centroid.begin(), centroid.end(), [](std::int8_t c) { return c == 0; });
  for (int i = 0; i < context_lane_bins; ++i) lanes.class_of[i] = static_cast<std::uint8_t>(bins.lut[i] << 3);
  lanes.centroid.assign(centroid.begin(), centroid.end());
  lanes.encode.assign(static_cast<std::size_t>(classes) * 256, 0), lanes.decode.assign(static_cast<std::size_t>(classes) << context_table_bits, 0);
  for (int t = 0; t < tokens; ++t) {
    const int first = token_first[t], magnitude = std::abs(first);
    const int extra = std::max(28 - std::countl_zero(static_cast<std::uint32_t>(magnitude)), 0);
    fits = fits && first >= -low && first <= high && token_bits[t] == extra && (extra == 0 || token_sign[t] == (first < 0 ? -1 : 1));
  }
  for (int k = 0; fits && k < classes; ++k) {
    const std::uint32_t* const c = cdf.data() + static_cast<std::size_t>(k) * (tokens + 1);
    for (int v = 0; v < values; ++v)
      lanes.encode[k * 256 + v] = (c[token[v] + 1] - c[token[v]]) << 20 | c[token[v]] << 8 | std::uint32_t{extra_bits[v]} << 4 | extra[v];
    for (int t = 0; t < tokens; ++t)
      for (std::uint32_t slot = c[t]; slot < c[t + 1]; ++slot)
        lanes.decode[(static_cast<std::size_t>(k) << context_table_bits) + slot] =
            (c[t + 1] - c[t]) << 20 | (slot - c[t]) << 8 | static_cast<std::uint32_t>(token_first[t] + low);
  }
  lanes.usable = fits;
}

void ContextModel::prepare() {
  slots.clear();
  for (int row = 0; row < classes; ++row) {
    const std::uint32_t* const c = cdf.data() + static_cast<std::size_t>(row) * (tokens + 1);
    for (int t = 0; t < tokens; ++t) slots.insert(slots.end(), c[t + 1] - c[t], static_cast<std::uint16_t>(t));
  }
  if (isa() == Isa::avx512) prepare_lanes();
}

void context_encode(const ContextModel& m, const float* x, const float* before, std::size_t plane, int rows, int columns, int map_rows,
                    double lagrangian, double rounding, std::vector<std::uint8_t>& out, float* decoded) {
  Planes now, then;
  std::vector<std::int32_t> cross;
  const Choice choice{lagrangian, rounding};
  std::vector<std::uint16_t> sizes, words;
  std::vector<std::uint8_t> bodies;
  FastEncoder coder(m);
  each_cell(m, rows, columns, map_rows, [&](const Box& box) {
    coder.classes.clear(), coder.values.clear();
    walk(m, coder, box, x, before, plane, columns, choice, decoded, now, then, cross);
    const std::size_t n = coder.values.size();
    if (std::all_of(coder.values.begin(), coder.values.end(), [&](std::uint16_t v) { return v == m.low; })) {
      sizes.push_back(0);
      return;
    }
    coder.finish(words);
    if (2 * words.size() >= n) {  // the bound of every cell: one byte a value
      sizes.push_back(static_cast<std::uint16_t>(0x8000 | n));
      for (const std::uint16_t v : coder.values) bodies.push_back(static_cast<std::uint8_t>(v));
      return;
    }
    sizes.push_back(static_cast<std::uint16_t>(words.size()));
    for (const std::uint16_t w : words) bodies.push_back(static_cast<std::uint8_t>(w)), bodies.push_back(static_cast<std::uint8_t>(w >> 8));
  });
  if (std::all_of(sizes.begin(), sizes.end(), [](std::uint16_t s) { return s == 0; })) return;  // no bytes: nothing but zeros
  for (const std::uint16_t s : sizes) out.push_back(static_cast<std::uint8_t>(s)), out.push_back(static_cast<std::uint8_t>(s >> 8));
  out.insert(out.end(), bodies.begin(), bodies.end());
}

namespace {

struct RawCell {
  static constexpr bool encoding = false;
  const ContextModel& m;
  const std::uint8_t* p;
  bool wrong = false;
  int take(int) {
    const int value = *p++;
    wrong = wrong || value > m.low + m.high;
    return wrong ? 0 : value - m.low;
  }
};

struct ZeroCell {
  static constexpr bool encoding = false;
  int take(int) { return 0; }
};

}  // namespace

bool context_decode(const ContextModel& m, const std::uint8_t* data, std::size_t nbytes, const float* before, std::size_t plane, int rows,
                    int columns, int map_rows, float* out, std::ptrdiff_t only) {
  Planes now, then;
  std::vector<std::int32_t> cross;
  const Choice none{0, 0.5};
  std::size_t cells = 0;
  each_cell(m, rows, columns, map_rows, [&](const Box&) { ++cells; });
  if (nbytes == 0) {  // no bytes: nothing but zeros
    ZeroCell coder;
    std::ptrdiff_t cell = 0;
    each_cell(m, rows, columns, map_rows, [&](const Box& box) {
      if (only < 0 || cell++ == only) walk(m, coder, box, nullptr, before, plane, columns, none, out, now, then, cross);
    });
    return true;
  }
  if (nbytes < 2 * cells) return false;
  std::size_t at = 2 * cells, number = 0;
  bool good = true;
  each_cell(m, rows, columns, map_rows, [&](const Box& box) {
    const std::size_t size = data[2 * number] | std::size_t{data[2 * number + 1]} << 8, n = box.channels * box.rows * box.columns;
    ++number;
    if (!good) return;
    const std::size_t length = size & 0x8000 ? size & 0x7FFF : 2 * size;
    if (length > nbytes - at || ((size & 0x8000) && length != n)) {
      good = false;
      return;
    }
    if (only >= 0 && number != static_cast<std::size_t>(only) + 1) {
      // not asked for: its size is enough
    } else if (size == 0) {
      ZeroCell coder;
      walk(m, coder, box, nullptr, before, plane, columns, none, out, now, then, cross);
    } else if (size & 0x8000) {
      RawCell coder{m, data + at};
      walk(m, coder, box, nullptr, before, plane, columns, none, out, now, then, cross);
      good = !coder.wrong;
    } else {
      FastDecoder coder(m, data + at, length);
      walk(m, coder, box, nullptr, before, plane, columns, none, out, now, then, cross);
      good = coder.done();
    }
    at += length;
  });
  return good && at == nbytes;
}

namespace {

struct Tracer {
  static constexpr bool encoding = true, tracing = true;
  std::int16_t* q;
  std::int32_t *spatial, *cross;
  void put(int, int) {}
  void note(std::size_t at, int value, std::int32_t s, std::int32_t c) {
    q[at] = static_cast<std::int16_t>(value), spatial[at] = s, cross[at] = c;
  }
};

}  // namespace

void context_trace(const ContextModel& m, const float* x, const float* before, std::size_t plane, int rows, int columns, int map_rows,
                   double lagrangian, double rounding, std::int16_t* q, std::int32_t* spatial, std::int32_t* cross_out) {
  Planes now, then;
  std::vector<std::int32_t> cross;
  const Choice choice{lagrangian, rounding};
  Tracer tracer{q, spatial, cross_out};
  each_cell(m, rows, columns, map_rows,
            [&](const Box& box) { walk(m, tracer, box, x, before, plane, columns, choice, nullptr, now, then, cross); });
}

}  // namespace tensorpress
