// The front of the stepped codecs, and the packers of zeros and words.
#include "tensorpress/words.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

namespace tensorpress {
namespace {

std::uint32_t load32(const std::uint8_t* p) { return p[0] | p[1] << 8 | p[2] << 16 | std::uint32_t(p[3]) << 24; }
std::uint64_t load64(const std::uint8_t* p) { return load32(p) | std::uint64_t(load32(p + 4)) << 32; }
void store32(std::uint8_t* p, std::uint32_t v) {
  for (int i = 0; i < 4; ++i) p[i] = std::uint8_t(v >> 8 * i);
}

// Bits from the least significant on; touches no byte beyond its last.
class BitSink {
 public:
  explicit BitSink(std::uint8_t* out) : at_(out) {}
  void put(std::uint32_t bits, int count) {  // count <= 32, no bit beyond it
    pending_ |= std::uint64_t(bits) << used_;
    used_ += count;
    if (used_ >= 32) {
      store32(at_, std::uint32_t(pending_));
      at_ += 4, pending_ >>= 32, used_ -= 32;
    }
  }
  std::uint8_t* finish() {  // the byte after the last, which zero bits fill up
    for (; used_ > 0; used_ -= 8, pending_ >>= 8) *at_++ = std::uint8_t(pending_);
    return at_;
  }

 private:
  std::uint8_t* at_;
  std::uint64_t pending_ = 0;
  int used_ = 0;
};

// The 32 bits from bit `bit` on, zero beyond the data.
class BitSource {
 public:
  BitSource(const std::uint8_t* data, std::int64_t nbytes) : data_(data), whole_(nbytes - 7), nbytes_(nbytes) {}
  std::uint32_t at(std::int64_t bit) const {
    const std::int64_t byte = bit >> 3;
    if (byte < whole_) [[likely]]
      return std::uint32_t(load64(data_ + byte) >> (bit & 7));
    std::uint64_t window = 0;
    for (std::int64_t i = byte; i < nbytes_; ++i) window |= std::uint64_t(data_[i]) << 8 * (i - byte);
    return std::uint32_t(window >> (bit & 7));
  }

 private:
  const std::uint8_t* data_;
  std::int64_t whole_, nbytes_;
};

// Whether the bits of the last byte that stand behind `bits` in all are zero.
bool filled_with_zeros(const std::uint8_t* data, std::int64_t bits) { return bits % 8 == 0 || data[bits / 8] >> bits % 8 == 0; }

// Calls visit(place, word) for every word that is not zero. Places are gathered without a branch, a block at a time.
template <class Visit>
inline void for_nonzeros(const std::uint8_t* words, std::int64_t count, Visit visit) {
  constexpr std::int64_t block = 1024;
  std::uint16_t places[block + 8];
  for (std::int64_t first = 0; first < count; first += block) {
    const std::int64_t n = std::min(block, count - first);
    int found = 0;
    std::int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      std::uint64_t eight;
      std::memcpy(&eight, words + first + i, 8);
      if (eight == 0) continue;
      for (int k = 0; k < 8; ++k) {
        places[found] = std::uint16_t(i + k);
        found += words[first + i + k] != 0;
      }
    }
    for (; i < n; ++i) {
      places[found] = std::uint16_t(i);
      found += words[first + i] != 0;
    }
    for (int k = 0; k < found; ++k) visit(first + places[k], words[first + places[k]]);
  }
}

}  // namespace

// --- the front ----------------------------------------------------------------------------------------------------------

std::int64_t floats_to_words(const float* x, std::int64_t count, float reciprocal, int zero, const std::uint8_t* table, std::uint8_t* words) {
  constexpr std::int64_t block = 1024;
  std::uint8_t levels[block];
  const float low = float(-zero), high = float(255 - zero);
  for (std::int64_t first = 0; first < count; first += block) {
    const std::int64_t n = std::min(block, count - first);
    const float* from = x + first;
    std::int32_t wild = 0;  // negative where an exponent has all bits set: NaN or infinity
    for (std::int64_t i = 0; i < n; ++i) wild |= 0x7F7FFFFF - (std::bit_cast<std::int32_t>(from[i]) & 0x7FFFFFFF);
    if (wild < 0)
      for (std::int64_t i = 0; i < n; ++i)
        if ((std::bit_cast<std::uint32_t>(from[i]) & 0x7F800000) == 0x7F800000) return first + i;
    for (std::int64_t i = 0; i < n; ++i) {
      float y = from[i] * reciprocal;
      y = y < low ? low : y;  // clamping first rounds to the same: both limits are whole
      y = y > high ? high : y;
      // adding 1.5 * 2^23 rounds half to even; the whole number is then in the low bits
      levels[i] = std::uint8_t(std::bit_cast<std::int32_t>(y + 12582912.0f) + zero);
    }
    for (std::int64_t i = 0; i < n; ++i) words[first + i] = table[levels[i]];
  }
  return -1;
}

void bytes_to_words(const std::uint8_t* x, std::int64_t count, const std::uint8_t* table, std::uint8_t* words) {
  for (std::int64_t i = 0; i < count; ++i) words[i] = table[x[i]];
}

void words_to_floats(const std::uint8_t* words, std::int64_t count, const float* table, float* x) {
  for (std::int64_t i = 0; i < count; ++i) x[i] = table[words[i]];
}

// --- zero runs ------------------------------------------------------------------------------------------------------------

namespace {
constexpr int pair_bits = 13, longest_run = 31;
}

std::int64_t zero_runs_encode(const std::uint8_t* words, std::int64_t count, std::uint8_t* out) {
  BitSink sink(out);
  std::int64_t next = 0;  // the first word that no pair holds yet
  const auto zeros = [&](std::int64_t run) {
    for (; run > longest_run; run -= longest_run + 1) sink.put(longest_run, pair_bits);
    return std::uint32_t(run);
  };
  for_nonzeros(words, count, [&](std::int64_t place, std::uint8_t word) {
    sink.put(zeros(place - next) | std::uint32_t(word) << 5, pair_bits);
    next = place + 1;
  });
  if (next < count) sink.put(zeros(count - next - 1), pair_bits);  // the last zero is the word of the last pair
  return sink.finish() - out;
}

std::int64_t zero_runs_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t count, std::uint8_t* words) {
  const std::int64_t pairs = 8 * nbytes / pair_bits;
  if (8 * nbytes - pairs * pair_bits >= 8 || !filled_with_zeros(data, pairs * pair_bits)) return words_wrong;
  std::memset(words, 0, std::size_t(count));
  const BitSource source(data, nbytes);
  std::int64_t at = 0;
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    const std::uint32_t bits = source.at(pair * pair_bits);
    at += bits & longest_run;
    if (at >= count) return pair;
    words[at++] = std::uint8_t(bits >> 5);
  }
  return at == count ? words_fine : words_wrong;
}

// --- compressed columns -------------------------------------------------------------------------------------------------

std::int64_t columns_encode(const std::uint8_t* words, std::int64_t columns, std::int64_t length, std::uint8_t* out) {
  constexpr std::int64_t longest = 15;
  const int width = std::bit_width(std::uint64_t(length));
  std::uint8_t* const runs = out + (columns * width + 7) / 8;
  std::uint8_t* const values = runs + (columns * length + 1) / 2;  // where they start at the latest; moved down in the end
  BitSink counts(out);
  std::int64_t entries = 0, before = 0;
  const auto put = [&](std::int64_t run, std::uint8_t word) {
    std::uint8_t* const p = runs + entries / 2;
    *p = std::uint8_t(entries % 2 ? *p | run << 4 : run);
    values[entries++] = word;
  };
  for (std::int64_t column = 0; column < columns; ++column, before = entries) {
    std::int64_t next = 0;
    for_nonzeros(words + column * length, length, [&](std::int64_t place, std::uint8_t word) {
      std::int64_t run = place - next;
      for (; run > longest; run -= longest + 1) put(longest, 0);
      put(run, word);
      next = place + 1;
    });
    counts.put(std::uint32_t(entries - before), width);
  }
  counts.finish();
  std::uint8_t* const end = runs + (entries + 1) / 2;
  std::memmove(end, values, std::size_t(entries));
  return end + entries - out;
}

std::int64_t columns_decode(const std::uint8_t* data, std::int64_t nbytes, std::int64_t columns, std::int64_t length, std::uint8_t* words) {
  const int width = std::bit_width(std::uint64_t(length));
  const std::int64_t counts_nbytes = (columns * width + 7) / 8;
  if (nbytes < counts_nbytes || !filled_with_zeros(data, columns * width)) return words_wrong;
  const BitSource counts(data, counts_nbytes);
  const std::uint32_t mask = std::uint32_t((std::uint64_t(1) << width) - 1);
  std::int64_t entries = 0;
  for (std::int64_t column = 0; column < columns; ++column) entries += counts.at(column * width) & mask;
  const std::uint8_t* const runs = data + counts_nbytes;
  if (nbytes - counts_nbytes != (entries + 1) / 2 + entries || !filled_with_zeros(runs, 4 * entries)) return words_wrong;
  const std::uint8_t* const values = runs + (entries + 1) / 2;
  std::memset(words, 0, std::size_t(columns * length));
  std::int64_t entry = 0;
  for (std::int64_t column = 0; column < columns; ++column, words += length) {
    const std::int64_t end = entry + (counts.at(column * width) & mask);
    for (std::int64_t at = 0; entry < end; ++entry) {
      at += runs[entry / 2] >> 4 * (entry % 2) & 15;
      if (at >= length) return column;
      words[at++] = values[entry];
    }
  }
  return words_fine;
}

// --- slots --------------------------------------------------------------------------------------------------------------
// A group's code: 0 all zero; 1 to 8 its words in so many bits; 9 to 15 a bitmap, and its non-zeros less one in code - 7 bits.

namespace {

constexpr int cell_values = 2048, group_values = 16, bitmap_codes = 7;

struct CellPlace {
  std::int64_t channel, column, channels, columns;  // first, and how many
};

// Calls visit(cell number, place, number of values), channel blocks outermost, until it returns false.
template <class Visit>
void for_cells(const CellGrid& grid, Visit visit) {
  std::int64_t number = 0;
  for (std::int64_t c = 0; c < grid.channels; c += grid.cell_channels)
    for (std::int64_t x = 0; x < grid.columns; x += grid.cell_columns, ++number) {
      const CellPlace place{c, x, std::min(grid.cell_channels, grid.channels - c), std::min(grid.cell_columns, grid.columns - x)};
      if (!visit(number, place, int(place.channels * grid.rows * place.columns))) return;
    }
}

// Calls move(pointer into the stripe, place in the cell, words) for each row of the cell, or once where its rows stand in one piece.
template <class Word, class Move>
void for_rows(const CellGrid& grid, const CellPlace& place, Word* words, Move move) {
  const std::int64_t rows = place.channels * grid.rows;
  words += place.channel * grid.rows * grid.columns + place.column;
  if (place.columns == grid.columns) return move(words, 0, std::size_t(rows * place.columns));
  if (place.columns == 8) {  // a size that the compiler knows
    for (std::int64_t y = 0; y < rows; ++y) move(words + y * grid.columns, int(8 * y), std::integral_constant<std::size_t, 8>{});
    return;
  }
  for (std::int64_t y = 0; y < rows; ++y) move(words + y * grid.columns, int(place.columns * y), std::size_t(place.columns));
}

int groups_of(int values) { return (values + group_values - 1) / group_values; }

void put_words(BitSink& sink, const std::uint8_t* words, int count, int width) {  // words beyond count, up to a multiple of 4, are touched
  for (int k = 0; k < count; k += 4) {
    const std::uint32_t four = std::uint32_t(words[k]) | std::uint32_t(words[k + 1]) << width | std::uint32_t(words[k + 2]) << 2 * width |
                               std::uint32_t(words[k + 3]) << 3 * width;
    const int n = std::min(count - k, 4) * width;
    sink.put(n == 32 ? four : four & ((1u << n) - 1), n);
  }
}

// cell: its words, zeros behind them up to whole groups. Returns the byte after the last.
std::uint8_t* encode_cell(const std::uint8_t* cell, int values, std::uint8_t* out) {
  const int groups = groups_of(values);
  BitSink sink(out + (groups + 1) / 2);
  for (int g = 0; g < groups; ++g) {
    const std::uint8_t* const words = cell + g * group_values;
    const int n = std::min(group_values, values - g * group_values);
    std::uint8_t any = 0, less = 0, nonzeros = 0;
    for (int k = 0; k < group_values; ++k) {
      const std::uint8_t there = words[k] != 0;
      any |= words[k], less |= std::uint8_t(words[k] - there), nonzeros += there;
    }
    const int plain = std::bit_width(any), width = std::max<int>(std::bit_width(less), 2);
    int code = plain;
    if (plain && n + nonzeros * width < n * plain) {
      code = width + bitmap_codes;
      std::uint8_t packed[group_values + 4] = {};
      std::uint32_t bitmap = 0;
      for (int k = 0, found = 0; k < group_values; ++k) {
        const bool there = words[k] != 0;
        packed[found] = std::uint8_t(words[k] - 1);
        bitmap |= std::uint32_t(there) << k, found += there;
      }
      sink.put(bitmap, n);
      put_words(sink, packed, nonzeros, width);
    } else if (plain) {
      put_words(sink, words, n, plain);
    }
    out[g / 2] = std::uint8_t(g % 2 ? out[g / 2] | code << 4 : code);
  }
  return sink.finish();
}

// data: a cell, readable and zero behind it for slot_nbytes + 512 bytes in all, so that no code leads beyond them. Returns the bytes of the cell, or
// -1. Codes follow each other without a pattern, so all take one path: words without a bitmap have one of ones, and nothing is added to them.
std::int64_t decode_cell(const std::uint8_t* data, int values, std::uint8_t* cell) {
  const int groups = groups_of(values);
  if (groups % 2 && data[groups / 2] >> 4) return -1;
  const std::uint8_t* const bits = data + (groups + 1) / 2;
  std::int64_t bit = 0;
  unsigned overflow = 0;  // a word of 256
  for (int g = 0; g < groups; ++g) {
    const int n = std::min(group_values, values - g * group_values), code = data[g / 2] >> 4 * (g % 2) & 15;
    const unsigned sparse = code > 8, all = (1u << n) - 1;
    const int width = sparse ? code - bitmap_codes : code;
    const std::uint32_t first = std::uint32_t(load64(bits + (bit >> 3)) >> (bit & 7));
    const std::uint32_t bitmap = sparse ? first & all : all;
    bit += sparse ? n : 0;
    const std::uint32_t mask = (1u << width) - 1;
    std::uint8_t packed[group_values + 1];
    packed[group_values] = 0;
    for (int k = 0; k < group_values; k += 4) {
      const std::int64_t at = bit + k * width;
      const auto four = std::uint32_t(load64(bits + (at >> 3)) >> (at & 7));
      for (int i = 0; i < 4; ++i) packed[k + i] = std::uint8_t(four >> i * width & mask);
    }
    std::uint8_t* const words = cell + g * group_values;
    int found = 0;
    for (int k = 0; k < group_values; ++k) {
      const unsigned there = bitmap >> k & 1, word = (packed[found] + sparse) & (0u - there);
      words[k] = std::uint8_t(word);
      overflow |= word;
      found += int(there);
    }
    bit += found * width;
  }
  if (overflow >> 8 || !filled_with_zeros(bits, bit)) return -1;
  return (groups + 1) / 2 + (bit + 7) / 8;
}

}  // namespace

std::int64_t cell_count(const CellGrid& grid) {
  return ((grid.channels + grid.cell_channels - 1) / grid.cell_channels) * ((grid.columns + grid.cell_columns - 1) / grid.cell_columns);
}

std::int64_t slots_capacity(const CellGrid& grid) {
  const std::int64_t values = grid.channels * grid.rows * grid.columns;
  return grid.padded ? cell_count(grid) * slot_nbytes : values + values / 32 + 4 * cell_count(grid);
}

std::int64_t slots_encode(const CellGrid& grid, const std::uint8_t* words, std::uint8_t* out) {
  std::uint8_t* at = out + (grid.padded ? 0 : 2 * cell_count(grid));
  for_cells(grid, [&](std::int64_t number, const CellPlace& place, int values) {
    std::uint8_t cell[cell_values + group_values];
    for_rows(grid, place, words, [&](const std::uint8_t* from, int to, auto n) { std::memcpy(cell + to, from, n); });
    std::memset(cell + values, 0, group_values);
    std::uint8_t* const end = encode_cell(cell, values, at);
    if (grid.padded) {
      std::memset(end, 0, std::size_t(at + slot_nbytes - end));
      at += slot_nbytes;
    } else {
      out[2 * number] = std::uint8_t(end - at), out[2 * number + 1] = std::uint8_t((end - at) >> 8);
      at = end;
    }
    return true;
  });
  return at - out;
}

std::int64_t slots_decode(const CellGrid& grid, const std::uint8_t* data, std::int64_t nbytes, std::uint8_t* words) {
  const std::int64_t cells = cell_count(grid);
  std::int64_t at = grid.padded ? 0 : 2 * cells, fault = words_fine;
  if (nbytes < at || (grid.padded && nbytes != cells * slot_nbytes)) return words_wrong;
  for_cells(grid, [&](std::int64_t number, const CellPlace& place, int values) {
    const std::int64_t size = grid.padded ? slot_nbytes : data[2 * number] | data[2 * number + 1] << 8;
    std::uint8_t own[slot_nbytes + 512], cell[cell_values + group_values];
    std::int64_t used = -1;
    if (size <= slot_nbytes && size <= nbytes - at) {
      std::memcpy(own, data + at, std::size_t(size));
      std::memset(own + size, 0, sizeof own - std::size_t(size));  // so no check is needed before the end
      used = decode_cell(own, values, cell);
    }
    const bool fine = grid.padded ? used >= 0 && used <= size && std::all_of(own + used, own + size, [](std::uint8_t b) { return b == 0; }) : used == size;
    if (!fine) {
      fault = number;
      return false;
    }
    for_rows(grid, place, words, [&](std::uint8_t* to, int from, auto n) { std::memcpy(to, cell + from, n); });
    at += size;
    return true;
  });
  return fault == words_fine && at != nbytes ? words_wrong : fault;
}

// --- ranges -----------------------------------------------------------------------------------------------------------

std::int64_t ranges_encode(const Ranges& ranges, const std::uint8_t* words, std::int64_t count, std::uint8_t* numbers, std::uint8_t* out) {
  struct Piece {
    std::uint8_t number, bits, offset;
  } pieces[256];
  for (int w = 0; w < 256; ++w) {
    const std::uint8_t number = ranges.range_of[w];
    pieces[w] = {number, ranges.bits[number], std::uint8_t(w - ranges.starts[number])};
  }
  const std::uint8_t* const first = out;
  std::uint64_t held = 0;
  int fill = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const Piece piece = pieces[words[i]];
    numbers[i] = piece.number;
    held |= std::uint64_t{piece.offset} << fill;
    fill += piece.bits;
    if (fill < 56) continue;
    std::memcpy(out, &held, 8);
    out += 7, held >>= 56, fill -= 56;
  }
  std::memcpy(out, &held, 8);
  return out - first + (fill + 7) / 8;
}

std::int64_t ranges_decode(const Ranges& ranges, const std::uint8_t* numbers, const std::uint8_t* data, std::int64_t nbytes, std::int64_t count,
                           std::uint8_t* words) {
  std::int64_t bits = 0;
  for (std::int64_t i = 0; i < count; ++i) bits += ranges.bits[numbers[i]];
  if (nbytes != (bits + 7) / 8 || (bits % 8 && data[nbytes - 1] >> bits % 8)) return words_wrong;
  std::int64_t found = words_fine;
  std::uint64_t held = 0;
  int fill = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint8_t number = numbers[i];
    const int size = ranges.bits[number];
    if (fill < size) {
      if (nbytes >= 8) {
        std::uint64_t next;
        std::memcpy(&next, data, 8);
        held |= next << fill;
        const int taken = (63 - fill) / 8;  // what of the last byte does not fit comes again
        data += taken, nbytes -= taken, fill += 8 * taken;
        held &= ~std::uint64_t{0} >> (64 - fill);
      } else {
        for (; nbytes && fill <= 56; --nbytes, fill += 8) held |= std::uint64_t{*data++} << fill;
      }
    }
    const unsigned word = ranges.starts[number] + unsigned(held & ((1u << size) - 1));
    held >>= size, fill -= size;
    if (found == words_fine && (word > 255 || ranges.range_of[word & 0xFF] != number)) found = i;
    words[i] = std::uint8_t(word);
  }
  return found;
}

}  // namespace tensorpress
