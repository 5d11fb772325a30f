// Static rANS in lanes: 4, 32 or 64 of them, by the number of values; with an escape or without.
#include "stripe.h"
#include "tensorpress/rans_lanes.h"

using namespace fuzz;

namespace {

struct Tables {
  LaneTables lanes;
  bool good, lossless;
};

std::unique_ptr<Tables> tables_of(Input& in) {
  auto found = std::make_unique<Tables>();
  const int bits = 11 + in.below(2), symbols = in.within<std::uint16_t>(2, 256), kind = in.below(4);
  const std::uint32_t escape = in.within<std::uint16_t>(0, kind < 2 ? 4096 : 300);
  std::vector<std::uint32_t> frequencies(std::size_t(symbols), 0);
  std::uint32_t left = (1u << bits) - escape;
  for (int s = 0; s < symbols && escape <= 1u << bits; ++s) {  // 0 stands for a rare one
    const std::uint32_t most = std::min<std::uint32_t>(left, kind == 1 ? left : 1 + 4 * left / std::uint32_t(symbols));
    frequencies[std::size_t(s)] = s + 1 == symbols && kind > 1 ? left : in.within<std::uint16_t>(0, most);
    left -= frequencies[std::size_t(s)];
  }
  const int zero = in.byte();
  LaneTables& t = found->lanes;
  t.bytes.zero = zero;
  for (int i = 0; i < 256; ++i) {  // as the largest levels share a symbol where there are few
    t.bytes.word_of[i] = std::uint8_t(std::min((i - zero) & 255, symbols - 1));
    t.bytes.level_of[i] = std::uint8_t(i + zero);
  }
  t.bytes.same = zero == 0 && symbols == 256;
  found->lossless = true;
  found->good = lane_tables(frequencies.data(), symbols, escape, bits, t);
  for (const std::uint8_t word : t.bytes.word_of) found->good = found->good && t.known[word];
  return found;
}

}  // namespace

TARGET(in) {
  const auto bodies = BODIES(laned_rans_body, in);
  std::unique_ptr<Tables> own;
  const Tables& tables = kept<Tables>(in, own, tables_of);
  if (!tables.good) return;
  const Shape shape = shape_of(in, 1 << 16);
  stripe(in, shape, tables.lanes, LanedRans(tables.lanes), bodies, tables.lossless);
}
