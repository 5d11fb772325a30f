// What a lane holds is a cell; cells of one group may lie anywhere in the map, so weights differ from lane to lane.
// Sums over earlier channels and the reference are made ahead for a whole channel of a cell (values side by side); then the
// values of all lanes are decoded in turn (lanes side by side), and turned back. An encoder knows all values: its classes are
// made cell by cell, and lanes serve its states alone.
#include "tensorpress/context_lanes.h"

#include "tensorpress/isa.h"
#include "tensorpress/pool.h"

#if defined(__AVX512VBMI2__)
#include "context_lanes/decoder.h"
#include "context_lanes/encoder.h"

namespace tensorpress {
namespace {

// Work of about as much for each thread, and no less than a group.
int parts_of(size_t cells, int threads) { return int(std::clamp<size_t>(cells / lanes, 1, size_t(std::max(threads, 1)))); }

uint32_t get16(const uint8_t* p) { return p[0] | uint32_t{p[1]} << 8; }

}  // namespace

bool context_lanes(const ContextModel& m, std::int64_t rows, std::int64_t columns) {
  return isa() == Isa::avx512 && m.lanes.usable && std::min<int64_t>(rows, side) * std::min<int64_t>(columns, side) > block;
}

std::int64_t context_lanes_capacity(const ContextModel& m, std::int64_t rows, std::int64_t columns, std::size_t head_nbytes) {
  const int64_t blocks = (int64_t(m.channels) + block - 1) / block, stripes = (rows + side - 1) / side, across = (columns + side - 1) / side;
  return int64_t(head_nbytes) + 8 * stripes + 2 * blocks * stripes * across + int64_t(m.channels) * rows * columns;
}

std::int64_t context_lanes_encode(const ContextModel& m, const MapView& x, const MapView* before, const std::uint8_t* head,
                                  std::size_t head_nbytes, std::uint8_t* out, int threads) {
  std::vector<Cell> cells = cells_of(m, x.rows, x.columns);
  std::vector<uint32_t> order(cells.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = uint32_t(i);
  order = in_groups(cells, std::move(order));
  const std::unique_ptr<uint8_t[]> bodies(new uint8_t[size_t(x.channels * x.rows * x.columns)]);  // touched only where written
  const int parts = parts_of(cells.size(), threads);
  parallel(parts, parts, [&](int part) {
    const size_t first = cells.size() * part / parts;
    uint32_t room = 0;  // of the parts before
    for (size_t i = 0; i < first; ++i) room += uint32_t(cells[order[i]].values());
    Encoder encoder(m, x, before, cells, bodies.get(), room);
    for (size_t i = first; i < cells.size() * (part + 1) / parts && !stop_asked(); ++i) encoder.take(order[i]);
    encoder.flush();
  });
  std::memcpy(out, head, head_nbytes);
  const int64_t stripes = stripe_count(x);
  const PayloadTable table(out, head_nbytes);
  const size_t each = stripes ? cells.size() / size_t(stripes) : 0;  // cells of a stripe
  std::vector<int64_t> begin(size_t(stripes) + 1, int64_t(head_nbytes) + 8 * stripes);
  for (size_t s = 0; s < size_t(stripes); ++s) {
    int64_t nbytes = 0;
    for (size_t i = s * each; i < (s + 1) * each; ++i) nbytes += cells[i].nbytes;
    begin[s + 1] = begin[s] + (nbytes ? nbytes + 2 * int64_t(each) : 0);  // nothing but zeros has no bytes
  }
  parallel(int(stripes), threads, [&](int stripe) {
    const size_t s = size_t(stripe);
    uint8_t* at = out + begin[s];
    const bool any = begin[s + 1] > begin[s];
    for (size_t i = s * each; i < (s + 1) * each && any; ++i) *at++ = uint8_t(cells[i].entry), *at++ = uint8_t(cells[i].entry >> 8);
    for (size_t i = s * each; i < (s + 1) * each; ++i) {
      std::memcpy(at, bodies.get() + cells[i].at, cells[i].nbytes);
      at += cells[i].nbytes;
    }
    table.put(out, stripe, out + begin[s], size_t(begin[s + 1] - begin[s]));
  });
  return begin.back();
}

Outcome context_lanes_decode(const ContextModel& m, const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes,
                             const MapView* before, const MapView& out, int threads) {
  std::vector<Cell> cells = cells_of(m, out.rows, out.columns);
  std::vector<uint32_t> order;
  std::vector<uint8_t> stripe_good(size_t(stripe_count(out)), 1);
  const int64_t stripes = stripe_count(out);
  const PayloadTable table(payload, head_nbytes);
  int64_t at = int64_t(head_nbytes) + 8 * stripes;
  size_t cell = 0;
  Outcome outcome;
  const auto fail = [&](Fault fault, int64_t stripe) {
    outcome.fault = fault, outcome.stripe = stripe;
    return outcome;
  };
  for (int64_t s = 0; s < stripes; ++s) {
    const int64_t size = table.nbytes_of(s), end = at + size;
    if (end > nbytes) return fail(Fault::payload_cut, s);
    if (!table.good(s, payload + at, size_t(size))) return fail(Fault::stripe_check, s);
    const size_t first = cell;
    while (cell < cells.size() && cells[cell].stripe == s) ++cell;
    const int64_t sizes = at;
    if (size) {
      at += 2 * int64_t(cell - first);
      if (at > end) return fail(Fault::section_cut, s);
    }
    for (size_t i = first; i < cell; ++i) {
      Cell& c = cells[i];
      c.entry = size ? get16(payload + sizes + 2 * int64_t(i - first)) : 0;
      c.nbytes = c.entry & 0x8000 ? c.entry & 0x7FFF : 2 * c.entry;
      c.at = uint32_t(at);
      const bool raw = c.entry & 0x8000;
      if (c.nbytes > end - at || (raw && int(c.nbytes) != c.values()) || (!raw && c.entry == 1)) return fail(Fault::section_cut, s);
      at += c.nbytes;
      order.push_back(uint32_t(i));
    }
    if (at != end) return fail(Fault::length_wrong, s);
  }
  order = in_groups(cells, std::move(order));
  const auto coded = std::stable_partition(order.begin(), order.end(), [&](uint32_t c) { return cells[c].entry != 0 && !(cells[c].entry & 0x8000); });
  const int count = int(coded - order.begin()), groups = (count + strands * lanes - 1) / (strands * lanes), known = int(order.end() - coded);
  constexpr int share = 256;  // of cells that need no decoding
  std::vector<uint8_t> good(order.size(), 1);
  parallel(groups + (known + share - 1) / share, threads, [&](int item) {
    Decoder decoder(m, before, out, payload, nbytes);
    if (item < groups) {
      const int first = item * strands * lanes;
      decoder.decode(cells, &order[size_t(first)], std::min(strands * lanes, count - first), &good[size_t(first)]);
    } else {
      const int first = count + (item - groups) * share;
      for (int i = first; i < std::min(first + share, count + known); ++i) good[size_t(i)] = decoder.copy(cells[order[size_t(i)]]);
    }
  });
  for (size_t i = 0; i < order.size(); ++i)
    if (!good[i]) stripe_good[size_t(cells[order[i]].stripe)] = 0;
  for (int64_t s = 0; s < stripes; ++s)
    if (!stripe_good[size_t(s)]) return fail(Fault::length_wrong, s);
  return outcome;
}

}  // namespace tensorpress

#else  // another processor: no lanes

namespace tensorpress {

bool context_lanes(const ContextModel&, std::int64_t, std::int64_t) { return false; }
std::int64_t context_lanes_capacity(const ContextModel&, std::int64_t, std::int64_t, std::size_t) { return 0; }
std::int64_t context_lanes_encode(const ContextModel&, const MapView&, const MapView*, const std::uint8_t*, std::size_t, std::uint8_t*, int) { return 0; }
Outcome context_lanes_decode(const ContextModel&, const std::uint8_t*, std::int64_t, std::size_t, const MapView*, const MapView&, int) { return {}; }

}  // namespace tensorpress

#endif

bool tensorpress::context_exact(const ContextModel& m) { return m.lanes.exact; }
