"""The context kernel in plain Python: what native/src/context.cpp computes, value by value. The specification, and slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.context_model import COARSE, NEAR, SPATIAL, TABLE_BITS, ContextModel, groups
from tensorpress.core.errors import StreamError

Array = NDArray[Any]
AROUND = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
MIXED, FIRST_WEIGHT, COUNT_LIMIT = 3, 26214, 255
LOW = 1 << 16
SQUASH, STRETCH = _native.context_tables()
NEAR_EDGES = (16, 22, 32, 45, 72)

Where = tuple[int, int, int]  # class, pair of spatial and cross class, third context
Code = Callable[[Where, int, float], int]  # (where, channel, value) -> quantised value: taken from a stream, or chosen and put


def boxes(model: ContextModel, shape: tuple[int, int, int], map_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """(first channel, channels, first column, columns) of what is coded alone: the stripe, or each of its cells."""
    channels, _, columns = shape
    if not model.cells:
        yield 0, channels, 0, columns
        return
    depth = 32 * (64 // (min(map_rows, 8) * min(columns, 8)))
    for c in range(0, channels, depth):
        for x in range(0, columns, 8):
            yield c, min(depth, channels - c), x, min(8, columns - x)


def quantised(x: Any, reciprocal: Any, low: int, high: int) -> int:
    scaled = np.float32(x) * reciprocal
    return high if scaled >= high else int(np.rint(scaled)) if scaled > -low else -low


def walk(model: ContextModel, box: tuple[int, int, int, int], x: Array, before: Array | None, code: Code, out: Array) -> None:
    """Visits a box of a stripe channel by channel, row by row; writes decoded values to `out` (channels, rows, columns)."""
    first, channels, column, columns = box
    rows = x.shape[1]
    root = model.alphabet.roots(model.linear, model.cells).astype(int)
    step, reciprocal = model.steps
    bins, count = model.bins, groups(model.group)
    now = np.zeros((channels, rows + 3, columns + 4), int)
    for c in range(channels):
        channel = first + c
        w = model.weights[channel].astype(int)
        then = np.zeros((rows + 3, columns + 4), int)
        if before is not None:
            for y in range(rows):
                for i in range(columns):
                    q = quantised(before[channel, y, column + i], reciprocal[channel], model.low, model.high)
                    then[y + 2, i + 2] = root[q + model.low]
        for y in range(rows):
            for i in range(columns):
                r, s = y + 2, i + 2
                here = now[c]
                near = (here[r, s - 1], here[r - 1, s], here[r - 1, s - 1], here[r - 1, s + 1], here[r, s - 2], here[r - 2, s])
                spatial = int(np.dot(w[:SPATIAL], near))
                cross, at = int(model.bias[channel]), SPATIAL
                for k, of in enumerate(model.channel[channel].tolist()):
                    for dy, dx in AROUND if k == 0 else AROUND[:1]:
                        if of >= 0:
                            cross += int(w[at] * now[of - first, r + dy, s + dx])
                        at += 1
                if before is not None:
                    for dy, dx in AROUND:
                        cross += int(w[at] * then[r + dy, s + dx])
                        at += 1
                p = np.array(spatial + cross)
                class_ = int(bins[0].of(p))
                where = (class_, 0, 0)
                if not model.cells:
                    pair = int(bins[1].of(np.array(spatial))) * bins[2].classes + int(bins[2].of(np.array(cross)))
                    left = int(np.searchsorted(NEAR_EDGES, abs(here[r, s - 1]), side="right"))
                    where = (class_, pair, (int(bins[3].of(p)) * count + int(model.group[channel])) * NEAR + left)
                q = code(where, channel, x[channel, y, column + i])
                shift = int(model.centroid[class_, min(abs(q), 3)])
                out[channel, y, column + i] = np.float32(q * 128 + (-shift if q < 0 else shift)) * (step[channel] / np.float32(128))
                here[r, s] = root[q + model.low]


def choose(model: ContextModel, where: Where, channel: int, x: Any, lagrangian: float) -> int:
    """The quantised value of least (x - decoded)^2 + lagrangian * bits among the nearest, the next towards zero, and zero."""
    scaled = np.float32(x) * model.steps[1][channel]
    q = model.high if scaled >= model.high else int(np.rint(scaled)) if scaled > -model.low else -model.low
    if q == 0 or lagrangian <= 0:
        return q

    def cost(v: int) -> float:
        shift = int(model.centroid[where[0], min(abs(v), 3)])
        error = float(scaled) - (v * 128 + (-shift if v < 0 else shift)) / 128.0
        return error * error + lagrangian * int(model.prices[where[0], v + model.low]) / 256.0

    return min((q, q - (1 if q > 0 else -1), 0), key=cost)


# --- max -----------------------------------------------------------------------------------------------------------


class Mixer:
    """Adaptive states, and the weights that mix three of them."""

    def __init__(self, model: ContextModel) -> None:
        pairs = model.bins[1].classes * model.bins[2].classes
        self.offsets = (0, model.classes, model.classes + pairs)
        assert len(model.states) == model.classes + pairs + COARSE * groups(model.group) * NEAR
        self.states = model.states.astype(np.int64).tolist()
        self.weights = [[FIRST_WEIGHT] * MIXED for _ in range(model.classes)]

    def bit(self, where: Where, node: int, code: Callable[[int], int]) -> int:
        """One decision: `code` takes the probability of a 1, of 2^16, and gives the bit."""
        rows = [self.states[offset + w] for offset, w in zip(self.offsets, where)]
        inputs = [STRETCH[row[node] >> 20] for row in rows]
        weights = self.weights[where[0]]
        x = min(max(sum(w * i for w, i in zip(weights, inputs)) >> 16, -2047), 2047)
        p = SQUASH[x + 2048]
        bit = code(p)
        error = (65536 if bit else 0) - p
        for i in range(MIXED):
            weights[i] = min(max(weights[i] + (error * inputs[i] + 8192 >> 14), -(1 << 20)), 1 << 20)
            state = rows[i][node]
            n, chance = state & 1023, state >> 10
            chance += (((1 << 22) - 1 if bit else 0) - chance) * (131072 // (2 * n + 3)) >> 16
            rows[i][node] = chance << 10 | min(n + 1, COUNT_LIMIT) if n < COUNT_LIMIT else chance << 10 | n
        return bit


class Interval:
    """The range coder's interval, both ways."""

    def __init__(self, data: bytes | None = None) -> None:
        self.low, self.high, self.out, self.data, self.at = 0, 0xFFFFFFFF, bytearray(), data, 0
        self.value = 0
        if data is not None:
            for _ in range(4):
                self.value = self.value << 8 | self._next()

    def _next(self) -> int:
        assert self.data is not None
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def code(self, p: int, bit: int | None = None) -> int:
        middle = self.low + ((self.high - self.low) * p >> 16)
        if bit is None:
            bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) >> 24 == 0:
            self.out.append(self.high >> 24)
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 | 255) & 0xFFFFFFFF
            if self.data is not None:
                self.value = (self.value << 8 | self._next()) & 0xFFFFFFFF
        return bit

    def finish(self) -> bytes:
        for keep in range(5):
            unit = 1 << 32 - 8 * keep
            value = -(-self.low // unit) * unit
            if value <= self.high:
                return bytes(self.out) + value.to_bytes(5, "big")[1 : 1 + keep]
        raise AssertionError("an interval is never empty")


def encode_max(model: ContextModel, x: Array, before: Array | None, lagrangian: float) -> bytes:
    interval, mixer, a = Interval(), Mixer(model), model.alphabet.arrays
    seen = []

    def code(where: Where, channel: int, value: float) -> int:
        q = choose(model, where, channel, value, lagrangian)
        seen.append(q)
        token = a["token"][q + model.low]
        for step in model.tree[1][token].tolist():
            if step == 0xFFFF:
                break
            mixer.bit(where, step >> 1, lambda p, bit=step & 1: interval.code(p, bit))  # type: ignore[misc]
        for i in reversed(range(a["extra_bits"][q + model.low])):
            interval.code(32768, int(a["extra"][q + model.low]) >> i & 1)
        return q

    for box in boxes(model, x.shape, x.shape[1]):
        walk(model, box, x, before, code, np.empty(x.shape, np.float32))
    return interval.finish() if any(seen) else b""


def decode_max(model: ContextModel, data: bytes, before: Array | None, out: Array) -> None:
    interval, mixer, a = Interval(data), Mixer(model), model.alphabet.arrays

    def code(where: Where, channel: int, value: float) -> int:
        if not data:
            return 0
        node = 0 if len(model.tree[0]) else -1
        while node >= 0:
            node = int(model.tree[0][node][mixer.bit(where, node, interval.code)])
        extra = 0
        for _ in range(a["token_bits"][~node]):
            extra = extra << 1 | interval.code(32768)
        return min(max(int(a["token_first"][~node]) + int(a["token_sign"][~node]) * extra, -model.low), model.high)

    for box in boxes(model, out.shape, out.shape[1]):
        walk(model, box, out, before, code, out)
    if data and interval.at < len(data):
        raise StreamError(f"{len(data) - interval.at} bytes are left over")


# --- fast ----------------------------------------------------------------------------------------------------------


def encode_fast(model: ContextModel, x: Array, before: Array | None, lagrangian: float, map_rows: int) -> bytes:
    a, sizes, bodies = model.alphabet.arrays, bytearray(), bytearray()
    for box in boxes(model, x.shape, map_rows):
        coded: list[tuple[int, int]] = []

        def code(where: Where, channel: int, value: float) -> int:
            q = choose(model, where, channel, value, lagrangian)
            coded.append((where[0], q + model.low))  # noqa: B023
            return q

        walk(model, box, x, before, code, np.empty(x.shape, np.float32))
        words: list[int] = []
        state = LOW
        for class_, value in reversed(coded):
            bits = int(a["extra_bits"][value])
            start, stop = (int(v) for v in model.cdf[class_, a["token"][value] : a["token"][value] + 2])
            if state >= stop - start << 32 - TABLE_BITS - bits:
                words.append(state & 0xFFFF)
                state >>= 16
            state = state << bits | int(a["extra"][value])
            state = (state // (stop - start) << TABLE_BITS) + state % (stop - start) + start
        words += [state >> 16, state & 0xFFFF]
        if all(value == model.low for _, value in coded):
            sizes += (0).to_bytes(2, "little")
        elif 2 * len(words) >= len(coded):
            sizes += (0x8000 | len(coded)).to_bytes(2, "little")
            bodies += bytes(value for _, value in coded)
        else:
            sizes += len(words).to_bytes(2, "little")
            bodies += b"".join(word.to_bytes(2, "little") for word in reversed(words))
    return bytes(sizes + bodies) if any(sizes) else b""


def decode_fast(model: ContextModel, data: bytes, before: Array | None, out: Array, map_rows: int) -> None:
    a, todo = model.alphabet.arrays, list(boxes(model, out.shape, map_rows))
    at = 2 * len(todo)
    if data and len(data) < at:
        raise StreamError("the table of cells is cut")
    for number, box in enumerate(todo):
        size = int.from_bytes(data[2 * number : 2 * number + 2], "little")
        values = box[1] * out.shape[1] * box[3]
        length = size & 0x7FFF if size & 0x8000 else 2 * size
        if (length > len(data) - at and data) or (size & 0x8000 and length != values):
            raise StreamError(f"cell {number} has a wrong size")
        body = data[at : at + length]
        at += length
        state = int.from_bytes(body[2:4], "little") << 16 | int.from_bytes(body[:2], "little")
        position = 4

        def refilled() -> None:
            nonlocal state, position
            if state < LOW:
                state = state << 16 | int.from_bytes(body[position : position + 2], "little")  # noqa: B023
                position += 2

        def code(where: Where, channel: int, value: float) -> int:
            nonlocal state, position
            if not size:  # noqa: B023
                return 0
            if size & 0x8000:  # noqa: B023
                position += 1
                return body[position - 5] - model.low  # noqa: B023
            slot = state & (1 << TABLE_BITS) - 1
            token = int(np.searchsorted(model.cdf[where[0]], slot, side="right")) - 1
            start, stop = (int(v) for v in model.cdf[where[0], token : token + 2])
            state = (stop - start) * (state >> TABLE_BITS) + slot - start
            bits = int(a["token_bits"][token])
            extra = state & (1 << bits) - 1
            state >>= bits
            refilled()
            return min(max(int(a["token_first"][token]) + int(a["token_sign"][token]) * extra, -model.low), model.high)

        walk(model, box, out, before, code, out)
        if size and not size & 0x8000 and (position != length or state != LOW):
            raise StreamError(f"cell {number} does not end in its first state")
