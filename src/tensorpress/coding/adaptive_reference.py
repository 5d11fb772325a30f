"""The small form of the adaptive coder (native/src/adaptive_small.cpp) in plain Python, both ways: the specification, and slow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tensorpress.coding.range_reference import Interval
from tensorpress.core.errors import StreamError

REACH = 3072  # of the logistic domain, in 1/256
KNOTS = [min(65535, round(65536 / (1 + math.exp(-k / 2)))) for k in range(25)]
OCTAVE = [math.ceil(256 * 2 ** (k / 16)) for k in range(16)]
CONTEXTS, FLAGS, SLOTS, MOST_SEEN, PLACES, PLACE_SETS, HEARD = 8, 14, 512, 250, 12, 64, 255
SIGN = FLAGS


def clamp(x: int, low: int, high: int) -> int:
    return low if x < low else high if x > high else x


def squash(x: int) -> int:
    """2^16 / (1 + exp(-x / 256)), by straight lines."""
    at, part = divmod(min(abs(x), REACH), 128)
    p = (KNOTS[at] * (128 - part) + KNOTS[min(at + 1, 24)] * part + 64) >> 7
    return p if x >= 0 else 65536 - p


def stretches() -> list[int]:
    """The least x that squash takes to the middle of each of 4096 probabilities, or beyond."""
    table, x = [], -REACH
    for p in range(4096):
        while x < REACH and squash(x) < 16 * p + 8:
            x += 1
        table.append(x)
    return table


STRETCH = stretches()


def sixteenths(x: int) -> int:
    """16 log2(x + 1), downwards, from the eight bits behind the leading one."""
    y = min(x, 65535) + 1
    exponent = y.bit_length() - 1
    part = 256 + ((y << 8 >> exponent) & 255)
    return 16 * exponent + sum(part >= start for start in OCTAVE[1:])


def half_octave(x: int) -> int:
    return clamp((x - 16) >> 3, 0, 19)


def mean(total: int, count: int, prior: int, weight: int) -> int:
    return (256 * total + prior * weight) // (count + weight)


def toward_zero(x: int, by: int) -> int:
    return x // by if x >= 0 else -(-x // by)


class Slot:
    """How probable a 1 is, of 2^22, and how often it was seen."""

    def __init__(self) -> None:
        self.p, self.seen = 1 << 21, 0

    def learn(self, bit: int) -> None:
        self.p += ((1 << 22) - 1 - self.p if bit else -self.p) * (655360 // (10 * self.seen + 15)) >> 16
        self.seen = min(self.seen + 1, MOST_SEEN)


class Mix:
    """The states, and the walk over a tensor: both ways, as `Interval` is."""

    def __init__(self, data: bytes | None = None) -> None:
        self.interval, self.writing = Interval(data), data is None
        self.slots: dict[tuple[int, int, int], Slot] = {}
        self.prefix, self.mantissa = [[Slot() for _ in range(32)] for _ in range(8)], [Slot() for _ in range(32)]
        self.weights = [[65536 // CONTEXTS] * CONTEXTS + [0, 0] for _ in range(FLAGS + 1)]
        self.leaning = [[0] * PLACES for _ in range(PLACE_SETS)]

    def flag(self, bit: int, kind: int, context: Sequence[int], lean: int = 0) -> int:
        slots = [self.slots.setdefault((i, kind, c), Slot()) for i, c in enumerate(context)]
        inputs = [STRETCH[s.p >> 10] for s in slots] + [256, lean]
        weights = self.weights[kind]
        p = squash(sum(w * x for w, x in zip(weights, inputs)) >> 16)
        bit = self.interval.code(p, bit if self.writing else None)
        error = (65535 if bit else 0) - p
        for i, x in enumerate(inputs):
            weights[i] = clamp(weights[i] + (x * error + 65536 >> 17), -(1 << 20), 1 << 20)
        for s in slots:
            s.learn(bit)
        return bit

    def plain(self, bit: int, slot: Slot) -> int:
        bit = self.interval.code(clamp(slot.p >> 6, 64, 65536 - 64), bit if self.writing else None)
        slot.learn(bit)
        return bit

    def golomb(self, x: int, level: int) -> int:
        width, n, y = x.bit_length() - 1, 0, 1
        while n < 31 and self.plain(int(n < width), self.prefix[level][n]):
            n += 1
        for i in range(n - 1, -1, -1):
            bit = x >> i & 1
            y = y << 1 | (self.plain(bit, self.mantissa[n]) if i == n - 1 else self.interval.code(32768, bit if self.writing else None))
        return y

    def walk(self, values: NDArray[np.int32]) -> None:
        """Code `values`, (rows, columns, taps), or fill them."""
        rows, columns, taps = values.shape
        if values.size == 0:
            return
        across = math.isqrt(taps) if math.isqrt(taps) ** 2 == taps else 2
        heard = np.zeros((rows + 2, columns + 12, taps + 1), object)  # two rows in front, ten columns in front and one behind, one tap behind
        of_column, of_tap = [0] * columns, [0] * taps
        of_place = [[0] * taps for _ in range(columns)]
        of_all = done = 0
        for r in range(rows):
            of_row = last = 0
            of_row_tap = [0] * taps
            for c in range(columns):
                above, higher, here = heard[r + 1, c + 10], heard[r, c + 10], heard[r + 2, c + 10]
                before, before2 = heard[r + 2, c + 9], heard[r + 2, c + 8]
                all_ = mean(of_all, done, 128, 4)
                in_row, in_column = mean(of_row, c * taps, all_, 4), mean(of_column[c], r * taps, all_, 4)
                l_all, l_row, l_column = sixteenths(all_), sixteenths(in_row), sixteenths(in_column)
                l_last = half_octave(sixteenths(mean(last, taps, all_, 1)))
                unit, of_kernel = 16384 // (all_ + 64), 0
                for t in range(taps):
                    single = taps == 1
                    if single:
                        left, over, beside = heard[r + 2, c + 7, 0], before2[0], 0
                    else:
                        left = here[t - 1] if t % across else 0
                        over = here[t - across] if t >= across else 0
                        beside = here[t - across + 1] if t >= across and t % across + 1 < across else 0
                    p, pp, q, qq = before[t], before2[t], above[t], higher[t]
                    p_next, q_next = before[t + 1], above[t + 1]
                    near = 3 * abs(left) + 3 * abs(over) + 2 * abs(p) + 2 * abs(q) + abs(beside) + abs(pp) + abs(p_next) + abs(q_next)
                    l_near = sixteenths((256 * near + 4 * all_) // 18)
                    l_tap = sixteenths(mean(of_tap[t], r * columns + c, all_, 8))
                    l_place = sixteenths(mean(of_place[c][t], r, in_column, 4))
                    l_row_tap = sixteenths(mean(of_row_tap[t], c, in_row, 4))
                    h_kernel, h_near = half_octave(sixteenths(mean(of_kernel, t, in_row, 2))), half_octave(l_near)
                    product = half_octave(l_row + l_column + l_tap - 2 * l_all)
                    if single:
                        places = [heard[r + 2, c + 7 - i, 0] for i in range(8)]
                    else:
                        places = [here[t - 1 - i] if i < t else 0 for i in range(8)]
                    inputs = [clamp(x * unit, -1023, 1023) for x in [*places, p, pp, q, qq]]
                    leaning = self.leaning[PLACE_SETS - 1 if single else min(t, PLACE_SETS - 2)]
                    to_negative = clamp(sum(w * x for w, x in zip(leaning, inputs)) >> 16, -2047, 2047)
                    decided = min(abs(to_negative) // 48, 11)
                    a, b, d, mp, mq = (min(abs(x), 2) for x in (left, over, beside, p, q))
                    context = [
                        a * 81 + b * 27 + mp * 9 + mq * 3 + d,
                        product * 20 + h_near,
                        min(half_octave(l_tap), 15) * 20 + half_octave(l_column),
                        half_octave(l_row_tap) * 20 + h_kernel,
                        h_kernel * 20 + l_last,
                        half_octave(l_place) * 20 + h_kernel,
                        decided * 20 + h_near,
                        decided * 20 + product,
                    ]
                    value = int(values[r, c, t]) if self.writing else 0
                    m = negative = 0
                    if self.flag(int(value != 0), 0, context):
                        sl, so, sb, sp, spp, sq, sqq = ((x > 0) * 2 + (x < 0) for x in (left, over, beside, p, pp, q, qq))
                        signs = [
                            sl * 27 + so * 9 + sp * 3 + sq,
                            sl * 9 + so * 3 + sb,
                            sp * 9 + sq * 3 + spp,
                            min(t, 55) * 9 + sl * 3 + so,
                            (to_negative + 2048) // 32,
                            (to_negative + 2048) // 64 * 3 + sp,
                            sq * 3 + sqq,
                            0,
                        ]
                        negative = self.flag(int(value < 0), SIGN, signs, to_negative)
                        error = (65535 if negative else 0) - squash(to_negative)
                        for i, x in enumerate(inputs):
                            leaning[i] = clamp(leaning[i] + (x * error + 2048 >> 12), -(1 << 22), 1 << 22)
                        agreed = clamp(toward_zero((to_negative if negative else -to_negative) + 1024, 96), 0, 21)
                        context[6], context[7] = agreed * 20 + h_near, agreed * 20 + product
                        m = 1
                        while m < FLAGS and self.flag(int(abs(value) > m), m, context):
                            m += 1
                        if m == FLAGS:
                            m += self.golomb(max(abs(value) - FLAGS + 1, 0), clamp(toward_zero(l_near - 160, 16), 0, 7)) - 1
                            if not self.writing and m > (1 << 31) - (not negative):
                                raise StreamError(f"value {done} of {values.size}: beyond 32 bits")
                    if not self.writing:
                        values[r, c, t] = -m if negative else m
                    told = min(m, HEARD)
                    here[t] = -told if negative else told
                    of_kernel, of_tap[t], of_place[c][t], of_row_tap[t] = of_kernel + told, of_tap[t] + told, of_place[c][t] + told, of_row_tap[t] + told
                    done += 1
                of_row, of_column[c], of_all, last = of_row + of_kernel, of_column[c] + of_kernel, of_all + of_kernel, of_kernel


def encode(tensors: Sequence[NDArray[np.int32]]) -> bytes:
    """One string of tensors that are seen as (rows, columns, taps) already."""
    mix = Mix()
    for values in tensors:
        mix.walk(values)
    return b"\0" + mix.interval.finish()


def decode(data: bytes, shapes: Sequence[tuple[int, int, int]]) -> list[NDArray[np.int32]]:
    """The tensors of a string that an encoder wrote."""
    mix, found = Mix(data[1:]), [np.zeros(shape, np.int32) for shape in shapes]
    for values in found:
        mix.walk(values)
    return found
