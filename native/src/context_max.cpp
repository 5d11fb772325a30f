// Stripes of the context codec's back-end `max`, cut into parts and spread over threads.
#include "tensorpress/context_max.h"

#include <algorithm>

#include "tensorpress/isa.h"
#include "tensorpress/pool.h"

namespace tensorpress {
namespace {

// The parts of a map, stripe by stripe.
struct Parts {
  const MapView& map;
  const float* before;
  std::int64_t whole, parts, stripes, count;
  Parts(const MaxModel& model, const MapView& map_, const float* before_, std::int64_t whole_)
      : map(map_), before(before_), whole(whole_), parts(model.parts_of(map.columns)), stripes(stripe_count(map)), count(first_of(stripes)) {}
  std::int64_t first_of(std::int64_t stripe) const { return std::min(stripe, whole) + std::max<std::int64_t>(stripe - whole, 0) * parts; }
  std::int64_t stripe_of(std::int64_t number) const { return number < whole ? number : whole + (number - whole) / parts; }
  MaxTask task(std::int64_t number) const {
    const std::int64_t stripe = stripe_of(number), here = stripe < whole ? 1 : parts, part = number - first_of(stripe), row = stripe * stripe_rows;
    const std::int64_t column = map.columns * part / here, end = map.columns * (part + 1) / here;
    return {&map, before, row, column, static_cast<int>(std::min<std::int64_t>(stripe_rows, map.rows - row)), static_cast<int>(end - column)};
  }
};

}  // namespace

void max_encode(const MaxModel& model, const MapView& map, const float* before, std::int64_t whole, int threads, const double* lagrangian, double rounding,
                std::vector<std::vector<std::uint8_t>>& stripes, const MapView* decoded, const MaxTrace& trace) {
  const Parts parts(model, map, before, whole);
  std::vector<std::vector<std::uint8_t>> found(static_cast<std::size_t>(parts.count));
  parallel(static_cast<int>(parts.count), threads, [&](int i) {
    TP_CHOOSE(max_body).encode(model, parts.task(i), {lagrangian[parts.stripe_of(i)], rounding}, found[static_cast<std::size_t>(i)], decoded, trace);
  });
  stripes.assign(static_cast<std::size_t>(parts.stripes), {});
  for (std::int64_t s = 0; s < parts.stripes; ++s) {
    const auto begin = found.begin() + parts.first_of(s), last = found.begin() + parts.first_of(s + 1) - 1;
    std::vector<std::uint8_t>& out = stripes[static_cast<std::size_t>(s)];
    if (std::all_of(begin, last + 1, [](const auto& part) { return part.empty(); })) continue;  // nothing but zeros
    for (auto part = begin; part != last; ++part) {
      for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(part->size() >> 8 * i));
      out.insert(out.end(), part->begin(), part->end());
    }
    if (out.empty()) out = std::move(*last);
    else out.insert(out.end(), last->begin(), last->end());
  }
}

std::int64_t max_decode(const MaxModel& model, const std::vector<MaxBytes>& stripes, const float* before, std::int64_t whole, int threads, const MapView& map) {
  const Parts parts(model, map, before, whole);
  std::vector<MaxBytes> part(static_cast<std::size_t>(parts.count), MaxBytes{nullptr, 0});
  for (std::int64_t s = 0; s < parts.stripes; ++s) {
    const std::uint8_t* at = stripes[static_cast<std::size_t>(s)].data;
    std::size_t left = stripes[static_cast<std::size_t>(s)].nbytes;
    if (left == 0) continue;
    const std::int64_t last = parts.first_of(s + 1) - 1;
    for (std::int64_t p = parts.first_of(s); p < last; ++p) {
      std::size_t size = 0;
      for (std::size_t i = 0; i < 4 && left >= 4; ++i) size |= std::size_t{at[i]} << 8 * i;
      if (left < 4 || size > left - 4) return s;
      part[static_cast<std::size_t>(p)] = {at + 4, size};
      at += 4 + size, left -= 4 + size;
    }
    part[static_cast<std::size_t>(last)] = {at, left};
  }
  std::vector<std::uint8_t> good(part.size(), 1);
  parallel(static_cast<int>(parts.count), threads, [&](int i) {
    const std::size_t number = static_cast<std::size_t>(i);
    good[number] = TP_CHOOSE(max_body).decode(model, parts.task(i), part[number].data, part[number].nbytes);
  });
  const auto bad = std::find(good.begin(), good.end(), 0);
  return bad == good.end() ? -1 : parts.stripe_of(bad - good.begin());
}

}  // namespace tensorpress
