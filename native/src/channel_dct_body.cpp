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

// Where the values of a place lie.
template <class T>
struct Memory {
  T* first;
  const MapView& map;
  bool side_by_side;  // the pixels of a channel's stripe
  int64_t ahead;      // how far to fetch ahead, in elements: about what memory delivers while one line is under way

  Memory(const MapView& map, int64_t stripe, int64_t rows, int planes)
      : first(static_cast<T*>(map.data) + stripe * stripe_rows * map.row_stride), map(map),
        side_by_side(map.column_stride == 1 && (rows == 1 || map.row_stride == map.columns)) {
    const int64_t group = planes * rows * map.columns * int64_t(sizeof(T));
    ahead = map.channel_stride * planes * ((fetch_nbytes + group - 1) / std::max<int64_t>(group, 1));
  }
  T* plane(const Place& at, int k) const { return first + (at.channel + k) * map.channel_stride + at.pixel; }
  bool direct(const Place& at) const { return side_by_side && at.groups == 1; }
  template <class Each>
  void each(const Place& at, int k, Each&& each) const {
    int i = 0;
    for (int g = 0; g < at.groups; ++g) {
      T* row = first + (at.channel + g * at.planes + k) * map.channel_stride + at.pixel / map.columns * map.row_stride;
      int64_t x = at.pixel % map.columns;
      for (int p = 0; p < at.pixels; ++p, ++i) {
        each(row[x * map.column_stride], i);
        if (++x == map.columns) x = 0, row += map.row_stride;
      }
    }
  }
};

// Levels of plane k. False where a value is not finite.
template <class T>
[[gnu::always_inline]] inline bool levels_at(const Memory<T>& memory, const Place& at, int k, int n, int zero, Block& out) {
  T gathered[block_size];
  const T* from = gathered;
  if (memory.direct(at)) {
    from = memory.plane(at, k);
    for (int i = 0; i < at.pixels; i += 64 / int(sizeof(T))) __builtin_prefetch(from + memory.ahead + i);
  } else {
    memory.each(at, k, [&](T& value, int i) { gathered[i] = value; });
  }
  if constexpr (sizeof(T) == 4) {
    return quantise(from, n, memory.map.reciprocal, zero, out);
  } else {
    out = load(from, n);
    if (memory.map.element == Element::i8) out = flip(out, 0x80);
    return true;
  }
}

template <class T>
[[gnu::always_inline]] inline void put_levels(const Memory<T>& memory, const Place& at, int k, int n, int zero, const Block& levels) {
  T gathered[block_size];
  T* to = gathered;
  if (memory.direct(at)) {
    to = memory.plane(at, k);
    for (int i = 0; i < at.pixels; i += 64 / int(sizeof(T))) __builtin_prefetch(to + memory.ahead + i, 1);
  }
  if constexpr (sizeof(T) == 4) dequantise(levels, n, zero, memory.map.scale, to);
  else store(to, memory.map.element == Element::i8 ? flip(levels, 0x80) : levels, n);
  if (to == gathered) memory.each(at, k, [&](T& value, int i) { value = gathered[i]; });
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
  [[gnu::always_inline]] void analyse(const Block* levels, Block* symbols) const {
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
  [[gnu::always_inline]] void synthesise(const Block* symbols, Block* levels) const {
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

// Which planes of a place are stored. False where not all are.
bool planes_kept(const ChannelDctRules& rules, const Place& at, bool* kept) {
  bool all = true;
  for (int k = 0; k < at.planes; ++k) {
    kept[k] = !at.transformed || rules.keep[(at.channel + k) % rules.keep_size];
    all = all && kept[k];
  }
  return all;
}

template <int N, class T>
Outcome encode_as(const MapView& map, const ChannelDctRules& rules, int64_t stripe, uint8_t* out) {
  constexpr int size = N ? N : untransformed_planes;
  const int64_t rows = std::min<int64_t>(stripe_rows, map.rows - stripe * stripe_rows);
  const Memory<T> memory(map, stripe, rows, size);
  const Table symbol_of(rules.symbol_of, rules.same);
  const Quantiser<size> quantiser(rules);
  Outcome result;
  result.stripe = stripe;
  uint8_t* at = out;
  each_place(map, rows, N, [&](const Place& place) __attribute__((always_inline)) {
    const int n = place.groups * place.pixels;
    Block levels[max_planes], symbols[max_planes + 8];
    for (int k = 0; k < place.planes; ++k)
      if (!levels_at(memory, place, k, n, rules.zero, levels[k])) {
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

template <int N, class T>
Outcome decode_as(const uint8_t* data, int64_t nbytes, const MapView& map, const ChannelDctRules& rules, int64_t stripe) {
  constexpr int size = N ? N : untransformed_planes;
  const int64_t rows = std::min<int64_t>(stripe_rows, map.rows - stripe * stripe_rows);
  const Memory<T> memory(map, stripe, rows, size);
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
    for (int k = 0; k < place.planes; ++k) put_levels(memory, place, k, n, rules.zero, levels[k]);
    return true;
  });
  if (result.fault == Fault::none && !in.done()) result.fault = Fault::length_wrong;
  result.nbytes = nbytes;
  return result;
}

template <class T>
Outcome encode_of(const MapView& map, const ChannelDctRules& rules, int64_t stripe, uint8_t* out) {
  switch (rules.length) {
    case 4: return encode_as<4, T>(map, rules, stripe, out);
    case 8: return encode_as<8, T>(map, rules, stripe, out);
    case 16: return encode_as<16, T>(map, rules, stripe, out);
    case 32: return encode_as<32, T>(map, rules, stripe, out);
    default: return encode_as<0, T>(map, rules, stripe, out);
  }
}

template <class T>
Outcome decode_of(const uint8_t* data, int64_t nbytes, const MapView& map, const ChannelDctRules& rules, int64_t stripe) {
  switch (rules.length) {
    case 4: return decode_as<4, T>(data, nbytes, map, rules, stripe);
    case 8: return decode_as<8, T>(data, nbytes, map, rules, stripe);
    case 16: return decode_as<16, T>(data, nbytes, map, rules, stripe);
    case 32: return decode_as<32, T>(data, nbytes, map, rules, stripe);
    default: return decode_as<0, T>(data, nbytes, map, rules, stripe);
  }
}

Outcome encode(const MapView& map, const ChannelDctRules& rules, int64_t stripe, uint8_t* out) {
  return map.element == Element::f32 ? encode_of<float>(map, rules, stripe, out) : encode_of<uint8_t>(map, rules, stripe, out);
}

Outcome decode(const uint8_t* data, int64_t nbytes, const MapView& map, const ChannelDctRules& rules, int64_t stripe) {
  return map.element == Element::f32 ? decode_of<float>(data, nbytes, map, rules, stripe) : decode_of<uint8_t>(data, nbytes, map, rules, stripe);
}

}  // namespace

extern const ChannelDctBody channel_dct_body;
const ChannelDctBody channel_dct_body{encode, decode};

}  // namespace tensorpress::TP_ISA
