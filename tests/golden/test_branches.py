"""Golden streams hold every form that an encoder of ours writes: what no file holds, no later version is held to."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest

from tensorpress.core.binary import read_varint
from tensorpress.core.payload import DTYPES, Reader, chw
from tensorpress.core.stream import Stream, read_frame
from tests.golden.make import HERE, read_manifest

FOLDER = HERE / "v1"
FILES = sorted(read_manifest(FOLDER))


def streams(codec: str) -> Iterator[tuple[Stream, Reader, list[bytes]]]:
    """Every golden stream of a codec: itself, its payload's head, its stripes."""
    for file in FILES:
        if file.endswith(".tp") and file.split("/")[-1].startswith(f"{codec}-"):
            stream = Stream.from_bytes((FOLDER / file).read_bytes())
            src = Reader(stream.payload)
            yield stream, src, [bytes(src.stripe()) for _ in range(src.stripes)]


def nibbles(data: bytes) -> list[int]:
    return [n for byte in data for n in (byte & 15, byte >> 4)]


def test_types_and_ranks():
    found = {(src.dtype, len(src.shape)) for _, src, _ in streams("raw")}
    assert {dtype for dtype, _ in found} == set(DTYPES) and {rank for _, rank in found} == {0, 1, 2, 3, 5}


def cells(data: bytes) -> Iterator[tuple[int, bool, bool, int, bytes]]:
    """(mode, zero map, planes have codes of their own, width − 1, payload)."""
    at = 0
    while at < len(data):
        head = int.from_bytes(data[at : at + 3], "little")
        yield head & 3, bool(head & 4), bool(head & 8), head >> 4 & 7, data[at + 3 : at + 3 + (head >> 8)]
        at += 3 + (head >> 8)


def test_cells():
    modes: Counter = Counter()
    codes: set[tuple[int, int]] = set()
    for stream, src, stripes in streams("dct_cm"):
        if stream.params["profile"] == "fixed":
            continue
        channels, rows, columns = chw(src.shape)
        deep = 32 * (64 // (min(rows, 8) * min(columns, 8))) if src.stripes else 0
        for data in stripes:
            blocks = [min(deep, channels - c) for c in range(0, channels, deep) for _ in range(0, columns, 8)]
            found = list(cells(data))
            assert len(found) == len(blocks)
            for planes, (mode, zero_map, own, width, payload) in zip(blocks, found, strict=True):
                modes[mode, zero_map, own] += 1
                modes["width", width] += mode > 1 and not own
                if own and not stream.params["keep"]:  # with a mask fewer planes are stored
                    codes |= {(mode, code) for code in nibbles(payload[: (planes + 1) // 2])[:planes]}
    assert {(0, False, False), (1, False, False), (2, False, True), (2, False, False), (3, False, True), (3, False, False), (3, True, True)} <= set(modes)
    assert modes["width", 7] and any(modes["width", w] for w in range(7))
    assert {(2, code) for code in range(16)} <= codes and {(3, code) for code in (*range(9), *range(10, 15))} <= codes


def test_transforms():
    found = {(s.params["profile"], s.params["length"] or 0, bool(s.params["keep"]), s.params["zero_point"] > 0) for s, _, _ in streams("dct_cm")}
    lengths = {(profile, length) for profile, length, *_ in found}
    assert {("extended", n) for n in (0, 4, 8, 16, 32)} | {("fixed", n) for n in (0, 4, 8, 16, 32)} | {("paper", 0), ("paper", 4), ("paper", 8)} <= lengths
    for profile, zero in product(("extended", "fixed", "paper"), (False, True)):
        assert any(p == profile and length and z == zero for p, length, _, z in found), (profile, zero)
    assert {p for p, length, mask, _ in found if length and mask} == {"extended", "fixed", "paper"}
    assert {p for p, length, mask, _ in found if length and not mask} >= {"extended", "fixed"}


def test_laned_strings():
    seen: set[tuple[int, bool]] = set()
    escapes: Counter = Counter()
    for stream, src, stripes in streams("uniform_rans"):
        channels, rows, columns = chw(src.shape)
        for number, data in enumerate(stripes):
            n = channels * min(8, rows - 8 * number) * columns
            lanes = 4 if n < 8192 else 32 if n < 49152 else 64
            seen.add((lanes, len(data) == n))
            escapes[lanes] += stream.state["tables"][1] > 0
    assert {(4, False), (4, True), (32, False), (32, True), (64, False)} <= seen and all(escapes[lanes] for lanes in (4, 32, 64))
    assert {s.params["table_bits"] for s, _, _ in streams("uniform_rans")} == {11, 12}


def test_context():
    seen: Counter = Counter()
    for stream, src, stripes in streams("context"):
        backend, model = stream.params["backend"], zlib.decompress(stream.state["model"])
        flags, channels, earlier = model[0], struct.unpack_from("<I", model, 3)[0], model[7]
        seen.update({(backend, "linear", bool(flags & 2)): 1, (backend, "earlier", min(earlier, 1)): 1, (backend, earlier == 16): 1})
        _, rows, columns = chw(src.shape)
        parts = model[8] if backend == "max" else 1
        for number, data in enumerate(stripes):
            if backend == "max":
                split = parts if number >= len(stripes) - 2 and columns >= 12 * parts else 1
                seen["max", "stripe", split, bool(data)] += 1
                if split > 1 and data:
                    first = int.from_bytes(data[:4], "little")
                    seen["part", bool(first), len(data) > 4 + first] += 1
                continue
            deep = 32 * (64 // (min(rows, 8) * min(columns, 8)))
            count = -(-channels // deep) * -(-columns // 8)
            seen["fast", "stripe", bool(data)] += 1
            for size in struct.unpack_from(f"<{count}H", data) if data else ():
                seen["fast", "empty" if not size else "bytes" if size >> 15 else "coded"] += 1
    for backend, flag in product(("max", "fast"), (False, True)):
        assert seen[backend, "linear", flag] and seen[backend, flag]
    assert all(seen[backend, "earlier", some] for backend in ("max", "fast") for some in (0, 1))
    assert seen["fast", "stripe", False] and seen["fast", "empty"] and seen["fast", "bytes"] and seen["fast", "coded"]
    assert seen["max", "stripe", 1, True] and seen["max", "stripe", 1, False] and seen["max", "stripe", 2, True]
    assert seen["part", True, True] and seen["part", False, True]


def test_slots():
    codes: set[int] = set()
    for stream, src, stripes in streams("slots"):
        broad, deep = (8, 32) if stream.params["cell"] == "deep" else (16, 16)
        channels, rows, columns = chw(src.shape)
        for number, data in enumerate(stripes):
            high, at = min(8, rows - 8 * number), 0
            words = [min(deep, channels - c) * high * min(broad, columns - x) for c in range(0, channels, deep) for x in range(0, columns, broad)]
            packed = stream.params["layout"] == "packed"
            sizes = struct.unpack_from(f"<{len(words)}H", data) if packed else [2112] * len(words)
            at = 2 * len(words) if packed else 0
            for size, n in zip(sizes, words, strict=True):
                codes |= set(nibbles(data[at : at + (n + 31) // 32])[: -(-n // 16)])
                at += size
            assert at == len(data)
    assert codes == set(range(16))
    assert {(s.params["cell"], s.params["layout"]) for s, _, _ in streams("slots")} == {*product(("deep", "wide"), ("packed", "slot"))}


def test_tables_and_predictors():
    assert {bytes(s.state["predictor"]) for s, _, _ in streams("predictive")} == {b"spatial", b"channel", b"both"}
    assert {(s.params["coder"], s.params["block"]) for s, _, _ in streams("klt")} >= {("rans", 32), ("rans", 8), ("rans", 0), ("huffman", 32)}
    rows = {(s.params["coder"], symbols) for s, _, _ in streams("klt") for symbols in sizes(bytes(s.state["tables"]), s.params["coder"] == "rans")}
    assert all(min(n for c, n in rows if c == coder) < 8 and max(n for c, n in rows if c == coder) > 40 for coder in ("rans", "huffman"))
    assert max(max(nibbles(bytes(s.state["tables"][3:]))) for s, _, _ in streams("huffman")) >= 10  # behind one row and two bytes of symbols


def sizes(tables: bytes, rans: bool) -> Iterator[int]:
    """Symbols of each class of klt."""
    at = 0
    while at < len(tables):
        _, at = read_varint(tables, at, "low")
        nbytes, at = read_varint(tables, at, "length")
        yield read_varint(tables, at + (2 if rans else 1), "symbols")[0]  # behind one row, and the bits of rANS
        at += nbytes


@pytest.mark.parametrize("codec", ["zvc", "rle", "csc", "huffman", "slots", "apack", "ebpc", "predictive", "zstd", "lz4", "blosc2"])
def test_steps_and_zero_points(codec):
    found = {(s.params["step"] > 1, s.params["zero_point"] > 0) for s, src, _ in streams(codec) if src.dtype.kind == "f"}
    assert {(False, False), (False, True), (True, True)} <= found
    assert {src.dtype.name for _, src, _ in streams(codec)} >= {"float32", "float16", "float64", "uint8", "int8", "bool"}


def test_forms_of_frames():
    heads = {read_frame(data).nbytes - len(read_frame(data).payload) for data in ((FOLDER / f).read_bytes() for f in FILES if f.endswith(".tpf"))}
    assert heads == {12, 24}
