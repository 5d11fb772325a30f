// What a lane holds is a cell; cells of one group may lie anywhere in the map, so weights differ from lane to lane.
// Sums over earlier channels and the reference are made ahead for a whole channel of a cell (values side by side); then the
// values of all lanes are decoded in turn (lanes side by side), and turned back. An encoder knows all values: its classes are
// made cell by cell, and lanes serve its states alone.
#include "tensorpress/context_lanes.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "tensorpress/isa.h"
#include "tensorpress/pool.h"

namespace tensorpress {
namespace {

using std::int16_t, std::int32_t, std::int64_t, std::size_t, std::uint16_t, std::uint32_t, std::uint64_t, std::uint8_t;

constexpr int lanes = 32, strands = 2, side = 8, area = side * side, block = 32;
constexpr int bits = context_table_bits;
constexpr uint32_t first_state = 1u << 16;

// A channel of a cell: roots in rows of eight, as bytes from `offset` on; `offset` stands around them, and where the cell has no value.
constexpr int plane_lead = 16, plane_size = plane_lead + area + 16;
struct alignas(32) Plane {
  uint8_t at[plane_size];
  uint8_t* values() { return at + plane_lead; }
  const uint8_t* values() const { return at + plane_lead; }
};
// Sums of a channel in 16 bits stand as byte operations leave them: rows 0 2 4 6, then 1 3 5 7.
constexpr int place_of(int y, int x) { return (y % 2) * area / 2 + y / 2 * side + x; }

struct Cell {
  int64_t stripe, channel, row, column;  // where it begins
  int channels, rows, columns;
  uint64_t there;  // places of a channel that hold a value
  uint32_t entry = 0;  // in its stripe's table
  uint32_t at = 0, nbytes = 0;  // its body

  int values() const { return channels * rows * columns; }
};

std::vector<Cell> cells_of(const ContextModel& m, int64_t rows, int64_t columns) {
  const int64_t channels = int64_t(m.channels);
  std::vector<Cell> cells;
  for (int64_t y = 0; y < rows; y += side)
    for (int64_t c = 0; c < channels; c += block)
      for (int64_t x = 0; x < columns; x += side) {
        Cell cell{y / side, c, y, x, int(std::min<int64_t>(block, channels - c)), int(std::min<int64_t>(side, rows - y)),
                  int(std::min<int64_t>(side, columns - x)), 0};
        for (int row = 0; row < cell.rows; ++row) cell.there |= ((uint64_t{1} << cell.columns) - 1) << side * row;
        cells.push_back(cell);
      }
  return cells;
}

// Cells of like shapes stand together, so that few lanes wait for others.
std::vector<uint32_t> in_groups(const std::vector<Cell>& cells, std::vector<uint32_t> order) {
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const Cell &p = cells[a], &q = cells[b];
    return std::tuple(p.channels, p.rows, p.columns) > std::tuple(q.channels, q.rows, q.columns);
  });
  return order;
}

// --- tables ---------------------------------------------------------------------------------------------------------

// Classes and roots. Both tables stand in registers.
class Lookups {
 public:
  const __m512i offset;  // of roots, 64 bytes
  explicit Lookups(const ContextModel& m) : offset(_mm512_set1_epi8(char(m.lanes.offset))), shift_(_mm512_set1_epi16(int16_t(m.bins.shift))) {
    for (int k = 0; k < 2; ++k) class_of_[k] = _mm512_loadu_si512(m.lanes.class_of + 64 * k);
    for (int k = 0; k < 4; ++k) root_of_[k] = _mm512_loadu_si512(m.lanes.root_of + 64 * k);
  }
  // class << 3 of sums (predictions less the grid's low end), 16 bits both. Upper bytes find entry 0, which is 0.
  __m512i class_of(__m512i sum) const {
    const __m512i i = _mm512_max_epi16(_mm512_srav_epi16(sum, shift_), _mm512_setzero_si512());
    return _mm512_permutex2var_epi8(class_of_[0], _mm512_min_epi16(i, _mm512_set1_epi16(context_lane_bins - 1)), class_of_[1]);
  }
  __m512i root_of(__m512i bytes) const {
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), _mm512_permutex2var_epi8(root_of_[0], bytes, root_of_[1]),
                                  _mm512_permutex2var_epi8(root_of_[2], bytes, root_of_[3]));
  }
  __m512i root_of_words(__m512i words) const {  // of 16 bits, as the values are
    constexpr __mmask64 lower = 0x5555555555555555u;
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(words), _mm512_maskz_permutex2var_epi8(lower, root_of_[0], words, root_of_[1]),
                                  _mm512_maskz_permutex2var_epi8(lower, root_of_[2], words, root_of_[3]));
  }

 private:
  __m512i class_of_[2], root_of_[4], shift_;
};

// --- sums over a channel of one cell -------------------------------------------------------------------------------------

constexpr uint64_t not_first = 0xFEFEFEFEFEFEFEFEu, not_first_two = 0xFCFCFCFCFCFCFCFCu, not_last = 0x7F7F7F7F7F7F7F7Fu;

struct Sum {
  __m512i even, odd;  // rows
  void add(uint32_t weights, __m512i a, __m512i b) {  // two bytes, twice: of a and of b
    const __m512i w = _mm512_set1_epi32(int(weights));
    even = _mm512_add_epi16(even, _mm512_maddubs_epi16(_mm512_unpacklo_epi8(a, b), w));
    odd = _mm512_add_epi16(odd, _mm512_maddubs_epi16(_mm512_unpackhi_epi8(a, b), w));
  }
};

inline __m512i load(const uint8_t* p) { return _mm512_loadu_si512(p); }

// Same, E, S, W: two pairs. N is left to the caller.
inline void add_four(Sum& sum, const uint32_t* w, const uint8_t* p, __m512i outside) {
  sum.add(w[0], load(p), _mm512_mask_loadu_epi8(outside, not_last, p + 1));
  sum.add(w[1], load(p + side), _mm512_mask_loadu_epi8(outside, not_first, p - 1));
}

inline void add_spatial(Sum& sum, const uint32_t* w, const uint8_t* p, __m512i outside) {
  sum.add(w[0], _mm512_mask_loadu_epi8(outside, not_first, p - 1), load(p - side));
  sum.add(w[1], _mm512_mask_loadu_epi8(outside, not_first, p - side - 1), _mm512_mask_loadu_epi8(outside, not_last, p - side + 1));
  sum.add(w[2], _mm512_mask_loadu_epi8(outside, not_first_two, p - 2), load(p - 2 * side));
}

// All but the spatial part, less the low end of the classes' grid. planes: of the cell's channels by number mod 32; then: of the reference.
inline Sum cross_sum(const ContextModel& m, const Lookups& lookups, int64_t channel, const Plane* planes, const Plane& then) {
  const __m512i bias = _mm512_set1_epi32(int(m.lanes.bias[size_t(channel)]));
  Sum sum{bias, bias};
  const uint32_t* w = m.lanes.pairs.data() + channel * m.lanes.pair_count + context_spatial / 2;
  if (m.earlier) {
    const uint8_t* const list = m.lanes.earlier.data() + channel * m.earlier;
    const auto values = [&](int k) { return load(planes[list[k]].values()); };
    const uint8_t* const p = planes[list[0]].values();
    add_four(sum, w, p, lookups.offset);
    sum.add(w[2], load(p - side), m.earlier > 1 ? values(1) : lookups.offset);
    w += 3;
    for (int k = 2; k < m.earlier; k += 2) sum.add(*w++, values(k), k + 1 < m.earlier ? values(k + 1) : lookups.offset);
  }
  if (m.reference) {
    add_four(sum, w, then.values(), lookups.offset);
    sum.add(w[2], load(then.values() - side), lookups.offset);
  }
  return sum;
}

// --- values in and out --------------------------------------------------------------------------------------------------

// One channel of a cell, 64 places: quantised values and low, which is a zero, and zeros where the cell has no value.
inline __m512i quantised(const ContextModel& m, const MapView& map, const Cell& cell, int64_t channel) {
  const int64_t first = channel * map.channel_stride + cell.row * map.row_stride + cell.column;
  const auto mask = __mmask8((1u << cell.columns) - 1);
  const __m512i zero = _mm512_set1_epi8(char(m.low));
  alignas(64) uint8_t rows[area];
  if (map.element != Element::f32 && m.lanes.whole) {
    const auto* const from = static_cast<const uint8_t*>(map.data) + first;
    if (cell.columns == side)
      for (int y = 0; y < cell.rows; ++y) std::memcpy(rows + side * y, from + y * map.row_stride, side);
    else
      for (int y = 0; y < cell.rows; ++y)
        _mm_storel_epi64(reinterpret_cast<__m128i*>(rows + side * y), _mm_maskz_loadu_epi8(mask, from + y * map.row_stride));
    const __m512i x = _mm512_load_si512(rows);
    if (map.element == Element::u8 && m.low == 0 && m.high == 255) return _mm512_maskz_mov_epi8(cell.there, x);
    const bool is_signed = map.element == Element::i8;
    const __m256i half[2] = {_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)};
    __m256i v[2];
    for (int k = 0; k < 2; ++k) {
      const __m512i wide = _mm512_add_epi16(is_signed ? _mm512_cvtepi8_epi16(half[k]) : _mm512_cvtepu8_epi16(half[k]), _mm512_set1_epi16(int16_t(m.low)));
      v[k] = _mm512_cvtepi16_epi8(_mm512_min_epi16(_mm512_max_epi16(wide, _mm512_setzero_si512()), _mm512_set1_epi16(int16_t(m.low + m.high))));
    }
    return _mm512_mask_blend_epi8(cell.there, zero, _mm512_inserti64x4(_mm512_castsi256_si512(v[0]), v[1], 1));
  }
  const __m256 by = _mm256_set1_ps(m.reciprocal[size_t(channel)]), low = _mm256_set1_ps(float(-m.low)), high = _mm256_set1_ps(float(m.high));
  const __m256i up = _mm256_set1_epi32(m.low);
  for (int y = 0; y < cell.rows; ++y) {
    const int64_t at = first + y * map.row_stride;
    __m256 x;
    if (map.element == Element::f32) {
      x = _mm256_maskz_loadu_ps(mask, static_cast<const float*>(map.data) + at);
    } else {
      const __m128i eight = _mm_maskz_loadu_epi8(mask, static_cast<const uint8_t*>(map.data) + at);
      x = _mm256_cvtepi32_ps(map.element == Element::i8 ? _mm256_cvtepi8_epi32(eight) : _mm256_cvtepu8_epi32(eight));
    }
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(x, by), low), high);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(rows + side * y), _mm256_cvtepi32_epi8(_mm256_add_epi32(_mm256_cvtps_epi32(clamped), up)));
  }
  return _mm512_mask_blend_epi8(cell.there, zero, _mm512_load_si512(rows));
}

inline __m512i even_rows(__m512i bytes) { return _mm512_unpacklo_epi8(bytes, _mm512_setzero_si512()); }
inline __m512i odd_rows(__m512i bytes) { return _mm512_unpackhi_epi8(bytes, _mm512_setzero_si512()); }

inline void put_roots(const Lookups& lookups, __m512i q, Plane& plane) { _mm512_storeu_si512(plane.values(), lookups.root_of(q)); }

// Rows of 32 lanes from 32 rows of values, 16 bits each: to[i][lane] = from[lane][i].
inline void turned(const int16_t (*from)[area], int16_t (*to)[lanes]) {
  for (int l = 0; l < lanes; l += 8)
    for (int i = 0; i < area; i += 32) {
      __m512i r[8], s[8];
      for (int k = 0; k < 8; ++k) r[k] = _mm512_load_si512(from[l + k] + i);
      for (int k = 0; k < 8; k += 2) {
        s[k] = _mm512_unpacklo_epi16(r[k], r[k + 1]);
        s[k + 1] = _mm512_unpackhi_epi16(r[k], r[k + 1]);
      }
      for (int k = 0; k < 8; k += 4) {
        r[k] = _mm512_unpacklo_epi32(s[k], s[k + 2]), r[k + 1] = _mm512_unpackhi_epi32(s[k], s[k + 2]);
        r[k + 2] = _mm512_unpacklo_epi32(s[k + 1], s[k + 3]), r[k + 3] = _mm512_unpackhi_epi32(s[k + 1], s[k + 3]);
      }
      for (int k = 0; k < 4; ++k) {
        s[2 * k] = _mm512_unpacklo_epi64(r[k], r[k + 4]);
        s[2 * k + 1] = _mm512_unpackhi_epi64(r[k], r[k + 4]);
      }
      for (int k = 0; k < 8; ++k) {  // s[k]: values i + k, i + 8 + k, i + 16 + k, i + 24 + k of eight lanes
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + k] + l), _mm512_castsi512_si128(s[k]));
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + 8 + k] + l), _mm512_extracti32x4_epi32(s[k], 1));
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + 16 + k] + l), _mm512_extracti32x4_epi32(s[k], 2));
        _mm_store_si128(reinterpret_cast<__m128i*>(to[i + 24 + k] + l), _mm512_extracti32x4_epi32(s[k], 3));
      }
    }
}

// The way back, of bytes: to[lane][i] = from[i][lane].
inline void turned_back(const uint8_t (*from)[lanes], uint8_t (*to)[area]) {
  for (int i = 0; i < area; i += 16) {
    __m256i r[16], s[16];
    for (int k = 0; k < 16; ++k) r[k] = _mm256_load_si256(reinterpret_cast<const __m256i*>(from[i + k]));
    for (int k = 0; k < 8; ++k) s[2 * k] = _mm256_unpacklo_epi8(r[2 * k], r[2 * k + 1]), s[2 * k + 1] = _mm256_unpackhi_epi8(r[2 * k], r[2 * k + 1]);
    for (int k = 0; k < 16; k += 4)
      for (int n = 0; n < 2; ++n)
        r[k + 2 * n] = _mm256_unpacklo_epi16(s[k + n], s[k + 2 + n]), r[k + 2 * n + 1] = _mm256_unpackhi_epi16(s[k + n], s[k + 2 + n]);
    for (int k = 0; k < 16; k += 8)
      for (int n = 0; n < 4; ++n)
        s[k + 2 * n] = _mm256_unpacklo_epi32(r[k + n], r[k + 4 + n]), s[k + 2 * n + 1] = _mm256_unpackhi_epi32(r[k + n], r[k + 4 + n]);
    for (int n = 0; n < 8; ++n) r[2 * n] = _mm256_unpacklo_epi64(s[n], s[8 + n]), r[2 * n + 1] = _mm256_unpackhi_epi64(s[n], s[8 + n]);
    for (int k = 0; k < 16; ++k) {  // r[k]: sixteen values of lanes k and 16 + k
      _mm_store_si128(reinterpret_cast<__m128i*>(to[k] + i), _mm256_castsi256_si128(r[k]));
      _mm_store_si128(reinterpret_cast<__m128i*>(to[16 + k] + i), _mm256_extracti128_si256(r[k], 1));
    }
  }
}

// Which lanes of a strand have a value at a place: by channel, row and column.
struct Presence {
  uint32_t channel[block] = {}, row[side] = {}, column[side] = {};
  void add(int lane, const Cell& cell) {
    for (int c = 0; c < cell.channels; ++c) channel[c] |= 1u << lane;
    for (int y = 0; y < cell.rows; ++y) row[y] |= 1u << lane;
    for (int x = 0; x < cell.columns; ++x) column[x] |= 1u << lane;
  }
  uint32_t at(int c, int y, int x) const { return channel[c] & row[y] & column[x]; }
};

// The box that holds every cell of a group.
struct Extent {
  int channels = 0, rows = 0, columns = 0;
  void add(const Cell& cell) {
    channels = std::max(channels, cell.channels), rows = std::max(rows, cell.rows), columns = std::max(columns, cell.columns);
  }
};

// Memory that a thread keeps from call to call; zeros at first, and where planes end they stay.
template <class Memory>
Memory& kept() {
  thread_local const std::unique_ptr<Memory> memory(new Memory{});
  return *memory;
}

// What stands around planes is the offset of the model at hand.
template <class Memory>
void surround(Memory& memory, int offset, std::span<Plane> planes, Plane& then) {
  if (memory.offset == offset) return;
  for (Plane& plane : planes) std::memset(plane.at, offset, sizeof plane.at);
  std::memset(then.at, offset, sizeof then.at);
  memory.offset = offset;
}

// Classes of 64 places whose values are known.
inline Sum known_classes(const ContextModel& m, const Lookups& lookups, int64_t channel, __m512i q, Plane* planes, const Plane& then) {
  Plane& plane = planes[channel % block];
  put_roots(lookups, q, plane);
  Sum sum = cross_sum(m, lookups, channel, planes, then);
  add_spatial(sum, m.lanes.pairs.data() + channel * m.lanes.pair_count, plane.values(), lookups.offset);
  return {lookups.class_of(sum.even), lookups.class_of(sum.odd)};  // << 3
}

inline __m512i widened(__m512i v, int half) {
  return _mm512_cvtepu16_epi32(half ? _mm512_extracti64x4_epi64(v, 1) : _mm512_castsi512_si256(v));
}

// --- encoder ------------------------------------------------------------------------------------------------------------

constexpr int words_nbytes = 2 * block * area + 192;  // of a cell, at most one word a value; no power of two apart

struct Encoder {
  const ContextModel& m;
  const Lookups lookups;
  const MapView& x;
  const MapView* const before;
  std::vector<Cell>& cells;
  uint8_t* const bodies;
  uint32_t next;  // byte of `bodies` from which on there is room for a byte a value
  Presence presence[strands];
  Extent extent;
  uint32_t held[strands * lanes];
  int count = 0;
  struct Memory {
    Plane planes[block], then;
    int offset = 0;  // around planes
    alignas(64) int16_t keys[block][strands][lanes][area];  // class << 8 | value, of each lane
    alignas(64) int16_t across[strands][area][lanes];
    alignas(64) uint8_t words[strands * lanes][words_nbytes];
  };
  Memory& memory = kept<Memory>();

  Encoder(const ContextModel& model, const MapView& x, const MapView* before, std::vector<Cell>& cells, uint8_t* bodies, uint32_t next)
      : m(model), lookups(model), x(x), before(before), cells(cells), bodies(bodies), next(next) {
    surround(memory, m.lanes.offset, {&memory.planes[0], block}, memory.then);
  }

  void take(uint32_t number) {
    Cell& cell = cells[number];
    uint64_t busy = 0;
    const __m512i zero = _mm512_set1_epi8(char(m.low));
    for (int c = 0; c < cell.channels; ++c) {
      const int64_t channel = cell.channel + c;
      const __m512i q = quantised(m, x, cell, channel);
      busy |= _mm512_cmpneq_epi8_mask(q, zero);
      if (m.reference) put_roots(lookups, quantised(m, *before, cell, channel), memory.then);
      const Sum classes = known_classes(m, lookups, channel, q, memory.planes, memory.then);
      int16_t* const keys = memory.keys[c][count / lanes][count % lanes];
      _mm512_store_si512(keys, _mm512_or_si512(_mm512_slli_epi16(classes.even, 5), even_rows(q)));
      _mm512_store_si512(keys + 32, _mm512_or_si512(_mm512_slli_epi16(classes.odd, 5), odd_rows(q)));
    }
    cell.entry = cell.nbytes = 0;
    if (!busy) return;
    held[count] = number;
    presence[count / lanes].add(count % lanes, cell);
    extent.add(cell);
    if (++count == strands * lanes) flush();
  }

  void flush() {
    if (!count) return;
    alignas(64) uint32_t states[strands * lanes], ends[strands * lanes];
    if (count > lanes) code<strands>(states, ends);
    else code<1>(states, ends);
    for (int l = 0; l < count; ++l) {
      Cell& cell = cells[held[l]];
      uint8_t* const body = bodies + next;
      cell.at = next;
      const uint32_t nbytes = uint32_t(l + 1) * words_nbytes - ends[l];
      if (int(nbytes) + 4 >= cell.values()) {
        raw(cell, l, body);
        next += cell.nbytes;
        continue;
      }
      std::memcpy(body, &states[l], 4);
      std::memcpy(body + 4, &memory.words[0][0] + ends[l], nbytes);
      cell.nbytes = nbytes + 4, cell.entry = cell.nbytes / 2;
      next += cell.nbytes;
    }
    count = 0, extent = Extent();
    for (Presence& p : presence) p = Presence();
  }

 private:
  void raw(Cell& cell, int lane, uint8_t* body) const {
    for (int c = 0; c < cell.channels; ++c)
      for (int y = 0; y < cell.rows; ++y)
        for (int i = 0; i < cell.columns; ++i) *body++ = uint8_t(memory.keys[c][lane / lanes][lane % lanes][place_of(y, i)]);
    cell.nbytes = uint32_t(cell.values()), cell.entry = 0x8000 | cell.nbytes;
  }

  // All values of the lanes, the last first; words grow down from the end of each lane's.
  template <int used>
  void code(uint32_t* states, uint32_t* ends) {
    const int* const entries = reinterpret_cast<const int*>(m.lanes.encode.data());
    __m512i state[2 * used], end[2 * used];
    for (int h = 0; h < 2 * used; ++h) {
      state[h] = _mm512_set1_epi32(first_state);
      const __m512i lane = _mm512_add_epi32(_mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16), _mm512_set1_epi32(16 * h));
      end[h] = _mm512_mullo_epi32(lane, _mm512_set1_epi32(words_nbytes));
    }
    for (int c = extent.channels; c-- > 0;) {
      for (int g = 0; g < used; ++g) turned(memory.keys[c][g], memory.across[g]);
      for (int y = extent.rows; y-- > 0;)
        for (int i = extent.columns; i-- > 0;)
#pragma GCC unroll 4
          for (int h = 0; h < 2 * used; ++h) {
            const auto on = __mmask16(presence[h / 2].at(c, y, i) >> 16 * (h % 2));
            const __m256i key = _mm256_load_si256(reinterpret_cast<const __m256i*>(memory.across[h / 2][place_of(y, i)]) + h % 2);
            const __m512i e = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), on, _mm512_cvtepu16_epi32(key), entries, 4);
            const __m512i frequency = _mm512_srli_epi32(e, 20), k = _mm512_and_si512(_mm512_srli_epi32(e, 4), _mm512_set1_epi32(7));
            const __m512i room = _mm512_sub_epi32(_mm512_set1_epi32(32 - bits), k);
            const __mmask16 full = _mm512_mask_cmpge_epu32_mask(on, _mm512_srlv_epi32(state[h], room), frequency);
            end[h] = _mm512_mask_sub_epi32(end[h], full, end[h], _mm512_set1_epi32(2));
            // the word is the upper half of what is written; the lower half lies where the next one will
            _mm512_mask_i32scatter_epi32(&memory.words[0][0] - 2, full, end[h], _mm512_slli_epi32(state[h], 16), 1);
            const __m512i x0 = _mm512_mask_srli_epi32(state[h], full, state[h], 16);
            const __m512i y0 = _mm512_or_si512(_mm512_sllv_epi32(x0, k), _mm512_and_si512(e, _mm512_set1_epi32(15)));
            // the quotient is below 2^21: the float's is less than one away
            const __m512 f = _mm512_cvtepu32_ps(frequency);
            __m512i quotient = _mm512_cvttps_epu32(_mm512_div_ps(_mm512_cvtepu32_ps(y0), f));
            __m512i rest = _mm512_sub_epi32(y0, _mm512_mullo_epi32(quotient, frequency));
            const __mmask16 over = _mm512_cmplt_epi32_mask(rest, _mm512_setzero_si512());
            quotient = _mm512_mask_sub_epi32(quotient, over, quotient, _mm512_set1_epi32(1));
            rest = _mm512_mask_add_epi32(rest, over, rest, frequency);
            const __mmask16 under = _mm512_cmpge_epi32_mask(rest, frequency);
            quotient = _mm512_mask_add_epi32(quotient, under, quotient, _mm512_set1_epi32(1));
            rest = _mm512_mask_sub_epi32(rest, under, rest, frequency);
            const __m512i start = _mm512_and_si512(_mm512_srli_epi32(e, 8), _mm512_set1_epi32(0xFFF));
            const __m512i next = _mm512_add_epi32(_mm512_slli_epi32(quotient, bits), _mm512_add_epi32(rest, start));
            state[h] = _mm512_mask_mov_epi32(state[h], on, next);
          }
    }
    for (int h = 0; h < 2 * used; ++h) _mm512_store_si512(states + 16 * h, state[h]), _mm512_store_si512(ends + 16 * h, end[h]);
  }
};

// --- decoder ------------------------------------------------------------------------------------------------------------

struct EvenBytes {
  alignas(64) uint8_t at[64] = {};
  constexpr EvenBytes() {
    for (int i = 0; i < 32; ++i) at[i] = uint8_t(2 * i);
  }
};
constexpr EvenBytes even_bytes;

struct Decoder {
  const ContextModel& m;
  const Lookups lookups;
  const MapView* const before;
  const MapView& out;
  const uint8_t* const payload;
  const uint32_t last;  // byte of the payload from which four are left
  const bool exact;
  struct Strand {
    Plane planes[lanes][block];
    alignas(64) int16_t sums[lanes][area];  // all but their spatial parts
    alignas(64) int16_t across[area][lanes];
    alignas(64) uint8_t values[area][lanes], classes[area][lanes];
    alignas(64) uint8_t lane_values[lanes][area], lane_classes[lanes][area];
    alignas(64) int16_t weights[context_spatial][lanes];
    alignas(64) int16_t roots[side + 2][side + 4][lanes];  // by row and column, two zeros before
  };
  struct Memory {
    Strand strand[strands];
    Plane then;
    int offset = 0;  // around planes
  };
  Memory& memory = kept<Memory>();

  Decoder(const ContextModel& model, const MapView* before, const MapView& out, const uint8_t* payload, int64_t nbytes)
      : m(model), lookups(model), before(before), out(out), payload(payload), last(uint32_t(nbytes - 4)), exact(out.element != Element::f32) {
    const int before_this = memory.offset;
    for (Strand& strand : memory.strand) {
      memory.offset = before_this;
      surround(memory, m.lanes.offset, {&strand.planes[0][0], lanes * block}, memory.then);
    }
  }

  // A cell that has no words: all zeros, or a byte for each value. False where a value is none of the model's.
  bool copy(const Cell& cell) {
    const uint8_t* from = payload + cell.at;
    const __m512i zero = _mm512_set1_epi8(char(m.low));
    for (int c = 0; c < cell.channels; ++c) {
      __m512i q = zero;
      if (cell.entry) {
        alignas(64) uint8_t rows[area];
        _mm512_store_si512(rows, zero);
        for (int y = 0; y < cell.rows; ++y, from += cell.columns) std::memcpy(rows + side * y, from, size_t(cell.columns));
        q = _mm512_load_si512(rows);
        if (_mm512_cmpgt_epu8_mask(q, _mm512_set1_epi8(char(m.low + m.high)))) return false;
      }
      alignas(64) uint8_t classes[area];
      if (!exact) {
        if (m.reference) put_roots(lookups, quantised(m, *before, cell, cell.channel + c), memory.then);
        const Sum found = known_classes(m, lookups, cell.channel + c, q, memory.strand[0].planes[0], memory.then);
        _mm512_store_si512(classes, _mm512_packus_epi16(_mm512_srli_epi16(found.even, 3), _mm512_srli_epi16(found.odd, 3)));
      }
      write(Place(*this, cell), c, q, classes);
    }
    return true;
  }

  // Cells that have words, up to strands * lanes. 0 in `good` where they do not end as they must.
  void decode(std::vector<Cell>& cells, const uint32_t* order, int count, uint8_t* good) {
    if (count > lanes) decode<strands>(cells, order, count, good);
    else decode<1>(cells, order, count, good);
  }

 private:
  // Where a cell's values go.
  struct Place {
    int64_t channel;
    int channels, rows, columns;
    uint64_t there;
    uint8_t* to;  // first value, of whatever type
    Place() = default;
    Place(const Decoder& d, const Cell& cell) : channel(cell.channel), channels(cell.channels), rows(cell.rows), columns(cell.columns), there(cell.there) {
      const int64_t first = cell.channel * d.out.channel_stride + cell.row * d.out.row_stride + cell.column;
      to = static_cast<uint8_t*>(d.out.data) + first * (d.exact ? 1 : int64_t{sizeof(float)});
    }
  };

  template <int used>
  void decode(std::vector<Cell>& cells, const uint32_t* order, int count, uint8_t* good) {
    Presence presence[used];
    Extent extent;
    Place places[used * lanes];
    alignas(64) uint32_t at[used * lanes] = {}, state[used * lanes], first[used * lanes];
    const auto seat = [](int l) { return l / lanes * lanes + l % 2 * lanes / 2 + l % lanes / 2; };  // even lanes, then odd ones
    for (int l = 0; l < used * lanes; ++l) first[l] = first_state;
    bool alike = count == used * lanes;
    for (int l = 0; l < count; ++l) {
      const Cell& cell = cells[order[l]];
      presence[l / lanes].add(l % lanes, cell), extent.add(cell);
      places[l] = Place(*this, cell);
      alike = alike && cell.channels == places[0].channels && cell.rows == places[0].rows && cell.columns == places[0].columns;
      std::memcpy(&first[seat(l)], payload + cell.at, 4);
      at[seat(l)] = cell.at + 4;
    }
    std::memcpy(state, first, sizeof state);
    for (int g = 0; g < used; ++g)
      for (auto& row : memory.strand[g].roots)
        for (auto& place : row) _mm512_store_si512(place, _mm512_set1_epi16(int16_t(m.lanes.offset)));
    for (int c = 0; c < extent.channels; ++c) {
      for (int l = 0; l < count; ++l)
        if (c < places[l].channels) predict(cells[order[l]], c, memory.strand[l / lanes], l % lanes);
      for (int g = 0; g < used; ++g) turned(memory.strand[g].sums, memory.strand[g].across);
      if (alike) step_all<used, true>(presence, extent, c, state, at);
      else step_all<used, false>(presence, extent, c, state, at);
      for (int g = 0; g < used; ++g) {
        turned_back(memory.strand[g].values, memory.strand[g].lane_values);
        if (!exact) turned_back(memory.strand[g].classes, memory.strand[g].lane_classes);
      }
      for (int l = 0; l < count; ++l)
        if (c < places[l].channels) finish(places[l], c, memory.strand[l / lanes], l % lanes);
    }
    for (int l = 0; l < count; ++l) {
      const Cell& cell = cells[order[l]];
      good[l] = state[seat(l)] == first_state && at[seat(l)] == cell.at + cell.nbytes && first[seat(l)] >= first_state;
    }
  }

  // What one lane knows of a channel before its values.
  void predict(const Cell& cell, int c, Strand& strand, int lane) {
    const int64_t channel = cell.channel + c;
    if (m.reference) put_roots(lookups, quantised(m, *before, cell, channel), memory.then);
    const Sum sum = cross_sum(m, lookups, channel, strand.planes[lane], memory.then);
    _mm512_store_si512(strand.sums[lane], sum.even), _mm512_store_si512(strand.sums[lane] + 32, sum.odd);
    const int8_t* const w = m.weights.data() + channel * m.features();
    for (int k = 0; k < context_spatial; ++k) strand.weights[k][lane] = w[k];
  }

  // The values that one lane found in a channel: their roots for channels to come, and to the output.
  void finish(const Place& place, int c, Strand& strand, int lane) {
    const __m512i q = _mm512_load_si512(strand.lane_values[lane]);
    _mm512_storeu_si512(strand.planes[lane][c].values(), _mm512_mask_mov_epi8(lookups.offset, place.there, lookups.root_of(q)));
    write(place, c, q, strand.lane_classes[lane]);
  }

  // One channel of all lanes. alike: every lane has a value at every place.
  template <int used, bool alike>
  void step_all(const Presence (&presence)[used], const Extent& extent, int c, uint32_t* states, uint32_t* places) {
    const int* const entries = reinterpret_cast<const int*>(m.lanes.decode.data());
    const __m512i lower_bytes = _mm512_load_si512(even_bytes.at), slots = _mm512_set1_epi32((1 << bits) - 1), lower_word = _mm512_set1_epi32(0xFFFF);
    const __m512i top = _mm512_set1_epi16(int16_t(m.low + m.high)), zero = _mm512_set1_epi16(int16_t(m.low)), zero32 = _mm512_set1_epi32(m.low);
    const bool two_signs = m.low > 0, clamped = two_signs || m.high < 255, with_classes = !exact;
    __m512i state[2 * used], at[2 * used], words[2 * used];
    for (int h = 0; h < 2 * used; ++h) state[h] = _mm512_load_si512(states + 16 * h), at[h] = _mm512_load_si512(places + 16 * h);
    bool fresh = false, inside = true;  // whether no lane comes near the payload's end in this channel
    for (int h = 0; h < 2 * used; ++h)
      inside = inside && _mm512_cmpge_epu32_mask(at[h], _mm512_set1_epi32(int(last) - 2 * area)) == 0;
    for (int y = 0; y < extent.rows; ++y) {
      __m512i west[used], further[used];
      for (int g = 0; g < used; ++g) west[g] = further[g] = _mm512_set1_epi16(int16_t(m.lanes.offset));
      for (int i = 0; i < extent.columns; ++i) {
        if (!fresh)
#pragma GCC unroll 4
          for (int h = 0; h < 2 * used; ++h) {  // two words of each lane, the first in the upper half; behind the payload's end stand zeros
            if (inside) {
              words[h] = _mm512_rol_epi32(_mm512_i32gather_epi32(at[h], payload, 1), 16);
            } else {
              const __m512i from = _mm512_min_epu32(at[h], _mm512_set1_epi32(int(last)));
              const __m512i beyond = _mm512_slli_epi32(_mm512_sub_epi32(at[h], from), 3);
              words[h] = _mm512_rol_epi32(_mm512_srlv_epi32(_mm512_i32gather_epi32(from, payload, 1), beyond), 16);
            }
          }
        fresh = !fresh;
#pragma GCC unroll 2
        for (int g = 0; g < used; ++g) {
          Strand& strand = memory.strand[g];
          const auto weight = [&](int k) { return _mm512_load_si512(strand.weights[k]); };
          const int16_t(*const above)[lanes] = strand.roots[y + 1] + 2 + i;
          __m512i p = _mm512_add_epi16(_mm512_load_si512(strand.across[place_of(y, i)]), _mm512_mullo_epi16(weight(4), further[g]));
          p = _mm512_add_epi16(p, _mm512_mullo_epi16(weight(1), _mm512_load_si512(above[0])));
          p = _mm512_add_epi16(p, _mm512_mullo_epi16(weight(2), _mm512_load_si512(above[-1])));
          p = _mm512_add_epi16(p, _mm512_mullo_epi16(weight(3), _mm512_load_si512(above[1])));
          p = _mm512_add_epi16(p, _mm512_mullo_epi16(weight(5), _mm512_load_si512(strand.roots[y][2 + i])));
          p = _mm512_add_epi16(p, _mm512_mullo_epi16(weight(0), west[g]));
          const __m512i class_ = lookups.class_of(p);
          const uint32_t active = alike ? ~0u : presence[g].at(c, y, i);
          __m512i value[2];
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            const int h = 2 * g + half;
            const auto on = __mmask16(alike ? 0xFFFF : _pext_u32(active, 0x55555555u << half));
            // class << 11, out of a byte that holds class << 3
            const __m512i row = half ? _mm512_srli_epi32(class_, 8) : _mm512_srli_epi32(_mm512_slli_epi32(class_, 24), 16);
            const __m512i at_slot = _mm512_ternarylogic_epi32(row, state[h], slots, 0xF8);  // row | (state & slots)
            const __m512i e = _mm512_i32gather_epi32(at_slot, entries, 4);
            const __m512i first = _mm512_and_si512(e, _mm512_set1_epi32(255));
            const __m512i bias = _mm512_and_si512(_mm512_srli_epi32(e, 8), _mm512_set1_epi32(0xFFF));
            __m512i x = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_srli_epi32(e, 20), _mm512_srli_epi32(state[h], bits)), bias);
            const __m512i magnitude = two_signs ? _mm512_abs_epi32(_mm512_sub_epi32(first, zero32)) : first;
            const __m512i k = _mm512_subs_epu16(_mm512_set1_epi32(28), _mm512_lzcnt_epi32(magnitude));
            const __m512i extra = _mm512_andnot_si512(_mm512_sllv_epi32(_mm512_set1_epi32(-1), k), x);
            x = _mm512_srlv_epi32(x, k);
            value[half] = _mm512_add_epi32(first, extra);
            if (two_signs) {
              value[half] = _mm512_mask_sub_epi32(value[half], _mm512_cmplt_epi32_mask(first, zero32), first, extra);
              if (half == 0) value[half] = _mm512_and_si512(value[half], lower_word);
            }
            __mmask16 need = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(first_state));
            if (!alike) need &= on;
            x = _mm512_mask_shldi_epi32(x, need, x, words[h], 16);
            words[h] = _mm512_mask_slli_epi32(words[h], need, words[h], 16);
            at[h] = _mm512_mask_add_epi32(at[h], need, at[h], _mm512_set1_epi32(2));
            state[h] = alike ? x : _mm512_mask_mov_epi32(state[h], on, x);
          }
          __m512i v = _mm512_or_si512(_mm512_slli_epi32(value[1], 16), value[0]);
          if (clamped) v = _mm512_max_epi16(_mm512_min_epi16(v, top), _mm512_setzero_si512());
          if (!alike) v = _mm512_mask_mov_epi16(zero, active, v);
          const auto bytes = [&](__m512i words) { return _mm512_castsi512_si256(_mm512_permutexvar_epi8(lower_bytes, words)); };
          _mm256_store_si256(reinterpret_cast<__m256i*>(strand.values[side * y + i]), bytes(v));
          if (with_classes) _mm256_store_si256(reinterpret_cast<__m256i*>(strand.classes[side * y + i]), bytes(_mm512_srli_epi16(class_, 3)));
          further[g] = west[g];
          west[g] = lookups.root_of_words(v);
          _mm512_store_si512(strand.roots[y + 2][i + 2], west[g]);
        }
      }
    }
    for (int h = 0; h < 2 * used; ++h) _mm512_store_si512(states + 16 * h, state[h]), _mm512_store_si512(places + 16 * h, at[h]);
  }

  // One channel of a cell to the output.
  void write(const Place& place, int c, __m512i q, const uint8_t* classes) const {
    alignas(64) uint8_t rows[area];
    const auto mask = __mmask8((1u << place.columns) - 1);
    if (exact) {
      _mm512_store_si512(rows, out.element == Element::i8 ? _mm512_sub_epi8(q, _mm512_set1_epi8(char(m.low))) : q);
      uint8_t* to = place.to + c * out.channel_stride;
      if (place.columns == side)
        for (int y = 0; y < place.rows; ++y, to += out.row_stride) std::memcpy(to, rows + side * y, side);
      else
        for (int y = 0; y < place.rows; ++y, to += out.row_stride)
          _mm_mask_storeu_epi8(to, mask, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows + side * y)));
      return;
    }
    _mm512_store_si512(rows, q);
    const __m256 step = _mm256_set1_ps(m.step128[size_t(place.channel + c)]);
    float* to = reinterpret_cast<float*>(place.to) + c * out.channel_stride;
    for (int y = 0; y < place.rows; ++y, to += out.row_stride) {
      const auto eight = [&](const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + side * y))); };
      const __m256i level = _mm256_sub_epi32(eight(rows), _mm256_set1_epi32(m.low));
      const __m256i magnitude = _mm256_min_epi32(_mm256_abs_epi32(level), _mm256_set1_epi32(3));
      const __m256i index = _mm256_or_si256(_mm256_slli_epi32(eight(classes), 2), magnitude);
      __m256i shift = _mm256_mmask_i32gather_epi32(_mm256_setzero_si256(), mask, index, m.lanes.centroid.data(), 4);
      shift = _mm256_mask_sub_epi32(shift, _mm256_cmplt_epi32_mask(level, _mm256_setzero_si256()), _mm256_setzero_si256(), shift);
      const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(level, 7), shift)), step);
      _mm256_mask_storeu_ps(to, mask, value);
    }
  }
};

// --- payloads -----------------------------------------------------------------------------------------------------------

// Work of about as much for each thread, and no less than a group.
int parts_of(size_t cells, int threads) { return int(std::clamp<size_t>(cells / lanes, 1, size_t(std::max(threads, 1)))); }

uint32_t get16(const uint8_t* p) { return p[0] | uint32_t{p[1]} << 8; }

}  // namespace

bool context_lanes(const ContextModel& m, std::int64_t rows, std::int64_t columns) {
  return isa() == Isa::avx512 && m.lanes.usable && std::min<int64_t>(rows, side) * std::min<int64_t>(columns, side) > block;
}

std::int64_t context_lanes_capacity(const ContextModel& m, std::int64_t rows, std::int64_t columns, std::size_t head_nbytes) {
  const int64_t blocks = (int64_t(m.channels) + block - 1) / block, stripes = (rows + side - 1) / side, across = (columns + side - 1) / side;
  return int64_t(head_nbytes) + 8 * stripes + 2 * blocks * stripes * across + int64_t(m.channels) * rows * columns;
}

std::int64_t context_lanes_encode(const ContextModel& m, const MapView& x, const MapView* before, const std::uint8_t* head,
                                  std::size_t head_nbytes, std::uint8_t* out, int threads) {
  std::vector<Cell> cells = cells_of(m, x.rows, x.columns);
  std::vector<uint32_t> order(cells.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = uint32_t(i);
  order = in_groups(cells, std::move(order));
  const std::unique_ptr<uint8_t[]> bodies(new uint8_t[size_t(x.channels * x.rows * x.columns)]);  // touched only where written
  const int parts = parts_of(cells.size(), threads);
  parallel(parts, parts, [&](int part) {
    const size_t first = cells.size() * part / parts;
    uint32_t room = 0;  // of the parts before
    for (size_t i = 0; i < first; ++i) room += uint32_t(cells[order[i]].values());
    Encoder encoder(m, x, before, cells, bodies.get(), room);
    for (size_t i = first; i < cells.size() * (part + 1) / parts && !stop_asked(); ++i) encoder.take(order[i]);
    encoder.flush();
  });
  std::memcpy(out, head, head_nbytes);
  const int64_t stripes = stripe_count(x);
  uint8_t* at = out + head_nbytes + 8 * stripes;
  size_t cell = 0;
  const PayloadTable table(out, head_nbytes);
  for (int64_t s = 0; s < stripes; ++s) {
    uint8_t* const begin = at;
    const size_t first = cell;
    while (cell < cells.size() && cells[cell].stripe == s) ++cell;
    bool any = false;
    for (size_t i = first; i < cell; ++i) any = any || cells[i].entry;
    for (size_t i = first; i < cell && any; ++i) *at++ = uint8_t(cells[i].entry), *at++ = uint8_t(cells[i].entry >> 8);
    for (size_t i = first; i < cell; ++i) {
      std::memcpy(at, bodies.get() + cells[i].at, cells[i].nbytes);
      at += cells[i].nbytes;
    }
    table.put(out, s, begin, size_t(at - begin));
  }
  return at - out;
}

Outcome context_lanes_decode(const ContextModel& m, const std::uint8_t* payload, std::int64_t nbytes, std::size_t head_nbytes,
                             const MapView* before, const MapView& out, int threads) {
  std::vector<Cell> cells = cells_of(m, out.rows, out.columns);
  std::vector<uint32_t> order;
  std::vector<uint8_t> stripe_good(size_t(stripe_count(out)), 1);
  const int64_t stripes = stripe_count(out);
  const PayloadTable table(payload, head_nbytes);
  int64_t at = int64_t(head_nbytes) + 8 * stripes;
  size_t cell = 0;
  Outcome outcome;
  const auto fail = [&](Fault fault, int64_t stripe) {
    outcome.fault = fault, outcome.stripe = stripe;
    return outcome;
  };
  for (int64_t s = 0; s < stripes; ++s) {
    const int64_t size = table.nbytes_of(s), end = at + size;
    if (end > nbytes) return fail(Fault::payload_cut, s);
    if (!table.good(s, payload + at, size_t(size))) return fail(Fault::stripe_check, s);
    const size_t first = cell;
    while (cell < cells.size() && cells[cell].stripe == s) ++cell;
    const int64_t sizes = at;
    if (size) {
      at += 2 * int64_t(cell - first);
      if (at > end) return fail(Fault::section_cut, s);
    }
    for (size_t i = first; i < cell; ++i) {
      Cell& c = cells[i];
      c.entry = size ? get16(payload + sizes + 2 * int64_t(i - first)) : 0;
      c.nbytes = c.entry & 0x8000 ? c.entry & 0x7FFF : 2 * c.entry;
      c.at = uint32_t(at);
      const bool raw = c.entry & 0x8000;
      if (c.nbytes > end - at || (raw && int(c.nbytes) != c.values()) || (!raw && c.entry == 1)) return fail(Fault::section_cut, s);
      at += c.nbytes;
      order.push_back(uint32_t(i));
    }
    if (at != end) return fail(Fault::length_wrong, s);
  }
  order = in_groups(cells, std::move(order));
  const int parts = parts_of(order.size(), threads);
  parallel(parts, parts, [&](int part) {
    Decoder decoder(m, before, out, payload, nbytes);
    uint32_t group[strands * lanes];
    uint8_t good[strands * lanes];
    int count = 0;
    const auto flush = [&] {
      decoder.decode(cells, group, count, good);
      for (int l = 0; l < count; ++l)
        if (!good[l]) stripe_good[size_t(cells[group[l]].stripe)] = 0;
      count = 0;
    };
    for (size_t i = order.size() * part / parts; i < order.size() * (part + 1) / parts && !stop_asked(); ++i) {
      const Cell& cell = cells[order[i]];
      if (cell.entry == 0 || cell.entry & 0x8000) {
        if (!decoder.copy(cell)) stripe_good[size_t(cell.stripe)] = 0;
        continue;
      }
      group[count++] = order[i];
      if (count == strands * lanes) flush();
    }
    if (count) flush();
  });
  for (int64_t s = 0; s < stripes; ++s)
    if (!stripe_good[size_t(s)]) return fail(Fault::length_wrong, s);
  return outcome;
}

bool context_exact(const ContextModel& m) { return m.lanes.exact; }

}  // namespace tensorpress
