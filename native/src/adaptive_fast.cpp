// What the fast form of the adaptive coder does row by row, and block by block; adaptive_fast_body.cpp has what it does value by value.
#include "tensorpress/adaptive_fast_body.h"
#include "tensorpress/adaptive_forms.h"
#include "tensorpress/isa.h"
#include "tensorpress/pool.h"

#include <cstring>

namespace tensorpress {
namespace {

constexpr std::size_t lanes = fast_lanes;
constexpr std::size_t block_values = std::size_t{1} << 20;  // states end before the row that follows so many values
constexpr std::size_t part_places = 4096;                   // of a row, coded in one call

// As if 64 values of a geometric distribution had been seen; of the widths of large values, each as often.
void begin(FastCounts& counts) {
  std::memset(&counts, 0, sizeof counts);
  for (int row = 0; row < FastCounts::rows; ++row) {
    const int scale = row / (fast_contrasts * fast_leanings), ratio = std::clamp(256 * scale / (scale + 8) - 20, 4, 240);
    std::uint32_t weight[fast_symbols] = {4096}, power = 4096 * 3 / 4, sum = 4096;
    for (int k = 1; k <= 7; ++k) {
      power = power * static_cast<std::uint32_t>(ratio) >> 8;
      weight[2 * k - 1] = weight[2 * k] = power, sum += 2 * power;
    }
    weight[fast_escape] = power, sum += power;
    for (int s = 0; s < fast_symbols; ++s) counts.seen[row][s] = static_cast<std::uint16_t>(row >= fast_contexts ? 4 : std::max(1u, 64 * weight[s] / sum));
    counts.left[row] = counts.cycle[row] = 8;
    set_starts(counts, row);
  }
}

FastPlace place_of(std::size_t t, std::size_t taps, std::size_t across) {
  FastPlace place{};
  const bool single = taps == 1;
  for (std::size_t k = 0; k < 8; ++k) place.known.before[7 - k] = single || k < t ? -1 : 0;
  const std::int16_t next = t + 1 < taps, known_next = static_cast<std::int16_t>(-next);
  place.known.beside = Eight{-1, known_next, -1, known_next, -1, -1, 0, 0};
  place.weight.beside = Eight{2, next, 2, next, static_cast<std::int16_t>(single ? 4 : 1), 0, 0, 0};
  const auto add = [&](std::size_t back, int weight) { place.weight.before[8 - back] = static_cast<std::int16_t>(place.weight.before[8 - back] + weight); };
  if (single || t % across) add(1, 3);
  if (!single && t >= across && across <= 8) {
    add(across, 3);
    if (across > 1 && t % across + 1 < across) add(across - 1, 1);
  }
  return place;
}

struct Walk {
  FastStates states;
  bool open = false;
  std::size_t in_block = 0;
  Walk() {
    std::memset(states.lean, 0, sizeof states.lean);
    begin(states.counts);
  }

  // `next()` begins a block, ending the one before; `part(row, at, to)` codes a part of a row. Returns how many values were good.
  template <class Next, class Part>
  std::size_t walk(std::int32_t* values, const AdaptiveShape& shape, Next next, Part part) {
    const std::size_t columns = shape.columns, taps = shape.taps, width = columns * taps, across = kernel_width(taps);
    if (shape.count() == 0) return 0;
    std::size_t first[lanes + 1] = {}, done = 0;
    for (std::size_t i = 0; i < lanes; ++i) first[i + 1] = first[i] + shape.rows / lanes + (i < shape.rows % lanes);
    // Of each lane three rows of values, if it has so many: two kernels and ten zeros in front, a kernel behind. And a row of zeros.
    const std::size_t front = 2 * taps + 10, stride = front + width + taps, rows = first[1], kept = std::min<std::size_t>(rows, 3);
    std::vector<std::int16_t> cut((kept * std::min(lanes, shape.rows) + 1) * stride);
    std::vector<std::uint64_t> of_column(rows > 1 ? columns : 0), of_tap(taps);
    std::vector<int> l_tap(taps);
    std::vector<FastPlace> places(taps);
    for (std::size_t t = 0; t < taps; ++t) places[t] = place_of(t, taps, across);
    std::uint64_t of_all = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      if (!open || in_block >= block_values) {
        if (!next()) return done;
        open = true, in_block = 0;
      }
      FastRow row{};
      row.places = places.data(), row.taps = taps, row.of_tap = of_tap.data(), row.of_column = rows > 1 ? of_column.data() : nullptr, row.of_all = of_all;
      while (row.active < lanes && r < first[row.active + 1] - first[row.active]) ++row.active;
      row.all = static_cast<std::uint32_t>((of_all * 256 + 512) / (done + 4));
      row.l_all = octaves.table[row.all];
      for (std::size_t t = 0; t < taps; ++t) l_tap[t] = octaves.table[(of_tap[t] * 256 + std::uint64_t{row.all} * 8) / (done / taps + 8)];
      row.l_tap = l_tap.data();
      row.share_of_column = (std::uint64_t{1} << 32) / (done / columns + 4);
      for (std::size_t i = 0; i < lanes; ++i) {
        for (std::size_t k = 0; k < 3; ++k) row.cut[k][i] = cut.data() + (i < shape.rows && k <= r ? 1 + (r - k) % kept + kept * i : 0) * stride + front;
        if (i < row.active) std::memset(row.cut[0][i], 0, width * sizeof(std::int16_t));
        row.values[i] = values + (first[i] + (i < row.active ? r : 0)) * width;
      }
      for (std::size_t at = 0; at < width; at += part_places) {
        if (stop_asked()) return done;
        const std::size_t to = std::min(at + part_places, width), good = part(row, at, to);
        done += good;
        if (good < row.active * (to - at)) return done;
      }
      of_all = row.of_all;
      in_block += row.active * width;
    }
    return done;
  }
};

class FastEncoder final : public AdaptiveEncoder {
 public:
  void put(const std::int32_t* values, const AdaptiveShape& shape) override {
    const auto next = [&] {
      end_block();
      return true;
    };
    walk_.walk(const_cast<std::int32_t*>(values), shape, next, [&](FastRow& row, std::size_t at, std::size_t to) {  // which only reads them
      const std::size_t room = known_ + (to - at) * fast_step_words;
      if (events_.size() < room) events_.resize(2 * room);
      FastEvents events{events_.data() + known_};
      const std::size_t good = TP_CHOOSE(fast_body).encode(walk_.states, row, events, at, to);
      known_ = static_cast<std::size_t>(events.next - events_.data());
      return good;
    });
  }
  const std::vector<std::uint8_t>& finish() override {
    if (walk_.open) end_block();
    return out_;
  }

 private:
  // What was met last is written first.
  void end_block() {
    if (!walk_.open) return;
    std::uint32_t x[lanes];
    std::fill_n(x, lanes, fast_low);
    const std::size_t first = out_.size();
    const auto word = [&](std::uint32_t w) { out_.push_back(static_cast<std::uint8_t>(w >> 8)), out_.push_back(static_cast<std::uint8_t>(w)); };
    for (std::size_t i = known_; i-- > 0;) {
      const FastEvent e = events_[i];
      std::uint32_t& state = x[e.lane];
      if (state >> 16 >= e.frequency) word(state & 0xFFFF), state >>= 16;
      state = (state / e.frequency << 16) + state % e.frequency + e.start;
    }
    for (std::size_t lane = lanes; lane-- > 0;) word(x[lane] >> 16), word(x[lane] & 0xFFFF);
    std::reverse(out_.begin() + static_cast<std::ptrdiff_t>(first), out_.end());
    known_ = 0;
  }

  std::vector<std::uint8_t> out_{static_cast<std::uint8_t>(AdaptiveForm::fast)};
  std::vector<FastEvent> events_;  // of which so many are known
  std::size_t known_ = 0;
  Walk walk_;
};

class FastDecoder final : public AdaptiveDecoder {
 public:
  FastDecoder(const std::uint8_t* data, std::size_t nbytes) {
    const std::size_t kept = std::min<std::size_t>(nbytes, 2 * FastWords::margin);
    std::memcpy(words_.tail, data + (nbytes - kept), kept);
    words_.p = data, words_.turn = data + (nbytes - kept), words_.end = words_.tail + kept;
    ready(words_);
  }
  FastDecoder(const FastDecoder&) = delete;  // the words point into it
  std::size_t take(std::int32_t* values, const AdaptiveShape& shape) override {
    return walk_.walk(
        values, shape, [&] { return (!walk_.open || ended()) && begin_block(); },
        [&](FastRow& row, std::size_t at, std::size_t to) { return TP_CHOOSE(fast_body).decode(walk_.states, row, words_, at, to); });
  }
  bool beyond() const override { return words_.beyond; }
  bool done() const override { return !words_.beyond && words_.copied && words_.p == words_.end && (!walk_.open || ended()); }

 private:
  bool ended() const {
    return std::all_of(words_.x, words_.x + lanes, [](std::uint32_t state) { return state == fast_low; });
  }
  bool begin_block() {
    if (!ready(words_)) return false;
    for (std::uint32_t& state : words_.x) {
      state = words_.p[0] | std::uint32_t{words_.p[1]} << 8 | std::uint32_t{words_.p[2]} << 16 | std::uint32_t{words_.p[3]} << 24;
      words_.p += 4;
    }
    return ready(words_) && std::all_of(words_.x, words_.x + lanes, [](std::uint32_t state) { return state >= fast_low; });
  }

  FastWords words_{};
  Walk walk_;
};

}  // namespace

std::unique_ptr<AdaptiveEncoder> make_fast_encoder() { return std::make_unique<FastEncoder>(); }
std::unique_ptr<AdaptiveDecoder> make_fast_decoder(const std::uint8_t* data, std::size_t nbytes) { return std::make_unique<FastDecoder>(data, nbytes); }

}  // namespace tensorpress
