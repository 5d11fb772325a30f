#include "tensorpress/rans.h"

#include <algorithm>

namespace tensorpress {
namespace {

inline std::uint32_t load16(const std::uint8_t* p) { return p[0] | std::uint32_t(p[1]) << 8; }

inline void store16(std::uint8_t* p, std::uint32_t x) {
  p[0] = static_cast<std::uint8_t>(x);
  p[1] = static_cast<std::uint8_t>(x >> 8);
}

// Row of symbol i: a compile-time zero where there is no index.
struct OneRow {
  std::size_t operator[](std::size_t) const { return 0; }
};

template <class Symbol, class Rows>
std::size_t encode_run(const RansView& table, const Symbol* symbols, const Rows rows, std::size_t count,
                       std::size_t first, std::uint32_t* states, std::uint8_t* out, std::size_t end) {
  const RansStep* const steps = table.steps;
  const std::size_t width = table.symbols;
  const int shift = 32 - table.bits;
  const std::uint32_t total = 1u << table.bits;
  std::uint8_t* p = out + end;
  const auto put = [&](std::uint32_t x, std::size_t i) {
    const RansStep step = steps[rows[i] * width + symbols[i]];
    store16(p - 2, x);  // without a branch: the word counts only where the pointer moves past it
    const bool full = (x >> shift) >= total - step.complement;
    p -= full ? 2 : 0;
    x = full ? x >> 16 : x;
    const auto quotient = static_cast<std::uint32_t>(static_cast<unsigned __int128>(step.reciprocal) * x >> 64);
    return x + step.bias + quotient * step.complement;
  };
  std::size_t i = count;
  for (; i && (first + i) % rans_lanes; --i) states[(first + i - 1) % rans_lanes] = put(states[(first + i - 1) % rans_lanes], i - 1);
  std::uint32_t a = states[0], b = states[1], c = states[2], d = states[3];
  for (; i >= rans_lanes; i -= rans_lanes) {
    d = put(d, i - 1);
    c = put(c, i - 2);
    b = put(b, i - 3);
    a = put(a, i - 4);
  }
  states[0] = a, states[1] = b, states[2] = c, states[3] = d;
  for (; i; --i) states[(first + i - 1) % rans_lanes] = put(states[(first + i - 1) % rans_lanes], i - 1);
  return static_cast<std::size_t>(p - out);
}

template <class Symbol, class Rows>
std::size_t decode_run(const RansView& table, const std::uint8_t* data, std::size_t nbytes, std::size_t at,
                       const Rows rows, std::size_t count, std::size_t first, std::uint32_t* states, Symbol* out) {
  const std::uint32_t* const spans = table.spans;
  const std::uint16_t* const slots = table.slots;
  const std::size_t width = table.symbols;
  const int bits = table.bits;
  const std::uint32_t mask = (1u << bits) - 1;
  const auto advance = [&](std::uint32_t x, std::size_t i) {
    const std::size_t row = rows[i];
    const std::uint32_t slot = x & mask, symbol = slots[(row << bits) + slot], span = spans[row * width + symbol];
    out[i] = static_cast<Symbol>(symbol);
    return ((span & 0xFFFF) + 1) * (x >> bits) + slot - (span >> 16);
  };
  const auto careful = [&](std::size_t i) {  // one symbol, with the end of the data in sight
    std::uint32_t x = advance(states[(first + i) % rans_lanes], i);
    if (x < rans_low) {
      if (nbytes - at < 2) return false;
      x = x << 16 | load16(data + at);
      at += 2;
    }
    states[(first + i) % rans_lanes] = x;
    return true;
  };
  std::size_t i = 0;
  for (; i < count && (first + i) % rans_lanes; ++i)
    if (!careful(i)) return rans_cut;
  std::uint32_t a = states[0], b = states[1], c = states[2], d = states[3];
  const std::uint8_t* p = data + at;
  const auto refill = [&](std::uint32_t x) {  // without a branch: four words are known to be there
    const std::uint32_t word = load16(p);
    const bool low = x < rans_low;
    p += low ? 2 : 0;
    return low ? x << 16 | word : x;
  };
  for (; count - i >= rans_lanes && data + nbytes - p >= 8; i += rans_lanes) {
    a = advance(a, i);
    b = advance(b, i + 1);
    c = advance(c, i + 2);
    d = advance(d, i + 3);
    a = refill(a);
    b = refill(b);
    c = refill(c);
    d = refill(d);
  }
  states[0] = a, states[1] = b, states[2] = c, states[3] = d;
  at = static_cast<std::size_t>(p - data);
  for (; i < count; ++i)
    if (!careful(i)) return rans_cut;
  return at;
}

}  // namespace

bool rans_prepare(const std::uint32_t* cdf, std::size_t rows, std::size_t symbols, int bits, RansStep* steps,
                  std::uint32_t* spans, std::uint16_t* slots) {
  if (bits < 10 || bits > 16 || symbols == 0 || symbols > std::size_t{1} << bits) return false;
  const std::uint32_t total = 1u << bits;
  for (std::size_t row = 0; row < rows; ++row, cdf += symbols + 1, slots += total) {
    if (cdf[0] != 0 || cdf[symbols] != total) return false;
    for (std::size_t s = 0; s < symbols; ++s) {
      const std::uint32_t start = cdf[s], stop = cdf[s + 1];
      if (stop <= start || stop > total) return false;
      const std::uint32_t frequency = stop - start;
      // Exact for every x < 2^32: ceil(2^64 / f). For f = 1 it does not fit, so 2^64 - 1 gives x - 1 and the bias makes up for it.
      if (frequency == 1)
        *steps++ = {~std::uint64_t{0}, start + total - 1, total - 1};
      else
        *steps++ = {~std::uint64_t{0} / frequency + 1, start, total - frequency};
      *spans++ = start << 16 | (frequency - 1);
      std::fill(slots + start, slots + stop, static_cast<std::uint16_t>(s));
    }
  }
  return true;
}

template <class Symbol, class Index>
std::size_t rans_encode(const RansView& table, const Symbol* symbols, const Index* index, std::size_t count,
                        std::size_t first, std::uint32_t* states, std::uint8_t* out, std::size_t end) {
  return index ? encode_run(table, symbols, index, count, first, states, out, end)
               : encode_run(table, symbols, OneRow{}, count, first, states, out, end);
}

template <class Symbol, class Index>
std::size_t rans_decode(const RansView& table, const std::uint8_t* data, std::size_t nbytes, std::size_t at,
                        const Index* index, std::size_t count, std::size_t first, std::uint32_t* states, Symbol* out) {
  return index ? decode_run(table, data, nbytes, at, index, count, first, states, out)
               : decode_run(table, data, nbytes, at, OneRow{}, count, first, states, out);
}

#define TP_RANS(Symbol, Index)                                                                                          \
  template std::size_t rans_encode(const RansView&, const Symbol*, const Index*, std::size_t, std::size_t,              \
                                   std::uint32_t*, std::uint8_t*, std::size_t);                                         \
  template std::size_t rans_decode(const RansView&, const std::uint8_t*, std::size_t, std::size_t, const Index*,        \
                                   std::size_t, std::size_t, std::uint32_t*, Symbol*);
TP_RANS(std::uint8_t, std::uint8_t)
TP_RANS(std::uint8_t, std::uint16_t)
TP_RANS(std::uint16_t, std::uint8_t)
TP_RANS(std::uint16_t, std::uint16_t)
#undef TP_RANS

}  // namespace tensorpress
