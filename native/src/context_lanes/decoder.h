// Up to 64 cells, channel by channel: sums ahead, the values of all lanes in turn, and out.
#pragma once
#include "sums.h"
#include "turn.h"

namespace tensorpress {
namespace {

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
    alignas(64) int16_t roots[side + 2][side + 4][lanes];  // by row and column, behind two of nothing
  };
  struct Memory {
    Strand strand[strands];
    Plane then;
    int offset = 0;  // around planes
    void each_plane(auto&& visit) {
      for (Strand& one : strand)
        for (auto& cell : one.planes)
          for (Plane& plane : cell) visit(plane);
      visit(then);
    }
  };
  Memory& memory = kept<Memory>();

  Decoder(const ContextModel& model, const MapView* before, const MapView& out, const uint8_t* payload, int64_t nbytes)
      : m(model), lookups(model), before(before), out(out), payload(payload), last(uint32_t(nbytes - 4)), exact(out.element != Element::f32) {
    surround(memory, m.lanes.offset);
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

}  // namespace
}  // namespace tensorpress
