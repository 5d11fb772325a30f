// Classes cell by cell; then the rANS states of up to 64 cells, backwards.
#pragma once
#include "sums.h"
#include "turn.h"

namespace tensorpress {
namespace {

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
    void each_plane(auto&& visit) {
      for (Plane& plane : planes) visit(plane);
      visit(then);
    }
    alignas(64) int16_t keys[block][strands][lanes][area];  // class << 8 | value, of each lane
    alignas(64) int16_t across[strands][area][lanes];
    alignas(64) uint16_t low[strands][area][lanes];    // of states, a channel's
    alignas(64) uint8_t leaves[strands][area][lanes];  // 255 where that is a word of the lane
    alignas(64) uint16_t lane_low[lanes][area];
    alignas(64) uint8_t lane_leaves[lanes][area];
    alignas(64) uint8_t words[strands * lanes][words_nbytes];
  };
  Memory& memory = kept<Memory>();

  Encoder(const ContextModel& model, const MapView& x, const MapView* before, std::vector<Cell>& cells, uint8_t* bodies, uint32_t next)
      : m(model), lookups(model), x(x), before(before), cells(cells), bodies(bodies), next(next) {
    surround(memory, m.lanes.offset);
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
    __m512i state[2 * used];
    for (int h = 0; h < 2 * used; ++h) state[h] = _mm512_set1_epi32(first_state);
    for (int l = 0; l < used * lanes; ++l) ends[l] = uint32_t(l + 1) * words_nbytes;
    std::memset(memory.leaves, 0, sizeof memory.leaves);
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
            _mm256_store_si256(reinterpret_cast<__m256i*>(memory.low[h / 2][side * y + i]) + h % 2, _mm512_cvtepi32_epi16(state[h]));
            _mm_store_si128(reinterpret_cast<__m128i*>(memory.leaves[h / 2][side * y + i]) + h % 2, _mm_movm_epi8(full));
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
      for (int g = 0; g < used; ++g) keep_words(g, ends + g * lanes);
    }
    for (int h = 0; h < 2 * used; ++h) _mm512_store_si512(states + 16 * h, state[h]);
  }

  // The words of a channel, lane by lane, below those of the channels after it.
  void keep_words(int strand, uint32_t* ends) {
    turned_back(memory.low[strand], memory.lane_low);
    turned_back(memory.leaves[strand], memory.lane_leaves);
    for (int l = 0; l < lanes; ++l) {
      const uint64_t leave = _mm512_movepi8_mask(_mm512_load_si512(memory.lane_leaves[l]));
      for (int half = 1; half >= 0; --half) {
        const auto here = uint32_t(leave >> 32 * half);
        const int count = std::popcount(here);
        ends[l] -= 2 * uint32_t(count);
        const __m512i words = _mm512_maskz_compress_epi16(here, _mm512_load_si512(memory.lane_low[l] + 32 * half));
        _mm512_mask_storeu_epi16(&memory.words[0][0] + ends[l], uint32_t((uint64_t{1} << count) - 1), words);
      }
    }
  }
};

}  // namespace
}  // namespace tensorpress
