#include "tensorpress/payload.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "tensorpress/crc32c.h"
#include "tensorpress/pool.h"

namespace tensorpress {
namespace {

constexpr int max_groups = 64;  // of stripes that are read side by side
constexpr std::int64_t run_nbytes = 1 << 18;  // at worst, of the stripes that a thread encodes before it copies them: within its cache

void put32(std::uint8_t* p, std::uint32_t v) {
  for (int i = 0; i < 4; ++i) p[i] = std::uint8_t(v >> 8 * i);
}
std::uint32_t get32(const std::uint8_t* p) { return p[0] | p[1] << 8 | p[2] << 16 | std::uint32_t(p[3]) << 24; }

// The check of a stripe: over its number and its bytes, seeded with the head's check.
std::uint32_t stripe_check(std::uint32_t seed, std::int64_t number, const std::uint8_t* data, std::size_t nbytes) {
  std::uint8_t prefix[4];
  put32(prefix, std::uint32_t(number));
  return crc32c(data, nbytes, crc32c(prefix, 4, seed));
}

// Stripes fall into groups that follow one another, one for each thread.
struct Groups {
  std::int64_t stripes;
  int count;
  Groups(std::int64_t stripes, int threads) : stripes(stripes), count(int(std::min<std::int64_t>(stripes, std::clamp(threads, 1, max_groups)))) {}
  std::int64_t first_of(int group) const { return stripes * group / count; }
};

}  // namespace

bool read_index(const std::uint8_t* payload, std::int64_t nbytes, Index& index) {
  constexpr std::int64_t longest = std::int64_t{1} << 40;
  if (nbytes < 2 || payload[1] > 8) return false;
  index.dtype = payload[0], index.rank = payload[1];
  std::int64_t at = 2, size = 1;
  for (int axis = 0; axis < index.rank; ++axis) {
    std::int64_t dim = 0;
    int shift = 0;
    do {
      if (at == nbytes || shift > 35) return false;
      dim |= std::int64_t(payload[at] & 0x7F) << shift, shift += 7;
    } while (payload[at++] & 0x80);
    if (shift > 7 && payload[at - 1] == 0) return false;  // not its shortest form
    if (dim && size > longest / dim) return false;
    index.shape[axis] = dim, size *= dim ? dim : 1;
  }
  const int rank = index.rank;
  std::int64_t channels = 1;
  for (int axis = 0; axis < (rank > 2 ? rank - 2 : std::min(rank, 1)); ++axis) channels *= index.shape[axis];
  const std::int64_t rows = rank > 2 ? index.shape[rank - 2] : 1, columns = rank > 1 ? index.shape[rank - 1] : 1;
  index.head_nbytes = at;
  index.stripes = channels && columns ? (rows + stripe_rows - 1) / stripe_rows : 0;
  if (index.stripes > (nbytes - at) / 8) return false;
  index.stripes_nbytes = 0;
  for (std::int64_t s = 0; s < index.stripes; ++s) index.stripes_nbytes += get32(payload + at + 8 * s);
  return at + 8 * index.stripes + index.stripes_nbytes == nbytes;
}

PayloadTable::PayloadTable(const std::uint8_t* payload, std::size_t head_nbytes)
    : table_(payload + head_nbytes), head_nbytes_(head_nbytes), seed_(crc32c(payload, head_nbytes, 0)) {}

std::int64_t PayloadTable::nbytes_of(std::int64_t number) const { return get32(table_ + 8 * number); }

bool PayloadTable::good(std::int64_t number, const std::uint8_t* stripe, std::size_t nbytes) const {
  return stripe_check(seed_, number, stripe, nbytes) == get32(table_ + 8 * number + 4);
}

void PayloadTable::put(std::uint8_t* payload, std::int64_t number, const std::uint8_t* stripe, std::size_t nbytes) const {
  std::uint8_t* const entry = payload + head_nbytes_ + 8 * number;
  put32(entry, std::uint32_t(nbytes));
  put32(entry + 4, stripe_check(seed_, number, stripe, nbytes));
}

std::int64_t max_payload_nbytes(const MapKernel& kernel, const MapView& map, std::size_t head_nbytes) {
  const std::int64_t stripes = stripe_count(map);
  return std::int64_t(head_nbytes) + (stripes ? stripes * (8 + kernel.max_stripe_nbytes(map)) : 0) + output_slack;
}

namespace {

// Stripes first … last - 1 one after another at `to`; the outcome's nbytes are those of all.
Outcome encode_run(const MapKernel& kernel, const MapView& map, const PayloadTable& table, std::uint8_t* payload, std::int64_t first, std::int64_t last,
                   std::uint8_t* const to) {
  Outcome run;
  for (std::int64_t s = first; s < last && !stop_asked(); ++s) {
    const Outcome written = kernel.encode(map, s, to + run.nbytes);
    if (written.fault != Fault::none) return written;
    table.put(payload, s, to + run.nbytes, std::size_t(written.nbytes));
    run.nbytes += written.nbytes;
  }
  return run;
}

}  // namespace

// One thread writes where the bytes stay. Several take runs of stripes in turn, each into memory of its own, and copy them to where the
// run before ends, which is known as soon as that one is encoded: nobody waits for a copy.
Outcome encode_payload(const MapKernel& kernel, const MapView& map, const std::uint8_t* head, std::size_t head_nbytes, std::uint8_t* out,
                       std::int64_t capacity, int threads) {
  Outcome result;
  if (capacity < max_payload_nbytes(kernel, map, head_nbytes)) {
    result.fault = Fault::output_small;
    return result;
  }
  std::memcpy(out, head, head_nbytes);
  const PayloadTable table(out, head_nbytes);
  const std::int64_t stripes = stripe_count(map), bound = stripes ? kernel.max_stripe_nbytes(map) : 0;
  std::uint8_t* const body = out + head_nbytes + 8 * stripes;
  if (threads <= 1 || stripes <= 1) {
    result = encode_run(kernel, map, table, out, 0, stripes, body);
    if (result.fault == Fault::none) result.nbytes += body - out;
    return result;
  }
  const std::int64_t run = std::clamp<std::int64_t>(run_nbytes / std::max<std::int64_t>(bound, 1), 1, (stripes + 4 * threads - 1) / (4 * threads));
  const int count = int((stripes + run - 1) / run);
  std::vector<Outcome> found(std::size_t(count), Outcome{});
  std::vector<std::atomic<std::int64_t>> begin(std::size_t(count) + 1);  // of each run in the body; -1: not known yet
  for (auto& at : begin) at.store(-1, std::memory_order_relaxed);
  begin[0].store(0);
  parallel(count, threads, [&](int number) {
    thread_local std::vector<std::uint8_t> memory;
    memory.resize(std::max(memory.size(), std::size_t(run * bound + output_slack)));
    const std::int64_t first = number * run, last = std::min(first + run, stripes);
    Outcome& mine = found[std::size_t(number)] = encode_run(kernel, map, table, out, first, last, memory.data());
    const std::int64_t nbytes = mine.fault == Fault::none ? mine.nbytes : 0;
    std::int64_t at;
    while ((at = begin[std::size_t(number)].load(std::memory_order_acquire)) < 0) std::this_thread::yield();  // runs are taken in order: it is under way
    begin[std::size_t(number) + 1].store(at + nbytes, std::memory_order_release);
    std::memcpy(body + at, memory.data(), std::size_t(nbytes));
  });
  for (const Outcome& one : found)
    if (one.fault != Fault::none) return one;
  result.nbytes = body - out + begin.back().load();
  return result;
}

Outcome decode_payload(const MapKernel& kernel, const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes, const MapView& map,
                       int threads) {
  const std::int64_t stripes = stripe_count(map);
  if (std::int64_t(head_nbytes) + 8 * stripes > nbytes) {
    Outcome result;
    result.fault = Fault::payload_cut;
    return result;
  }
  const PayloadTable table(payload, head_nbytes);
  const Groups groups(stripes, threads);
  Outcome found[max_groups];
  parallel(groups.count, groups.count, [&](int group) {
    const std::uint8_t* at = payload + head_nbytes + 8 * stripes;
    const std::uint8_t* const end = payload + nbytes;
    for (std::int64_t s = 0; s < groups.first_of(group + 1) && !stop_asked(); ++s) {
      const std::int64_t size = table.nbytes_of(s);
      Outcome read;
      if (size > end - at) {
        read.fault = Fault::payload_cut;
      } else if (s >= groups.first_of(group)) {
        if (!table.good(s, at, std::size_t(size))) read.fault = Fault::stripe_check;
        else read = kernel.decode(at, size, map, s);
      }
      if (read.fault != Fault::none) {
        read.stripe = s;
        found[group] = read;
        return;
      }
      at += size;
    }
  });
  for (int group = 0; group < groups.count; ++group)
    if (found[group].fault != Fault::none) return found[group];
  return {};
}

}  // namespace tensorpress
