"""`float_planes`: byte planes of words, each chunk of a plane in a way of its own."""

from __future__ import annotations

from .binary import Bytes, FormatError, need
from .container import Json, Payload, State
from .entropy import Table, frequencies, laned_symbols
from .levels import assembled

CHUNK = 65536
MANTISSA = {"float16": 10, "float32": 23, "float64": 52}


def float_planes(params: Json, state: State, payload: Payload, reference: None) -> bytes:
    need(not state, "float_planes has no state")
    mantissa = 7 if payload.dtype == "uint16" and params["layout"] == "bfloat16" else MANTISSA.get(payload.dtype, 0)
    channels, _, columns = payload.view
    stripes = []
    for n, data in enumerate(payload.stripes):
        src = Bytes(data, f"stripe {n}")
        stripes.append(words(src, channels * len(payload.rows(n)) * columns, payload.width, mantissa, payload.dtype.startswith("int"), repeats=True))
        src.end()
    return b"".join(w.to_bytes(payload.width, "little") for w in assembled(payload, stripes))


def words(src: Bytes, count: int, width: int, mantissa: int, signed: bool, repeats: bool) -> list[int]:
    mode = src.u(1)
    if mode == 0:
        return [src.u(width) for _ in range(count)]
    if mode == 1:
        return planes(src, count, width, mantissa, signed)
    if mode == 2 and not mantissa:
        at, out = 0, []
        for step in planes(src, count, width, 0, True):
            at = (at + step) % (1 << 8 * width)
            out.append(at)
        return out
    need(mode == 3 and repeats, f"{src.what}: mode {mode}")
    length, vectors = src.varint(), src.varint()
    book_src = Bytes(src.take(src.varint()), f"{src.what}, vectors")
    need(length > 0 and 0 < vectors <= count // length, f"{src.what}: {vectors} vectors of {length} words, of {count}")
    book = words(book_src, vectors * length + count % length, width, mantissa, signed, repeats=False)
    book_src.end()
    index = words(src, count // length, next(n for n in (1, 2, 4, 8) if vectors <= 1 << 8 * n), 0, False, repeats=False)
    need(max(index) < vectors, f"{src.what}: vector {max(index)} of {vectors}")
    return [w for i in index for w in book[i * length : (i + 1) * length]] + book[vectors * length :]


def table(src: Bytes, what: str) -> Table:
    own = Bytes(src.take(src.varint()), what)
    need(own.u(1) == 12, f"{what}: not of 12 bits")
    counts = [own.varint(), *frequencies(own, 256)]
    own.end()
    need(sum(counts) == 4096 > max(counts) and (counts[0] > 0 or 0 not in counts[1:]), f"{what}: frequencies")
    return Table(12, [[sum(counts[: n + 1]) for n in range(257)]])


def planes(src: Bytes, count: int, width: int, mantissa: int, signed: bool) -> list[int]:
    heads: list[tuple[int, int, Table | None]] = []
    for p in range(width):
        kind = src.u(1)
        need(kind <= 2, f"{src.what}: plane {p} is of kind {kind}")
        heads.append((kind, src.u(1) if kind == 1 else 0, table(src, f"{src.what}, plane {p}") if kind == 2 else None))
    out: list[int] = []
    for at in range(0, count, CHUNK):
        n = min(CHUNK, count - at)
        aside = src.u(1) if mantissa else 0
        need(aside <= 1, f"{src.what}: flags {aside}")
        plus, minus = (src.u(1), src.u(1)) if aside else (-1, -1)
        first = part(src, heads[0], n)
        kept = sum(b not in (plus, minus) for b in first)
        rest = [part(src, head, kept) for head in heads[1:]]
        others = iter(zip(*rest)) if rest else iter([()] * kept)
        for top in first:
            if top in (plus, minus):
                out.append(0 if top == plus else 1 << 8 * width - 1)
            else:
                out.append(joined(int.from_bytes(bytes([top, *next(others)]), "big"), width, mantissa, signed))
    return out


def part(src: Bytes, head: tuple[int, int, Table | None], n: int) -> list[int]:
    kind, constant, shared = head
    if kind == 2:
        kind = src.u(1)
        need(kind <= 3, f"{src.what}: a part is of kind {kind}")
        constant = src.u(1) if kind == 1 else 0
        shared = table(src, f"{src.what}, a part") if kind == 3 else shared
    if kind == 1:
        return [constant] * n
    if kind == 0:
        return list(src.take(n))
    if shared is None:
        raise FormatError(f"{src.what}: a part has no table")
    return laned_symbols(src.take(src.varint()), shared, n, src.what)


def joined(word: int, width: int, mantissa: int, signed: bool) -> int:
    if signed:  # 0, -1, 1, -2 …
        return word >> 1 if word % 2 == 0 else (1 << 8 * width) - 1 - (word >> 1)
    if not mantissa:
        return word
    sign, low = word >> mantissa & 1, word & (1 << mantissa) - 1
    return sign << 8 * width - 1 | word >> mantissa + 1 << mantissa | low
