// A payload around a kernel's stripes: head, stripe table with checks, stripes. FORMAT.md, section 3.
// The kernel says how one stripe is written and read; order, threads and checks are the same for all.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensorpress/crc32c.h"
#include "tensorpress/pool.h"

namespace tensorpress {

enum class Fault : int {
  none,
  not_finite,     // at: flat index of the value
  output_small,
  header_cut,
  header_flags,   // at: the flags
  payload_cut,
  length_wrong,
  no_transform,
  section_cut,
  padding,
  rest,           // at: bytes after the last cell
  stripe_check,
};

struct Outcome {
  Fault fault = Fault::none;
  std::int64_t nbytes = 0;  // written or read
  std::int64_t stripe = 0, cell = 0, at = 0;
};

constexpr std::int64_t output_slack = 64;  // a kernel may scribble so far past what it has written
constexpr int max_groups = 64;             // of stripes that are written side by side

inline void put32(std::uint8_t* p, std::uint32_t v) {
  for (int i = 0; i < 4; ++i) p[i] = std::uint8_t(v >> 8 * i);
}
inline std::uint32_t get32(const std::uint8_t* p) { return p[0] | p[1] << 8 | p[2] << 16 | std::uint32_t(p[3]) << 24; }

// The check of a stripe: over its number and its bytes, seeded with the head's check.
inline std::uint32_t stripe_check(std::uint32_t seed, std::int64_t stripe, const std::uint8_t* data, std::size_t nbytes) {
  std::uint8_t number[4];
  put32(number, std::uint32_t(stripe));
  return crc32c(data, nbytes, crc32c(number, 4, seed));
}

// Capacity that write_payload asks for, where no stripe takes more than `bound` bytes.
inline std::int64_t payload_capacity(std::size_t head_nbytes, std::int64_t stripes, std::int64_t bound) {
  return std::int64_t(head_nbytes) + stripes * (8 + bound) + output_slack * (max_groups + 1);
}

// encode(stripe, out) -> Outcome writes one stripe of at most `bound` bytes. Stripes stand side by side in the end, whatever the
// threads: each thread writes a run of them to where they lie at worst, then the runs move up.
template <class Encode>
Outcome write_payload(const std::uint8_t* head, std::size_t head_nbytes, std::int64_t stripes, std::int64_t bound, int threads,
                      std::uint8_t* out, std::int64_t capacity, Encode&& encode) {
  Outcome result;
  if (capacity < payload_capacity(head_nbytes, stripes, bound)) {
    result.fault = Fault::output_small;
    return result;
  }
  std::memcpy(out, head, head_nbytes);
  const std::uint32_t seed = crc32c(head, head_nbytes, 0);
  std::uint8_t* const table = out + head_nbytes;
  std::uint8_t* const body = table + 8 * stripes;
  const int groups = int(std::min<std::int64_t>(stripes, std::clamp(threads, 1, max_groups)));
  const auto first_of = [&](int group) { return stripes * group / groups; };
  const auto place_of = [&](int group) { return body + first_of(group) * bound + output_slack * group; };
  Outcome found[max_groups];
  parallel(groups, groups, [&](int group) {
    std::uint8_t* at = place_of(group);
    for (std::int64_t s = first_of(group); s < first_of(group + 1); ++s) {
      const Outcome written = encode(s, at);
      if (written.fault != Fault::none) {
        found[group] = written;
        return;
      }
      put32(table + 8 * s, std::uint32_t(written.nbytes));
      put32(table + 8 * s + 4, stripe_check(seed, s, at, std::size_t(written.nbytes)));
      at += written.nbytes;
    }
    found[group].nbytes = at - place_of(group);
  });
  std::uint8_t* end = body;
  for (int group = 0; group < groups; ++group) {
    if (found[group].fault != Fault::none) return found[group];
    if (group) std::memmove(end, place_of(group), std::size_t(found[group].nbytes));
    end += found[group].nbytes;
  }
  result.nbytes = end - out;
  return result;
}

// decode(stripe, data, nbytes) -> Outcome reads one stripe whose check is right. payload: whole, its table within it. The outcome is that
// of the first stripe at fault.
template <class Decode>
Outcome read_payload(const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes, std::int64_t stripes, int threads, Decode&& decode) {
  const std::uint32_t seed = crc32c(payload, head_nbytes, 0);
  const std::uint8_t* const table = payload + head_nbytes;
  const int groups = int(std::min<std::int64_t>(stripes, std::clamp(threads, 1, max_groups)));
  const auto first_of = [&](int group) { return stripes * group / groups; };
  Outcome found[max_groups];
  parallel(groups, groups, [&](int group) {
    const std::uint8_t* at = table + 8 * stripes;
    const std::uint8_t* const end = payload + nbytes;
    for (std::int64_t s = 0; s < first_of(group + 1); ++s) {
      const std::int64_t size = get32(table + 8 * s);
      Outcome read;
      if (size > end - at) {
        read.fault = Fault::payload_cut;
      } else if (s >= first_of(group)) {
        if (stripe_check(seed, s, at, std::size_t(size)) != get32(table + 8 * s + 4)) read.fault = Fault::stripe_check;
        else read = decode(s, at, size);
      }
      if (read.fault != Fault::none) {
        read.stripe = s;
        found[group] = read;
        return;
      }
      at += size;
    }
  });
  for (int group = 0; group < groups; ++group)
    if (found[group].fault != Fault::none) return found[group];
  return {};
}

}  // namespace tensorpress
