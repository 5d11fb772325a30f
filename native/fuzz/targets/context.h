// What both back-ends of `context` share: the front of a model's bytes (FORMAT.md, section 13), with what no parser would pass brought into range.
#pragma once
#include <cmath>

#include "stripe.h"

namespace fuzz {

struct ModelFront {
  bool linear, reference;
  int low, high, earlier;
  std::size_t channels;
  int kind;  // tokens of one back-end, parts of the other
  float base;
  std::int32_t bins_low;
  int bins_shift;
  std::vector<int> edges;
  std::vector<float> step128, reciprocal;
  std::vector<std::int32_t> bias, channel;
  std::vector<std::int8_t> weights, centroid;
  Bytes group;

  int classes() const { return int(edges.size()) + 1; }
  int values() const { return low + high + 1; }
  int features() const { return 6 + (earlier ? 5 + earlier - 1 : 0) + (reference ? 5 : 0); }
  int class_of(int step) const { return int(std::upper_bound(edges.begin(), edges.end(), step) - edges.begin()); }
  int root(int value, bool cells) const {
    if (linear) return cells ? value >> (std::max(low, high) > 127) : 2 * value;
    const int size = int(std::sqrt((cells ? 64.0 : 256.0) * std::abs(value)));
    return value < 0 ? -size : size;
  }
};

inline ModelFront front_of(Input& in, bool fast) {
  ModelFront m{};
  const int flags = in.byte();
  m.linear = flags & 2, m.reference = flags & 4;
  m.low = in.byte(), m.high = in.within<std::uint8_t>(0, 255 - m.low);
  m.channels = in.within<std::uint32_t>(0, in.endless() ? 12 : 72);  // few, for speed; those of golden streams have more
  m.earlier = in.within<std::uint8_t>(0, 16);
  if (fast) in.byte();
  m.kind = fast ? in.byte() : in.within<std::uint8_t>(1, 16);
  const auto base = in.number<std::uint32_t>();
  std::memcpy(&m.base, &base, 4);
  if (!(m.base > 1e-20f && m.base < 1e20f)) m.base = 0.25f;
  m.bins_low = in.within<std::int32_t>(1 - (1 << 30), (1 << 30) - 1);
  m.bins_shift = in.within<std::uint8_t>(0, 30);
  const int count = in.within<std::uint8_t>(0, in.endless() ? 12 : 63);
  for (int i = 0; i < count; ++i) m.edges.push_back(in.within<std::uint16_t>(0, fast ? 127 : 1023));
  std::sort(m.edges.begin(), m.edges.end());
  const std::size_t c = m.channels;
  for (std::size_t i = 0; i < c; ++i) {
    const float step = m.base * std::exp2(in.number<std::int8_t>() / 8.0f);
    m.step128.push_back(step / 128), m.reciprocal.push_back(1 / step);
  }
  for (std::size_t i = 0; i < c; ++i) m.bias.push_back(in.number<std::int16_t>());
  m.channel.resize(c * std::size_t(m.earlier));
  for (int e = 0; e < m.earlier; ++e)
    for (std::size_t i = 0; i < c; ++i) {
      const std::int32_t of = in.within<std::int16_t>(-1, std::int64_t(i) - 1);
      m.channel[i * std::size_t(m.earlier) + std::size_t(e)] = fast && of >= 0 && of / 32 != std::int32_t(i / 32) ? -1 : of;
    }
  m.weights.resize(c * std::size_t(m.features()));
  for (int f = 0; f < m.features(); ++f)
    for (std::size_t i = 0; i < c; ++i) m.weights[i * std::size_t(m.features()) + std::size_t(f)] = in.number<std::int8_t>();
  m.group = in.list<std::uint8_t>(c, 0, 7);
  m.centroid.resize(4 * std::size_t(m.classes()));
  for (std::size_t magnitude = 0; magnitude < 4; ++magnitude)
    for (std::size_t k = 0; k < std::size_t(m.classes()); ++k) m.centroid[4 * k + magnitude] = in.number<std::int8_t>();
  return m;
}

// Values from a few bytes, some of them zeros, in memory of their own.
inline std::vector<float> floats_of(std::size_t count, const Bytes& from, float step) {
  std::vector<float> found(count);
  for (std::size_t i = 0; i < count && !from.empty(); ++i) {
    const auto byte = std::int8_t(from[i % from.size()] + i / from.size() / 3);
    found[i] = byte % 3 ? step * 0.4f * byte : 0;
  }
  return found;
}

}  // namespace fuzz
