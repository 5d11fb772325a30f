"""Section 13: `context`."""

from __future__ import annotations

import bisect
import math
import struct
import zlib
from collections.abc import Sequence

from .binary import Bits, Bytes, f32, need
from .cells import cell_depth
from .container import Json, Payload, State
from .entropy import Table
from .levels import assembled, clamp, restored

NEAR = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))  # W N NW NE WW NN, as (row, column)
CROSS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # the same place, E S W N


class Model:
    def __init__(self, data: bytes, backend: str) -> None:
        inflate = zlib.decompressobj()
        try:
            body = inflate.decompress(data, 1 << 24)
        except zlib.error as error:
            need(False, f"model: {error}")
        need(inflate.eof and not inflate.unused_data, "model: not one whole zlib stream of at most 2^24 bytes")
        src = Bytes(body, "model")
        flags, self.low, self.high, channels, earlier = src.u(1), src.u(1), src.u(1), src.u(4), src.u(1)
        self.fast, self.linear, self.reference = flags & 1, flags & 2, flags & 4
        need(flags < 8 and bool(self.fast) == (backend == "fast"), "model: flags")
        need(self.low + self.high <= 255 and earlier <= 16, "model: L + H or E")
        if self.fast:
            need(src.u(1) == 1, "model: a byte that is not 1")
            self.tokens = src.u(1)
            need(self.tokens == 1 + max(token_of(q, self.low) for q in (-self.low, self.high)), "model: T")
        else:
            self.parts = src.u(1)
            need(1 <= self.parts <= 16, "model: parts")
        (base,) = struct.unpack("<f", src.take(4))
        need(1e-37 < base < 1e37, f"model: a step of {base}")
        self.lowest, self.shift, count = src.i(4), src.u(1), src.u(1)
        self.edges = [src.u(2) for _ in range(count)]
        need(abs(self.lowest) < 1 << 30 and self.shift <= 30 and count <= 63, "model: the class table")
        need(self.edges == sorted(self.edges) and max(self.edges, default=0) < (128 if self.fast else 1024), "model: edges of classes do not rise")
        self.classes = k = count + 1
        need(channels <= len(body), f"model: {channels} channels in {len(body)} bytes")
        self.steps = [self.step_of(base, src.i(1)) for _ in range(channels)]
        need(all(s > 1e-38 and math.isfinite(s) for s in self.steps), "model: a channel's step")
        self.bias = [src.i(2) for _ in range(channels)]
        planes = [[src.i(2) for _ in range(channels)] for _ in range(earlier)]
        self.earlier = list(zip(*planes)) if earlier else [()] * channels
        for c, own in enumerate(self.earlier):
            need(all(-1 <= e < c and (e < 0 or not self.fast or e // 32 == c // 32) for e in own), f"model: channel {c} reads one that is not before it")
        features = 6 + (4 + earlier if earlier else 0) + (5 if self.reference else 0)
        self.weights = list(zip(*[[src.i(1) for _ in range(channels)] for _ in range(features)]))
        self.groups = [src.u(1) for _ in range(channels)]
        self.centroids = [[src.i(1) for _ in range(k)] for _ in range(4)]
        if self.fast:
            need(not any(self.groups), "model: a group that is not 0")
            sums = [[src.u(2) + 1 for _ in range(k)] for _ in range(self.tokens)]
            rows = [list(row) for row in zip(*sums)]
            need(all(sum(row) == 1 << 11 for row in rows), "model: a class does not sum to 2^11")
            self.table = Table(11, [[sum(row[: t + 1]) for t in range(self.tokens)] for row in rows])
        else:
            need(max(self.groups) < 8, "model: a group above 7")
            cuts = [[src.u(1) for _ in range(k)] for _ in range(13)]
            self.cuts = [[[cuts[i][c] for i in part] for part in (range(7), range(7, 10), range(10, 13))] for c in range(k)]
            need(all(a <= b <= 64 for own in self.cuts for part in own for a, b in zip([0, *part], part)), "model: edges of rows do not rise")
            self.bits = list(zip(*[[src.u(1) for _ in range(k)] for _ in range(16)]))
            need(max(map(max, self.bits)) <= 8, "model: more than 8 extra bits")
            need(all(sum(1 << b for b in own) > self.low + self.high for own in self.bits), "model: symbols do not reach H")
            codes = [[[src.u(1) for _ in range(k)] for _ in range(65)] for _ in range(16)]
            self.rows: list[list[list[int]]] = [[], []]
            for c in range(k):
                own_codes = [[(codes[s][r][c] + (codes[s][0][c] if r else 0)) % 256 for s in range(16)] for r in range(65)]
                need(max(map(max, own_codes)) <= 127, "model: a code above 127")
                self.rows[0] += map(first_row, own_codes[1:33])
                self.rows[1] += map(first_row, own_codes[33:])
        src.end()
        wide = max(self.low, self.high) > 127
        self.roots = [self.root(q, wide) for q in range(-self.low, self.high + 1)]
        self.place_shift = next(j for j in range(32) if self.roots[-1] - self.roots[0] >> j < 64)

    def step_of(self, base: float, e: int) -> float:
        octave = f32(math.isqrt(math.isqrt(math.isqrt(2 ** (8 * 30 + e % 8)))) / 2**30)
        return f32(f32(base * octave) * 2.0 ** (e // 8))

    def root(self, q: int, wide: bool) -> int:
        if not self.linear:
            size = math.isqrt((64 if self.fast else 256) * abs(q))
        elif not self.fast:
            size = 2 * abs(q)
        elif wide:
            return q // 2
        else:
            size = abs(q)
        return size if q > 0 else -size

    def class_of(self, p: int) -> int:
        return bisect.bisect_right(self.edges, clamp(p - self.lowest >> self.shift, 0, 1023))

    def value(self, q: int, k: int, c: int) -> float:
        centroid = self.centroids[min(abs(q), 3)][k]
        return f32(float(128 * q - centroid if q < 0 else 128 * q + centroid) * f32(self.steps[c] / 128))


def token_of(q: int, low: int) -> int:
    m = abs(q)
    e = m.bit_length() - 1
    t = m if m < 16 else 16 + 8 * (e - 4) + (m >> e - 3) % 8
    return t if low == 0 else 2 * t - 1 if q > 0 else 2 * t


def first_row(codes: Sequence[int]) -> list[int]:
    weights = [(8 + a % 8) << a // 8 for a in codes]
    return [min(65535, 2**16 * sum(weights[:s]) // sum(weights)) for s in range(16)]


class Box:
    """The quantised values of what is coded alone: planes of rows of columns, zeros around."""

    def __init__(self, model: Model, first: int, planes: int, rows: int, columns: int, reference: Sequence[int] | None) -> None:
        self.model, self.first, self.planes, self.rows, self.columns = model, first, planes, rows, columns
        self.q = [0] * (planes * rows * columns)
        self.classes = [0] * len(self.q)
        self.reference = reference

    def at(self, c: int, y: int, x: int) -> int:
        return (c * self.rows + y) * self.columns + x

    def root(self, values: Sequence[int], c: int, y: int, x: int) -> int:
        if 0 <= y < self.rows and 0 <= x < self.columns:
            return self.model.roots[values[self.at(c, y, x)] + self.model.low]
        return 0

    def near(self, c: int, y: int, x: int) -> list[int]:
        return [self.root(self.q, c, y + dy, x + dx) for dy, dx in NEAR]

    def prediction(self, c: int, y: int, x: int) -> int:
        roots = self.near(c, y, x)
        for number_of, e in enumerate(self.model.earlier[self.first + c]):
            for dy, dx in CROSS[: 5 if number_of == 0 else 1]:
                roots.append(self.root(self.q, e - self.first, y + dy, x + dx) if e >= 0 else 0)
        if self.reference is not None:
            roots += [self.root(self.reference, c, y + dy, x + dx) for dy, dx in CROSS]
        return self.model.bias[self.first + c] + sum(w * r for w, r in zip(self.model.weights[self.first + c], roots))

    def values(self) -> list[float]:
        size = self.rows * self.columns
        return [self.model.value(q, k, self.first + i // size) for i, (q, k) in enumerate(zip(self.q, self.classes))]


def part_values(src: Bytes, box: Box) -> None:
    """`max`: fills the box with a part."""
    model, what, rows, columns = box.model, src.what, box.rows, box.columns
    states = [src.u(4) for _ in range(min(4, rows))]
    extra = Bits(src.data[::-1], f"{what}, extra bits", highest_first=True)
    learned = [[list(row) for row in kind] for kind in model.rows]
    steps: dict[int, list[tuple[int, int, int]]] = {}
    for y in range(rows):
        for c in range(box.planes):
            for x in range(columns):
                steps.setdefault(c * (columns + 2) + x + 2 * y, []).append((c, y, x))
    for step in sorted(steps):
        lessons = []
        for c, y, x in steps[step]:
            i, near = box.at(c, y, x), box.near(c, y, x)
            k = box.classes[i] = model.class_of(box.prediction(c, y, x))
            w, north, nw, ne = near[:4]
            texture = abs(w - nw) + abs(north - nw) + abs(north - ne)
            places = (w - model.roots[0] >> model.place_shift, min(texture >> model.place_shift + 1, 63), north - model.roots[0] >> model.place_shift)
            cw, ct, cn = (sum(edge <= place for edge in own) for own, place in zip(model.cuts[k], places))
            pair = [learned[0][32 * k + 4 * cw + ct], learned[1][32 * k + 4 * model.groups[box.first + c] + cn]]
            begins = [(32640 * (a + b + 1 >> 1) >> 16) + 8 * s for s, (a, b) in enumerate(zip(*pair))] + [1 << 15]
            state = states[y % 4]
            slot = state & 0x7FFF
            symbol = bisect.bisect_right(begins, slot) - 1
            state = (begins[symbol + 1] - begins[symbol]) * (state >> 15) + slot - begins[symbol]
            states[y % 4] = state << 16 | src.u(2) if state < 1 << 16 else state
            first = -model.low + sum(1 << b for b in model.bits[k][:symbol])
            box.q[i] = min(first + extra.take(model.bits[k][symbol]), model.high)
            lessons.append((pair, symbol))
        for pair, symbol in lessons:
            for row in pair:
                for s in range(1, 16):
                    row[s] = row[s] - (row[s] >> 6) if s <= symbol else 65535 - (65535 - row[s] - (65535 - row[s] >> 6))
    need(all(x == 1 << 16 for x in states), f"{what}: states do not end at 2^16")
    extra.pad()
    need(src.at == len(src.data) - extra.at // 8, f"{what}: {len(src.data) - extra.at // 8 - src.at} bytes are left between words and extra bits")


def max_stripe(data: bytes, model: Model, payload: Payload, n: int, reference: Sequence[int] | None, what: str) -> list[float]:
    (channels, _, columns), rows = payload.view, len(payload.rows(n))
    parts = model.parts if columns >= 12 * model.parts and n >= len(payload.stripes) - 2 else 1
    src, out = Bytes(data, what), [0.0] * (channels * rows * columns)
    for part in range(parts):
        x0, x1 = columns * part // parts, columns * (part + 1) // parts
        size = len(data) - src.at if part == parts - 1 or not data else src.u(4)
        own = None if reference is None else [q for line in range(channels * rows) for q in reference[line * columns + x0 : line * columns + x1]]
        box = Box(model, 0, channels, rows, x1 - x0, own)
        if size:
            part_values(Bytes(src.take(size), f"{what}, part {part}"), box)
        else:
            classify(box)
        values = box.values()
        for line in range(channels * rows):
            out[line * columns + x0 : line * columns + x1] = values[line * (x1 - x0) : (line + 1) * (x1 - x0)]
    src.end()
    return out


def classify(box: Box) -> None:
    """The classes of a box of zeros: their centroids of magnitude 0 stand for it."""
    box.classes = [box.model.class_of(box.prediction(c, y, x)) for c in range(box.planes) for y in range(box.rows) for x in range(box.columns)]


def cell_values(data: bytes, coded: bool, box: Box, what: str) -> None:
    """`fast`: fills the box with a cell."""
    model, src = box.model, Bytes(data, what)
    if not coded:
        need(max(data, default=0) <= model.low + model.high, f"{what}: a value above H")
        box.q = [b - model.low for b in data] or box.q
        classify(box)
        return
    x = src.u(4)
    i = 0
    for c in range(box.planes):
        for y in range(box.rows):
            for column in range(box.columns):
                k = box.classes[i] = model.class_of(box.prediction(c, y, column))
                token, start, frequency = model.table.find(k, x & 2047)
                x = frequency * (x >> 11) + (x & 2047) - start
                t = token if model.low == 0 else (token + 1) // 2
                m, e = t, 0
                if t >= 16:
                    e = 4 + (t - 16) // 8
                    m = 8 + (t - 16) % 8 << e - 3 | x & (1 << e - 3) - 1
                    x >>= e - 3
                if x < 1 << 16:
                    x = x << 16 | src.u(2)
                box.q[i] = clamp(m if model.low == 0 or token % 2 else -m, -model.low, model.high)
                i += 1
    need(x == 1 << 16, f"{what}: the state does not end at 2^16")
    src.end()


def fast_stripe(data: bytes, model: Model, payload: Payload, n: int, reference: Sequence[int] | None, what: str) -> list[float]:
    (channels, height, columns), rows = payload.view, len(payload.rows(n))
    out, depth = [0.0] * (channels * rows * columns), cell_depth(height, columns)
    places = [(c, x) for c in range(0, channels, depth) for x in range(0, columns, 8)]
    src = Bytes(data, what)
    sizes = [src.u(2) for _ in places] if data else [0] * len(places)
    for (c0, x0), size in zip(places, sizes):
        wide, planes = min(8, columns - x0), min(depth, channels - c0)
        lines = [(c0 * rows + line) * columns + x0 for line in range(planes * rows)]
        own = None if reference is None else [q for at in lines for q in reference[at : at + wide]]
        box = Box(model, c0, planes, rows, wide, own)
        # the size counts 16-bit words, or with bit 15 the bytes of values that stand as they are
        plain = size >= 0x8000
        need(not plain or size - 0x8000 == len(box.q), f"{what}: a cell of {size - 0x8000} values, not {len(box.q)}")
        cell_values(src.take(size - 0x8000 if plain else 2 * size), 0 < size < 0x8000, box, f"{what}, cell at channel {c0}, column {x0}")
        values = box.values()
        for line, at in enumerate(lines):
            out[at : at + wide] = values[line * wide : (line + 1) * wide]
    src.end()
    return out


def quantised(model: Model, reference: Sequence[float], payload: Payload) -> list[list[int]]:
    """For each stripe the reference by each channel's step."""
    channels, height, columns = payload.view
    reciprocal = [f32(1 / s) for s in model.steps]
    return [
        [
            clamp(round(f32(reference[(c * height + y) * columns + x] * reciprocal[c])), -model.low, model.high)
            for c in range(channels)
            for y in payload.rows(n)
            for x in range(columns)
        ]
        for n in range(len(payload.stripes))
    ]


def decode(params: Json, state: State, payload: Payload, reference: Sequence[float] | None) -> bytes:
    backend = params["backend"]
    need(set(state) == {"model"}, f"context: state {sorted(state)}")
    model = Model(state["model"], backend)
    need(payload.view[0] == len(model.steps), f"context: {payload.view[0]} channels, the model has {len(model.steps)}")
    need(payload.is_float or payload.width == 1, f"context does not write {payload.dtype}")
    need(bool(model.reference) == (reference is not None), "context: a reference is needed, or none is taken")
    references = quantised(model, reference, payload) if reference is not None else [None] * len(payload.stripes)
    stripe = fast_stripe if backend == "fast" else max_stripe
    stripes = [stripe(data, model, payload, n, references[n], f"stripe {n}") for n, data in enumerate(payload.stripes)]
    return restored(assembled(payload, stripes), payload.dtype)
