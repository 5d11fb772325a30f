#include "tensorpress/huffman.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

namespace tensorpress {
namespace {

constexpr int quick_symbols = 3;

std::uint64_t quick_entry(std::uint64_t symbols, unsigned first, unsigned all, unsigned count) {
  return symbols | std::uint64_t(first) << 48 | std::uint64_t(all) << 52 | std::uint64_t(count) << 56;
}
inline unsigned first_length(std::uint64_t entry) { return entry >> 48 & 15; }
inline unsigned all_lengths(std::uint64_t entry) { return entry >> 52 & 15; }
inline unsigned symbols_in(std::uint64_t entry) { return static_cast<unsigned>(entry >> 56); }

inline std::uint64_t load64(const std::uint8_t* p) {
  std::uint64_t x;
  std::memcpy(&x, p, 8);
  return std::endian::native == std::endian::little ? __builtin_bswap64(x) : x;
}

inline void store64(std::uint8_t* p, std::uint64_t x) {
  for (int i = 0; i < 8; ++i) p[i] = static_cast<std::uint8_t>(x >> (56 - 8 * i));
}

struct OneRow {
  std::size_t operator[](std::size_t) const { return 0; }
};

template <class Symbol, class Rows>
std::size_t encode_run(const HuffmanView& table, const Symbol* symbols, const Rows rows, std::size_t count,
                       std::uint8_t* out, std::size_t bit) {
  std::uint8_t* p = out + bit / 8;
  unsigned used = bit % 8;
  std::uint64_t pending = used ? std::uint64_t(*p) << 56 : 0;
  const auto put = [&](std::size_t i) {
    const std::uint32_t entry = table.codes[rows[i] * table.symbols + symbols[i]];
    pending |= std::uint64_t(entry & 0xFFFF) << (48 - used);
    used += entry >> 16;
  };
  const auto flush = [&] {
    store64(p, pending);
    p += used / 8;
    pending <<= used & ~7u;
    used %= 8;
  };
  std::size_t i = 0;
  for (; count - i >= 3; i += 3) {  // 7 + 3 * 15 bits fit
    put(i);
    put(i + 1);
    put(i + 2);
    flush();
  }
  for (; i < count; ++i) put(i);
  flush();
  if (used) *p = static_cast<std::uint8_t>(pending >> 56);
  return static_cast<std::size_t>(p - out) * 8 + used;
}

template <class Symbol, class Rows>
std::size_t decode_run(const HuffmanView& table, const std::uint8_t* data, std::size_t nbytes, std::size_t bit,
                       const Rows rows, std::size_t count, Symbol* out) {
  const auto take_long = [&](std::uint64_t window, std::size_t i) -> unsigned {
    const std::size_t row = rows[i];
    const auto value = static_cast<std::uint32_t>(window >> (64 - huffman_longest));
    const std::uint32_t* const limits = table.limits + row * 16;
    int length = huffman_quick + 1;
    while (length < huffman_longest && value >= limits[length]) ++length;
    const std::int32_t place = table.places[row * 16 + length] + static_cast<std::int32_t>(value >> (huffman_longest - length));
    out[i] = static_cast<Symbol>(table.sorted[row * table.symbols + place]);
    return length;
  };
  const auto take = [&](std::uint64_t window, std::size_t i) -> unsigned {  // window: the next bits, left-aligned
    const std::uint64_t entry = table.quick[(std::size_t(rows[i]) << huffman_quick) + (window >> (64 - huffman_quick))];
    if (entry == 0) [[unlikely]] return take_long(window, i);
    out[i] = static_cast<Symbol>(entry);
    return first_length(entry);
  };
  std::size_t i = 0;
  if constexpr (std::is_same_v<Rows, OneRow>) {
    const auto several = [&](std::uint64_t& window) {  // one look-up: one to three symbols
      const std::uint64_t entry = table.quick[window >> (64 - huffman_quick)];
      unsigned length = all_lengths(entry);
      if (entry == 0) [[unlikely]] {
        length = take_long(window, i++);
      } else {
        for (int k = 0; k < quick_symbols; ++k) out[i + k] = static_cast<Symbol>(entry >> 16 * k);
        i += symbols_in(entry);
      }
      bit += length, window <<= length;
    };
    while (count - i >= 3 * quick_symbols && nbytes >= 8 && bit / 8 <= nbytes - 8) {  // 57 bits are there, 45 are the most needed
      std::uint64_t window = load64(data + bit / 8) << bit % 8;
      several(window), several(window), several(window);
    }
  }
  for (; count - i >= 3 && nbytes >= 8 && bit / 8 <= nbytes - 8; i += 3) {  // likewise
    std::uint64_t window = load64(data + bit / 8) << bit % 8;
    const unsigned a = take(window, i), b = take(window << a, i + 1), c = take(window << (a + b), i + 2);
    bit += a + b + c;
  }
  for (; i < count; ++i) {
    std::uint64_t window = 0;
    for (std::size_t k = 0, at = bit / 8; k < 8; ++k, ++at) window = window << 8 | (at < nbytes ? data[at] : 0);
    bit += take(window << bit % 8, i);
    if (bit > 8 * nbytes) return huffman_cut;
  }
  return bit;
}

}  // namespace

bool huffman_prepare(const std::uint8_t* lengths, std::size_t rows, std::size_t symbols, std::uint32_t* codes,
                     std::uint64_t* quick, std::uint32_t* limits, std::int32_t* places, std::uint16_t* sorted) {
  if (symbols == 0 || symbols > std::size_t{1} << huffman_longest) return false;
  for (std::size_t row = 0; row < rows; ++row) {
    std::uint32_t counts[huffman_longest + 1] = {}, kraft = 0;
    for (std::size_t s = 0; s < symbols; ++s) {
      if (lengths[s] > huffman_longest) return false;
      ++counts[lengths[s]];
      kraft += 1u << (huffman_longest - lengths[s]);
    }
    if (kraft != 1u << huffman_longest) return false;  // at most 2^30: it cannot wrap
    std::uint32_t next[huffman_longest + 1], fill[huffman_longest + 1], code = 0, place = 0;
    for (int length = 0; length <= huffman_longest; ++length) {
      code <<= 1;
      next[length] = code, fill[length] = place;
      places[length] = static_cast<std::int32_t>(place) - static_cast<std::int32_t>(code);
      code += counts[length], place += counts[length];
      limits[length] = code << (huffman_longest - length);
    }
    std::fill(quick, quick + (1 << huffman_quick), 0);
    for (std::size_t s = 0; s < symbols; ++s) {
      const unsigned length = lengths[s];
      const std::uint32_t own = next[length]++;
      codes[s] = length << 16 | own << (16 - length);
      sorted[fill[length]++] = static_cast<std::uint16_t>(s);
      if (length > huffman_quick) continue;
      std::uint64_t* const from = quick + (own << (huffman_quick - length));
      std::fill(from, from + (std::size_t{1} << (huffman_quick - length)), quick_entry(s, length, length, 1));
    }
    for (std::size_t bits = 0; bits < std::size_t{1} << huffman_quick; ++bits) {  // further codes that end within the same bits
      std::uint64_t symbols = quick[bits] & 0xFFFF;
      unsigned all = first_length(quick[bits]), found = symbols_in(quick[bits]);
      while (found && found < quick_symbols) {
        const std::uint64_t next = quick[bits << all & ((1 << huffman_quick) - 1)];  // what is read of it does not change here
        if (next == 0 || all + first_length(next) > huffman_quick) break;
        symbols |= (next & 0xFFFF) << 16 * found++;
        all += first_length(next);
      }
      if (found) quick[bits] = quick_entry(symbols, first_length(quick[bits]), all, found);
    }
    lengths += symbols, codes += symbols, sorted += symbols, quick += 1 << huffman_quick, limits += 16, places += 16;
  }
  return true;
}

template <class Symbol, class Index>
std::size_t huffman_encode(const HuffmanView& table, const Symbol* symbols, const Index* index, std::size_t count,
                           std::uint8_t* out, std::size_t bit) {
  return index ? encode_run(table, symbols, index, count, out, bit) : encode_run(table, symbols, OneRow{}, count, out, bit);
}

template <class Symbol, class Index>
std::size_t huffman_decode(const HuffmanView& table, const std::uint8_t* data, std::size_t nbytes, std::size_t bit,
                           const Index* index, std::size_t count, Symbol* out) {
  return index ? decode_run(table, data, nbytes, bit, index, count, out)
               : decode_run(table, data, nbytes, bit, OneRow{}, count, out);
}

#define TP_HUFFMAN(Symbol, Index)                                                                                      \
  template std::size_t huffman_encode(const HuffmanView&, const Symbol*, const Index*, std::size_t, std::uint8_t*,      \
                                      std::size_t);                                                                    \
  template std::size_t huffman_decode(const HuffmanView&, const std::uint8_t*, std::size_t, std::size_t, const Index*,  \
                                      std::size_t, Symbol*);
TP_HUFFMAN(std::uint8_t, std::uint8_t)
TP_HUFFMAN(std::uint8_t, std::uint16_t)
TP_HUFFMAN(std::uint16_t, std::uint8_t)
TP_HUFFMAN(std::uint16_t, std::uint16_t)
#undef TP_HUFFMAN

}  // namespace tensorpress
