// What every kernel of map stripes promises: bodies of all instruction sets agree, all values are written and nothing beside them, what an
// encoder writes is read, and what is read is written and read again.
#pragma once
#include <cmath>
#include <optional>

#include "input.h"
#include "tensorpress/isa.h"
#include "tensorpress/payload.h"
#include "tensorpress/zero_bitmap.h"

namespace fuzz {

using namespace tensorpress;

struct Shape {
  Element element;
  std::int64_t channels, rows, columns, stripe;
  int layout;  // values side by side; channels innermost; a gap after each value; rows from the last to the first

  std::int64_t values() const { return channels * rows * columns; }
};

// At most `room` values, mostly few.
inline Shape shape_of(Input& in, std::int64_t room) {
  const std::uint8_t kind = in.byte();
  Shape s{};
  s.element = Element(kind % 3), s.layout = kind / 3 % 4;
  s.rows = in.within<std::uint8_t>(1, 24), s.columns = in.within<std::uint8_t>(1, 24);
  const std::int64_t most = kind >= 248 || (kind >= 224 && room <= 1 << 12) ? room : std::min<std::int64_t>(room, 256);
  s.channels = in.within<std::uint16_t>(1, std::clamp<std::int64_t>(most / (s.rows * s.columns), 1, 0xFFFF));
  s.stripe = in.below(int((s.rows + stripe_rows - 1) / stripe_rows));
  return s;
}

// A map of this shape in memory of its own, every byte `fill`.
class Map {
 public:
  Map(const Shape& s, std::uint8_t fill) : shape_(s), fill_(fill), size_(s.element == Element::f32 ? 4 : 1) {
    const std::int64_t gap = s.layout == 2 ? 2 : 1;
    memory_.assign(std::size_t(s.values() * gap * size_), fill);
    MapView& v = view;
    v.element = s.element, v.channels = s.channels, v.rows = s.rows, v.columns = s.columns;
    v.reciprocal = 4, v.scale = 0.25f;
    v.channel_stride = s.rows * s.columns * gap, v.row_stride = s.columns * gap, v.column_stride = gap;
    if (s.layout == 1) v.channel_stride = 1, v.column_stride = s.channels, v.row_stride = s.channels * s.columns;
    if (s.layout == 3) origin_ = (s.rows - 1) * v.row_stride, v.row_stride = -v.row_stride;
    v.data = memory_.data() + origin_ * size_;
  }
  Map(const Map&) = delete;

  // The stripe's values; all else must be as it was.
  Bytes taken() {
    Bytes found(static_cast<std::size_t>(nbytes()));
    if (size_ == 4) take<std::uint32_t>(found.data(), fill_ * 0x01010101u);
    else take<std::uint8_t>(found.data(), fill_);
    must(memory_[0] == fill_ && !std::memcmp(memory_.data(), memory_.data() + 1, memory_.size() - 1), "a decoder wrote beside its stripe");
    return found;
  }
  void put(const Bytes& values) {
    must(std::int64_t(values.size()) == nbytes(), "another number of values");
    if (size_ == 4) set<std::uint32_t>(values.data());
    else set<std::uint8_t>(values.data());
  }

  MapView view{};

 private:
  std::int64_t first() const { return shape_.stripe * stripe_rows; }
  std::int64_t last() const { return std::min(first() + stripe_rows, shape_.rows); }
  std::int64_t nbytes() const { return shape_.channels * (last() - first()) * shape_.columns * size_; }
  // Calls visit(value) for every value of the shape's stripe.
  template <class T, class Visit>
  void each(Visit visit) {
    T* const data = static_cast<T*>(view.data);
    for (std::int64_t c = 0; c < shape_.channels; ++c)
      for (std::int64_t y = first(); y < last(); ++y)
        for (std::int64_t x = 0; x < shape_.columns; ++x) visit(data[c * view.channel_stride + y * view.row_stride + x * view.column_stride]);
  }
  template <class T>
  void take(void* out, T fill) {
    T* to = static_cast<T*>(out);
    each<T>([&](T& value) { *to++ = value, value = fill; });
  }
  template <class T>
  void set(const void* values) {
    const T* from = static_cast<const T*>(values);
    each<T>([&](T& value) { value = *from++; });
  }

  Shape shape_;
  std::uint8_t fill_;
  std::int64_t size_, origin_ = 0;
  Bytes memory_;
};

// What decode(view) makes of the stripe; nothing where it refuses.
template <class Decode>
std::optional<Bytes> read(const Shape& shape, std::uint8_t fill, Decode decode) {
  Map map(shape, fill);
  const bool good = decode(map.view);
  Bytes found = map.taken();
  if (!good) return std::nullopt;
  return found;
}

// The scalar body and one that this machine has beside it.
template <class Body>
struct Pair {
  const Body *plain, *other;
};
#if defined(TP_X86)
#define BODIES(name, in) ::fuzz::pair(::tensorpress::scalar::name, ::tensorpress::avx2::name, ::tensorpress::avx512::name, in)
template <class Body>
Pair<Body> pair(const Body& scalar, const Body& avx2, const Body& avx512, Input& in) {
  const bool narrow = in.below(4) == 0;
  return {&scalar, isa() == Isa::avx512 && !narrow ? &avx512 : isa() != Isa::scalar ? &avx2 : &scalar};
}
#else
#define BODIES(name, in) ::fuzz::Pair<decltype(::tensorpress::scalar::name)>{&::tensorpress::scalar::name, (in.byte(), &::tensorpress::scalar::name)}
#endif

template <class Body, class Rules>
std::optional<Bytes> decoded(const Shape& shape, const Bytes& data, const Rules& rules, const Pair<Body>& bodies) {
  std::uint8_t fill = 0x00;
  const auto by = [&](const Body& body) {
    fill = std::uint8_t(fill ^ 0xA5);
    return read(shape, fill, [&](const MapView& view) { return body.decode(begin_of(data), std::int64_t(data.size()), view, rules, shape.stripe).fault == Fault::none; });
  };
  const std::optional<Bytes> first = by(*bodies.plain);
  must(first == by(*bodies.other), "two instruction sets decode otherwise");
  return first;
}

// Nothing where the map holds a value that is not finite.
template <class Body, class Rules>
std::optional<Bytes> encoded(const Shape& shape, const Bytes& values, const Rules& rules, const MapKernel& kernel, const Pair<Body>& bodies) {
  Map map(shape, 0);
  map.put(values);
  const std::int64_t room = kernel.max_stripe_nbytes(map.view);
  const auto by = [&](const Body& body) -> std::optional<Bytes> {
    Bytes out(std::size_t(room + output_slack));
    const Outcome outcome = body.encode(map.view, rules, shape.stripe, begin_of(out));
    if (outcome.fault != Fault::none) return std::nullopt;
    must(outcome.nbytes >= 0 && outcome.nbytes <= room, "a stripe is larger than its bound");
    out.resize(std::size_t(outcome.nbytes));
    return out;
  };
  const std::optional<Bytes> first = by(*bodies.plain);
  must(first == by(*bodies.other), "two instruction sets encode otherwise");
  return first;
}

// The stripe's values, out of a few bytes again and again; floats are tenths of a level apart, now and then not finite.
inline Bytes values_of(const Shape& shape, const Bytes& from, bool wild) {
  const std::int64_t rows = std::min<std::int64_t>(stripe_rows, shape.rows - shape.stripe * stripe_rows);
  Bytes found;
  for (std::int64_t i = 0; i < shape.channels * rows * shape.columns; ++i) {
    const std::uint8_t byte = from.empty() ? 0 : from[std::size_t(i) % from.size()];
    if (shape.element != Element::f32) {
      found.push_back(byte);
      continue;
    }
    const float value = wild && byte == 0x7F ? HUGE_VALF : float(std::int8_t(byte)) * (wild ? 0.3f : 0.25f);
    const auto* const p = reinterpret_cast<const std::uint8_t*>(&value);
    found.insert(found.end(), p, p + 4);
  }
  return found;
}

// `lossless`: what was decoded is encoded and decoded to the same again.
template <class Body, class Rules>
void stripe(Input& in, const Shape& shape, const Rules& rules, const MapKernel& kernel, const Pair<Body>& bodies, bool lossless) {
  const int mode = in.byte(), edits = mode & 1 ? mode >> 1 & 3 : 0;
  Input edited = in;  // changes stand in front of the values
  for (int i = 0; i < 3 * edits; ++i) in.byte();
  Bytes data = in.rest();
  if (mode & 1) {  // what an encoder writes, and then a little else
    std::optional<Bytes> written = encoded(shape, values_of(shape, data, mode & 8), rules, kernel, bodies);
    if (!written) return;
    if (edits) {
      edit(edited, edits, *written);
      data = Bytes(*written);  // as long as it is, and no longer
    } else {
      data = std::move(*written);
    }
  }
  const std::optional<Bytes> found = decoded(shape, data, rules, bodies);
  must(found || !(mode & 1) || edits, "what an encoder wrote is refused");
  if (!found || !lossless || mode & 16) return;
  const std::optional<Bytes> again = encoded(shape, *found, rules, kernel, bodies);
  must(again && decoded(shape, *again, rules, bodies) == found, "decoded values are not encoded to themselves");
}

// Levels to words and back: as they are, about another zero, in steps; or anything at all, which is not lossless.
struct LevelTables {
  ByteTables tables;
  bool lossless;
};
inline LevelTables level_tables(Input& in) {
  LevelTables found{};
  ByteTables& t = found.tables;
  const int kind = in.below(4), by = in.byte();
  t.zero = kind == 0 || kind == 2 ? 0 : by, found.lossless = kind != 3;
  Input any{std::uint64_t(by) + 1};
  const int step = 1 + by % 16, most = 255 / step;
  for (int i = 0; i < 256; ++i) {
    t.word_of[i] = std::uint8_t(kind == 3 ? any.byte() : kind == 2 ? std::min((i + step / 2) / step, most) : i - t.zero);
    t.level_of[i] = std::uint8_t(kind == 3 ? any.byte() : kind == 2 ? std::min(i, most) * step : i + t.zero);
  }
  t.same = true;
  for (int i = 0; i < 256; ++i) t.same = t.same && t.word_of[i] == i && t.level_of[i] == i;
  return found;
}

}  // namespace fuzz
