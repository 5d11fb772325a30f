"""Sections 8 and 9: entropy coders, `uniform_rans` and `klt`."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .binary import Bits, Bytes, f32, need
from .container import Json, Payload, State
from .levels import assembled, restored

# 8. rANS


def frequencies(src: Bytes, count: int) -> list[int]:
    """Varints, where after a 0 stands the number of further 0s."""
    out: list[int] = []
    while len(out) < count:
        out.append(src.varint())
        if out[-1] == 0:
            more = src.varint()
            need(more <= count - len(out), f"{src.what}: a run of zeros ends at number {len(out) + more} of {count}")
            out += [0] * more
            # the shortest form: a run is never followed by another 0
            need(len(out) == count or src.data[src.at : src.at + 1] != b"\0", f"{src.what}: a run of zeros at byte {src.at} is cut in two")
    return out


@dataclass
class Table:
    """Rows of cumulated frequencies; a row's sum is 2^bits."""

    bits: int
    rows: list[list[int]]

    def find(self, row: int, slot: int) -> tuple[int, int, int]:
        """(symbol, start, frequency)."""
        ends = self.rows[row]
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if slot < ends[middle] else (middle + 1, high)
        start = ends[low - 1] if low else 0
        return low, start, ends[low] - start


def read_tables(src: Bytes) -> Table:
    bits, rows, symbols = src.u(1), src.varint(), src.varint()
    need(10 <= bits <= 16, f"{src.what}: {bits} bits")
    need(rows > 0 and symbols > 0 and rows << bits <= 1 << 24 and symbols <= 1 << bits, f"{src.what}: {rows} rows of {symbols} symbols")
    found = []
    for number_of in range(rows):
        ends, at = [], 0
        for less_one in frequencies(src, symbols):
            at += less_one + 1
            ends.append(at)
        need(at == 1 << bits, f"{src.what}: row {number_of} sums to {at}, not 2^{bits}")
        found.append(ends)
    return Table(bits, found)


def rans_symbols(data: bytes, table: Table, index: Sequence[int] | Iterator[int], what: str) -> list[int]:
    src = Bytes(data, what)
    states = [src.u(4) for _ in range(4)]
    need(all(x >= 1 << 16 for x in states), f"{what}: a state is below 2^16")
    mask, out = (1 << table.bits) - 1, []
    for i, row in enumerate(index):
        x = states[i % 4]
        symbol, start, frequency = table.find(row, x & mask)
        x = frequency * (x >> table.bits) + (x & mask) - start
        states[i % 4] = x << 16 | src.u(2) if x < 1 << 16 else x
        out.append(symbol)
    need(states == [1 << 16] * 4, f"{what}: states do not end at 2^16")
    src.end()
    return out


# 8. Huffman


def read_code_tables(src: Bytes) -> list[dict[tuple[int, int], int]]:
    """For each row (length, code) -> symbol."""
    rows, symbols = src.varint(), src.varint()
    need(0 < rows <= 4096 and 0 < symbols <= 32768, f"{src.what}: {rows} rows of {symbols} symbols")
    bits = Bits(src.take((rows * symbols + 1) // 2), src.what)
    found = []
    for row in range(rows):
        lengths = [bits.take(4) for _ in range(symbols)]
        need(sum(2**-n for n in lengths) == 1, f"{src.what}: row {row} is not a complete code")
        code, last, codes = 0, 0, {}
        for length, symbol in sorted((n, s) for s, n in enumerate(lengths)):
            code <<= length - last
            codes[length, code], last = symbol, length
            code += 1
        found.append(codes)
    bits.end()
    return found


def huffman_symbols(data: bytes, tables: Sequence[dict[tuple[int, int], int]], index: Sequence[int] | Iterator[int], what: str) -> list[int]:
    bits, out = Bits(data, what, highest_first=True), []
    for row in index:
        length = code = 0
        while (length, code) not in tables[row]:
            length, code = length + 1, code << 1 | bits.take(1)
        out.append(tables[row][length, code])
    bits.end()
    return out


# 8. Range coder


class RangeBits:
    """Bits with the chance P of a 1, of 2^16."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.at = data, what, 0
        self.low, self.high, self.value = 0, 0xFFFFFFFF, 0
        for _ in range(4):
            self.value = self.value << 8 | self.next()

    def next(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def take(self, p: int) -> int:
        middle = self.low + ((self.high - self.low) * p >> 16)
        bit = int(self.value <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while (self.low ^ self.high) >> 24 == 0:
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
            self.value = self.value << 8 & 0xFFFFFFFF | self.next()
        return bit

    def end(self) -> None:
        """The data is the shortest that lies in the last interval."""
        need(len(self.data) <= self.at, f"{self.what}: {len(self.data) - self.at} bytes are not reached")


# 9. uniform_rans


def uniform_rans(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(None not in (params["step"], params["reciprocal"], params["zero_point"]), "uniform_rans: step, reciprocal and zero_point are needed")
    levels, bits, z, step = params["levels"], params["table_bits"], params["zero_point"], f32(params["step"])
    need(z < levels, f"uniform_rans: zero_point {z} of {levels} levels")
    need(set(state) == {"tables"}, f"uniform_rans has state tables, not {sorted(state)}")
    src = Bytes(state["tables"], "tables")
    need(src.u(1) == bits, "tables: not of `table_bits` bits")
    counts = [src.varint(), *frequencies(src, levels)]
    src.end()
    need(sum(counts) == 1 << bits and max(counts) < 1 << bits, "tables: frequencies do not sum to 2^b, or one is all")
    need(counts[0] > 0 or 0 not in counts[1:], "tables: symbols of frequency 0 without an escape")
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    table = Table(bits, [ends])
    stripes = []
    for n, data in enumerate(payload.stripes):
        symbols = laned_symbols(data, table, len(payload.rows(n)) * payload.view[0] * payload.view[2], f"stripe {n}")
        need(max(symbols, default=0) < levels, f"stripe {n}: a symbol beyond {levels - 1}")
        stripes.append([f32(f32(s - z) * step) for s in symbols])
    return restored(assembled(payload, stripes), payload.dtype)


def laned_symbols(data: bytes, table: Table, n: int, what: str) -> list[int]:
    if len(data) == n:
        return list(data)
    need(len(data) < n, f"{what}: {len(data)} bytes for {n} symbols")
    lanes = 4 if n < 8192 else 32 if n < 49152 else 64
    k = min(lanes, 16)
    plain, tail = 2 * k, 4 * lanes if lanes > 16 else 0
    need(n >= plain + tail, f"{what}: {n} symbols are too few")
    src = Bytes(data, what)
    lengths = Bits(src.take(lanes // 2), what)
    widths = [lengths.take(4) + 16 for _ in range(lanes)]
    first = Bits(src.take((sum(widths) + 7) // 8), what)
    states = [1 << w | first.take(w) for w in widths]
    first.end()
    end, mask = len(data), (1 << table.bits) - 1

    def word() -> int:
        need(end - src.at >= 2, f"{what}: words and rare symbols meet at byte {src.at}")
        return src.u(2)

    def take(lane: int) -> int:
        nonlocal end
        x = states[lane]
        symbol, start, frequency = table.find(0, x & mask)
        x = frequency * (x >> table.bits) + (x & mask) - start
        states[lane] = x << 16 | word() if x < 1 << 16 else x
        if symbol:
            return symbol - 1
        need(end > src.at, f"{what}: words and rare symbols meet at byte {src.at}")
        end -= 1
        rare = data[end]
        need(rare + 1 < len(table.rows[0]) and table.rows[0][rare + 1] == table.rows[0][rare], f"{what}: byte {end} is no rare symbol")
        return rare

    out = [take(i % lanes) for i in range(n - plain - tail)]
    if tail:
        need(all(x >> 16 == 1 for x in states[k:]), f"{what}: a state of the tail is not 2^16 + w")
        spare = [x & 0xFFFF for x in states[k:]]
        src.data, src.at, kept = b"".join(struct.pack("<H", w) for w in spare) + data[src.at : end], 0, end - src.at
        moved = 2 * len(spare)
        end_of = moved + kept
        # what is left stands behind the words that the other states held
        data, end = src.data[:end_of], end_of
        out += [take(j % k) for j in range(tail)]
        used = min(src.at, moved)
        need(not any(src.data[used:moved]), f"{what}: a word that no symbol takes is not 0")
        src.at = max(src.at, moved)
    need(src.at == end, f"{what}: {end - src.at} bytes are left between words and rare symbols")
    need(all(x >> 16 == 1 for x in states[:k]), f"{what}: a last state is not 2^16 + w")
    for x in states[:k]:
        out += [x & 255, x >> 8 & 255]
    return out


# 9. klt


def klt(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(None not in (params["channels"], params["fixed"], params["step"]), "klt: channels, fixed and step are needed")
    channels, block, step, coder, table_bits = (params[k] for k in ("channels", "block", "step", "coder", "table_bits"))
    need(set(state) == {"means", "basis", "classes", "tables"}, f"klt: state {sorted(state)}")
    need(payload.view[0] == channels or 0 in payload.view, f"klt: {payload.view[0]} channels, not {channels}")
    need(len(state["means"]) == 4 * channels and len(state["classes"]) == channels, "klt: means or classes do not suit the channels")
    means = struct.unpack(f"<{channels}f", state["means"])
    need(all(map(math.isfinite, means)), "means: one is not finite")
    sizes = [min(block or channels, channels - c) for c in range(0, channels, block or channels)]
    entries = sum(n * n for n in sizes)
    packed = Bits(state["basis"], "basis")
    basis = [(packed.take(12) ^ 0x800) - 0x800 for _ in range(entries)]
    need(entries % 2 == 0 or packed.take(12) == 0, "basis: padding is not zero")
    packed.end()
    need(-2048 not in basis, "basis: an entry of -2048")
    ends = [0, *(sum(n * n for n in sizes[: k + 1]) for k in range(len(sizes)))]
    need(all(any(basis[a:b]) for a, b in pairwise(ends)), "basis: a block of zeros")
    src, tables = Bytes(state["tables"], "tables"), []
    while src.at < len(src.data):
        low, own = -src.varint(), Bytes(src.take(src.varint()), "tables")
        tables.append((low, read_tables(own) if coder == "rans" else read_code_tables(own)))
        own.end()
        rows = tables[-1][1].rows if coder == "rans" else tables[-1][1]  # type: ignore[union-attr]
        need(len(rows) == 1 and -low < len(rows[0]) <= 4095, f"tables: one of {len(rows[0])} symbols from {low}")
        need(coder != "rans" or tables[-1][1].bits == table_bits, "tables: not of `table_bits` bits")  # type: ignore[union-attr]
    need(0 < len(tables) <= 16, f"tables: {len(tables)} classes")
    classes = state["classes"]
    need(max(classes) < len(tables), "klt: a class without a table")
    stripes = []
    for number_of, data in enumerate(payload.stripes):
        pixels = len(payload.rows(number_of)) * payload.view[2]
        order = sorted(range(channels), key=lambda c: classes[c])
        index = [classes[c] for c in order for _ in range(pixels)]
        what = f"stripe {number_of}"
        if coder == "rans":
            merged = Table(tables[0][1].bits, [t.rows[0] for _, t in tables])  # type: ignore[union-attr]
            symbols = rans_symbols(data, merged, index, what)
        else:
            symbols = huffman_symbols(data, [t[0] for _, t in tables], index, what)  # type: ignore[index]
        coefficients = [[0] * pixels for _ in range(channels)]
        for place, c in enumerate(order):
            coefficients[c] = [s + tables[classes[c]][0] for s in symbols[place * pixels : (place + 1) * pixels]]
        values: list[float] = []
        c0 = at = 0
        for n in sizes:
            own_basis = [basis[at + i * n : at + (i + 1) * n] for i in range(n)]
            factor = step / math.sqrt(sum(b * b for row in own_basis for b in row) / n)  # a block of zeros has been refused
            for c in range(n):
                for p in range(pixels):
                    exact = sum(own_basis[i][c] * coefficients[c0 + i][p] for i in range(n))
                    values.append(f32(exact * factor + means[c0 + c]))
            c0, at = c0 + n, at + n * n
        stripes.append(values)
    return restored(assembled(payload, stripes), payload.dtype)
