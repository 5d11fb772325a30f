// Interleaved static rANS with several rows of tables. Decoding and encoding are inverses of each other, state by state and word by word.
#include "input.h"
#include "tensorpress/rans.h"

using namespace fuzz;
using namespace tensorpress;

namespace {

struct Tables {
  std::vector<RansStep> steps;
  std::vector<std::uint32_t> spans;
  std::vector<std::uint16_t> slots;
  RansView view{};
  bool good = false;
};

std::unique_ptr<Tables> tables_of(Input& in) {
  auto t = std::make_unique<Tables>();
  const int bits = 10 + in.below(7);
  const std::size_t rows = std::size_t(1 + in.below(4)), symbols = in.within<std::uint16_t>(1, 300);
  const int kind = in.below(4);
  std::vector<std::uint32_t> cdf;
  for (std::size_t row = 0; row < rows; ++row) {
    std::uint32_t at = 0;
    for (std::size_t s = 0; s < symbols; ++s) {
      cdf.push_back(at);
      const std::int64_t left = (std::int64_t{1} << bits) - at - std::int64_t(symbols - s - 1);
      at += kind == 0 ? in.number<std::uint16_t>() : in.within<std::uint16_t>(1, std::max<std::int64_t>(kind == 1 ? left : 3 * left / std::int64_t(symbols), 1));
    }
    cdf.push_back(kind == 0 && in.below(2) ? at : 1u << bits);
  }
  t->steps.resize(rows * symbols), t->spans.resize(rows * symbols), t->slots.resize(rows << bits);
  t->good = rans_prepare(cdf.data(), rows, symbols, bits, t->steps.data(), t->spans.data(), t->slots.data());
  t->view = {bits, rows, symbols, t->steps.data(), t->spans.data(), t->slots.data()};
  return t;
}

template <class Symbol, class Index>
void coded(Input& in, const RansView& table) {
  const std::size_t count = in.within<std::uint16_t>(0, 400), first = std::size_t(in.below(4));
  std::vector<Index> index(count);
  for (std::size_t i = 0; i < count; ++i) index[i] = Index(i * i % 7 % table.rows);
  const Index* const rows = in.below(2) ? index.data() : nullptr;
  std::uint32_t states[rans_lanes], before[rans_lanes];
  std::vector<Symbol> symbols(count);
  Bytes words;
  if (in.below(2)) {  // encode what the input says
    for (std::size_t i = 0; i < count; ++i) symbols[i] = Symbol(in.within<std::uint16_t>(0, std::int64_t(table.symbols) - 1));
    std::fill(states, states + rans_lanes, rans_low);
    Bytes out(2 * count);
    const std::size_t begin = rans_encode(table, symbols.data(), rows, count, first, states, begin_of(out), out.size());
    std::vector<Symbol> found(count);
    must(rans_decode(table, begin_of(out), out.size(), begin, rows, count, first, states, begin_of(found)) == out.size() && found == symbols, "symbols do not come back");
    for (const std::uint32_t state : states) must(state == rans_low, "a state does not come back");
    return;
  }
  const std::size_t skipped = std::size_t(in.below(4));
  for (std::uint32_t& state : states) state = std::max(in.number<std::uint32_t>(), rans_low);
  std::copy(states, states + rans_lanes, before);
  words = in.rest();
  if (skipped > words.size()) return;
  const std::size_t end = rans_decode(table, begin_of(words), words.size(), skipped, rows, count, first, states, symbols.data());
  if (end == rans_cut) return;
  must(end <= words.size(), "read beyond the data");
  Bytes out(2 * count);
  const std::size_t begin = rans_encode(table, symbols.data(), rows, count, first, states, begin_of(out), out.size());
  must(std::equal(states, states + rans_lanes, before), "encoding is not the inverse: states");
  must(Bytes(out.begin() + std::ptrdiff_t(begin), out.end()) == Bytes(words.begin() + std::ptrdiff_t(skipped), words.begin() + std::ptrdiff_t(end)), "encoding is not the inverse: words");
}

}  // namespace

TARGET(in) {
  std::unique_ptr<Tables> own;
  const Tables& tables = kept<Tables>(in, own, tables_of);
  if (!tables.good) return;
  const int kind = in.below(4);
  if (tables.view.symbols > 256) return kind & 1 ? coded<std::uint16_t, std::uint8_t>(in, tables.view) : coded<std::uint16_t, std::uint16_t>(in, tables.view);
  if (kind & 1) return kind & 2 ? coded<std::uint8_t, std::uint16_t>(in, tables.view) : coded<std::uint8_t, std::uint8_t>(in, tables.view);
  return kind & 2 ? coded<std::uint16_t, std::uint16_t>(in, tables.view) : coded<std::uint16_t, std::uint8_t>(in, tables.view);
}
