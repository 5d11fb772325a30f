"""Golden streams as inputs of the targets in native/fuzz/targets: each begins with shape and tables as its target reads them.

    python native/fuzz/seeds.py SEEDS TABLES      writes SEEDS/<target>/<name>, and TABLES/<target>/<number>

An input is short, so that mutations fall where decoders look: the tables of golden streams stand in files of their own, and inputs name them by a number.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tensorpress import _native
from tensorpress.blocks import dct
from tensorpress.coding import adaptive
from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.lanes import LaneTables
from tensorpress.coding.tables import Tables
from tensorpress.core import registry
from tensorpress.core.payload import Reader, chw
from tensorpress.core.stream import Stream, write_frame
from tensorpress.systems.features import apack, dct_cm

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "streams"
FLOAT_MAP = 252  # kind of a shape: float32, values side by side, as many as the target allows
RAW, ENCODED = b"\0", b"\x01"  # modes: the bytes as they are; values to encode

Tabled = tuple[bytes, bytes, bytes]  # tables; what stands in front of their number, and behind it


def u16(*values: int) -> bytes:
    return np.array(values, np.int64).astype("<u2").tobytes()


def u32(*values: int) -> bytes:
    return np.array(values, np.int64).astype("<u4").tobytes()


def stripes(stream: Stream) -> list[bytes]:
    src = Reader(stream.payload, max_nbytes=1 << 30)
    return [bytes(src.stripe()) for _ in range(src.stripes)]


def shape(stream: Stream, stripe: int) -> bytes:
    channels, rows, columns = chw(Reader(stream.payload, max_nbytes=1 << 30).shape)
    return bytes([FLOAT_MAP, rows, columns]) + u16(channels) + bytes([stripe])


def words_of(stream: Stream, stripe: int) -> np.ndarray:
    """(channels, rows, columns) zero-bitmap words that the stripe holds, whatever its codec: what its values are worth, in bytes."""
    x = registry.build(stream.codec, stream.params, stream.state).decode(stream)
    part = np.abs(x[:, 8 * stripe : 8 * stripe + 8]) * 16
    return np.ascontiguousarray(np.minimum(part, 255).astype(np.uint8))


# --- maps: a body, the number of rules, a shape, a mode, a stripe -------------------------------------------------------------------


def zero_bitmap(stream: Stream) -> Iterator[bytes]:
    zero = int(stream.params["zero_point"])
    for number, stripe in enumerate(stripes(stream)):
        yield bytes([0, 1, 1, zero]) + shape(stream, number) + RAW + stripe


def laned_rans(stream: Stream) -> Iterator[Tabled]:
    tables = LaneTables.from_bytes(stream.state["tables"], stream.params["levels"])
    rules = bytes([tables.bits - 11]) + u16(len(tables.frequencies)) + bytes([1]) + u16(tables.escape, *tables.frequencies) + bytes([0])
    for number, stripe in enumerate(stripes(stream)):
        yield rules, bytes([1]), shape(stream, number) + RAW + stripe


def length_code(length: int) -> bytes:
    return bytes([1, dct.LENGTHS.index(length)]) if length else bytes([0])


def mask(keep: np.ndarray, length: int) -> bytes:
    """How many groups, less one, and each of their coefficients."""
    groups = max(1, min(keep.size // max(length, 1), 16))
    return bytes([groups - 1]) + bytes(np.resize(keep != 0, groups * length).astype(np.uint8))


def cells(stream: Stream) -> Iterator[Tabled]:
    config = registry.build(stream.codec, stream.params, stream.state).config
    r = dct_cm.rules(config, config.zero_point)
    rules = length_code(r.length) + bytes([1, r.zero, 16, 184, 0])  # the rest follows in full
    rules += b"".join(u32(f, b) for f, b in zip(r.forward.tolist(), r.backward.tolist(), strict=True)) + u32(*r.shift.reshape(-1).tolist())
    rules += mask(r.keep, r.length) + bytes([min(int(8 * r.lagrangian), 255), r.modes, r.zero_map, r.plane_codes]) + (bytes([1, r.width]) if r.width else b"\0")
    for number, stripe in enumerate(stripes(stream)):
        yield rules, bytes([1]), shape(stream, number) + RAW + stripe


def channel_dct(stream: Stream) -> Iterator[Tabled]:
    config = registry.build(stream.codec, stream.params, stream.state).config
    r = dct_cm.fixed_rules(config, config.zero_point)
    rules = bytes([1, r.zero]) + length_code(r.length) + bytes([r.fraction])
    rules += b"".join(u16(*row) for row in zip(r.multiplier.tolist(), r.offset.tolist(), r.backward.tolist(), strict=True))
    rules += bytes([1]) + (mask(r.keep, r.length) if r.length else bytes([0, 1]))
    for number, stripe in enumerate(stripes(stream)):
        yield rules, bytes([1]), shape(stream, number) + RAW + stripe


def context_fast(stream: Stream) -> Iterator[Tabled]:
    model, found = zlib.decompress(bytes(stream.state["model"])), stripes(stream)
    _, rows, columns = chw(Reader(stream.payload, max_nbytes=1 << 30).shape)
    yield model, b"", bytes([224, rows, columns]) + u16(*(len(s) for s in found[:-1])) + b"".join(found)


def context_max(stream: Stream) -> Iterator[Tabled]:
    model, found = zlib.decompress(bytes(stream.state["model"])), stripes(stream)
    yield model, b"", bytes([2]) + shape_of_max(stream, 0) + u16(*map(len, found)) + bytes([0]) + b"".join(found)
    for number, stripe in enumerate(found):
        yield model, b"", bytes([0]) + shape_of_max(stream, number) + bytes([1]) + RAW + stripe


def shape_of_max(stream: Stream, stripe: int) -> bytes:
    _, rows, columns = chw(Reader(stream.payload, max_nbytes=1 << 30).shape)
    return bytes([FLOAT_MAP, rows, columns, stripe])


# --- strings of symbols ------------------------------------------------------------------------------------------------


def rans_rows(tables: Tables, bits: int) -> bytes:
    frequencies = tables.frequencies[:1]
    return bytes([bits - 10, 0]) + u16(frequencies.shape[1]) + bytes([1]) + u16(*frequencies[0].tolist()) + b"\0"


def rans(stream: Stream) -> Iterator[Tabled]:
    tables = Tables.from_bytes(stream.state["tables"])
    for stripe in stripes(stream):
        string = stripe[4 : 4 + int.from_bytes(stripe[:4], "little")]  # behind its length
        yield rans_rows(tables, apack.TABLE_BITS), b"", bytes([1]) + u16(400) + bytes([0, 0, 0, 0]) + string


def huffman(stream: Stream) -> Iterator[Tabled]:
    lengths = HuffmanTables.from_bytes(stream.state["tables"]).lengths[:1]
    for stripe in stripes(stream):
        yield bytes([0]) + u16(lengths.shape[1]) + bytes([0, 0]) + lengths.tobytes(), b"", bytes([1]) + u16(400) + bytes([0, 0]) + stripe


# --- packers of words: those of the golden stream, in its own packing where it fits, else the first of them packed again --


def zero_runs(stream: Stream) -> Iterator[bytes]:
    words = words_of(stream, 1).reshape(-1)[:600]
    out = np.empty(13 * words.size // 8 + 1, np.uint8)
    yield u16(words.size) + RAW + out[: _native.zero_runs_encode(words, out)].tobytes()
    yield u16(words.size) + ENCODED + words.tobytes()


def columns(stream: Stream) -> Iterator[bytes]:
    channels, rows, width = words_of(stream, 1).shape
    yield bytes([channels]) + u16(rows * width) + RAW + stripes(stream)[1]


def slots(stream: Stream) -> Iterator[bytes]:
    channels, rows, width = words_of(stream, 1).shape
    kind = 2 * (stream.params["cell"] == "wide") + (stream.params["layout"] == "slot")
    yield bytes([kind, rows, width]) + u16(channels) + RAW + stripes(stream)[1]


def ranges(stream: Stream) -> Iterator[bytes]:
    starts = np.frombuffer(b"\0" + bytes(stream.state["ranges"]), np.uint8)
    own, words = apack.Ranges(starts.tolist()), words_of(stream, 1).reshape(-1)[:300]
    range_of = (np.searchsorted(starts, np.arange(256), side="right") - 1).astype(np.uint8)
    numbers, out = np.empty(words.size, np.uint8), np.empty(words.size + 8, np.uint8)
    n = _native.ranges_encode(starts, own.bits.astype(np.uint8), range_of, words, numbers, out)
    yield bytes([1]) + starts[1:].tobytes() + u16(words.size) + numbers.tobytes() + out[:n].tobytes()


def ebpc(stream: Stream) -> Iterator[bytes]:
    words = words_of(stream, 1).reshape(-1)[:600]
    yield u16(words.size) + RAW + _native.ebpc_encode(words)


def predictive(stream: Stream) -> Iterator[bytes]:
    words = np.ascontiguousarray(words_of(stream, 1)[:20])
    for by in range(3):
        yield bytes([by, words.shape[1] - 1, words.shape[2] - 1, words.shape[0]]) + RAW + _native.predictive_encode(words, by)


def byte_planes(stream: Stream) -> Iterator[bytes]:
    src = Reader(stream.payload, max_nbytes=1 << 30)
    kind, size = src.dtype.kind, src.dtype.itemsize
    bfloat16 = stream.params["layout"] == "bfloat16"
    layout = {("i", 1): 1, ("u", 1): 0, ("b", 1): 0, ("i", 2): 2, ("u", 2): 3, ("f", 2): 4, ("f", 4): 5, ("u", 4): 6, ("f", 8): 7}.get((kind, size))
    if layout is None or (kind == "u" and size == 2 and not bfloat16):  # a layout that the target leaves out
        return
    channels, rows, columns = chw(src.shape)
    for number, stripe in enumerate(stripes(stream)):
        count = channels * min(8, rows - 8 * number) * columns
        if count <= 12000 and stripe[0] < 2:
            yield bytes([layout]) + u16(count) + RAW + stripe


# --- containers --------------------------------------------------------------------------------------------------------


def payload(stream: Stream, kernel: int) -> Iterator[bytes]:
    found = stripes(stream)
    yield bytes([kernel]) + shape(stream, 0) + u16(0) + b"\0" + u16(*(len(s) for s in found[:-1])) + b"".join(found)


def frame(stream: Stream) -> Iterator[bytes]:
    yield b"\0" + bytes(stream.payload)
    yield b"\x01" + write_frame(stream.payload, 7, 0x12345678)
    yield b"\x01" + write_frame(stream.payload, 300, 0x12345678)


def cell_modes(stream: Stream) -> Iterator[bytes]:
    index = Reader(stream.payload, max_nbytes=1 << 30).index_nbytes
    yield bytes([index]) + bytes(stream.payload)


# --- weights, which no golden stream of features holds ------------------------------------------------------------------------------


def weights() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for number, taps in enumerate((1, 3, 9, 1, 16, 9)):
        shapes = [(10, 12, taps), (3, 4, taps)]
        tensors = [np.rint(rng.laplace(0, (0.4, 1, 40)[number % 3], shape)).astype(np.int32) for shape in shapes]
        front = bytes([len(shapes), *(n for shape in shapes for n in shape)])
        for form in adaptive.FORMS:
            yield front + RAW + adaptive.encode(tensors, form)
        yield front + ENCODED + bytes([number % 2]) + b"".join((16 * t).clip(-128, 127).astype(np.int8).tobytes() for t in tensors)


MAKERS: dict[str, dict[str, Any]] = {
    "zvc": {"zero_bitmap": zero_bitmap, "payload": lambda s: payload(s, 0)},
    "uniform_rans": {"laned_rans": laned_rans, "payload": lambda s: payload(s, 1)},
    "context fast": {"context_fast": context_fast},
    "context max": {"context_max": context_max},
    "dct_cm fixed": {"channel_dct": channel_dct},
    "dct_cm": {"cells": cells, "cell_modes": cell_modes},
    "apack": {"rans": rans, "ranges": ranges},
    "huffman": {"huffman": huffman},
    "rle": {"zero_runs": zero_runs},
    "csc": {"columns": columns},
    "slots": {"slots": slots},
    "ebpc": {"ebpc": ebpc},
    "predictive": {"predictive": predictive},
    "float_planes": {"byte_planes": byte_planes},
}


def seeds() -> Iterator[tuple[str, str, bytes | Tabled]]:
    """(target, name, input) of every golden stream, and of some weights."""
    for number, made in enumerate(weights()):
        yield "adaptive", f"weights-{number}", made
    for path in sorted(GOLDEN.glob("v*/*.tp")):
        stream = Stream.from_bytes(path.read_bytes())
        kind = stream.codec
        if kind == "context":
            kind += " " + stream.params["backend"]
        if kind == "dct_cm" and stream.params["profile"] == "fixed":
            kind += " fixed"
        for target, make in {**MAKERS.get(kind, {}), "frame": frame}.items():
            for number, data in enumerate(make(stream)):
                yield target, f"{path.stem}-{number}", data


def write(seeds_at: Path, tables_at: Path) -> dict[str, int]:
    """How many inputs each target has."""
    counts: dict[str, int] = {}
    known: dict[str, list[bytes]] = {}
    for target, name, data in seeds():
        (seeds_at / target).mkdir(parents=True, exist_ok=True)
        if isinstance(data, tuple):
            tables, front, rest = data
            of = known.setdefault(target, [])
            if tables not in of:
                of.append(tables)
                (tables_at / target).mkdir(parents=True, exist_ok=True)
                (tables_at / target / str(len(of))).write_bytes(tables)
            data = front + bytes([1 + of.index(tables)]) + rest
        (seeds_at / target / name).write_bytes(data)
        counts[target] = counts.get(target, 0) + 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=Path)
    parser.add_argument("tables", type=Path)
    arguments = parser.parse_args()
    print(", ".join(f"{target} {count}" for target, count in sorted(write(arguments.seeds, arguments.tables).items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
