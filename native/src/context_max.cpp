// Stripes of the context codec's back-end `max`, cut into parts and spread over threads.
#include "tensorpress/context_max.h"

#include <algorithm>

#include "tensorpress/isa.h"
#include "tensorpress/pool.h"

namespace tensorpress {
namespace {

const MaxBody& body() {
#if defined(TP_X86)
  return choose(scalar::max_body, avx2::max_body, avx512::max_body);
#else
  return scalar::max_body;
#endif
}

MaxTask task_of(const MapView& map, const float* before, std::int64_t stripe, int part) {
  const std::int64_t row = stripe * stripe_rows;
  return {&map, before, row, static_cast<int>(std::min<std::int64_t>(stripe_rows, map.rows - row)), part};
}

}  // namespace

void max_encode(const MaxModel& model, const MapView& map, const float* before, int threads, const double* lagrangian, double rounding,
                std::vector<std::vector<std::uint8_t>>& stripes, const MapView* decoded, const MaxTrace& trace) {
  const std::size_t parts = static_cast<std::size_t>(model.parts), count = static_cast<std::size_t>(stripe_count(map));
  std::vector<std::vector<std::uint8_t>> found(count * parts);
  parallel(static_cast<int>(found.size()), threads, [&](int i) {
    const std::int64_t stripe = i / model.parts;
    body().encode(model, task_of(map, before, stripe, i % model.parts), {lagrangian[stripe], rounding}, found[static_cast<std::size_t>(i)], decoded, trace);
  });
  stripes.resize(count);
  for (std::size_t s = 0; s < count; ++s) {
    std::vector<std::uint8_t>* const part = found.data() + s * parts;
    stripes[s] = std::move(part[parts - 1]);
    if (std::all_of(part, part + parts - 1, [](const auto& p) { return p.empty(); }) && stripes[s].empty()) continue;  // nothing but zeros
    std::vector<std::uint8_t> whole;
    for (std::size_t p = 0; p + 1 < parts; ++p) {
      for (int i = 0; i < 4; ++i) whole.push_back(static_cast<std::uint8_t>(part[p].size() >> 8 * i));
      whole.insert(whole.end(), part[p].begin(), part[p].end());
    }
    stripes[s].insert(stripes[s].begin(), whole.begin(), whole.end());
  }
}

std::int64_t max_decode(const MaxModel& model, const std::vector<MaxBytes>& stripes, const float* before, int threads, const MapView& map) {
  std::vector<MaxBytes> part(stripes.size() * static_cast<std::size_t>(model.parts), MaxBytes{nullptr, 0});
  std::vector<std::uint8_t> good(part.size(), 1);
  for (std::size_t s = 0; s < stripes.size(); ++s) {
    const std::uint8_t* at = stripes[s].data;
    std::size_t left = stripes[s].nbytes;
    if (left == 0) continue;
    for (int p = 0; p + 1 < model.parts; ++p) {
      std::size_t size = 0;
      for (std::size_t i = 0; i < 4 && left >= 4; ++i) size |= std::size_t{at[i]} << 8 * i;
      if (left < 4 || size > left - 4) return static_cast<std::int64_t>(s);
      part[s * model.parts + p] = {at + 4, size};
      at += 4 + size, left -= 4 + size;
    }
    part[(s + 1) * model.parts - 1] = {at, left};
  }
  parallel(static_cast<int>(part.size()), threads, [&](int i) {
    good[i] = body().decode(model, task_of(map, before, i / model.parts, i % model.parts), part[i].data, part[i].nbytes);
  });
  const auto bad = std::find(good.begin(), good.end(), 0);
  return bad == good.end() ? -1 : (bad - good.begin()) / model.parts;
}

}  // namespace tensorpress
