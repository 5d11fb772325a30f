#include "tensorpress/planes.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "tensorpress/range.h"

namespace tensorpress {
namespace {

// Bits most significant first, into memory that has room for them and 8 bytes more.
class BitsOut {
 public:
  explicit BitsOut(std::uint8_t* out) : out_(out) {}
  void put(std::uint32_t value, int count) {  // at most 32
    held_ = held_ << count | value;
    for (fill_ += count; fill_ >= 8; fill_ -= 8) *out_++ = static_cast<std::uint8_t>(held_ >> (fill_ - 8));
  }
  std::uint8_t* finish() {
    if (fill_) put(0, 8 - fill_);
    return out_;
  }

 private:
  std::uint8_t* out_;
  std::uint64_t held_ = 0;
  int fill_ = 0;
};

class BitsIn {
 public:
  BitsIn(const std::uint8_t* data, std::size_t nbytes) : p_(data), end_(data + nbytes) { refill(); }
  // The next 64 bits at most, the first one highest; zeros behind the end. At least 56 are there, or all that are left.
  std::uint64_t ahead() const { return held_; }
  int left() const { return fill_; }  // of `ahead`
  void skip(int count) {
    cut = cut || count > fill_;
    held_ <<= count, fill_ -= count;
    if (fill_ < 32) refill();
  }
  // All bytes were used, and what is left of the last one is zeros.
  bool done() const { return !cut && p_ == end_ && fill_ < 8 && held_ == 0; }
  bool cut = false;

 private:
  void refill() {
    if (end_ - p_ >= 8 && fill_ >= 0) {  // bits below `fill_` are those that come, and come again
      std::uint64_t word = 0;
      for (int i = 0; i < 8; ++i) word = word << 8 | p_[i];
      held_ |= word >> fill_;
      p_ += (63 - fill_) >> 3;
      fill_ |= 56;
      return;
    }
    for (; fill_ >= 0 && fill_ <= 56 && p_ != end_; fill_ += 8) held_ |= std::uint64_t{*p_++} << (56 - fill_);
  }
  const std::uint8_t *p_, *end_;
  std::uint64_t held_ = 0;
  int fill_ = 0;
};

constexpr int block = 8, deltas = 7, planes = 9, longest_run = 16;

struct Code {
  std::uint8_t bits, size;
};

// What a plane's difference is written as, where neither it nor the plane is zero.
struct PlaneCodes {
  Code of[128];
  constexpr PlaneCodes() : of() {
    for (unsigned x = 1; x < 128; ++x) {
      const int ones = std::popcount(x), first = std::bit_width(x) - 1;
      if (x == 0x7F) of[x] = {0, 5};
      else if (ones == 2 && (x >> (first - 1) & 1)) of[x] = {static_cast<std::uint8_t>(2 << 3 | first), 8};
      else if (ones == 1) of[x] = {static_cast<std::uint8_t>(3 << 3 | first), 8};
      else of[x] = {static_cast<std::uint8_t>(0x80 | x), 8};
    }
  }
};
constexpr PlaneCodes plane_codes;

// And back, by the next 8 bits.
enum class Kind : std::uint8_t { difference, zeros, plane_zero, wrong };
struct Found {
  Kind kind;
  std::uint8_t size, value;
};
struct PlaneKinds {
  Found of[256];
  constexpr PlaneKinds() : of() {
    for (unsigned x = 0; x < 256; ++x) {
      const std::uint8_t low = x & 7;
      if (x >> 7) of[x] = {x & 0x7F ? Kind::difference : Kind::wrong, 8, static_cast<std::uint8_t>(x & 0x7F)};  // no differences have a shorter code
      else if (x >> 6) of[x] = {Kind::zeros, 2, 1};
      else if (x >> 5) of[x] = {Kind::zeros, 6, static_cast<std::uint8_t>((x >> 2 & 7) + 2)};
      else if (x >> 3 == 0) of[x] = {Kind::difference, 5, 0x7F};
      else if (x >> 3 == 1) of[x] = {Kind::plane_zero, 5, 0};
      else if (low == 7 || (x >> 3 == 2 && low == 0)) of[x] = {Kind::wrong, 8, 0};
      else of[x] = {Kind::difference, 8, static_cast<std::uint8_t>(x >> 3 == 2 ? 3 << (low - 1) : 1 << low)};
    }
  }
};
constexpr PlaneKinds plane_kinds;

// Bit c of byte r to bit r of byte c.
inline std::uint64_t transpose(std::uint64_t x) {
  std::uint64_t t = (x ^ x >> 7) & 0x00AA00AA00AA00AAu;
  x ^= t ^ t << 7;
  t = (x ^ x >> 14) & 0x0000CCCC0000CCCCu;
  x ^= t ^ t << 14;
  t = (x ^ x >> 28) & 0x00000000F0F0F0F0u;
  return x ^ t ^ t << 28;
}

void put_block(const std::uint8_t* w, BitsOut& out) {
  out.put(w[0], 8);
  std::uint64_t low = 0;
  unsigned top = 0;  // plane 8
  for (int i = 0; i < deltas; ++i) {
    const unsigned delta = static_cast<unsigned>(w[i + 1] - w[i]);
    low |= std::uint64_t{delta & 0xFF} << 8 * (deltas - 1 - i);
    top |= (delta >> 8 & 1) << (deltas - 1 - i);
  }
  const std::uint64_t plane = transpose(low), differ = plane ^ (plane >> 8 | std::uint64_t{top} << 56);  // byte by byte
  for (int p = planes - 1; p >= 0;) {
    const unsigned dbx = p == 8 ? top : unsigned(differ >> 8 * p & 0xFF);
    if (dbx == 0) {
      const std::uint64_t below = p ? differ << 8 * (8 - p) : 0;  // the planes under this one, from the top
      const int run = below ? 1 + std::countl_zero(below) / 8 : p + 1;
      if (run == 1) out.put(1, 2);  // 01
      else out.put(static_cast<std::uint32_t>(1 << 3 | (run - 2)), 6);  // 001, length less two
      p -= run;
      continue;
    }
    const bool empty = p < 8 && (plane >> 8 * p & 0xFF) == 0 && dbx != 0x7F;
    const Code code = empty ? Code{1, 5} : plane_codes.of[dbx];
    out.put(code.bits, code.size);
    --p;
  }
}

bool take_block(BitsIn& in, std::uint8_t* w) {
  w[0] = static_cast<std::uint8_t>(in.ahead() >> 56);
  in.skip(8);
  std::uint64_t low = 0;  // plane p in byte p
  unsigned top = 0, last = 0;
  for (int p = planes - 1; p >= 0;) {
    const Found found = plane_kinds.of[in.ahead() >> 56];
    in.skip(found.size);
    int run = 1;
    if (found.kind == Kind::difference) last ^= found.value;
    else if (found.kind == Kind::zeros) run = found.value;
    else if (found.kind == Kind::wrong || last == 0) return false;
    else last = 0;
    if (in.cut || run > p + 1) return false;
    for (; run; --run, --p) {
      if (p == 8) top = last;
      else low |= std::uint64_t{last} << 8 * p;
    }
  }
  const std::uint64_t delta = transpose(low);
  int value = w[0];
  for (int i = 0; i < deltas; ++i) {
    const int at = deltas - 1 - i;
    value += static_cast<int>(delta >> 8 * at & 0xFF) - static_cast<int>((top >> at & 1) << 8);
    if (value < 0 || value > 255) return false;
    w[i + 1] = static_cast<std::uint8_t>(value);
  }
  return true;
}

}  // namespace

void ebpc_encode(const std::uint8_t* words, std::size_t count, std::vector<std::uint8_t>& out) {
  const std::size_t zeros_most = (5 * count + 7) / 8 + 8, values_most = 10 * ((count + 7) / 8) + 8;  // 5 bits a run; 8 bits and 9 planes of 8
  out.resize(4 + zeros_most + values_most);
  BitsOut zeros(out.data() + 4), values(out.data() + 4 + zeros_most);
  std::uint8_t pending[block];
  int held = 0;
  for (std::size_t i = 0; i < count;) {
    if (words[i]) {
      int run = 0;
      do {
        pending[held++] = words[i++], ++run;
        if (held == block) put_block(pending, values), held = 0;
      } while (run < 32 && i < count && words[i]);
      zeros.put(~std::uint32_t{0} >> (32 - run), run);
      continue;
    }
    std::size_t run = 1;
    while (run < longest_run && i + run < count && words[i + run] == 0) ++run;
    zeros.put(static_cast<std::uint32_t>(run - 1), 5);  // a 0 and the length less one in 4 bits
    i += run;
  }
  if (held) {
    for (int i = held; i < block; ++i) pending[i] = pending[held - 1];
    put_block(pending, values);
  }
  std::uint8_t* const end = zeros.finish();
  const std::size_t first = static_cast<std::size_t>(end - out.data()) - 4;
  const auto second = static_cast<std::size_t>(values.finish() - (out.data() + 4 + zeros_most));
  for (int i = 0; i < 4; ++i) out[i] = static_cast<std::uint8_t>(first >> (8 * i));
  std::memmove(end, out.data() + 4 + zeros_most, second);
  out.resize(4 + first + second);
}

bool ebpc_decode(const std::uint8_t* data, std::size_t nbytes, std::uint8_t* words, std::size_t count) {
  if (nbytes < 4) return false;
  const std::size_t first = data[0] | std::size_t{data[1]} << 8 | std::size_t{data[2]} << 16 | std::size_t{data[3]} << 24;
  if (first > nbytes - 4) return false;
  BitsIn zeros(data + 4, first), values(data + 4 + first, nbytes - 4 - first);
  std::uint8_t pending[block];
  int held = block;
  for (std::size_t i = 0; i < count;) {
    if (const std::size_t ones = static_cast<std::size_t>(std::min(std::countl_one(zeros.ahead()), 32)); ones) {
      const std::size_t stop = i + std::min(ones, count - i);
      zeros.skip(static_cast<int>(stop - i));
      while (i < stop) {
        if (held == block) {
          if (!take_block(values, pending)) return false;
          held = 0;
        }
        if (pending[held] == 0) return false;
        words[i++] = pending[held++];
      }
      continue;
    }
    const std::size_t run = (zeros.ahead() >> 59) + 1;
    zeros.skip(5);
    if (zeros.cut || run > count - i) return false;
    std::memset(words + i, 0, run);
    i += run;
  }
  for (int i = std::max(held, 1); i < block; ++i)
    if (pending[i] != pending[held - 1]) return false;
  return zeros.done() && values.done();
}

// --- prediction ------------------------------------------------------------------------------------------------------

namespace {

constexpr int activities = 8, longest_unary = 20;

struct Rice {
  std::uint32_t sum = 8, count = 2;
  int k() const {
    int bits = 0;
    while ((count << bits) < sum && bits < 8) ++bits;
    return bits;
  }
  void see(std::uint32_t u) {
    sum += u, ++count;
    if (count == 64) sum = (sum + 1) >> 1, count >>= 1;
  }
};

struct Chance {
  std::uint32_t p = 32768;
  void see(int bit) { p += bit ? (65535 - p) >> 5 : -static_cast<std::int32_t>((p - 1) >> 5); }
  std::uint32_t of() const { return std::clamp<std::uint32_t>(p, 64, 65472); }
};

// Neighbours of a word among those already coded; 0 outside.
struct Around {
  int w, n, nw, ne, before;
};

struct Models {
  Chance zero[5 * 3];
  Rice rice[activities];
};

inline int median_edge(int w, int n, int nw) {
  if (nw >= std::max(w, n)) return std::min(w, n);
  if (nw <= std::min(w, n)) return std::max(w, n);
  return w + n - nw;
}

inline int predicted(const Around& a, Predictor predictor) {
  const int spatial = median_edge(a.w, a.n, a.nw);
  if (predictor == Predictor::spatial) return std::max(spatial - 1, 0);
  if (predictor == Predictor::channel) return std::max(a.before - 1, 0);
  return std::max((spatial + a.before + 1) / 2 - 1, 0);
}

inline int activity(const Around& a) {
  const int spread = std::abs(a.w - a.nw) + std::abs(a.n - a.nw) + std::abs(a.n - a.ne);
  int k = 0;
  while (k < activities - 1 && (4 << k) <= spread + 3) ++k;
  return k;
}

template <class Code>
void visit(std::uint8_t* words, std::size_t channels, std::size_t plane, int rows, int columns, Code code) {
  for (std::size_t c = 0; c < channels; ++c) {
    std::uint8_t* const x = words + c * plane;
    const std::uint8_t* const last = c ? x - plane : nullptr;
    for (int y = 0; y < rows; ++y)
      for (int i = 0; i < columns; ++i) {
        const std::size_t at = static_cast<std::size_t>(y) * columns + i;
        const Around a{i ? x[at - 1] : 0, y ? x[at - columns] : 0, i && y ? x[at - columns - 1] : 0,
                       y && i + 1 < columns ? x[at - columns + 1] : 0, last ? last[at] : 0};
        if (!code(x[at], a)) return;
      }
  }
}

inline int zero_context(const Around& a) {
  const int seen = (a.w > 0) + (a.n > 0) + (a.nw > 0) + (a.ne > 0);
  return seen * 3 + (a.before > 0) + (a.before > 3);
}

}  // namespace

void predictive_encode(const std::uint8_t* words, std::size_t channels, std::size_t plane, int rows, int columns, Predictor predictor,
                       std::vector<std::uint8_t>& out) {
  Models models;
  BinaryWriter writer(out);
  visit(const_cast<std::uint8_t*>(words), channels, plane, rows, columns, [&](std::uint8_t word, const Around& a) {
    Chance& zero = models.zero[zero_context(a)];
    writer.put(word != 0, zero.of());
    zero.see(word != 0);
    if (!word) return true;
    const int residual = word - 1 - predicted(a, predictor);
    const std::uint32_t u = residual > 0 ? 2u * residual - 1 : 2u * -residual;
    Rice& rice = models.rice[activity(a)];
    const int k = rice.k();
    const std::uint32_t high = u >> k;
    for (std::uint32_t i = 0; i < std::min<std::uint32_t>(high, longest_unary); ++i) writer.put(1, 32768);
    const int bits = high < longest_unary ? k : 9;
    if (high < longest_unary) writer.put(0, 32768);
    for (int i = bits; i-- > 0;) writer.put(u >> i & 1, 32768);
    rice.see(u);
    return true;
  });
  writer.finish();
}

bool predictive_decode(const std::uint8_t* data, std::size_t nbytes, std::uint8_t* words, std::size_t channels, std::size_t plane, int rows,
                       int columns, Predictor predictor) {
  Models models;
  BinaryReader reader(data, nbytes);
  bool good = true;
  visit(words, channels, plane, rows, columns, [&](std::uint8_t& word, const Around& a) {
    Chance& zero = models.zero[zero_context(a)];
    const int some = reader.take(zero.of());
    zero.see(some);
    word = 0;
    if (!some) return true;
    Rice& rice = models.rice[activity(a)];
    const int k = rice.k();
    std::uint32_t high = 0;
    while (high < longest_unary && reader.take(32768)) ++high;
    std::uint32_t u = high < longest_unary ? high : 0;
    for (int i = high < longest_unary ? k : 9; i-- > 0;) u = u << 1 | static_cast<std::uint32_t>(reader.take(32768));
    const int residual = u & 1 ? static_cast<int>(u + 1) / 2 : -static_cast<int>(u / 2);
    const int value = predicted(a, predictor) + residual + 1;
    good = good && value >= 1 && value <= 255;
    if (!good) return false;
    word = static_cast<std::uint8_t>(value);
    rice.see(u);
    return true;
  });
  return good && reader.done();
}

}  // namespace tensorpress
