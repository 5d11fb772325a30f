// Canonical Huffman codes: lengths that are no complete code are refused; the bits of what was decoded are those of its symbols.
#include "input.h"
#include "tensorpress/huffman.h"

using namespace fuzz;
using namespace tensorpress;

namespace {

struct Tables {
  std::vector<std::uint32_t> codes, limits;
  std::vector<std::uint64_t> quick;
  std::vector<std::int32_t> places;
  std::vector<std::uint16_t> sorted;
  HuffmanView view{};
  bool good = false;
};

std::unique_ptr<Tables> tables_of(Input& in) {
  auto t = std::make_unique<Tables>();
  const std::size_t rows = std::size_t(1 + in.below(3)), symbols = in.within<std::uint16_t>(1, 300);
  const bool as_it_comes = in.below(4) == 0, lean = in.below(2);
  Bytes lengths;
  for (std::size_t row = 0; row < rows; ++row) {
    Bytes own(as_it_comes ? 0 : 1, 0);
    while (!as_it_comes && own.size() < symbols) {  // a leaf becomes two
      const std::size_t at = lean ? own.size() - 1 - std::size_t(in.below(2)) % own.size() : in.number<std::uint16_t>() % own.size();
      std::size_t leaf = at;
      while (own[leaf] >= huffman_longest) leaf = (leaf + 1) % own.size();
      own.push_back(++own[leaf]);
    }
    while (own.size() < symbols) own.push_back(std::uint8_t(in.below(17)));
    lengths.insert(lengths.end(), own.begin(), own.end());
  }
  t->codes.resize(rows * symbols), t->sorted.resize(rows * symbols), t->quick.resize(rows << huffman_quick), t->limits.resize(rows * 16), t->places.resize(rows * 16);
  t->good = huffman_prepare(lengths.data(), rows, symbols, t->codes.data(), t->quick.data(), t->limits.data(), t->places.data(), t->sorted.data());
  must(t->good || as_it_comes, "a complete code is refused");
  t->view = {rows, symbols, t->codes.data(), t->quick.data(), t->limits.data(), t->places.data(), t->sorted.data()};
  return t;
}

Bytes bits_of(const Bytes& data, std::size_t first, std::size_t last) {
  Bytes found;
  for (std::size_t bit = first; bit < last; ++bit) found.push_back(data[bit / 8] >> (7 - bit % 8) & 1);
  return found;
}

template <class Symbol, class Index>
void coded(Input& in, const HuffmanView& table) {
  const std::size_t count = in.within<std::uint16_t>(0, 400), bit = std::size_t(in.below(32));
  std::vector<Index> index(count);
  for (std::size_t i = 0; i < count; ++i) index[i] = Index(i * i % 7 % table.rows);
  const Index* const rows = in.below(2) ? index.data() : nullptr;
  const Bytes data = in.rest();
  if (bit > 8 * data.size()) return;
  std::vector<Symbol> symbols(count), again(count);
  const std::size_t end = huffman_decode(table, begin_of(data), data.size(), bit, rows, count, symbols.data());
  if (end == huffman_cut) return;
  must(end <= 8 * data.size(), "read beyond the data");
  Bytes out((bit + huffman_longest * count) / 8 + huffman_slack);
  std::copy_n(data.begin(), bit / 8, out.begin());
  if (bit % 8) out[bit / 8] = std::uint8_t(data[bit / 8] >> (8 - bit % 8) << (8 - bit % 8));
  must(huffman_encode(table, symbols.data(), rows, count, begin_of(out), bit) == end, "the codes of what was decoded have another length");
  must(bits_of(out, 0, end) == bits_of(data, 0, end), "the codes of what was decoded are others");
  out.resize((end + 7) / 8);
  must(huffman_decode(table, begin_of(out), out.size(), bit, rows, count, begin_of(again)) == end && again == symbols, "symbols do not come back");
}

}  // namespace

TARGET(in) {
  std::unique_ptr<Tables> own;
  const Tables& tables = kept<Tables>(in, own, tables_of);
  if (!tables.good) return;
  const int kind = in.below(4);
  if (tables.view.symbols > 256 || kind == 3) return kind & 1 ? coded<std::uint16_t, std::uint8_t>(in, tables.view) : coded<std::uint16_t, std::uint16_t>(in, tables.view);
  return kind & 1 ? coded<std::uint8_t, std::uint16_t>(in, tables.view) : coded<std::uint8_t, std::uint8_t>(in, tables.view);
}
