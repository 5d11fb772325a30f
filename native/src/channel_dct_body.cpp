// One stripe of the fixed profile, compiled once for each instruction set.
#include "tensorpress/channel_dct.h"
#include "tensorpress/lanes.h"
#include "tensorpress/packing.h"
#include "tensorpress/runs.h"

namespace tensorpress::TP_ISA {
namespace {

using std::int64_t, std::uint16_t, std::uint64_t, std::uint8_t;

// Up to 64 values of each of `planes` channels, of one group or, where a stripe has few pixels, of several groups side by side.
struct Place {
  int64_t channel;  // the first
  int planes, groups;
  int64_t pixel;  // the first, in the stripe
  int pixels;     // of each group
  bool transformed;
};

// A stripe as a walk over groups of `size` channels, and in them over pixels; the channels that fill no group come last, as they are.
template <class Visit>
void each_place(const MapView& map, int64_t rows, int length, Visit&& visit) {
  const int64_t pixels = rows * map.columns;
  const int size = length ? length : untransformed_planes;
  const int64_t whole = map.channels / size;
  const int abreast = pixels < block_size ? int(block_size / pixels) : 1;
  for (int64_t g = 0; g < whole; g += abreast)
    for (int64_t p = 0; p < pixels; p += block_size)
      if (!visit(Place{g * size, size, int(std::min<int64_t>(abreast, whole - g)), p, int(std::min<int64_t>(block_size, pixels - p)), length != 0})) return;
  const int rest = int(map.channels - whole * size);
  if (rest)
    for (int64_t p = 0; p < pixels; p += block_size)
      if (!visit(Place{whole * size, rest, 1, p, int(std::min<int64_t>(block_size, pixels - p)), false})) return;
}

// Where the values of a stripe lie; distances in elements.
struct Memory {
  const MapView& map;
  int64_t first;
  bool side_by_side;     // the pixels of a channel's stripe
  int64_t ahead;         // how far to fetch ahead: about what memory delivers while one line is under way
  int64_t turn, around;  // from this channel on the next stripe is fetched, so far away

  Memory(const MapView& map, int64_t stripe, int64_t rows, int planes)
      : map(map), first(stripe * stripe_rows * map.row_stride), side_by_side(map.column_stride == 1 && (rows == 1 || map.row_stride == map.columns)) {
    const int64_t nbytes = planes * rows * map.columns * (map.element == Element::f32 ? 4 : 1), whole = map.channels - map.channels % planes;
    const int64_t channels = std::min(planes * ((fetch_nbytes + nbytes - 1) / nbytes), whole);
    ahead = channels * map.channel_stride;
    turn = whole - channels, around = stripe_rows * map.row_stride - turn * map.channel_stride;
  }

  // visit(64 values of plane k or room for them, k); what does not lie side by side is gathered before, or scattered afterwards.
  template <class T, bool writes, class Visit>
  [[gnu::always_inline]] inline void each_plane(const Place& at, Visit&& visit) const {
    T* const data = static_cast<T*>(map.data) + first + at.channel * map.channel_stride;
    if (side_by_side && at.groups == 1) {
      const int64_t next = at.channel < turn ? ahead : around;
      for (int k = 0; k < at.planes; ++k) {
        T* const p = data + k * map.channel_stride + at.pixel;
        for (int i = 0; i < block_size + 64 / int(sizeof(T)); i += 64 / int(sizeof(T))) __builtin_prefetch(p + next + i, writes, 2);
        visit(p, k);
      }
      return;
    }
    T values[block_size];
    const auto each = [&](int k, auto&& move) {
      int i = 0;
      for (int g = 0; g < at.groups; ++g) {
        T* row = data + (g * at.planes + k) * map.channel_stride + at.pixel / map.columns * map.row_stride;
        int64_t x = at.pixel % map.columns;
        for (int p = 0; p < at.pixels; ++p, ++i) {
          move(row[x * map.column_stride], values[i]);
          if (++x == map.columns) x = 0, row += map.row_stride;
        }
      }
    };
    for (int k = 0; k < at.planes; ++k) {
      if (!writes) each(k, [](T& there, T& here) { here = there; });
      visit(values, k);
      if (writes) each(k, [](T& there, T& here) { there = here; });
    }
  }
};

// Levels of all planes, zeros behind them. False where a value is not finite.
[[gnu::noinline]] bool take_levels(const Memory& memory, const Place& at, int n, int zero, Block* levels) {
  bool finite = true;
  const bool flipped = memory.map.element == Element::i8;
  if (memory.map.element == Element::f32)
    memory.each_plane<float, false>(at, [&](const float* p, int k) { finite &= quantise(p, n, memory.map.reciprocal, zero, levels[k]); });
  else
    memory.each_plane<uint8_t, false>(at, [&](const uint8_t* p, int k) { levels[k] = flipped ? flip(load(p, n), 0x80) : load(p, n); });
  return finite;
}

[[gnu::noinline]] void put_levels(const Memory& memory, const Place& at, int n, int zero, const Block* levels) {
  const bool flipped = memory.map.element == Element::i8;
  if (memory.map.element == Element::f32)
    memory.each_plane<float, true>(at, [&](float* p, int k) { dequantise(levels[k], n, zero, memory.map.scale, p); });
  else
    memory.each_plane<uint8_t, true>(at, [&](uint8_t* p, int k) { store(p, flipped ? flip(levels[k], 0x80) : levels[k], n); });
}

template <int N>
struct Quantiser {
  Lanes offset[N], multiplier[N], backward[N], bias;
  bool plain;  // coefficient 0 has no sign: it is a sum of values >= 0
  int zero, fraction;

  explicit Quantiser(const ChannelDctRules& rules)
      : bias(every((rules.zero << rules.fraction) + ((1 << rules.fraction) >> 1))), plain(rules.zero == 0), zero(rules.zero), fraction(rules.fraction) {
    for (int k = 0; k < N; ++k)
      offset[k] = every(rules.offset[k]), multiplier[k] = every(rules.multiplier[k]), backward[k] = every(rules.backward[k]);
  }

  // Levels of N channels to symbols.
  [[gnu::noinline]] void analyse(const Block* levels, Block* symbols) const {
    constexpr int shift = 8 - std::bit_width(unsigned(N));  // the sum of N levels fills 15 bits
    Lanes found[N][parts];
    for (int part = 0; part < parts; ++part) {
      Lanes x[N], y[N];
      for (int n = 0; n < N; ++n) x[n] = differences(levels[n], part, zero, shift);
      forward<N>(x, y);
      for (int k = 0; k < N; ++k) {
        const Lanes magnitude = magnitudes(y[k], offset[k], multiplier[k]);
        found[k][part] = k == 0 && plain ? magnitude : folded(y[k], magnitude);
      }
    }
    for (int k = 0; k < N; ++k) symbols[k] = joined(found[k]);
  }

  // The inverse.
  [[gnu::noinline]] void synthesise(const Block* symbols, Block* levels) const {
    Block numbers[N];
    for (int k = 0; k < N; ++k) numbers[k] = k == 0 && plain ? symbols[k] : unfolded(symbols[k]);
    Lanes found[N][parts];
    for (int part = 0; part < parts; ++part) {
      Lanes v[N], x[N];
      for (int k = 0; k < N; ++k) {
        const Lanes number = high(numbers[k], part);
        v[k] = scaled(k == 0 && plain ? half(number) : number, backward[k]);
      }
      inverse<N>(v, bias, x);
      for (int n = 0; n < N; ++n) found[n][part] = shifted_down(x[n], fraction);
    }
    for (int n = 0; n < N; ++n) levels[n] = joined(found[n]);
  }
};

// Which planes of a place are stored. True where all are.
[[gnu::always_inline]] inline bool planes_kept(const ChannelDctRules& rules, const Place& at, bool* kept) {
  if (rules.keeps_all || !at.transformed) return true;
  bool all = true;
  int64_t i = at.channel % rules.keep_size;
  for (int k = 0; k < at.planes; ++k, ++i) {
    if (i == rules.keep_size) i = 0;
    kept[k] = rules.keep[i] != 0;
    all = all && kept[k];
  }
  return all;
}

template <int N>
Outcome encode_as(const MapView& map, const ChannelDctRules& rules, int64_t stripe, uint8_t* out) {
  constexpr int size = N ? N : untransformed_planes;
  const int64_t rows = std::min<int64_t>(stripe_rows, map.rows - stripe * stripe_rows);
  const Memory memory(map, stripe, rows, size);
  const Table symbol_of(rules.symbol_of, rules.same);
  const Quantiser<size> quantiser(rules);
  Outcome result;
  result.stripe = stripe;
  uint8_t* at = out;
  each_place(map, rows, N, [&](const Place& place) __attribute__((always_inline)) {
    const int n = place.groups * place.pixels;
    Block levels[max_planes], symbols[max_planes + 8];
    if (!take_levels(memory, place, n, rules.zero, levels)) {
      result.fault = Fault::not_finite;
      return false;
    }
    int count = place.planes;
    if (N && place.transformed) {
      quantiser.analyse(levels, symbols);
      bool kept[max_planes];
      if (!planes_kept(rules, place, kept)) {
        count = 0;
        for (int k = 0; k < size; ++k)
          if (kept[k]) symbols[count++] = symbols[k];
      }
    } else {
      for (int k = 0; k < count; ++k) symbols[k] = symbol_of(levels[k]);
    }
    if (n < block_size)
      for (int k = 0; k < count; ++k) symbols[k] = keep(symbols[k], n);  // nothing stands behind the values
    for (int k = count; k % 8; ++k) symbols[k] = no_block();
    at = write_planes(symbols, count, n, at);
    return true;
  });
  if (result.fault == Fault::not_finite) result.at = first_not_finite(map, stripe, 0);
  result.nbytes = at - out;
  return result;
}

template <int N>
Outcome decode_as(const uint8_t* data, int64_t nbytes, const MapView& map, const ChannelDctRules& rules, int64_t stripe) {
  constexpr int size = N ? N : untransformed_planes;
  const int64_t rows = std::min<int64_t>(stripe_rows, map.rows - stripe * stripe_rows);
  const Memory memory(map, stripe, rows, size);
  const Table level_of(rules.level_of, rules.same);
  const Quantiser<size> quantiser(rules);
  Input in(data, nbytes);
  Outcome result;
  result.stripe = stripe;
  each_place(map, rows, N, [&](const Place& place) __attribute__((always_inline)) {
    const int n = place.groups * place.pixels;
    Block levels[max_planes], symbols[max_planes];
    bool kept[max_planes];
    const bool all = planes_kept(rules, place, kept);
    int count = place.planes;
    if (!all) count = int(std::count(kept, kept + place.planes, true));
    result.fault = in.take(count, n, symbols);
    if (result.fault != Fault::none) return false;
    if (N && place.transformed) {
      if (!all)
        for (int k = size - 1; k >= 0; --k) symbols[k] = kept[k] ? symbols[--count] : no_block();
      quantiser.synthesise(symbols, levels);
    } else {
      for (int k = 0; k < place.planes; ++k) levels[k] = level_of(symbols[k]);
    }
    put_levels(memory, place, n, rules.zero, levels);
    return true;
  });
  if (result.fault == Fault::none && !in.done()) result.fault = Fault::length_wrong;
  result.nbytes = nbytes;
  return result;
}

Outcome encode(const MapView& map, const ChannelDctRules& rules, int64_t stripe, uint8_t* out) {
  switch (rules.length) {
    case 4: return encode_as<4>(map, rules, stripe, out);
    case 8: return encode_as<8>(map, rules, stripe, out);
    case 16: return encode_as<16>(map, rules, stripe, out);
    case 32: return encode_as<32>(map, rules, stripe, out);
    default: return encode_as<0>(map, rules, stripe, out);
  }
}

Outcome decode(const uint8_t* data, int64_t nbytes, const MapView& map, const ChannelDctRules& rules, int64_t stripe) {
  switch (rules.length) {
    case 4: return decode_as<4>(data, nbytes, map, rules, stripe);
    case 8: return decode_as<8>(data, nbytes, map, rules, stripe);
    case 16: return decode_as<16>(data, nbytes, map, rules, stripe);
    case 32: return decode_as<32>(data, nbytes, map, rules, stripe);
    default: return decode_as<0>(data, nbytes, map, rules, stripe);
  }
}

}  // namespace

extern const ChannelDctBody channel_dct_body;
const ChannelDctBody channel_dct_body{encode, decode};

}  // namespace tensorpress::TP_ISA
