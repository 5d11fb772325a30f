// Fitting, price and bytes of a table of laned rANS. Integers alone: the same on every machine.
#include "tensorpress/lane_model.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

namespace tensorpress {
namespace {

using std::int64_t, std::uint32_t, std::uint64_t, std::uint8_t;
constexpr int point = 16;  // lengths are in 2^-16 bits

const std::vector<int64_t>& logarithms() {  // to base 2, rounded down; of 0, 0
  static const std::vector<int64_t> found = [] {
    std::vector<int64_t> logs(most_counted + 1);
    for (uint64_t n = 1; n <= most_counted; ++n) {
      const int whole = 63 - __builtin_clzll(n);
      uint64_t x = n << (30 - whole);  // in [2^30, 2^31); squaring doubles its logarithm
      int64_t log = int64_t(whole) << point;
      for (int bit = point - 1; bit >= 0; --bit) {
        x = x * x >> 30;
        const uint64_t over = x >> 31;
        log |= int64_t(over) << bit;
        x >>= over;
      }
      logs[n] = log;
    }
    return logs;
  }();
  return found;
}

// Frequencies of at least 1 that sum to 2^model_bits, near the least code length: what gains most has the next slot, what loses least gives one.
std::vector<uint32_t> normalised(const std::vector<uint64_t>& counts) {
  using Wide = __int128;
  using Key = std::pair<Wide, int>;
  constexpr int64_t total = 1 << model_bits;
  uint64_t seen = 0;
  for (const uint64_t count : counts) seen += count;
  std::vector<uint32_t> frequencies(counts.size());
  int64_t spare = total;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    frequencies[i] = std::max<uint32_t>(1, uint32_t(Wide(counts[i]) * total / seen));
    spare -= frequencies[i];
  }
  const int step = spare > 0 ? 1 : -1;
  const auto key = [&](int i) { return Key(-step * ((Wide(counts[i]) << 41) / (2 * int64_t(frequencies[i]) + step)), i); };
  std::vector<Key> keys;
  for (int i = 0; i < int(counts.size()); ++i)
    if (step > 0 || frequencies[i] > 1) keys.push_back(key(i));
  std::priority_queue<Key, std::vector<Key>, std::greater<Key>> heap(std::greater<Key>{}, std::move(keys));
  for (int64_t left = spare * step; left > 0; --left) {
    const int i = heap.top().second;
    heap.pop();
    frequencies[i] += step;
    if (step > 0 || frequencies[i] > 1) heap.push(key(i));
  }
  return frequencies;
}

}  // namespace

void count_bytes(const uint8_t* data, int64_t nbytes, ByteCounts& counts) {
  uint32_t lanes[4][256] = {};  // equal neighbours do not wait for each other
  int64_t i = 0;
  for (; i + 4 <= nbytes; i += 4)
    for (int lane = 0; lane < 4; ++lane) ++lanes[lane][data[i + lane]];
  for (; i < nbytes; ++i) ++lanes[0][data[i]];
  for (int s = 0; s < 256; ++s) counts[s] = lanes[0][s] + lanes[1][s] + lanes[2][s] + lanes[3][s];
}

LaneModel model_of(const std::array<uint64_t, 256>& counts) {
  uint64_t total = 0, rare = 0;
  for (const uint64_t count : counts) total += count;
  const auto is_rare = [&](uint64_t count) { return static_cast<unsigned __int128>(6 * count) << model_bits < total; };
  std::vector<uint64_t> kept{0};
  for (const uint64_t count : counts) {
    if (is_rare(count)) rare += count;
    else kept.push_back(count);
  }
  const bool escaping = kept.size() < 257;
  if (escaping) kept[0] = rare;
  else kept.erase(kept.begin());
  const std::vector<uint32_t> found = normalised(kept);
  LaneModel model{{}, escaping ? found[0] : 0};
  std::size_t next = escaping;
  for (int s = 0; s < 256; ++s)
    if (!is_rare(counts[s])) model.frequencies[s] = found[next++];
  return model;
}

int64_t entropy_nbytes(const ByteCounts& counts) {
  const auto& logs = logarithms();
  int64_t total = 0, sum = 0;
  for (const uint32_t count : counts) total += count, sum += count * logs[count];
  return (total * logs[total] - sum) >> (point + 3);
}

int64_t LaneModel::nbytes_of(const ByteCounts& counts) const {
  const auto& logs = logarithms();
  int64_t sum = 0;
  for (int s = 0; s < 256; ++s)
    sum += counts[s] * (frequencies[s] ? (int64_t(model_bits) << point) - logs[frequencies[s]] : (int64_t(model_bits + 8) << point) - logs[escape]);
  return sum >> (point + 3);
}

LanedRans LaneModel::coder() const {
  LaneTables tables{};
  tables.bytes.same = true;
  for (int i = 0; i < 256; ++i) tables.bytes.word_of[i] = tables.bytes.level_of[i] = uint8_t(i);
  lane_tables(frequencies.data(), 256, escape, model_bits, tables);
  return LanedRans(std::move(tables));
}

void put_varint(std::vector<uint8_t>& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(uint8_t(value | 0x80));
  out.push_back(uint8_t(value));
}

bool take_varint(const uint8_t*& p, const uint8_t* end, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 63 && p < end; shift += 7) {
    const uint8_t byte = *p++;
    value |= uint64_t(byte & 0x7F) << shift;
    if (byte < 0x80) return byte || !shift;
  }
  return false;
}

std::vector<uint8_t> LaneModel::bytes() const {
  std::vector<uint8_t> out{uint8_t(model_bits)};
  put_varint(out, escape);
  for (int s = 0; s < 256;) {
    put_varint(out, frequencies[s]);
    if (frequencies[s++]) continue;
    const int first = s;
    while (s < 256 && !frequencies[s]) ++s;
    put_varint(out, uint64_t(s - first));
  }
  return out;
}

bool read_model(const uint8_t* data, int64_t nbytes, LaneModel& model) {
  const uint8_t *p = data, *const end = data + nbytes;
  constexpr uint64_t total = 1u << model_bits;
  uint64_t value, sum;
  if (nbytes < 1 || *p++ != model_bits || !take_varint(p, end, sum) || sum >= total) return false;
  model = {{}, uint32_t(sum)};
  bool absent = false;
  for (int s = 0; s < 256;) {
    if (!take_varint(p, end, value) || value >= total) return false;
    model.frequencies[s++] = uint32_t(value);
    sum += value;
    if (value) continue;
    absent = true;
    if (!take_varint(p, end, value) || value > uint64_t(256 - s)) return false;
    s += int(value);
  }
  if (p != end || sum != total || (absent && !model.escape)) return false;
  const std::vector<uint8_t> again = model.bytes();
  return int64_t(again.size()) == nbytes && std::equal(again.begin(), again.end(), data);
}

}  // namespace tensorpress
