#include "tensorpress/planes.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "tensorpress/range.h"

namespace tensorpress {
namespace {

// Bits most significant first.
class BitsOut {
 public:
  void put(std::uint32_t value, int count) {
    for (int i = count; i-- > 0;) {
      if (used_ == 0) bytes.push_back(0);
      bytes.back() = static_cast<std::uint8_t>(bytes.back() | ((value >> i & 1) << (7 - used_)));
      used_ = (used_ + 1) & 7;
    }
  }
  std::vector<std::uint8_t> bytes;

 private:
  int used_ = 0;
};

class BitsIn {
 public:
  BitsIn(const std::uint8_t* data, std::size_t nbytes) : data_(data), bits_(nbytes * 8) {}
  std::uint32_t take(int count) {
    std::uint32_t value = 0;
    for (int i = 0; i < count; ++i, ++at_) {
      if (at_ >= bits_) {
        cut = true;
        return 0;
      }
      value = value << 1 | (data_[at_ >> 3] >> (7 - (at_ & 7)) & 1);
    }
    return value;
  }
  // All bytes were used, and what is left of the last one is zeros.
  bool done() {
    if (cut || bits_ - at_ >= 8) return false;
    return take(static_cast<int>(bits_ - at_)) == 0;
  }
  bool cut = false;

 private:
  const std::uint8_t* data_;
  std::size_t bits_, at_ = 0;
};

constexpr int block = 8, deltas = 7, planes = 9, longest_run = 16;

void put_block(const std::uint8_t* w, BitsOut& out) {
  out.put(w[0], 8);
  std::uint32_t dbp[planes + 1] = {};
  for (int i = 0; i < deltas; ++i) {
    const std::uint32_t delta = static_cast<std::uint32_t>(w[i + 1] - w[i]) & 0x1FF;
    for (int p = 0; p < planes; ++p) dbp[p] |= (delta >> p & 1) << (deltas - 1 - i);
  }
  for (int p = planes - 1; p >= 0;) {
    const std::uint32_t dbx = dbp[p] ^ dbp[p + 1];
    if (dbx == 0) {
      int run = 1;
      while (p - run >= 0 && run < 9 && (dbp[p - run] ^ dbp[p - run + 1]) == 0) ++run;
      if (run == 1) out.put(1, 2);  // 01
      else out.put(1, 3), out.put(static_cast<std::uint32_t>(run - 2), 3);  // 001, length less two
      p -= run;
      continue;
    }
    const int ones = __builtin_popcount(dbx), first = 31 - __builtin_clz(dbx);
    if (dbx == 0x7F) out.put(0, 5);
    else if (dbp[p] == 0) out.put(1, 5);
    else if (ones == 2 && (dbx >> (first - 1) & 1)) out.put(2, 5), out.put(static_cast<std::uint32_t>(first), 3);
    else if (ones == 1) out.put(3, 5), out.put(static_cast<std::uint32_t>(first), 3);
    else out.put(1, 1), out.put(dbx, deltas);
    --p;
  }
}

bool take_block(BitsIn& in, std::uint8_t* w) {
  w[0] = static_cast<std::uint8_t>(in.take(8));
  std::uint32_t dbp[planes + 1] = {};
  for (int p = planes - 1; p >= 0 && !in.cut;) {
    std::uint32_t dbx = 0;
    if (in.take(1)) {
      dbx = in.take(deltas);
    } else if (in.take(1)) {
      dbp[p] = dbp[p + 1], --p;
      continue;
    } else if (in.take(1)) {
      const int run = static_cast<int>(in.take(3)) + 2;
      if (run > p + 1) return false;
      for (int i = 0; i < run; ++i, --p) dbp[p] = dbp[p + 1];
      continue;
    } else {
      const std::uint32_t code = in.take(2);
      if (code == 0) dbx = 0x7F;
      else if (code == 1) dbx = dbp[p + 1];  // the plane itself is zero
      else {
        const std::uint32_t first = in.take(3);
        if (first >= deltas || (code == 2 && first == 0)) return false;
        dbx = code == 2 ? 3u << (first - 1) : 1u << first;
      }
    }
    if (dbx == 0) return false;  // there is a shorter code for that
    dbp[p] = dbx ^ dbp[p + 1], --p;
  }
  if (in.cut) return false;
  for (int i = 0; i < deltas; ++i) {
    std::uint32_t delta = 0;
    for (int p = 0; p < planes; ++p) delta |= (dbp[p] >> (deltas - 1 - i) & 1) << p;
    const int value = w[i] + static_cast<int>(delta) - (delta & 0x100 ? 0x200 : 0);
    if (value < 0 || value > 255) return false;
    w[i + 1] = static_cast<std::uint8_t>(value);
  }
  return true;
}

void put32(std::vector<std::uint8_t>& out, std::size_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

}  // namespace

void ebpc_encode(const std::uint8_t* words, std::size_t count, std::vector<std::uint8_t>& out) {
  BitsOut zeros, values;
  std::uint8_t pending[block];
  int held = 0;
  for (std::size_t i = 0; i < count;) {
    if (words[i]) {
      zeros.put(1, 1);
      pending[held++] = words[i++];
      if (held == block) put_block(pending, values), held = 0;
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
  put32(out, zeros.bytes.size());
  out.insert(out.end(), zeros.bytes.begin(), zeros.bytes.end());
  out.insert(out.end(), values.bytes.begin(), values.bytes.end());
}

bool ebpc_decode(const std::uint8_t* data, std::size_t nbytes, std::uint8_t* words, std::size_t count) {
  if (nbytes < 4) return false;
  const std::size_t first = data[0] | std::size_t{data[1]} << 8 | std::size_t{data[2]} << 16 | std::size_t{data[3]} << 24;
  if (first > nbytes - 4) return false;
  BitsIn zeros(data + 4, first), values(data + 4 + first, nbytes - 4 - first);
  std::uint8_t pending[block];
  int held = block;
  for (std::size_t i = 0; i < count;) {
    if (zeros.take(1)) {
      if (held == block) {
        if (!take_block(values, pending)) return false;
        held = 0;
      }
      if (pending[held] == 0) return false;
      words[i++] = pending[held++];
      continue;
    }
    const std::size_t run = zeros.take(4) + 1;
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
