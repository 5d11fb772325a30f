"""The back-end `fast` in plain Python: what native/src/context.cpp computes, value by value. The specification, and slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.context_model import SPATIAL, TABLE_BITS, ContextModel
from tensorpress.core.errors import StreamError

Array = NDArray[Any]
AROUND = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
LOW = 1 << 16

Code = Callable[[int, int, float], int]  # (class, channel, value) -> quantised value: taken from a stream, or chosen and put


def boxes(model: ContextModel, shape: tuple[int, int, int], map_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """(first channel, channels, first column, columns) of what is coded alone: each of a stripe's cells."""
    channels, _, columns = shape
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
    root = model.alphabet.roots(model.linear, True).astype(int)
    step, reciprocal = model.steps
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
                class_ = int(model.bins.of(np.array(spatial + cross)))
                q = code(class_, channel, x[channel, y, column + i])
                shift = int(model.centroid[class_, min(abs(q), 3)])
                out[channel, y, column + i] = np.float32(q * 128 + (-shift if q < 0 else shift)) * (step[channel] / np.float32(128))
                here[r, s] = root[q + model.low]


def choose(model: ContextModel, class_: int, channel: int, x: Any, lagrangian: float) -> int:
    """The quantised value of least (x - decoded)^2 + lagrangian * bits among the nearest, the next towards zero, and zero."""
    scaled = np.float32(x) * model.steps[1][channel]
    q = model.high if scaled >= model.high else int(np.rint(scaled)) if scaled > -model.low else -model.low
    if q == 0 or lagrangian <= 0:
        return q

    def cost(v: int) -> float:
        shift = int(model.centroid[class_, min(abs(v), 3)])
        error = float(scaled) - (v * 128 + (-shift if v < 0 else shift)) / 128.0
        return error * error + lagrangian * int(model.prices[class_, v + model.low]) / 256.0

    return min((q, q - (1 if q > 0 else -1), 0), key=cost)


def encode_fast(model: ContextModel, x: Array, before: Array | None, lagrangian: float, map_rows: int) -> bytes:
    a, sizes, bodies = model.alphabet.arrays, bytearray(), bytearray()
    for box in boxes(model, x.shape, map_rows):
        coded: list[tuple[int, int]] = []

        def code(class_: int, channel: int, value: float) -> int:
            q = choose(model, class_, channel, value, lagrangian)
            coded.append((class_, q + model.low))  # noqa: B023
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
        if size & 0x8000 and max(body) > model.low + model.high:
            raise StreamError(f"cell {number} holds a value above {model.high}")
        at += length
        state = int.from_bytes(body[2:4], "little") << 16 | int.from_bytes(body[:2], "little")
        position = 4

        def refilled() -> None:
            nonlocal state, position
            if state < LOW:
                state = state << 16 | int.from_bytes(body[position : position + 2], "little")  # noqa: B023
                position += 2

        def code(class_: int, channel: int, value: float) -> int:
            nonlocal state, position
            if not size:  # noqa: B023
                return 0
            if size & 0x8000:  # noqa: B023
                position += 1
                return body[position - 5] - model.low  # noqa: B023
            slot = state & (1 << TABLE_BITS) - 1
            token = int(np.searchsorted(model.cdf[class_], slot, side="right")) - 1
            start, stop = (int(v) for v in model.cdf[class_, token : token + 2])
            state = (stop - start) * (state >> TABLE_BITS) + slot - start
            bits = int(a["token_bits"][token])
            extra = state & (1 << bits) - 1
            state >>= bits
            refilled()
            return min(max(int(a["token_first"][token]) + int(a["token_sign"][token]) * extra, -model.low), model.high)

        walk(model, box, out, before, code, out)
        if size and not size & 0x8000 and (position != length or state != LOW):
            raise StreamError(f"cell {number} does not end in its first state")
