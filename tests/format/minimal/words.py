"""Sections 7 and 14 to 19: codecs of a stripe's words."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise

import library_strings  # beside this package

from .binary import Bits, Bytes, FormatError, need
from .cells import matrix, norms
from .container import Json, Payload, State
from .entropy import RangeBits, huffman_symbols, rans_symbols, read_code_tables, read_tables
from .levels import assembled, clamp, restored, scale_of, symbol_levels, values_of_levels, zero_of

Unpack = Callable[[bytes, int, int, str], list[int]]  # (stripe, its words, bytes of a word, place) -> words


def words_of(params: Json, payload: Payload, unpack: Unpack, stepped: bool = True, wide: bool = False) -> bytes:
    """The tensor whose words `unpack` takes from each stripe."""
    z = zero_of(params, payload)
    scale_of(params, payload)
    need(wide or payload.is_float or payload.width == 1, f"this codec does not write {payload.dtype}")
    width = 1 if payload.is_float else payload.width
    channels, _, columns = payload.view
    stripes = [unpack(data, channels * len(payload.rows(n)) * columns, width, f"stripe {n}") for n, data in enumerate(payload.stripes)]
    words = assembled(payload, stripes)
    if width > 1:
        return b"".join(w.to_bytes(width, "little") for w in words)
    if stepped:
        levels, _ = symbol_levels(params, z)
        words = [levels[w] for w in words]
    return values_of_levels(words, params, payload)


def row_of(data: bytes, n: int, width: int, what: str) -> list[int]:
    need(len(data) == n * width, f"{what}: {len(data)} bytes for {n} words of {width}")
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


# 7. raw and zvc


def raw(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "raw has no state")
    return words_of(params, payload, row_of, stepped=False, wide=True)


def zero_bitmap(src: Bytes, n: int, width: int) -> list[int]:
    bits = Bits(src.take((n + 7) // 8), src.what)
    kept = [bits.take(1) for _ in range(n)]
    bits.end()
    return [src.u(width) if bit else 0 for bit in kept]


def zvc(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        src = Bytes(data, what)
        out = zero_bitmap(src, n, width)
        src.end()
        return out

    need(not state, "zvc has no state")
    return words_of(params, payload, unpack, wide=True)


# 14. Strings of libraries


def strings(params: Json, payload: Payload, expand: Callable[[bytes, int], bytes]) -> bytes:
    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        try:
            return row_of(expand(data, n * width), n, width, what)
        except ValueError as error:
            raise FormatError(f"{what}: {error}") from None

    return words_of(params, payload, unpack, wide=True)


def zstd(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "zstd has no state")
    return strings(params, payload, library_strings.zstd)


def lz4(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    def expand(data: bytes, nbytes: int) -> bytes:
        src = Bytes(data, "block")
        need(src.u(4) == nbytes, "the declared size is not that of the shape")
        return library_strings.lz4(src.rest(), nbytes)

    need(not state, "lz4 has no state")
    return strings(params, payload, expand)


def blosc2(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "blosc2 has no state")
    return strings(params, payload, library_strings.blosc2)


def zfp(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "zfp has no state")
    step, scale = params["step"], params["scale"] or 1.0
    need(payload.is_float or payload.width == 1, f"zfp does not write {payload.dtype}")
    stripes = []
    for n, data in enumerate(payload.stripes):
        shape = (payload.view[0], len(payload.rows(n)), payload.view[2])
        need(len(data) <= 8 + 300 * math.prod(-(-d // 4) for d in shape), f"stripe {n}: {len(data)} bytes")
        try:
            stripes.append(library_strings.zfp(data, shape, step * scale / 2))
        except ValueError as error:
            raise FormatError(f"stripe {n}: {error}") from None
        need(all(map(math.isfinite, stripes[-1])), f"stripe {n}: values that are not finite")
    return restored(assembled(payload, stripes), payload.dtype)


# 15. apack


def apack(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(set(state) == {"ranges", "tables"}, f"apack: state {sorted(state)}")
    starts = [0, *state["ranges"], 256]
    need(len(starts) == 17 and all(a < b for a, b in pairwise(starts)), "ranges: not 15 rising numbers")
    src = Bytes(state["tables"], "tables")
    table = read_tables(src)
    src.end()
    need(table.bits == 10 and len(table.rows) == 1 and len(table.rows[0]) == 16, "tables: not one row of 16 symbols of 2^10")

    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        src = Bytes(data, what)
        numbers = rans_symbols(src.take(src.u(4)), table, [0] * n, what)
        bits, out = Bits(src.rest(), what), []
        for k in numbers:
            out.append(starts[k] + bits.take((starts[k + 1] - starts[k] - 1).bit_length()))
            need(out[-1] < starts[k + 1], f"{what}: an offset leads out of its range")
        bits.end()
        return out

    return words_of(params, payload, unpack)


# 16. dct2d


def dct2d(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "dct2d has no state")
    step, slope = params["step"], params["slope"]
    z, t, n = zero_of(params, payload), matrix(8), norms(8)
    scale_of(params, payload)
    need(payload.is_float or payload.width == 1, f"dct2d does not write {payload.dtype}")
    b = [[round(step * (1 + slope * (u + v)) / (n[u] * n[v]) * 2**30) for v in range(8)] for u in range(8)]
    channels, _, columns = payload.view
    across, stripes = -(-columns // 8), []
    for number_of, data in enumerate(payload.stripes):
        src, rows = Bytes(data, f"stripe {number_of}"), len(payload.rows(number_of))
        blocks = channels * across
        front = Bytes(src.take(src.u(4)), src.what)
        symbols = zero_bitmap(front, 64 * blocks, 1)
        front.end()
        large = [src.i(2) for s in symbols if s == 255]
        src.end()
        q = [(s + 1) // 2 if s % 2 else -(s // 2) for s in symbols]
        escaped = iter(large)
        q = [next(escaped) if s == 255 else value for s, value in zip(symbols, q)]
        levels = [[0] * columns for _ in range(channels * rows)]
        for block in range(blocks):
            c = [[q[64 * block + 8 * u + v] * b[u][v] + 2**15 >> 16 for v in range(8)] for u in range(8)]
            half = [[sum(t[u][y] * c[u][v] for u in range(8)) for v in range(8)] for y in range(8)]
            for y in range(rows):
                for x in range(min(8, columns - block % across * 8)):
                    value = (sum(half[y][v] * t[v][x] for v in range(8)) + 2**13 >> 14) + z
                    levels[block // across * rows + y][block % across * 8 + x] = clamp(value, 0, 255)
        stripes.append([level for row in levels for level in row])
    return values_of_levels(assembled(payload, stripes), params, payload)


# 17. rle, csc, huffman, slots


def rle(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        bits, out = Bits(data, what), list[int]()
        for _ in range(8 * len(data) // 13):
            out += [0] * bits.take(5) + [bits.take(8)]
        bits.end()
        need(len(out) == n, f"{what}: {len(out)} words, not {n}")
        return out

    need(not state, "rle has no state")
    return words_of(params, payload, unpack)


def csc(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    channels = payload.view[0]

    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        src, each, out = Bytes(data, what), n // channels, []
        bits = Bits(src.take((each.bit_length() * channels + 7) // 8), what)
        entries = [bits.take(each.bit_length()) for _ in range(channels)]
        bits.end()
        runs = Bits(src.take((sum(entries) + 1) // 2), what)
        words = src.take(sum(entries))
        src.end()
        at = 0
        for count in entries:
            column: list[int] = []
            for word in words[at : at + count]:
                column += [0] * runs.take(4) + [word]
            need(len(column) <= each, f"{what}: an entry leads beyond its column")
            out += column + [0] * (each - len(column))
            at += count
        runs.end()
        return out

    need(not state, "csc has no state")
    return words_of(params, payload, unpack)


def huffman(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(set(state) == {"tables"}, f"huffman: state {sorted(state)}")
    src = Bytes(state["tables"], "tables")
    src.varint()
    count = 1 + max(symbol_levels(params, z)[1] for z in (0, 128, params["zero_point"]))
    need(src.varint() == count, f"tables: not of {count} symbols")
    src.at = 0
    tables = read_code_tables(src)
    src.end()
    need(len(tables) == 1, "tables: not one row")
    return words_of(params, payload, lambda data, n, width, what: huffman_symbols(data, tables, [0] * n, what))


def slots(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "slots has no state")
    broad, deep = (8, 32) if params["cell"] == "deep" else (16, 16)
    channels, _, columns = payload.view

    def cell(data: bytes, n: int, padded: bool, what: str) -> list[int]:
        src, out = Bytes(data, what), list[int]()
        groups = -(-n // 16)
        coded = Bits(src.take((groups + 1) // 2), what)
        codes = [coded.take(4) for _ in range(groups)]
        coded.end()
        bits = Bits(src.rest(), what)
        for code in codes:
            size = min(16, n - len(out))
            if code < 9:
                out += [bits.take(code) for _ in range(size)]
                continue
            kept = [bits.take(1) for _ in range(size)]
            out += [bits.take(code - 7) + 1 if bit else 0 for bit in kept]
            need(max(out[-size:]) < 256, f"{what}: a word of 256")
        if padded:
            need(bits.take(bits.left()) == 0, f"{what}: bytes behind a cell are not 0")
        bits.end()
        return out

    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        src, rows, out = Bytes(data, what), n // (channels * columns), [0] * n
        places = [(c, x) for c in range(0, channels, deep) for x in range(0, columns, broad)]
        packed = params["layout"] == "packed"
        sizes = [src.u(2) if packed else 2112 for _ in places]
        need(all(size <= 2112 for size in sizes), f"{what}: a cell of more than 2,112 bytes")
        for (c0, x0), size in zip(places, sizes):
            wide, planes = min(broad, columns - x0), min(deep, channels - c0)
            words = cell(src.take(size), planes * rows * wide, not packed, what)
            for line in range(planes * rows):
                at = (c0 * rows + line) * columns + x0
                out[at : at + wide] = words[line * wide : (line + 1) * wide]
        src.end()
        return out

    return words_of(params, payload, unpack)


# 18. ebpc


def ebpc_plane(bits: Bits, planes: list[int]) -> None:
    """Appends what the next code stands for; `planes` begins with one of zeros above the highest."""
    above = planes[-1]
    if bits.take(1):
        difference = bits.take(7)
        need(difference > 0, f"{bits.what}: planes that do not differ, in 8 bits")
        planes.append(above ^ difference)
    elif bits.take(1):
        planes.append(above)
    elif bits.take(1):
        planes += [above] * (bits.take(3) + 2)
    else:
        kind = bits.take(2)
        if kind == 0:
            planes.append(above ^ 127)
        elif kind == 1:
            need(above > 0, f"{bits.what}: a plane that is zero, and so is that above it")
            planes.append(0)
        else:
            place = bits.take(3)
            need((kind == 2) <= place < 7, f"{bits.what}: a one beyond 7 bits")
            planes.append(above ^ (3 << place - 1 if kind == 2 else 1 << place))


def ebpc(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        src, kept = Bytes(data, what), list[int]()
        first = Bits(src.take(src.u(4)), what, highest_first=True)
        while len(kept) < n:
            kept += [1] if first.take(1) else [0] * (first.take(4) + 1)
        need(len(kept) == n, f"{what}: a run of zeros leads beyond the stripe")
        first.end()
        second, words = Bits(src.rest(), what, highest_first=True), list[int]()
        while len(words) < sum(kept):
            base, planes = second.take(8), [0]
            while len(planes) < 10:
                ebpc_plane(second, planes)
            need(len(planes) == 10, f"{what}: a run of planes leads beyond the last")
            differences = [sum((plane >> 6 - i & 1) << 8 - p for p, plane in enumerate(planes[1:])) for i in range(7)]
            words += accumulate(differences, lambda w, d: w + ((d ^ 256) - 256), initial=base)
            need(all(0 < w < 256 for w in words[-8:]), f"{what}: a word that is not 1 to 255")
        need(len(set(words[sum(kept) - 1 :])) <= 1, f"{what}: the last block is not filled with copies")
        second.end()
        found = iter(words)
        return [next(found) if bit else 0 for bit in kept]

    need(not state, "ebpc has no state")
    return words_of(params, payload, unpack)


# 19. predictive


def predictive(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(set(state) == {"predictor"} and state["predictor"] in (b"spatial", b"channel", b"both"), "predictive: state")
    kind, (channels, _, columns) = state["predictor"], payload.view

    def unpack(data: bytes, n: int, width: int, what: str) -> list[int]:
        coder, rows = RangeBits(data, what), n // (channels * columns)
        chances, sums, counts = [2**15] * 15, [8] * 8, [2] * 8
        out: list[int] = []

        def near(words: list[int], i: int, dy: int, dx: int) -> int:
            return words[i - dy * columns + dx] if i // columns % rows >= dy and 0 <= i % columns + dx < columns else 0

        for i in range(n):
            w, north, nw, ne = (near(out, i, dy, dx) for dy, dx in ((0, -1), (1, 0), (1, -1), (1, 1)))
            b = out[i - rows * columns] if i >= rows * columns else 0
            context = 3 * sum(v > 0 for v in (w, north, nw, ne)) + (b > 0) + (b > 3)
            p = chances[context]
            bit = coder.take(clamp(p, 64, 65472))
            chances[context] = p + (65535 - p >> 5) if bit else p - (p - 1 >> 5)
            if not bit:
                out.append(0)
                continue
            median = min(w, north) if nw >= max(w, north) else max(w, north) if nw <= min(w, north) else w + north - nw
            guess = {b"spatial": median, b"channel": b, b"both": (median + b + 1) // 2}[kind]
            d = abs(w - nw) + abs(north - nw) + abs(north - ne)
            own = next((c for c in range(8) if 4 << c > d + 3), 7)
            k = next((k for k in range(8) if counts[own] << k >= sums[own]), 8)
            ones = 0
            while ones < 20 and coder.take(2**15):
                ones += 1
            u = 0
            for _ in range(9 if ones == 20 else k):
                u = u << 1 | coder.take(2**15)
            u += 0 if ones == 20 else ones << k
            word = ((u + 1) // 2 if u % 2 else -(u // 2)) + 1 + max(guess - 1, 0)
            need(0 < word < 256, f"{what}: word {i} is {word}")
            out.append(word)
            sums[own], counts[own] = sums[own] + u, counts[own] + 1
            if counts[own] == 64:
                sums[own], counts[own] = (sums[own] + 1) // 2, 32
        coder.end()
        return out

    return words_of(params, payload, unpack)
