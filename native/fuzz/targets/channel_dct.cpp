// The fixed profile of `dct_cm`: a DCT over channels, and planes of fixed width.
#include "stripe.h"
#include "tensorpress/channel_dct.h"

using namespace fuzz;

namespace {

struct Rules {
  ChannelDctRules dct{};
  Bytes keep;
};

std::unique_ptr<Rules> rules_of(Input& in) {
  auto r = std::make_unique<Rules>();
  ChannelDctRules& d = r->dct;
  const LevelTables levels = level_tables(in);
  d.zero = levels.tables.zero, d.length = in.below(5) ? 4 << in.below(4) : 0, d.fraction = in.below(5), d.same = levels.tables.same;
  std::memcpy(d.symbol_of, levels.tables.word_of, 256);
  std::memcpy(d.level_of, levels.tables.level_of, 256);
  for (int k = 0; k < d.length; ++k)
    d.multiplier[k] = in.number<std::uint16_t>(), d.offset[k] = in.number<std::uint16_t>(), d.backward[k] = in.number<std::int16_t>();
  const int masked = in.below(2), groups = 1 + in.below(in.endless() ? 3 : 16);
  for (int i = 0; i < groups * std::max(d.length, 1); ++i) r->keep.push_back(std::uint8_t(!masked || in.below(4)));
  d.keep = r->keep.data(), d.keep_size = std::int64_t(r->keep.size());
  d.keeps_all = std::count(r->keep.begin(), r->keep.end(), 0) == 0;
  return r;
}

}  // namespace

TARGET(in) {
  const auto bodies = BODIES(channel_dct_body, in);
  std::unique_ptr<Rules> own;
  const Rules& rules = kept<Rules>(in, own, rules_of);
  const Shape shape = shape_of(in, 1 << 12);
  stripe(in, shape, rules.dct, ChannelDct(rules.dct), bodies, false);
}
