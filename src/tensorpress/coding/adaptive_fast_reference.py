"""The fast form of the adaptive coder (native/src/adaptive_fast.cpp) in plain Python, both ways: the specification, and slow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tensorpress.coding.adaptive_reference import clamp, mean, sixteenths
from tensorpress.core.errors import StreamError

LANES, LOW, BLOCK = 4, 1 << 16, 1 << 20
SCALES, CONTRASTS, LEANINGS, ESCAPE, HEARD, PLACE_SETS = 32, 3, 4, 15, 15, 64
CONTEXTS = SCALES * CONTRASTS * LEANINGS
STEP, MOST, LONGEST = 16, 32768, 128


class Counts:
    """How often each of 16 symbols was seen in a context, and the starts, of 2^16, that follow from it now and then."""

    def __init__(self, row: int) -> None:
        self.seen = [4] * 16
        if row < CONTEXTS:
            scale = row // (CONTRASTS * LEANINGS)
            ratio, power, weights = clamp(256 * scale // (scale + 8) - 20, 4, 240), 3072, [4096]
            for _ in range(7):
                power = power * ratio >> 8
                weights += [power, power]
            weights.append(power)
            self.seen = [max(1, 64 * w // sum(weights)) for w in weights]
        self.left = self.cycle = 8
        self.set_starts()

    def set_starts(self) -> None:
        share = (65520 << 16) // sum(self.seen)
        self.starts = [(sum(self.seen[:s]) * share >> 16) + s for s in range(16)] + [65536]

    def learn(self, symbol: int) -> None:
        self.seen[symbol] += STEP
        self.left -= 1
        if self.left == 0:
            if sum(self.seen) > MOST:
                self.seen = [(n + 1) >> 1 for n in self.seen]
            self.left = self.cycle = min(self.cycle + self.cycle // 2, LONGEST)
            self.set_starts()


class Lanes:
    """Writes without `data`, reads with it: four rANS states over one row of words."""

    def __init__(self, data: bytes | None = None) -> None:
        self.data, self.at, self.out = data, 0, bytearray()
        self.events: list[tuple[int, int, int]] = []
        self.states = [LOW] * LANES

    def _word(self) -> int:
        assert self.data is not None
        if self.at + 2 > len(self.data):
            raise StreamError(f"the string ends at byte {len(self.data)}")
        self.at += 2
        return int.from_bytes(self.data[self.at - 2 : self.at], "little")

    def begin(self) -> None:
        if self.data is not None:
            self.states = [self._word() | self._word() << 16 for _ in range(LANES)]
            if min(self.states) < LOW:
                raise StreamError("a state is below 2^16")

    def end(self) -> None:
        if self.data is not None:
            if self.states != [LOW] * LANES:
                raise StreamError("a state does not end where it began")
            return
        states, words = [LOW] * LANES, []
        for lane, start, frequency in reversed(self.events):
            x = states[lane]
            if x >> 16 >= frequency:
                words.append(x & 0xFFFF)
                x >>= 16
            states[lane] = (x // frequency << 16) + x % frequency + start
        for x in reversed(states):
            words += [x >> 16, x & 0xFFFF]
        self.out += b"".join(w.to_bytes(2, "little") for w in reversed(words))
        self.events = []

    def _step(self, lane: int, start: int, frequency: int) -> None:
        x = self.states[lane]
        x = frequency * (x >> 16) + (x & 0xFFFF) - start
        self.states[lane] = x << 16 | self._word() if x < LOW else x

    def code(self, lane: int, counts: Counts, symbol: int) -> int:
        if self.data is not None:
            slot = self.states[lane] & 0xFFFF
            symbol = sum(start <= slot for start in counts.starts) - 1
        start, frequency = counts.starts[symbol], counts.starts[symbol + 1] - counts.starts[symbol]
        if self.data is None:
            self.events.append((lane, start, frequency))
        else:
            self._step(lane, start, frequency)
        return symbol

    def raw(self, lane: int, bits: int, value: int) -> int:
        if bits == 0:
            return 0
        if self.data is None:
            self.events.append((lane, value << (16 - bits), 1 << (16 - bits)))
            return value
        value = (self.states[lane] & 0xFFFF) >> (16 - bits)
        self._step(lane, value << (16 - bits), 1 << (16 - bits))
        return value


class Fast:
    """The states, and the walk over a tensor, both ways."""

    def __init__(self, data: bytes | None = None) -> None:
        self.lanes, self.writing = Lanes(data), data is None
        self.counts = [Counts(row) for row in range(CONTEXTS + SCALES)]
        self.leans = [[0] * 14 for _ in range(PLACE_SETS)]
        self.open, self.in_block = False, 0

    def large(self, lane: int, scale: int, value: int) -> int:
        counts, more = self.counts[CONTEXTS + scale], abs(value) - 7
        n = more.bit_length() - 1 if self.writing else 0
        width = self.lanes.code(lane, counts, min(n, ESCAPE))
        counts.learn(width)
        n = width if width < ESCAPE else ESCAPE + self.lanes.raw(lane, 4, n - ESCAPE)
        negative = self.lanes.raw(lane, 1, int(value < 0))
        above, below = max(n - 16, 0), min(n, 16)
        high = self.lanes.raw(lane, above, more >> 16 & (1 << above) - 1)
        low = self.lanes.raw(lane, below, more & (1 << below) - 1)
        magnitude = 7 + (1 << n | high << 16 | low)
        if magnitude > (1 << 31) - (not negative):
            raise StreamError("a value is beyond 32 bits")
        return -magnitude if negative else magnitude

    def walk(self, values: NDArray[np.int32]) -> None:
        """Code `values`, (rows, columns, taps), or fill them."""
        rows, columns, taps = values.shape
        if values.size == 0:
            return
        single, across = taps == 1, math.isqrt(taps) if math.isqrt(taps) ** 2 == taps else 2
        first = [lane * (rows // LANES) + min(lane, rows % LANES) for lane in range(LANES + 1)]
        heard = np.zeros((LANES, first[1] + 2, columns + 11, taps + 1), object)  # two rows and ten columns in front, one column and one tap behind
        of_column, of_tap = [0] * columns, [0] * taps
        of_all = done = 0
        for r in range(first[1]):
            active = [lane for lane in range(LANES) if r < first[lane + 1] - first[lane]]
            if self.open and self.in_block >= BLOCK:
                self.lanes.end()
                self.open = False
            if not self.open:
                self.lanes.begin()
                self.open, self.in_block = True, 0
            all_ = mean(of_all, done, 128, 4)
            l_all, before = sixteenths(all_), done
            l_tap = [sixteenths(mean(of_tap[t], before // taps, all_, 8)) for t in range(taps)]
            of_row = [0] * LANES
            for c in range(columns):
                l_column = sixteenths((256 * of_column[c] + 4 * all_) * ((1 << 32) // (before // columns + 4)) >> 32)
                l_row = [sixteenths((256 * of_row[lane] + 4 * all_) * ((1 << 32) // (c * taps + 4)) >> 32) for lane in range(LANES)]
                of_kernel = [0] * LANES
                for t in range(taps):
                    lean = self.leans[PLACE_SETS - 1 if single else min(t, PLACE_SETS - 2)]
                    moved, todo = [0] * 14, []
                    for lane in active:
                        here, above, higher = heard[lane, r + 2], heard[lane, r + 1], heard[lane, r]
                        x, up = here[c + 10], above[c + 10]
                        p, pp, q, qq = here[c + 9][t], here[c + 8][t], up[t], higher[c + 10][t]
                        p_next, q_next = here[c + 9][t + 1], up[t + 1]
                        places = [here[c + 7 - k][0] for k in range(8)] if single else [x[t - 1 - k] if k < t else 0 for k in range(8)]
                        near = 2 * abs(p) + (4 if single else 1) * abs(pp) + 2 * abs(q) + abs(p_next) + abs(q_next)
                        near += 3 * abs(places[0]) if single or t % across else 0
                        if not single and across <= t and across <= 8:
                            near += 3 * abs(places[across - 1])
                            near += abs(places[across - 2]) if across > 1 and t % across + 1 < across else 0
                        around = [*places, p, pp, q, qq, p_next, q_next]
                        toward = clamp(sum(w * v for w, v in zip(lean, around)) >> 5, -2047, 2047)
                        l_near = sixteenths(14 * near + (all_ >> 2))
                        l_kernel = sixteenths((256 * of_kernel[lane] + 2 * all_) * (65536 // (t + 2)) >> 16)
                        product = l_row[lane] + l_column + l_tap[t] - 2 * l_all
                        scale = clamp((2 * product + l_near + l_kernel - 96) >> 5, 0, SCALES - 1)
                        contrast = clamp((l_near - product + 24) >> 4, 0, CONTRASTS - 1)
                        row = (scale * CONTRASTS + contrast) * LEANINGS + min(abs(toward) >> 7, LEANINGS - 1)
                        todo.append((lane, row, scale, toward, around))
                    learned = []
                    for lane, row, scale, toward, around in todo:
                        flipped = toward < 0
                        value = int(values[first[lane] + r, c, t]) if self.writing else 0
                        symbol = ESCAPE if abs(value) > 7 else 2 * abs(value) - ((value < 0) == flipped) if value else 0
                        symbol = self.lanes.code(lane, self.counts[row], symbol)
                        if symbol == ESCAPE:
                            value = self.large(lane, scale, value)
                        elif not self.writing:
                            value = (symbol + 1 >> 1) * (-1 if flipped == symbol % 2 else 1)
                        if not self.writing:
                            values[first[lane] + r, c, t] = value
                        told = clamp(value, -HEARD, HEARD)
                        heard[lane, r + 2, c + 10, t] = told
                        if told:
                            error = clamp(1024 - 2 * toward, 16, 2031) - (2047 if told < 0 else 0)
                            moved = [m + (v * error + 64 >> 7) for m, v in zip(moved, around)]
                        of_kernel[lane] += abs(told)
                        of_tap[t] += abs(told)
                        learned.append((row, symbol))
                    for row, symbol in learned:
                        self.counts[row].learn(symbol)
                    lean[:] = [clamp(w + m, -31000, 31000) for w, m in zip(lean, moved)]
                    done += len(active)
                of_column[c] += sum(of_kernel)
                of_all += sum(of_kernel)
                of_row = [n + m for n, m in zip(of_row, of_kernel)]
            self.in_block += len(active) * columns * taps


def encode(tensors: Sequence[NDArray[np.int32]]) -> bytes:
    """One string of tensors that are seen as (rows, columns, taps) already."""
    fast = Fast()
    for values in tensors:
        fast.walk(values)
    if fast.open:
        fast.lanes.end()
    return b"\1" + bytes(fast.lanes.out)


def decode(data: bytes, shapes: Sequence[tuple[int, int, int]]) -> list[NDArray[np.int32]]:
    """The tensors of a string that an encoder wrote."""
    fast, found = Fast(data[1:]), [np.zeros(shape, np.int32) for shape in shapes]
    for values in found:
        fast.walk(values)
    if fast.open:
        fast.lanes.end()
    return found
