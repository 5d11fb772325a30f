// One stripe of cells, both ways. One source for every instruction set: TP_ISA names the namespace of this compilation.
// Wide operations stand in a few small functions (lookup, bitmap_of, squeeze, spread, quantise_row, the packers); all else is plain
// loops over planes, which the compiler turns into vectors.
#include "tensorpress/cells_body.h"

#include <bit>
#include <cmath>
#include <cstring>
#if defined(__BMI2__)
#include <immintrin.h>
#endif
#if defined(__AVX512VBMI2__)
#define TP_WIDE 1
#endif

namespace tensorpress::TP_ISA {
namespace {

using std::int32_t, std::int64_t, std::uint32_t, std::uint64_t, std::uint8_t;

enum Mode { zero_mode, raw_mode, zvc_mode, dct_mode };
constexpr int zero_map_flag = 4, plane_codes_flag = 8, dense_code = 10;
constexpr int dct_shift = 20, dequant_shift = 14, max_coefficient = 1 << 19, top = 255;
constexpr int max_planes = 2048, max_values = 4096;  // a plane takes a power of two of values
constexpr int max_packed = 4096;                     // more than all sections of a cell can fill

// --- the wide operations -----------------------------------------------------------------------------------------

// out[i] = table[in[i]] for n bytes, n a multiple of 64 or small
void lookup(const uint8_t* table, const uint8_t* in, uint8_t* out, int n) {
  int i = 0;
#if TP_WIDE
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64), t2 = _mm512_loadu_si512(table + 128),
                t3 = _mm512_loadu_si512(table + 192);
  for (; i + 64 <= n; i += 64) {
    const __m512i index = _mm512_loadu_si512(in + i);
    const __m512i low = _mm512_permutex2var_epi8(t0, index, t1), high = _mm512_permutex2var_epi8(t2, index, t3);
    _mm512_storeu_si512(out + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high));
  }
#endif
  for (; i < n; ++i) out[i] = table[in[i]];
}

// bit i: byte i is not zero, for n <= 64 bytes
uint64_t bitmap_of(const uint8_t* bytes, int n) {
#if TP_WIDE
  if (n == 64) {
    const __m512i v = _mm512_loadu_si512(bytes);
    return _mm512_test_epi8_mask(v, v);
  }
#elif defined(__AVX2__)
  if (n == 64) {
    const __m256i none = _mm256_setzero_si256();
    const __m256i a = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)), none);
    const __m256i b = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32)), none);
    return ~(uint64_t(uint32_t(_mm256_movemask_epi8(a))) | uint64_t(uint32_t(_mm256_movemask_epi8(b))) << 32);
  }
#endif
  uint64_t bits = 0;
  for (int i = 0; i < n; ++i) bits |= uint64_t(bytes[i] != 0) << i;
  return bits;
}

// The bytes whose bit is set, less one, side by side; may write 64 bytes. Returns how many.
int squeeze(const uint8_t* bytes, uint64_t bits, uint8_t* out) {
#if TP_WIDE
  const __m512i v = _mm512_maskz_loadu_epi8(bits, bytes);
  _mm512_storeu_si512(out, _mm512_sub_epi8(_mm512_maskz_compress_epi8(bits, v), _mm512_set1_epi8(1)));
  return std::popcount(bits);
#else
  int n = 0;
  for (; bits; bits &= bits - 1) out[n++] = uint8_t(bytes[std::countr_zero(bits)] - 1);
  return n;
#endif
}

// The inverse, into n zeroed bytes.
void spread(const uint8_t* values, uint64_t bits, uint8_t* bytes) {
#if TP_WIDE
  if (bits) {
    const __m512i v = _mm512_add_epi8(_mm512_loadu_si512(values), _mm512_set1_epi8(1));
    const uint64_t span = ~uint64_t(0) >> std::countl_zero(bits);  // up to the last set bit: never past the plane
    _mm512_mask_storeu_epi8(bytes, span, _mm512_maskz_expand_epi8(bits, v));
  }
#else
  for (; bits; bits &= bits - 1) bytes[std::countr_zero(bits)] = uint8_t(*values++ + 1);
#endif
}

struct BitWriter {  // least significant bit first; may write 8 bytes past its end
  uint8_t* at;
  uint64_t held = 0;
  int fill = 0;  // bits held, < 8 between calls

  void put(uint64_t bits, int n) {  // n <= 56
    held |= bits << fill;
    std::memcpy(at, &held, 8);
    fill += n;
    at += fill >> 3;
    held = fill >> 3 ? held >> (fill & ~7) : held;
    fill &= 7;
  }
  void put64(uint64_t bits, int n) {
    if (n <= 56) return put(bits, n);
    put(bits & 0xFFFFFFFFu, 32);
    put(bits >> 32, n - 32);
  }
  uint8_t* close() {
    if (fill) *at++ = uint8_t(held);
    return at;
  }
};

struct BitReader {  // over a buffer with 8 readable bytes after its end
  const uint8_t* start;
  int64_t at = 0;  // bit

  uint64_t take(int n) {  // n <= 56
    uint64_t word;
    std::memcpy(&word, start + (at >> 3), 8);
    const uint64_t bits = word >> (at & 7) & ((uint64_t(1) << n) - 1);
    at += n;
    return bits;
  }
  uint64_t take64(int n) {
    if (n <= 56) return take(n);
    const uint64_t low = take(32);
    return low | take(n - 32) << 32;
  }
};

// `width` bits of each of n bytes (reads up to 7 bytes more)
void pack(BitWriter& out, const uint8_t* values, int n, int width) {
  if (width == 0) return;
  int i = 0;
#if defined(__BMI2__)
  const uint64_t mask = 0x0101010101010101u * ((1u << width) - 1);
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    std::memcpy(&word, values + i, 8);
    out.put64(_pext_u64(word, mask), 8 * width);
  }
#endif
  for (; i < n; ++i) out.put(values[i] & ((1u << width) - 1), width);
}

// The inverse (writes up to 7 bytes more)
void unpack(BitReader& in, uint8_t* values, int n, int width) {
  int i = 0;
#if defined(__BMI2__)
  const uint64_t mask = 0x0101010101010101u * ((1u << width) - 1);
  for (; i + 8 <= n; i += 8) {
    const uint64_t word = _pdep_u64(in.take64(8 * width), mask);
    std::memcpy(values + i, &word, 8);
  }
#endif
  for (; i < n; ++i) values[i] = uint8_t(in.take(width));
}

// --- a cell -----------------------------------------------------------------------------------------------------------

struct Cell {
  int64_t first_channel, y, x;
  int planes, rows, columns, area;
  int stride;  // values from plane to plane: the power of two at or above area
};

struct Scratch {  // all that a cell needs; on the stack
  alignas(64) uint8_t levels[max_values + 64];
  alignas(64) uint8_t zvc[max_values + 64], dct[max_values + 64];  // symbols
  alignas(64) uint8_t decoded[max_values + 64];
  alignas(64) int32_t from[32 * plane_size], to[32 * plane_size];
  alignas(64) uint8_t values[max_values + 64];
  alignas(64) uint8_t packed[max_packed + 64];
  uint64_t bitmaps[max_planes];
  uint8_t codes[max_planes];
};

// What packing needs to know of the planes of one mode, gathered once.
struct Planes {
  int count = 0;                   // stored planes
  std::uint16_t place[max_planes]; // of each in the cell
  uint64_t bitmap[max_planes];
  uint8_t code[max_planes];
};

struct Layout {  // how the symbols of a mode would be packed
  int64_t nbytes = -1;  // of the payload; -1: not possible
  uint8_t flags = 0;
};

bool bad_float(uint32_t bits) { return (bits & 0x7FFFFFFFu) >= 0x7F800000u; }

// Float to level: multiply, clamp, round half to even, add the zero point. bad[i] gains bits where in[i] is not finite.
void quantise_some(const float* in, uint8_t* out, int n, float reciprocal, int zero, uint32_t* bad) {
  const float low = float(-zero), high = float(top - zero);
  for (int i = 0; i < n; ++i) {
    uint32_t word;
    std::memcpy(&word, in + i, 4);
    bad[i] |= uint32_t(bad_float(word));
    float v = in[i] * reciprocal;
    v = v > low ? v : low;
    v = v < high ? v : high;
    out[i] = uint8_t(int32_t(std::nearbyint(v)) + zero);
  }
}

#if defined(__AVX2__)
// The same for a row of eight; the default rounding of the conversion is half to even.
void quantise_row(const float* in, uint8_t* out, float reciprocal, int zero, uint32_t* bad) {
  const __m256 x = _mm256_loadu_ps(in);
  const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF));
  const __m256i seen = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bad));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bad), _mm256_or_si256(seen, _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F7FFFFF))));
  __m256 v = _mm256_mul_ps(x, _mm256_set1_ps(reciprocal));
  v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(float(-zero))), _mm256_set1_ps(float(top - zero)));
  const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(zero));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
}
#else
void quantise_row(const float* in, uint8_t* out, float reciprocal, int zero, uint32_t* bad) {
  quantise_some(in, out, cell_columns, reciprocal, zero, bad);
}
#endif

// Eight bytes, each with the bits of `flip` turned.
void copy_row(const uint8_t* in, uint8_t* out, uint8_t flip) {
  uint64_t word;
  std::memcpy(&word, in, 8);
  word ^= flip * 0x0101010101010101u;
  std::memcpy(out, &word, 8);
}

int64_t place_of(const MapView& map, const Cell& cell, int plane, int row) {
  return (cell.first_channel + plane) * map.channel_stride + (cell.y + row) * map.row_stride + cell.x * map.column_stride;
}

bool load_floats(const MapView& map, const Cell& cell, int zero, uint8_t* levels) {
  uint32_t bad[cell_columns] = {};
  for (int p = 0; p < cell.planes; ++p)
    for (int y = 0; y < cell.rows; ++y) {
      uint8_t* out = levels + p * cell.stride + y * cell.columns;
      const float* in = static_cast<const float*>(map.data) + place_of(map, cell, p, y);
      if (map.column_stride == 1 && cell.columns == cell_columns) {
        quantise_row(in, out, map.reciprocal, zero, bad);
      } else {
        float row[cell_columns];
        for (int x = 0; x < cell.columns; ++x) row[x] = in[x * map.column_stride];
        quantise_some(row, out, cell.columns, map.reciprocal, zero, bad);
      }
    }
  uint32_t any = 0;
  for (const uint32_t b : bad) any |= b;
  return !any;
}

void load_bytes(const MapView& map, const Cell& cell, uint8_t* levels) {
  const uint8_t flip = map.element == Element::i8 ? 0x80 : 0;
  for (int p = 0; p < cell.planes; ++p)
    for (int y = 0; y < cell.rows; ++y) {
      uint8_t* out = levels + p * cell.stride + y * cell.columns;
      const uint8_t* in = static_cast<const uint8_t*>(map.data) + place_of(map, cell, p, y);
      if (map.column_stride == 1 && cell.columns == cell_columns) copy_row(in, out, flip);
      else
        for (int x = 0; x < cell.columns; ++x) out[x] = in[x * map.column_stride] ^ flip;
    }
}

// Levels of the cell, planes padded with the zero level. False where a value is not finite.
bool load(const MapView& map, const Cell& cell, int zero, uint8_t* levels) {
  if (cell.stride != cell.area) std::memset(levels, zero, std::size_t(cell.planes) * cell.stride);
  if (map.element == Element::f32) return load_floats(map, cell, zero, levels);
  load_bytes(map, cell, levels);
  return true;
}

void store_floats(const MapView& map, const Cell& cell, int zero, const uint8_t* levels) {
  for (int p = 0; p < cell.planes; ++p)
    for (int y = 0; y < cell.rows; ++y) {
      const uint8_t* in = levels + p * cell.stride + y * cell.columns;
      float* out = static_cast<float*>(map.data) + place_of(map, cell, p, y);
      if (map.column_stride == 1 && cell.columns == cell_columns)
        for (int x = 0; x < cell_columns; ++x) out[x] = float(int32_t(in[x]) - zero) * map.scale;
      else
        for (int x = 0; x < cell.columns; ++x) out[x * map.column_stride] = float(int32_t(in[x]) - zero) * map.scale;
    }
}

void store_bytes(const MapView& map, const Cell& cell, const uint8_t* levels) {
  const uint8_t flip = map.element == Element::i8 ? 0x80 : 0;
  for (int p = 0; p < cell.planes; ++p)
    for (int y = 0; y < cell.rows; ++y) {
      const uint8_t* in = levels + p * cell.stride + y * cell.columns;
      uint8_t* out = static_cast<uint8_t*>(map.data) + place_of(map, cell, p, y);
      if (map.column_stride == 1 && cell.columns == cell_columns) copy_row(in, out, flip);
      else
        for (int x = 0; x < cell.columns; ++x) out[x * map.column_stride] = in[x] ^ flip;
    }
}

void store(const MapView& map, const Cell& cell, int zero, const uint8_t* levels) {
  if (map.element == Element::f32) store_floats(map, cell, zero, levels);
  else store_bytes(map, cell, levels);
}

int64_t squared_error(const uint8_t* a, const uint8_t* b, int n) {
  int32_t total = 0;  // at most 4,096 * 255 * 255
  for (int i = 0; i < n; ++i) {
    const int32_t d = int32_t(a[i]) - int32_t(b[i]);
    total += d * d;
  }
  return total;
}

// --- the channel DCT --------------------------------------------------------------------------------------------------

bool plane_kept(const CellRules& rules, const Cell& cell, int plane) {
  const int whole = cell.planes - cell.planes % rules.length;
  return plane >= whole || rules.keep[(cell.first_channel + plane) % rules.keep_size];
}

// Levels -> symbols of all planes (0 where a plane is not kept). False where one does not fit 8 bits.
template <int N, int S>
bool forward_dct(const Cell& cell, const CellRules& rules, const uint8_t* levels, uint8_t* symbols, Scratch& s) {
  const int stride = S ? S : cell.stride;
  const int whole = cell.planes - cell.planes % N;
  int32_t largest = 0;
  for (int g = 0; g < whole; g += N) {
    for (int i = 0; i < N * stride; ++i) s.from[i] = int32_t(levels[g * stride + i]) - rules.zero;
    for (int k = 0; k < N; ++k) {
      uint8_t* out = symbols + (g + k) * stride;
      if (!plane_kept(rules, cell, g + k)) {
        std::memset(out, 0, std::size_t(stride));
        continue;
      }
      int32_t* c = s.to;
      for (int i = 0; i < stride; ++i) c[i] = 0;
      for (int n = 0; n < N; ++n) {
        const int32_t m = rules.matrix[k * N + n];
        for (int i = 0; i < stride; ++i) c[i] += m * s.from[n * stride + i];
      }
      const uint32_t multiplier = rules.forward[k], offset = rules.offset;
      const bool plain = k == 0 && rules.zero == 0;  // a sum of values >= 0 has no sign
      for (int i = 0; i < stride; ++i) {
        const uint32_t magnitude = (uint32_t(c[i] < 0 ? -c[i] : c[i]) * multiplier + offset) >> dct_shift;
        const int32_t symbol = plain ? int32_t(magnitude) : magnitude ? int32_t(2 * magnitude) - 1 + (c[i] < 0) : 0;
        largest = largest > symbol ? largest : symbol;
        out[i] = uint8_t(symbol);
      }
    }
  }
  lookup(rules.symbol_of, levels + whole * stride, symbols + whole * stride, (cell.planes - whole) * stride);
  return largest <= 255;
}

template <int N, int S>
void inverse_dct(const Cell& cell, const CellRules& rules, const uint8_t* symbols, uint8_t* levels, Scratch& s) {
  const int stride = S ? S : cell.stride;
  const int whole = cell.planes - cell.planes % N;
  for (int g = 0; g < whole; g += N) {
    bool live[N];
    for (int k = 0; k < N; ++k) {
      const uint8_t* in = symbols + (g + k) * stride;
      int32_t* value = s.from + k * stride;
      const bool plain = k == 0 && rules.zero == 0;
      const int32_t step = rules.backward[k], one = rules.shift[k], two = rules.shift[N + k], more = rules.shift[2 * N + k];
      uint8_t any = 0;
      for (int i = 0; i < stride; ++i) any |= in[i];
      live[k] = any != 0;
      if (!any) continue;
      for (int i = 0; i < stride; ++i) {
        const int32_t symbol = in[i], magnitude = plain ? symbol : (symbol + 1) >> 1;
        int32_t v = magnitude * step + (magnitude > 2 ? more : magnitude == 2 ? two : one);
        v = v < 0 ? 0 : v > max_coefficient ? max_coefficient : v;
        v = magnitude ? v : 0;
        value[i] = !plain && !(symbol & 1) ? -v : v;
      }
    }
    for (int n = 0; n < N; ++n) {
      int32_t* sum = s.to;
      for (int i = 0; i < stride; ++i) sum[i] = 1 << (dequant_shift - 1);
      for (int k = 0; k < N; ++k) {
        if (!live[k]) continue;
        const int32_t m = rules.matrix[k * N + n];
        for (int i = 0; i < stride; ++i) sum[i] += m * s.from[k * stride + i];
      }
      uint8_t* out = levels + (g + n) * stride;
      for (int i = 0; i < stride; ++i) {
        int32_t level = (sum[i] >> dequant_shift) + rules.zero;
        level = level < 0 ? 0 : level > top ? top : level;
        out[i] = uint8_t(level);
      }
    }
  }
  lookup(rules.level_of, symbols + whole * stride, levels + whole * stride, (cell.planes - whole) * stride);
}

template <int S>
bool forward_dct(const Cell& cell, const CellRules& rules, const uint8_t* levels, uint8_t* symbols, Scratch& s) {
  switch (rules.length) {
    case 4: return forward_dct<4, S>(cell, rules, levels, symbols, s);
    case 8: return forward_dct<8, S>(cell, rules, levels, symbols, s);
    case 16: return forward_dct<16, S>(cell, rules, levels, symbols, s);
    default: return forward_dct<32, S>(cell, rules, levels, symbols, s);
  }
}
template <int S>
void inverse_dct(const Cell& cell, const CellRules& rules, const uint8_t* symbols, uint8_t* levels, Scratch& s) {
  switch (rules.length) {
    case 4: return inverse_dct<4, S>(cell, rules, symbols, levels, s);
    case 8: return inverse_dct<8, S>(cell, rules, symbols, levels, s);
    case 16: return inverse_dct<16, S>(cell, rules, symbols, levels, s);
    default: return inverse_dct<32, S>(cell, rules, symbols, levels, s);
  }
}

// --- packing ----------------------------------------------------------------------------------------------------------

int bit_length(uint32_t n) { return std::bit_width(n); }

// The code that a plane gets when widths are chosen by plane, and its bits.
uint8_t plane_code(int area, int nonzeros, int largest, int64_t& bitmap_bits, int64_t& value_bits) {
  if (!largest) return 0;
  const int width = bit_length(uint32_t(largest - 1)), dense = bit_length(uint32_t(largest));
  if (dense >= 3 && area * dense < area + nonzeros * width) {
    value_bits += area * dense;
    return uint8_t(dense_code + dense - 3);
  }
  bitmap_bits += area;
  value_bits += nonzeros * width;
  return uint8_t(1 + width);
}

int64_t bytes_of(int64_t bits) { return (bits + 7) / 8; }

// Looks at every stored plane and chooses between one width for the cell and a code for each plane; `transformed`: planes
// that are not kept are absent. The zero map, if any, adds `zero_map_nbytes`.
template <int S>
void look_at(const Cell& cell, const CellRules& rules, const uint8_t* symbols, bool transformed, Planes& planes, int64_t bits[3], int& largest) {
  const int stride = S ? S : cell.stride;
  planes.count = 0;
  for (int p = 0; p < cell.planes; ++p) {
    if (transformed && !plane_kept(rules, cell, p)) continue;
    const uint8_t* plane = symbols + p * stride;
    const uint64_t bitmap = bitmap_of(plane, stride);
    uint8_t most = 0;
    if (bitmap)
      for (int i = 0; i < stride; ++i) most = most > plane[i] ? most : plane[i];
    const int nonzeros = std::popcount(bitmap);
    largest = largest > most ? largest : most;
    bits[2] += nonzeros;
    planes.place[planes.count] = std::uint16_t(p);
    planes.bitmap[planes.count] = bitmap;
    planes.code[planes.count++] = plane_code(cell.area, nonzeros, most, bits[0], bits[1]);
  }
}

template <int S>
Layout plan_layout(const Cell& cell, const CellRules& rules, const uint8_t* symbols, bool transformed, Planes& planes) {
  int64_t bits[3] = {};  // of coded bitmaps, of coded values; non-zeros
  int largest = 0;
  look_at<S>(cell, rules, symbols, transformed, planes, bits, largest);
  int width = largest ? bit_length(uint32_t(largest - 1)) : 1;
  width = width ? width : 1;
  Layout layout;
  if (rules.width) {
    if (width > rules.width) return layout;
    width = rules.width;
  }
  layout.nbytes = bytes_of(int64_t(planes.count) * cell.area) + bytes_of(bits[2] * width);
  layout.flags = uint8_t((width - 1) << 4);
  if (rules.plane_codes) {
    const int64_t coded = bytes_of(4 * planes.count) + bytes_of(bits[0]) + bytes_of(bits[1]);
    if (coded < layout.nbytes) {
      layout.nbytes = coded;
      layout.flags = plane_codes_flag;
    }
  }
  return layout;
}

Layout with_zero_map(Layout layout, int64_t nbytes) {
  if (layout.nbytes >= 0) {
    layout.nbytes += nbytes;
    layout.flags |= zero_map_flag;
  }
  return layout;
}

uint8_t* pack_cell(const Cell& cell, const CellRules& rules, const uint8_t* symbols, const Planes& planes, uint8_t flags, uint8_t* out, Scratch& s) {
  const bool coded = flags & plane_codes_flag;
  const int flat_width = (flags >> 4 & 7) + 1;
  int count = 0;
  BitWriter writer{out};
  if (coded)
    for (int j = 0; j < planes.count; ++j) writer.put(planes.code[j], 4);
  writer = BitWriter{writer.close()};
  if (flags & zero_map_flag) {
    const uint64_t full = cell.area == 64 ? ~uint64_t(0) : (uint64_t(1) << cell.area) - 1;
    uint8_t difference[plane_size];
    for (int p = 0; p < cell.planes; ++p) {
      for (int i = 0; i < cell.stride; ++i) difference[i] = s.levels[p * cell.stride + i] ^ uint8_t(rules.zero);
      writer.put64(~bitmap_of(difference, cell.stride) & full, cell.area);
    }
    writer = BitWriter{writer.close()};
  }
  for (int j = 0; j < planes.count; ++j)
    if (!coded || (planes.code[j] > 0 && planes.code[j] < dense_code)) writer.put64(planes.bitmap[j], cell.area);
  writer = BitWriter{writer.close()};
  for (int j = 0; j < planes.count; ++j) {
    const uint8_t* plane = symbols + planes.place[j] * cell.stride;
    const int code = planes.code[j];
    if (!coded) {
      count += squeeze(plane, planes.bitmap[j], s.values + count);
    } else if (code >= dense_code) {
      pack(writer, plane, cell.area, code - dense_code + 3);
    } else if (code) {
      const int n = squeeze(plane, planes.bitmap[j], s.values);
      pack(writer, s.values, n, code - 1);
    }
  }
  if (!coded) pack(writer, s.values, count, flat_width);
  return writer.close();
}

// --- encode -----------------------------------------------------------------------------------------------------------

template <int S>
uint8_t* encode_cell(const Cell& cell, const CellRules& rules, uint8_t* out, Scratch& s) {
  Planes zvc_planes, dct_planes;
  const int n = cell.planes * (S ? S : cell.stride), values = cell.planes * cell.area;
  double best = 0;
  int mode = -1;
  uint8_t flags = 0;
  int64_t nbytes = 0;
  const auto offer = [&](int candidate, const Layout& layout, int64_t error) {
    if (candidate != raw_mode && layout.nbytes >= values) return;  // a cell never takes more than its raw levels
    const double cost = double(error) + rules.lagrangian * double(8 * (cell_header_nbytes + layout.nbytes));
    if (mode < 0 || cost < best || (cost == best && layout.nbytes < nbytes)) best = cost, mode = candidate, flags = layout.flags, nbytes = layout.nbytes;
  };
  int64_t energy = 0;
  {
    int32_t total = 0;
    for (int i = 0; i < n; ++i) {
      const int32_t d = int32_t(s.levels[i]) - rules.zero;
      total += d * d;
    }
    energy = total;
  }
  if (rules.modes >> zero_mode & 1 || !energy) offer(zero_mode, Layout{0, 0}, energy);
  if (rules.modes >> zvc_mode & 1) {
    lookup(rules.symbol_of, s.levels, s.zvc, n);
    const Layout layout = plan_layout<S>(cell, rules, s.zvc, false, zvc_planes);
    if (layout.nbytes >= 0) {
      lookup(rules.level_of, s.zvc, s.decoded, n);
      offer(zvc_mode, layout, squared_error(s.levels, s.decoded, n));
    }
  }
  if (rules.modes >> dct_mode & 1 && rules.length && cell.planes >= rules.length && forward_dct<S>(cell, rules, s.levels, s.dct, s)) {
    inverse_dct<S>(cell, rules, s.dct, s.decoded, s);
    Layout layout = plan_layout<S>(cell, rules, s.dct, true, dct_planes);
    if (layout.nbytes >= 0) offer(dct_mode, layout, squared_error(s.levels, s.decoded, n));
    if (rules.zero_map) {
      layout = with_zero_map(layout, bytes_of(values));
      for (int i = 0; i < n; ++i) s.decoded[i] = s.levels[i] == rules.zero ? uint8_t(rules.zero) : s.decoded[i];
      if (layout.nbytes >= 0) offer(dct_mode, layout, squared_error(s.levels, s.decoded, n));
    }
  }
  offer(raw_mode, Layout{values, 0}, 0);
  out[0] = uint8_t(mode | flags);
  out[1] = uint8_t(nbytes);
  out[2] = uint8_t(nbytes >> 8);
  out += cell_header_nbytes;
  if (mode == raw_mode) {
    for (int p = 0; p < cell.planes; ++p, out += cell.area) std::memcpy(out, s.levels + p * cell.stride, std::size_t(cell.area));
  } else if (mode != zero_mode) {
    uint8_t* end = mode == dct_mode ? pack_cell(cell, rules, s.dct, dct_planes, flags, s.packed, s)
                                   : pack_cell(cell, rules, s.zvc, zvc_planes, flags, s.packed, s);
    std::memcpy(out, s.packed, std::size_t(end - s.packed));
    out += end - s.packed;
  }
  return out;
}

template <class Visit>
void each_cell(const MapView& map, int64_t stripe, Visit&& visit) {
  const int64_t depth = channels_of_cell(map);
  const int64_t y = stripe * stripe_rows;
  const int rows = int(map.rows - y < stripe_rows ? map.rows - y : stripe_rows);
  for (int64_t c = 0; c < map.channels; c += depth)
    for (int64_t x = 0; x < map.columns; x += cell_columns) {
      const int planes = int(map.channels - c < depth ? map.channels - c : depth);
      const int columns = int(map.columns - x < cell_columns ? map.columns - x : cell_columns);
      const Cell cell{c, y, x, planes, rows, columns, rows * columns, int(std::bit_ceil(unsigned(rows * columns)))};
      if (!visit(cell)) return;
    }
}

int64_t find_bad(const MapView& map, const Cell& cell) {  // the flat index of the first value that is not finite
  for (int p = 0; p < cell.planes; ++p)
    for (int y = 0; y < cell.rows; ++y)
      for (int x = 0; x < cell.columns; ++x) {
        const int64_t at = (cell.first_channel + p) * map.channel_stride + (cell.y + y) * map.row_stride + (cell.x + x) * map.column_stride;
        uint32_t word;
        std::memcpy(&word, static_cast<const float*>(map.data) + at, 4);
        if (bad_float(word)) return ((cell.first_channel + p) * map.rows + cell.y + y) * map.columns + cell.x + x;
      }
  return -1;
}

Outcome encode_stripe(const MapView& map, const CellRules& rules, int64_t stripe, uint8_t* out) {
  Scratch s;
  Outcome result;
  result.stripe = stripe;
  uint8_t* at = out;
  each_cell(map, stripe, [&](const Cell& cell) {
    if (!load(map, cell, rules.zero, s.levels)) {
      result.fault = Fault::not_finite;
      result.at = find_bad(map, cell);
      return false;
    }
    at = cell.stride == plane_size ? encode_cell<plane_size>(cell, rules, at, s) : encode_cell<0>(cell, rules, at, s);
    ++result.cell;
    return true;
  });
  result.nbytes = at - out;
  return result;
}

// --- decode -----------------------------------------------------------------------------------------------------------

bool padding_clear(const uint8_t* section, int64_t bits) { return bits % 8 == 0 || section[bits / 8] >> bits % 8 == 0; }

// Payload of s.packed -> symbols of all planes and the zero map (in s.bitmaps). Nothing is read past `nbytes`.
Fault unpack_cell(const Cell& cell, const CellRules& rules, int flags, bool transformed, int64_t nbytes, uint8_t* symbols, uint64_t* zero_map,
                  Scratch& s) {
  std::uint16_t stored[max_planes];
  int planes = 0;
  for (int p = 0; p < cell.planes; ++p)
    if (!transformed || plane_kept(rules, cell, p)) stored[planes++] = std::uint16_t(p);
  std::memset(symbols, 0, std::size_t(cell.planes) * cell.stride);
  int64_t at = 0;
  const auto open = [&](int64_t bits, Fault& fault) {  // a section of so many bits; its padding must be zero
    const int64_t size = bytes_of(bits);
    if (size > nbytes - at) {
      fault = Fault::section_cut;
      return BitReader{s.packed};
    }
    if (!padding_clear(s.packed + at, bits)) fault = Fault::padding;
    const BitReader reader{s.packed + at};
    at += size;
    return reader;
  };
  Fault fault = Fault::none;
  const bool coded = flags & plane_codes_flag;
  const int flat_code = 2 + (flags >> 4 & 7);
  int bitmaps = planes;
  if (coded) {
    BitReader reader = open(4 * planes, fault);
    if (fault != Fault::none) return fault;
    bitmaps = 0;
    for (int j = 0; j < planes; ++j) {
      s.codes[j] = uint8_t(reader.take(4));
      bitmaps += s.codes[j] > 0 && s.codes[j] < dense_code;
    }
  }
  if (flags & zero_map_flag) {
    BitReader reader = open(int64_t(cell.planes) * cell.area, fault);
    if (fault != Fault::none) return fault;
    for (int p = 0; p < cell.planes; ++p) zero_map[p] = reader.take64(cell.area);
  }
  BitReader reader = open(int64_t(bitmaps) * cell.area, fault);
  if (fault != Fault::none) return fault;
  int64_t bits = 0;
  for (int j = 0; j < planes; ++j) {
    const int code = coded ? s.codes[j] : flat_code;
    s.bitmaps[j] = code > 0 && code < dense_code ? reader.take64(cell.area) : 0;
    bits += code >= dense_code ? cell.area * (code - dense_code + 3) : code ? std::popcount(s.bitmaps[j]) * (code - 1) : 0;
  }
  BitReader values = open(bits, fault);
  if (fault != Fault::none) return fault;
  if (at != nbytes) return Fault::length_wrong;
  for (int j = 0; j < planes; ++j) {
    const int code = coded ? s.codes[j] : flat_code;
    uint8_t* plane = symbols + stored[j] * cell.stride;
    if (code >= dense_code) {
      unpack(values, s.values, cell.area, code - dense_code + 3);
      std::memcpy(plane, s.values, std::size_t(cell.area));
    } else if (s.bitmaps[j]) {
      unpack(values, s.values, std::popcount(s.bitmaps[j]), code - 1);
      spread(s.values, s.bitmaps[j], plane);
    }
  }
  return Fault::none;
}

Fault decode_cell(const Cell& cell, const CellRules& rules, const uint8_t* data, int64_t left, int64_t& used, int64_t& at, Scratch& s) {
  if (left < cell_header_nbytes) return Fault::header_cut;
  const int flags = data[0], mode = flags & 3;
  const int64_t nbytes = data[1] | data[2] << 8;
  at = flags;
  if (flags & 0x80 || (mode != dct_mode && flags & zero_map_flag) || (mode <= raw_mode && flags >> 2) ||
      (flags & plane_codes_flag && flags >> 4))
    return Fault::header_flags;
  if (nbytes > left - cell_header_nbytes) return Fault::payload_cut;
  used = cell_header_nbytes + nbytes;
  data += cell_header_nbytes;
  if (mode == zero_mode) {
    std::memset(s.levels, rules.zero, std::size_t(cell.planes) * cell.stride);
    return nbytes ? Fault::length_wrong : Fault::none;
  }
  if (mode == raw_mode) {
    if (nbytes != cell.planes * cell.area) return Fault::length_wrong;
    for (int p = 0; p < cell.planes; ++p, data += cell.area) std::memcpy(s.levels + p * cell.stride, data, std::size_t(cell.area));
    return Fault::none;
  }
  if (nbytes > max_packed) return Fault::length_wrong;
  std::memcpy(s.packed, data, std::size_t(nbytes));  // the bit readers look 8 bytes ahead
  if (mode == zvc_mode) {
    const Fault fault = unpack_cell(cell, rules, flags, false, nbytes, s.zvc, nullptr, s);
    if (fault == Fault::none) lookup(rules.level_of, s.zvc, s.levels, cell.planes * cell.stride);
    return fault;
  }
  if (!rules.length || cell.planes < rules.length) return Fault::no_transform;
  uint64_t zero_map[max_planes];
  const Fault fault = unpack_cell(cell, rules, flags, true, nbytes, s.dct, zero_map, s);
  if (fault != Fault::none) return fault;
  if (cell.stride == plane_size)
    inverse_dct<plane_size>(cell, rules, s.dct, s.levels, s);
  else
    inverse_dct<0>(cell, rules, s.dct, s.levels, s);
  if (flags & zero_map_flag)
    for (int p = 0; p < cell.planes; ++p)
      for (uint64_t bits = zero_map[p]; bits; bits &= bits - 1) s.levels[p * cell.stride + std::countr_zero(bits)] = uint8_t(rules.zero);
  return Fault::none;
}

Outcome decode_stripe(const uint8_t* data, int64_t nbytes, const MapView& map, const CellRules& rules, int64_t stripe) {
  Scratch s;
  Outcome result;
  result.stripe = stripe;
  int64_t at = 0;
  each_cell(map, stripe, [&](const Cell& cell) {
    int64_t used = 0;
    result.fault = decode_cell(cell, rules, data + at, nbytes - at, used, result.at, s);
    if (result.fault != Fault::none) return false;
    store(map, cell, rules.zero, s.levels);
    at += used;
    ++result.cell;
    return true;
  });
  if (result.fault == Fault::none && at != nbytes) result.fault = Fault::rest, result.at = nbytes - at;
  result.nbytes = at;
  return result;
}

}  // namespace

extern const StripeBody stripe_body;
const StripeBody stripe_body{encode_stripe, decode_stripe};

}  // namespace tensorpress::TP_ISA
