"""The back-end `max` in plain Python: what native/src/context_max_body.cpp computes, value by value. The specification, and slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.context_max_model import SYMBOLS, MaxModel
from tensorpress.core.errors import StreamError

Array = NDArray[Any]
AROUND = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # (rows down, columns right)
SPATIAL = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))
STATES, CHANCE_BITS, LEAST_CHANCE, ADAPT_SHIFT, LOW = 4, 15, 8, 6, 1 << 16

Where = tuple[int, int, int, int]  # lane, class, row of the first kind, row of the second kind
Code = Callable[[Where, int, float], int]  # (where, channel, value) -> quantised value: taken from a stream, or chosen and put


def order(channels: int, rows: int, columns: int) -> Iterator[list[tuple[int, int, int]]]:
    """The (channel, row, column) of each step: a row is two columns behind the one above it, a channel two behind the one before it."""
    step = lambda at: at[0] * (columns + 2) + at[2] + 2 * at[1]  # noqa: E731
    every = [(c, y, i) for c in range(channels) for y in range(rows) for i in range(columns)]
    for _, values in groupby(sorted(every, key=lambda at: (step(at), at[1])), key=step):
        yield list(values)


def quantised(x: Any, reciprocal: Any, low: int, high: int) -> int:
    return int(np.rint(np.clip(np.float32(x) * reciprocal, -low, high)))


class Models:
    """Rows of both kinds, which learn the symbols of a step when it is over."""

    def __init__(self, model: MaxModel) -> None:
        self.rows = model.start.astype(np.int64).reshape(2, -1, SYMBOLS)
        self.seen: list[tuple[Where, int]] = []

    def mean(self, where: Where) -> list[int]:
        """[symbols + 1] where each symbol begins, of 2^15."""
        mean = self.rows[0, where[2]] + self.rows[1, where[3]] + 1 >> 1
        kept = (1 << CHANCE_BITS) - SYMBOLS * LEAST_CHANCE
        return [*((mean * kept >> 16) + LEAST_CHANCE * np.arange(SYMBOLS)).tolist(), 1 << CHANCE_BITS]

    def learn(self) -> None:
        for where, symbol in self.seen:
            for kind in (0, 1):
                row = self.rows[kind, where[2 + kind]]
                target = np.where(np.arange(SYMBOLS) > symbol, 0xFFFF, 0)
                row[:] = target ^ ((row ^ target) - ((row ^ target) >> ADAPT_SHIFT))
        self.seen.clear()


def walk(model: MaxModel, x: Array, before: Array | None, code: Code, learn: Callable[[], None], out: Array) -> None:
    """Visits a part of a stripe, its columns alone, step by step; writes decoded values to `out` (channels, rows, columns)."""
    channels, rows, columns = x.shape
    root, groups = model.roots.astype(int), model.group.astype(int)
    step, reciprocal = model.steps
    roots = np.zeros((channels, rows + 3, columns + 4), int)
    then = np.zeros((channels, rows + 3, columns + 4), int)
    if before is not None:
        for c, y, i in np.ndindex(channels, rows, columns):
            then[c, y + 2, i + 2] = root[quantised(before[c, y, i], reciprocal[c], model.low, model.high) + model.low]
    for values in order(channels, rows, columns):
        for c, y, i in values:
            r, s = y + 2, i + 2
            w = iter(model.weights[c].astype(int).tolist())
            p = int(model.bias[c]) + sum(next(w) * int(roots[c, r + dy, s + dx]) for dy, dx in SPATIAL)
            for k, of in enumerate(model.channel[c].tolist()):
                for dy, dx in AROUND if k == 0 else AROUND[:1]:
                    p += next(w) * (int(roots[of, r + dy, s + dx]) if of >= 0 else 0)
            if before is not None:
                p += sum(next(w) * int(then[c, r + dy, s + dx]) for dy, dx in AROUND)
            k = int(model.bins.of(np.array(p)))
            west, north, corner, east = (roots[c, r + dy, s + dx] for dy, dx in SPATIAL[:4])
            texture = abs(west - corner) + abs(north - corner) + abs(north - east)
            w_of, t_of, n_of = (int(table[k, at]) for table, at in zip(model.lookups, (model.grid.place(west), model.grid.texture(texture), model.grid.place(north))))
            where = (y, k, (k * 8 + w_of) * 4 + t_of, (k * 8 + int(groups[c])) * 4 + n_of)
            q = code(where, c, x[c, y, i])
            roots[c, r, s] = root[q + model.low]
            shift = int(model.centroid[k, min(abs(q), 3)])
            out[c, y, i] = np.float32(q * 128 + (-shift if q < 0 else shift)) * (step[c] / np.float32(128))
        learn()


def choose(model: MaxModel, class_: int, channel: int, x: Any, lagrangian: float) -> int:
    """The quantised value of least (x - decoded)^2 + lagrangian * bits among the nearest, the next towards zero, and zero."""
    scaled = np.float32(x) * model.steps[1][channel]
    q = quantised(x, model.steps[1][channel], model.low, model.high)
    if q == 0 or lagrangian <= 0:
        return q

    def cost(v: int) -> np.float32:
        error = scaled - model.decoded[class_, v + model.low]
        return np.float32(error * error + np.float32(lagrangian) * model.prices[class_, v + model.low])

    return min((q, q - (1 if q > 0 else -1), 0), key=cost)


def encode(model: MaxModel, x: Array, before: Array | None, whole: bool, lagrangian: float) -> bytes:
    """A stripe: its parts, each but the last behind its size; one part where it is to be coded whole."""
    parts = [encode_part(model, x[..., c], None if before is None else before[..., c], lagrangian) for c in model.columns_of(x.shape[2], whole)]
    if not any(parts):
        return b""
    return b"".join(len(data).to_bytes(4, "little") + data for data in parts[:-1]) + parts[-1]


def encode_part(model: MaxModel, x: Array, before: Array | None, lagrangian: float) -> bytes:
    models = Models(model)
    records: list[tuple[int, int, int]] = []  # state, begin, chance
    bits: list[int] = []
    seen = []

    def code(where: Where, channel: int, value: float) -> int:
        lane, k = where[:2]
        q = choose(model, k, channel, value, lagrangian)
        symbol = int(model.symbol[k, q + model.low])
        mean = models.mean(where)
        records.append((lane % STATES, mean[symbol], mean[symbol + 1] - mean[symbol]))
        extra = q - int(model.first[k, symbol])
        bits.extend(extra >> b & 1 for b in reversed(range(int(model.bits[k, symbol]))))
        models.seen.append((where, symbol))
        seen.append(q)
        return q

    walk(model, x, before, code, models.learn, np.empty(x.shape, np.float32))
    if not any(seen):
        return b""
    words: list[int] = []
    states = [LOW] * min(STATES, x.shape[1])
    for j, begin, chance in reversed(records):
        if states[j] >= chance << 32 - CHANCE_BITS:
            words.append(states[j] & 0xFFFF)
            states[j] >>= 16
        states[j] = (states[j] // chance << CHANCE_BITS) + states[j] % chance + begin
    bits += [0] * (-len(bits) % 8)
    back = bytes(int("".join(map(str, bits[i : i + 8])), 2) for i in range(0, len(bits), 8))
    return b"".join(s.to_bytes(4, "little") for s in states) + b"".join(w.to_bytes(2, "little") for w in reversed(words)) + back[::-1]


def decode(model: MaxModel, data: bytes, before: Array | None, whole: bool, out: Array) -> None:
    """Fills `out` (channels, rows, columns). StreamError where the bytes are no stripe of this shape."""
    at, parts = 0, model.columns_of(out.shape[2], whole)
    for number, columns in enumerate(parts):
        size = len(data) - at
        if number < len(parts) - 1 and data:
            size = int.from_bytes(data[at : at + 4], "little")
            at += 4
        if size > len(data) - at:
            raise StreamError(f"part {number} of {size} bytes is cut")
        decode_part(model, data[at : at + size], None if before is None else before[..., columns], out[..., columns])
        at += size


def decode_part(model: MaxModel, data: bytes, before: Array | None, out: Array) -> None:
    models = Models(model)
    count = min(STATES, out.shape[1])
    states = [int.from_bytes(data[4 * j : 4 * j + 4], "little") for j in range(count)]
    word, bit = 4 * count, 0

    def code(where: Where, channel: int, value: float) -> int:
        nonlocal word, bit
        if not data:
            return 0
        lane, k = where[:2]
        mean, state = models.mean(where), states[lane % STATES]
        slot = state & (1 << CHANCE_BITS) - 1
        symbol = int(np.searchsorted(mean, slot, side="right")) - 1
        state = (mean[symbol + 1] - mean[symbol]) * (state >> CHANCE_BITS) + slot - mean[symbol]
        if state < LOW:
            state = state << 16 | int.from_bytes(data[word : word + 2], "little")
            word += 2
        states[lane % STATES] = state
        extra = 0
        for _ in range(int(model.bits[k, symbol])):
            if bit >= 8 * len(data):
                raise StreamError("the extra bits are cut")
            extra = extra << 1 | data[-1 - bit // 8] >> 7 - bit % 8 & 1
            bit += 1
        models.seen.append((where, symbol))
        return min(int(model.first[k, symbol]) + extra, model.high)

    walk(model, out, before, code, models.learn, out)
    if data:
        rest = data[word : word + 1] if bit % 8 else b"\0"
        if len(data) - word != -(-bit // 8) or set(states) != {LOW} or rest[0] & (1 << -bit % 8) - 1:
            raise StreamError("a part does not end in its first state, with words and bits side by side")
