#include "tensorpress/adaptive_forms.h"
#include "tensorpress/pool.h"
#include "tensorpress/range.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

namespace tensorpress {
namespace {

constexpr int contexts = 8, flags = 14, sign_bin = flags, bins = flags + 1, slots = 512, most_seen = 250;
constexpr int places = 12, place_sets = 64, heard = 255;  // a magnitude beyond is taken for this one wherever it foretells

struct Rates {
  std::array<std::int32_t, most_seen + 1> step{};
  constexpr Rates() {
    for (int n = 0; n <= most_seen; ++n) step[static_cast<std::size_t>(n)] = 655360 / (10 * n + 15);
  }
};
constexpr Rates rates;

// 22 bits: how probable a 1 is; 10 bits: how often it was seen.
struct Slot {
  std::uint32_t state = std::uint32_t{1} << 31;
  std::uint32_t p12() const { return state >> 20; }
  void learn(int bit) {
    const std::uint32_t seen = state & 1023;
    const auto p = static_cast<std::int64_t>(state >> 10), target = bit ? (std::int64_t{1} << 22) - 1 : 0;
    const std::int64_t moved = p + ((target - p) * rates.step[seen] >> 16);
    state = static_cast<std::uint32_t>(moved) << 10 | std::min<std::uint32_t>(seen + 1, most_seen);
  }
};

// Which of twenty half octaves.
inline int half_octave(int sixteenths) { return std::clamp((sixteenths - 16) >> 3, 0, 19); }

struct Mix {
  std::vector<Slot> slot = std::vector<Slot>(std::size_t{contexts} * bins * slots);
  std::vector<Slot> prefix = std::vector<Slot>(8 * 32), mantissa = std::vector<Slot>(32);
  std::array<std::array<std::int32_t, contexts + 2>, bins> weight;
  std::array<std::array<std::int32_t, places>, place_sets> lean{};  // how much a place leans the sign
  Mix() {
    for (auto& of_bin : weight) of_bin.fill(65536 / contexts), of_bin[contexts] = of_bin[contexts + 1] = 0;
  }

  template <class Coder>
  int flag(Coder& coder, int bit, int bin, const int* context, int lean_) {
    Slot* at[contexts];
    std::int32_t input[contexts + 2];
    auto& w = weight[static_cast<std::size_t>(bin)];
    std::int64_t sum = 0;
    for (int i = 0; i < contexts; ++i) {
      at[i] = &slot[static_cast<std::size_t>((i * bins + bin) * slots + context[i])];
      input[i] = logistic.stretch(at[i]->p12());
    }
    input[contexts] = 256, input[contexts + 1] = lean_;
    for (int i = 0; i < contexts + 2; ++i) sum += std::int64_t{w[static_cast<std::size_t>(i)]} * input[i];
    const std::uint32_t p = logistic.squash(sum >> 16);
    bit = coder.code(bit, p);
    const std::int64_t error = (bit ? 65535 : 0) - static_cast<std::int64_t>(p);
    for (int i = 0; i < contexts + 2; ++i) {
      std::int32_t& one = w[static_cast<std::size_t>(i)];
      one = static_cast<std::int32_t>(std::clamp<std::int64_t>(one + ((input[i] * error + 65536) >> 17), -(1 << 20), 1 << 20));
    }
    for (Slot* const s : at) s->learn(bit);
    return bit;
  }

  template <class Coder>
  static int plain(Coder& coder, int bit, Slot& s) {
    bit = coder.code(bit, std::clamp<std::uint32_t>(s.state >> 16, 64, 65536 - 64));
    s.learn(bit);
    return bit;
  }

  // Exponential Golomb: 1 <= x < 2^32.
  template <class Coder>
  std::uint32_t golomb(Coder& coder, std::uint32_t x, int level) {
    const int width = coder.encoding ? std::bit_width(x) - 1 : 0;
    int n = 0;
    while (n < 31 && plain(coder, n < width, prefix[static_cast<std::size_t>(level * 32 + n)])) ++n;
    std::uint32_t y = 1;
    for (int i = n - 1; i >= 0; --i) {
      const int bit = coder.encoding ? static_cast<int>(x >> i & 1) : 0;
      y = y << 1 | static_cast<std::uint32_t>(i == n - 1 ? plain(coder, bit, mantissa[static_cast<std::size_t>(n)]) : coder.code(bit, 32768));
    }
    return y;
  }

  // Codes all values, or decodes them until the string is seen to end. Returns how many.
  template <class Coder>
  std::size_t walk(Coder& coder, std::int32_t* values, const AdaptiveShape& shape) {
    const std::size_t columns = shape.columns, taps = shape.taps;
    if (shape.count() == 0) return 0;
    const std::size_t across = kernel_width(taps);
    // Three rows of values, if there are so many, cut to what is heard: two kernels and ten zeros in front, a kernel behind. And a row of zeros.
    constexpr std::size_t front = 10;
    const std::size_t width = columns * taps, stride = front + 2 * taps + width + taps;
    const std::size_t kept = std::min<std::size_t>(shape.rows, 3);
    std::vector<std::int16_t> cut((1 + kept) * stride);
    const auto row = [&](std::size_t r, std::size_t above) { return cut.data() + (above <= r ? 1 + (r - above) % kept : 0) * stride + front + 2 * taps; };
    const bool many = shape.rows > 1;  // else nothing is asked of columns
    std::vector<std::int64_t> of_column(many ? columns : 0), of_tap(taps), of_place(many ? width : 0), of_row_tap(taps);
    std::int64_t of_all = 0;
    std::size_t done = 0;
    const auto mean = [](std::int64_t sum, std::int64_t count, std::int64_t prior, std::int64_t weight_of_prior) {
      return (sum * 256 + prior * weight_of_prior) / (count + weight_of_prior);
    };
    for (std::size_t r = 0; r < shape.rows && !stop_asked(); ++r) {
      std::int16_t* const here = row(r, 0);
      const std::int16_t *const above = row(r, 1), *const higher = row(r, 2);
      std::memset(here, 0, width * sizeof *here);
      std::fill(of_row_tap.begin(), of_row_tap.end(), 0);
      std::int64_t of_row = 0, last_kernel = 0;
      for (std::size_t c = 0; c < columns; ++c) {
        const auto n = static_cast<std::int64_t>(done), nr = static_cast<std::int64_t>(r), nc = static_cast<std::int64_t>(c), nt = static_cast<std::int64_t>(taps);
        const std::int64_t all = mean(of_all, n, 128, 4), in_row = mean(of_row, nc * nt, all, 4), in_column = mean(many ? of_column[c] : 0, nr * nt, all, 4);
        const std::int64_t before = mean(last_kernel, nt, all, 1);
        const int l_all = octave_of(all), l_row = octave_of(in_row), l_column = octave_of(in_column), l_before = octave_of(before);
        const std::int64_t unit = 16384 / (all + 64);
        std::int64_t of_kernel = 0;
        for (std::size_t t = 0; t < taps; ++t, ++done) {
          const std::int16_t *const x = here + c * taps + t, *const up = above + c * taps + t;
          const auto prior = static_cast<std::ptrdiff_t>(taps);
          const bool single = taps == 1;
          const int left = single ? x[-3] : t % across ? x[-1] : 0, over = single ? x[-2] : t >= across ? x[-static_cast<std::ptrdiff_t>(across)] : 0;
          const int beside = !single && t >= across && t % across + 1 < across ? x[1 - static_cast<std::ptrdiff_t>(across)] : 0;
          const int p = x[-prior], pp = x[-2 * prior], q = up[0], qq = higher[c * taps + t];
          const int p_next = t + 1 < taps ? x[1 - prior] : 0, q_next = t + 1 < taps ? up[1] : 0;
          const int a = std::abs(left), b = std::abs(over), d = std::abs(beside), mp = std::abs(p), mq = std::abs(q);
          const std::int64_t in_tap = mean(of_tap[t], nr * static_cast<std::int64_t>(columns) + nc, all, 8);
          const std::int64_t in_place = mean(many ? of_place[c * taps + t] : 0, nr, in_column, 4), in_row_tap = mean(of_row_tap[t], nc, in_row, 4);
          const std::int64_t in_kernel = mean(of_kernel, static_cast<std::int64_t>(t), in_row, 2);
          const std::int64_t near = (256 * (3 * a + 3 * b + 2 * mp + 2 * mq + d + std::abs(pp) + std::abs(p_next) + std::abs(q_next)) + 4 * all) / 18;
          const int l_tap = octave_of(in_tap), l_place = octave_of(in_place), l_row_tap = octave_of(in_row_tap);
          const int l_kernel = half_octave(octave_of(in_kernel)), l_near = octave_of(near), h_near = half_octave(l_near);
          const int product = half_octave(l_row + l_column + l_tap - 2 * l_all);  // as if rows, columns and taps scaled the values

          // which sign is to be expected, from the values around
          std::int32_t input[places];
          for (std::ptrdiff_t i = 0; i < 8; ++i)
            input[i] = single ? x[-3 - i] : i < static_cast<std::ptrdiff_t>(t) ? x[-1 - i] : 0;
          input[8] = p, input[9] = pp, input[10] = q, input[11] = qq;
          auto& leaning = lean[single ? place_sets - 1 : std::min<std::size_t>(t, place_sets - 2)];
          std::int64_t sum = 0;
          for (int i = 0; i < places; ++i) {
            input[i] = static_cast<std::int32_t>(std::clamp<std::int64_t>(input[i] * unit, -1023, 1023));
            sum += std::int64_t{leaning[static_cast<std::size_t>(i)]} * input[i];
          }
          const auto to_negative = static_cast<int>(std::clamp<std::int64_t>(sum >> 16, -2047, 2047));

          std::int32_t& value = values[done];
          const std::uint32_t magnitude = coder.encoding ? value < 0 ? 0u - static_cast<std::uint32_t>(value) : static_cast<std::uint32_t>(value) : 0;
          const auto few = [](int m) { return std::min(m, 2); };
          const int decided = std::min(std::abs(to_negative) / 48, 11);
          int context[contexts] = {few(a) * 81 + few(b) * 27 + few(mp) * 9 + few(mq) * 3 + few(d),
                                   product * 20 + h_near,
                                   std::min(half_octave(l_tap), 15) * 20 + half_octave(l_column),
                                   half_octave(l_row_tap) * 20 + l_kernel,
                                   l_kernel * 20 + half_octave(l_before),
                                   half_octave(l_place) * 20 + l_kernel,
                                   decided * 20 + h_near,
                                   decided * 20 + product};
          if constexpr (Coder::encoding) coder.turn(magnitude);
          std::uint32_t m = 0;
          bool negative = false;
          if (flag(coder, magnitude > 0, 0, context, 0)) {
            const auto sign = [](int v) { return v > 0 ? 2 : v < 0 ? 1 : 0; };
            const int sp = sign(p), sq = sign(q), sl = sign(left), so = sign(over);
            const int signs[contexts] = {sl * 27 + so * 9 + sp * 3 + sq, sl * 9 + so * 3 + sign(beside), sp * 9 + sq * 3 + sign(pp),
                                         static_cast<int>(std::min<std::size_t>(t, 55)) * 9 + sl * 3 + so, (to_negative + 2048) / 32,
                                         (to_negative + 2048) / 64 * 3 + sp, sq * 3 + sign(qq), 0};
            negative = flag(coder, value < 0, sign_bin, signs, to_negative);
            const std::int64_t error = (negative ? 65535 : 0) - static_cast<std::int64_t>(logistic.squash(to_negative));
            for (int i = 0; i < places; ++i) {
              std::int32_t& one = leaning[static_cast<std::size_t>(i)];
              one = static_cast<std::int32_t>(std::clamp<std::int64_t>(one + ((input[i] * error + 2048) >> 12), -(1 << 22), 1 << 22));
            }
            const int agreed = std::clamp(((negative ? to_negative : -to_negative) + 1024) / 96, 0, 21);
            context[6] = agreed * 20 + h_near, context[7] = agreed * 20 + product;
            m = 1;
            while (m < flags && flag(coder, magnitude > m, static_cast<int>(m), context, 0)) ++m;
            if (m == flags) {
              const std::uint32_t more = golomb(coder, magnitude - flags + 1, std::clamp((l_near - 160) / 16, 0, 7)) - 1;
              if (more > (1u << 31) - (negative ? 0 : 1) - flags) return coder.beyond(), done;
              m += more;
            }
          }
          if constexpr (!Coder::encoding) {
            if (coder.in.cut()) return done;
            value = static_cast<std::int32_t>(negative ? 0u - m : m);
          }
          const auto told = static_cast<int>(std::min<std::uint32_t>(m, heard));
          here[c * taps + t] = static_cast<std::int16_t>(negative ? -told : told);
          of_kernel += told, of_tap[t] += told, of_row_tap[t] += told;
          if (many) of_place[c * taps + t] += told;
        }
        if (many) of_column[c] += of_kernel;
        of_row += of_kernel, of_all += of_kernel, last_kernel = of_kernel;
      }
    }
    return done;
  }
};

struct Writing {
  static constexpr bool encoding = true;
  void turn(std::uint32_t) const {}  // which magnitude comes
  BinaryWriter& out;
  int code(int bit, std::uint32_t p) {
    out.put(bit, p);
    return bit;
  }
  void beyond() const {}  // no int32 is
};

// What each magnitude would cost.
struct Costing {
  static constexpr bool encoding = true;
  AdaptiveCosts& costs;
  std::uint32_t now = 0;
  void turn(std::uint32_t magnitude) {
    now = std::min<std::uint32_t>(magnitude, AdaptiveCosts::magnitudes - 1);
    ++costs.counts[now];
  }
  int code(int bit, std::uint32_t p) {
    costs.bits[now] += 16 - std::log2(bit ? p : 65536 - p);
    return bit;
  }
  void beyond() const {}
};

struct Reading {
  static constexpr bool encoding = false;
  BinaryReader& in;
  bool found_beyond = false;
  int code(int, std::uint32_t p) { return in.take(p); }
  void beyond() { found_beyond = true; }
};

class SmallEncoder final : public AdaptiveEncoder {
 public:
  void put(const std::int32_t* values, const AdaptiveShape& shape) override {
    Writing coder{writer_};
    mix_.walk(coder, const_cast<std::int32_t*>(values), shape);  // an encoder only reads them
  }
  const std::vector<std::uint8_t>& finish() override {
    writer_.finish();
    return out_;
  }

 private:
  std::vector<std::uint8_t> out_{static_cast<std::uint8_t>(AdaptiveForm::small)};
  BinaryWriter writer_{out_};
  Mix mix_;
};

class SmallDecoder final : public AdaptiveDecoder {
 public:
  SmallDecoder(const std::uint8_t* data, std::size_t nbytes) : reader_(data, nbytes) {}
  std::size_t take(std::int32_t* values, const AdaptiveShape& shape) override {
    Reading coder{reader_};
    const std::size_t done = mix_.walk(coder, values, shape);
    beyond_ = beyond_ || coder.found_beyond;
    return done;
  }
  bool beyond() const override { return beyond_; }
  bool done() const override { return !beyond_ && reader_.exact(); }

 private:
  BinaryReader reader_;
  Mix mix_;
  bool beyond_ = false;
};

}  // namespace

struct AdaptiveCosts::Model {
  Mix mix;
};

AdaptiveCosts::AdaptiveCosts() : model_(std::make_unique<Model>()) {}
AdaptiveCosts::~AdaptiveCosts() = default;

void AdaptiveCosts::put(const std::int32_t* values, const AdaptiveShape& shape) {
  Costing coder{*this};
  model_->mix.walk(coder, const_cast<std::int32_t*>(values), shape);  // only read
}

std::unique_ptr<AdaptiveEncoder> make_small_encoder() { return std::make_unique<SmallEncoder>(); }
std::unique_ptr<AdaptiveDecoder> make_small_decoder(const std::uint8_t* data, std::size_t nbytes) { return std::make_unique<SmallDecoder>(data, nbytes); }

}  // namespace tensorpress
