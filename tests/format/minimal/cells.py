"""Section 6: cells of `dct_cm`, and its profile `fixed`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product

from .binary import Bits, Bytes, need
from .container import Json, Payload, State
from .levels import ZEROS, assembled, clamp, dead_zone, values_of_levels, zero_of, zvc_levels

COSINES = [64, *map(int, ["90", "90", "90", "89", "88", "87", "85", "83", "82", "80", "78", "75", "73", "70", "67", "64", "61", "57", "54", "50", "46", "43", "38", "36", "31", "25", "22", "18", "13", "9", "4", "0"])]


@cache
def matrix(n: int) -> list[list[int]]:
    def entry(k: int, column: int) -> int:
        if k == 0:
            return 64
        j = (2 * column + 1) * k * 32 // n % 128
        j = 128 - j if j > 64 else j
        return COSINES[j] if j <= 32 else -COSINES[64 - j]

    return [[entry(k, column) for column in range(n)] for k in range(n)]


@cache
def norms(n: int) -> list[float]:
    return [math.sqrt(sum(t * t for t in row)) for row in matrix(n)]


class Rules:
    """What the parameters fix, for one zero point."""

    def __init__(self, params: Json, payload: Payload) -> None:
        self.z, self.step, self.f, self.profile = zero_of(params, payload), params["step"], dead_zone(params), params["profile"]
        self.length, self.keep, self.centroid = params["length"] or 0, params["keep"], params["dct_centroid"] or ZEROS
        self.levels, _ = zvc_levels(self.z, 1 if self.profile == "paper" else self.step, self.f, params["centroid"] or ZEROS)

    def kept(self, channel: int) -> bool:
        return not self.keep or bool(self.keep[channel % len(self.keep)])


def symbols_of_code(code: int, bitmap: int | None, bits: Bits, values: int) -> list[int]:
    """A plane's symbols, the bits of which come next."""
    if code == 0:
        return [0] * values
    if code > 9:
        return [bits.take(code - 7) for _ in range(values)]
    assert bitmap is not None
    return [(bits.take(code - 1) + 1) % 256 if bitmap >> i & 1 else 0 for i in range(values)]


def cell_levels(src: Bytes, planes: int, values: int, c0: int, rules: Rules) -> list[list[int]]:
    """Each plane's levels."""
    head = src.u(3)
    mode, zero_map, own, width, size = head & 3, head >> 2 & 1, head >> 3 & 1, head >> 4 & 7, head >> 8
    payload, what = src.take(size), f"{src.what}, cell at byte {src.at - size - 3}"
    if mode < 2:
        need(head & 0xFC == 0, f"{what}: bits of its header are not 0")
        need(size == mode * planes * values, f"{what}: {size} bytes")
        return [list(payload[k * values : (k + 1) * values]) if mode else [rules.z] * values for k in range(planes)]
    need(head >> 7 & 1 == 0 and not (own and width), f"{what}: bits of its header are not 0")
    n = rules.length if mode == 3 else 0
    need(mode == 2 or 0 < n <= planes, f"{what}: no transform is allowed here")
    need(mode == 3 or not zero_map, f"{what}: a zero map without a transform")
    grouped = planes - planes % n if n else 0
    stored = [k for k in range(planes) if k >= grouped or rules.kept(c0 + k)]
    bits = Bits(payload, what)
    codes = {k: bits.take(4) if own else 2 + width for k in stored}
    bits.pad()
    zeros = bits.take(planes * values) if zero_map else 0
    bits.pad()
    maps = {k: bits.take(values) for k in stored if 1 <= codes[k] <= 9}
    bits.pad()
    symbols = [[0] * values for _ in range(planes)]
    for k in stored:
        symbols[k] = symbols_of_code(codes[k], maps.get(k), bits, values)
    bits.end()
    levels = [[rules.levels[s] for s in plane] for plane in symbols]
    for first in range(0, grouped, n or 1):
        transformed = inverse(symbols[first : first + n], n, rules)
        levels[first : first + n] = transformed
    for k, i in product(range(planes), range(values)):
        if zeros >> (k * values + i) & 1:
            levels[k][i] = rules.z
    return levels


def inverse(symbols: Sequence[Sequence[int]], n: int, rules: Rules) -> list[list[int]]:
    """The levels of a group of a cell."""
    scaled = [[0] * len(symbols[0]) for _ in range(n)]
    for k, plane in enumerate(symbols):
        b = round(rules.step * 2**14 / norms(n)[k])
        c = [round(x * 2**14 / norms(n)[k]) for x in rules.centroid]
        for i, s in enumerate(plane):
            if s:
                a, sign = (s, 1) if k == 0 and rules.z == 0 else ((s + 1) // 2, 1) if s % 2 else (s // 2, -1)
                scaled[k][i] = sign * clamp(a * b + c[min(a, 3) - 1], 0, 2**19)
    t = matrix(n)
    return [
        [clamp((sum(t[k][channel] * scaled[k][i] for k in range(n)) + 2**13 >> 14) + rules.z, 0, 255) for i in range(len(symbols[0]))] for channel in range(n)
    ]


def decode(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "dct_cm has no state")
    rules = Rules(params, payload)
    need(payload.width == 1 or payload.is_float, f"dct_cm does not write {payload.dtype}")
    stripe_levels = fixed_stripe if rules.profile == "fixed" else stripe_of_cells
    stripes = []
    for number_of, data in enumerate(payload.stripes):
        src = Bytes(data, f"stripe {number_of}")
        stripes.append(stripe_levels(src, payload.view[0], len(payload.rows(number_of)), payload.view[2], payload.view[1], rules))
        src.end()
    return values_of_levels(assembled(payload, stripes), params, payload)


def cell_depth(height: int, columns: int) -> int:
    return 32 * (64 // (min(height, 8) * min(columns, 8)))


def stripe_of_cells(src: Bytes, channels: int, rows: int, columns: int, height: int, rules: Rules) -> list[int]:
    out = [0] * (channels * rows * columns)
    depth = cell_depth(height, columns)
    for c0 in range(0, channels, depth):
        for x0 in range(0, columns, 8):
            wide, planes = min(8, columns - x0), min(depth, channels - c0)
            for k, plane in enumerate(cell_levels(src, planes, rows * wide, c0, rules)):
                for y in range(rows):
                    at = ((c0 + k) * rows + y) * columns + x0
                    out[at : at + wide] = plane[y * wide : (y + 1) * wide]
    return out


# Profile fixed


def s16(x: int) -> int:
    return (x + 0x8000 & 0xFFFF) - 0x8000


def r(a: int, b: int) -> int:
    return s16(a * b + 2**14 >> 15)


@cache
def fixed_steps(n: int, z: int, step: float, f: float) -> tuple[list[int], int]:
    """(B_k, g)."""
    products = []
    for k, row in enumerate(matrix(n)):
        u, d = sum(t for t in row if t > 0), -sum(t for t in row if t < 0)
        unsigned = k == 0 and z == 0
        most = max(u * (255 - z) + d * z, u * z + d * (255 - z)) / norms(n)[k]
        step_k = max(step, (most + n / 8) / ((255.75 if unsigned else 127.75) - f))
        products.append(step_k / norms(n)[k] * (2 if unsigned else 1))
    g = next((g for g in (4, 3, 2, 1) if all(p * 2 ** (14 + g) <= 32767 for p in products)), 0)
    return [min(32767, round(p * 2 ** (14 + g))) for p in products], g


def fixed_inverse(v: Sequence[int], z: int, g: int) -> list[int]:
    if len(v) == 1:
        return [s16(r(v[0], 2**14) + z * 2**g + 2**g // 2)]
    e, t = fixed_inverse(v[::2], z, g), matrix(len(v))
    o = [s16(sum(r(v[k], 256 * t[k][n]) for k in range(1, len(v), 2))) for n in range(len(v) // 2)]
    return [s16(a + b) for a, b in zip(e, o)] + [s16(a - b) for a, b in zip(reversed(e), reversed(o))]


def place_levels(src: Bytes, planes: int, values: int, c0: int, transformed: bool, rules: Rules) -> list[list[int]]:
    stored = [k for k in range(planes) if not transformed or rules.kept(c0 + k)]
    coded = Bits(src.take((len(stored) + 1) // 2), src.what)
    codes = {k: coded.take(4) for k in stored}
    coded.end()

    def bits(n: int) -> Bits:
        return Bits(src.take((n + 7) // 8), f"{src.what}, byte {src.at}")

    maps = {}
    for k in stored:
        if 1 <= codes[k] <= 9:
            own = bits(values)
            maps[k] = own.take(values)
            own.end()
    symbols = [[0] * values for _ in range(planes)]
    for k in stored:
        own = bits(values * (codes[k] - 7) if codes[k] > 9 else max(codes[k] - 1, 0) * maps.get(k, 0).bit_count())
        symbols[k] = symbols_of_code(codes[k], maps.get(k), own, values)
        own.end()
    if not transformed:
        return [[rules.levels[s] for s in plane] for plane in symbols]
    b, g = fixed_steps(planes, rules.z, rules.step, rules.f)
    levels = [[0] * values for _ in range(planes)]
    for i in range(values):
        v = []
        for k in range(planes):
            s = symbols[k][i]
            unsigned = k == 0 and rules.z == 0
            q = s if unsigned else -(s + 1) // 2 if s % 2 else s // 2
            v.append(r((128 if unsigned else 256) * q, b[k]))
        for k, x in enumerate(fixed_inverse(v, rules.z, g)):
            levels[k][i] = clamp(x >> g, 0, 255)
    return levels


def fixed_stripe(src: Bytes, channels: int, rows: int, columns: int, height: int, rules: Rules) -> list[int]:
    n, pixels = rules.length or 8, rows * columns
    groups = channels // n
    out: list[list[int]] = [[] for _ in range(channels)]
    beside = max(64 // pixels, 1)  # groups in one place
    for group in range(0, groups, beside):
        many = min(beside, groups - group)
        for p0 in range(0, pixels, 64):
            each = min(64, pixels - p0)
            planes = place_levels(src, n, many * each, group * n, rules.length > 0, rules)
            for m, k in product(range(many), range(n)):
                out[(group + m) * n + k] += planes[k][m * each : (m + 1) * each]
    rest = channels - groups * n
    for p0 in range(0, pixels if rest else 0, 64):
        planes = place_levels(src, rest, min(64, pixels - p0), groups * n, False, rules)
        for k in range(rest):
            out[groups * n + k] += planes[k]
    return [level for plane in out for level in plane]
