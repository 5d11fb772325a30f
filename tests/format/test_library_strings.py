"""Decoders of library strings, written from the public descriptions, give what the libraries give; what is damaged is a ValueError."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.payload import STRIPE_ROWS, Reader, chw
from tensorpress.core.stream import Stream
from tests.format import library_strings as ours

GOLDEN = Path(__file__).parents[1] / "golden" / "streams"
LIBRARIES = {"zstd": "zstandard", "lz4": "lz4.block", "blosc2": "blosc2", "zfp": "zfpy"}
LENGTHS = (1, 2, 7, 31, 64, 255, 256, 300, 1000, 5000, 70000)
TOLERANCES = (1e-3, 0.3, 4.0, 1e-40, 1e20)


def texts(*lengths: int) -> Iterator[bytes]:
    """Noise, sparse maps, few values, zeros, runs and repeats."""
    rng = np.random.default_rng(7)
    for n in lengths or LENGTHS:
        dense = rng.integers(0, 256, n, dtype=np.uint8)
        yield dense.tobytes()
        yield (dense * (rng.random(n) < 0.3)).astype(np.uint8).tobytes()
        yield np.minimum(rng.geometric(0.3, n) - 1, 255).astype(np.uint8).tobytes()
        yield bytes(n)
        yield np.repeat(rng.integers(0, 5, n // 9 + 1), 9)[:n].astype(np.uint8).tobytes()
        yield np.resize(rng.integers(0, 256, 37, dtype=np.uint8), n).tobytes()


def chunk(blosc2: Any, text: bytes, compressor: str, level: int, size: int, **more: Any) -> bytes:
    kind = blosc2.Codec.ZSTD if compressor == "zstd" else blosc2.Codec.LZ4
    return bytes(blosc2.compress2(text, codec=kind, clevel=level, typesize=size, filters=[blosc2.Filter.BITSHUFFLE], nthreads=1, **more))


@pytest.mark.parametrize("level", [1, 3, 9, 19, 22])
def test_zstd(level):
    zstandard = pytest.importorskip("zstandard")
    for text in texts():
        for checked in (False, True):
            data = zstandard.ZstdCompressor(level=level, write_checksum=checked).compress(text)
            assert ours.zstd(data, len(text)) == text
    with pytest.raises(ValueError, match="the check fails"):
        ours.zstd(data[:-1] + bytes([data[-1] ^ 1]), len(text))


def test_zstd_blocks_that_repeat_tables():
    zstandard = pytest.importorskip("zstandard")
    rng = np.random.default_rng(3)
    text = b"".join(bytes(rng.integers(0, k, 9, dtype=np.uint8)) * int(n) for k, n in zip(rng.integers(1, 60, 9000), rng.integers(1, 12, 9000), strict=True))
    for level in (2, 5, 12):
        assert ours.zstd(zstandard.ZstdCompressor(level=level).compress(text), len(text)) == text


def test_zstd_wants_one_frame_that_says_its_size():
    zstandard = pytest.importorskip("zstandard")
    text = b"one frame " * 9
    for options in ({"write_content_size": False}, {}):
        data = zstandard.ZstdCompressor(**options).compress(text)
        for wrong in (data if options else data + data, data + b"\0", data[1:]):
            with pytest.raises(ValueError, match="zstd"):
                ours.zstd(wrong, len(text))
    for asked in (0, len(text) - 1, len(text) + 1):
        with pytest.raises(ValueError, match="are asked for"):
            ours.zstd(data, asked)


def test_zstd_gives_no_more_than_is_asked_for():
    head = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 10)
    with pytest.raises(ValueError, match="more than the 10 bytes"):
        ours.zstd(head + ((1 << 17) << 3 | 3).to_bytes(3, "little") + b"x", 10)
    with pytest.raises(ValueError, match="10 bytes of 11"):
        ours.zstd(b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 11) + (10 << 3 | 3).to_bytes(3, "little") + b"x", 11)
    assert ours.zstd(head + (10 << 3 | 3).to_bytes(3, "little") + b"x", 10) == b"x" * 10


FRAME_OF_10 = b"\x28\xb5\x2f\xfd\x20\x0a"
LONG_MATCHES = b"\x11x\x02\x54\x01\x00\x34\0\0\0\0\x01"  # two literals, each before a match of 65,539


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "an empty block"),
        (b"\x0e", "head of the literals is cut"),
        ((2 | 1 << 2 | 1 << 4 | 8 << 14).to_bytes(3, "little") + b"\x80\x10" + bytes(6), "four literal strings do not fit"),
        ((2 | 5 << 4 | 2 << 14).to_bytes(3, "little") + b"\x80\x10", "without its end mark"),
        ((2 | 5 << 4 | 3 << 14).to_bytes(3, "little") + b"\x80\x10\x01", "do not fill their bytes"),
        ((3 | 5 << 4 | 1 << 14).to_bytes(3, "little") + b"\x21", "literals without a table"),
        ((2 | 5 << 4 | 2 << 14).to_bytes(3, "little") + b"\x80\xc0", "more than 11 bits"),
        ((2 | 5 << 4 | 2 << 14).to_bytes(3, "little") + b"\x81\x33", "without its end mark"),
        ((2 | 5 << 4 | 2 << 14).to_bytes(3, "little") + b"\x81\x31", "not complete"),
        (b"\x51A\x00\x00", "bytes are left in a block"),
        (b"\x51A", "a block without sequences"),
        (b"\x51A\x01\x01", "head of the sequences is damaged"),
        (b"\x51A\x01\xfc", "is repeated that there is not"),
        (b"\x51A\x01\x40\x24", "a code that does not exist"),
        (b"\x09A\x01\x54\x01\x00\x00\x00\x01", "bits are left behind the sequences"),
        (b"\x51A\x01\x20" + (1 << 4 | (1 << 26) - 1 << 9).to_bytes(5, "little"), "too many symbols"),
        (b"\x51A\x01\x80\x0f", "an FSE table of 2\\^20 states"),
        (b"\x51A\x01\x80\x00", "an FSE table"),
    ],
)
def test_zstd_blocks_that_no_encoder_writes(body, said):
    with pytest.raises(ValueError, match=said):
        ours.zstd(FRAME_OF_10 + (len(body) << 3 | 5).to_bytes(3, "little") + body, 10)


def test_zstd_heads_of_later_versions_and_of_dictionaries():
    block = (10 << 3 | 1).to_bytes(3, "little") + b"0123456789"
    assert ours.zstd(FRAME_OF_10 + block, 10) == ours.zstd(b"\x28\xb5\x2f\xfd\x21\0\x0a" + block, 10) == b"0123456789"
    for head, said in ((b"\x28\x0a", "of a later version"), (b"\x21\x05\x0a", "needs a dictionary"), (b"\x20", "no frame|are asked for|cut")):
        with pytest.raises(ValueError, match=said):
            ours.zstd(b"\x28\xb5\x2f\xfd" + head + block, 10)


def frame(body: bytes, count: int) -> bytes:
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", count) + (len(body) << 3 | 5).to_bytes(3, "little") + body


@pytest.mark.parametrize(("count", "written"), [(127, b"\x7f"), (128, b"\x80\x80"), (0x7EFF, b"\xfe\xff"), (0x7F00, b"\xff\0\0"), (0x7F02, b"\xff\2\0")])
def test_zstd_blocks_of_many_sequences(count, written):
    """Each a literal and a match of three."""
    body = (1 | 3 << 2 | count << 4).to_bytes(3, "little") + b"x" + written + b"\x54\x01\x00\x00\x01"
    assert ours.zstd(frame(body, 4 * count), 4 * count) == b"x" * (4 * count)
    assert pytest.importorskip("zstandard").ZstdDecompressor().decompress(frame(body, 4 * count)) == b"x" * (4 * count)


def test_a_zstd_block_holds_at_most_131072_bytes():
    with pytest.raises(ValueError, match="a block of more than"):
        ours.zstd(frame(LONG_MATCHES, 131_080), 131_080)
    one = b"\x09x\x01\x54\x01\x00\x34\0\0\x01"
    assert ours.zstd(frame(one, 65_540), 65_540) == b"x" * 65_540
    assert pytest.importorskip("zstandard").ZstdDecompressor().decompress(frame(one, 65_540)) == b"x" * 65_540


@pytest.mark.parametrize("level", [0, 1, 9, 12])
def test_lz4(level):
    library = pytest.importorskip("lz4.block")
    mode = {"mode": "high_compression", "compression": level} if level else {"mode": "default"}
    for text in texts():
        assert ours.lz4(library.compress(text, **mode)[4:], len(text)) == text


def test_lz4_gives_no_more_than_is_asked_for():
    assert ours.lz4(b"\x1fA\x01\x00\x05\x10B", 26) == b"A" * 25 + b"B"
    for asked in (0, 10, 25, 27):
        with pytest.raises(ValueError, match="lz4"):
            ours.lz4(b"\x1fA\x01\x00\x05\x10B", asked)
    assert ours.lz4(b"\x17A", 1) == b"A" == pytest.importorskip("lz4.block").decompress(b"\x17A", uncompressed_size=1)
    with pytest.raises(ValueError, match="0 bytes back"):
        ours.lz4(b"\x1fA\x00\x00\x05\x10B", 26)


@pytest.mark.parametrize("compressor", ["zstd", "lz4"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_blosc2(compressor, size):
    blosc2 = pytest.importorskip("blosc2")
    for text in texts(8, 64, 264, 1000, 5000, 70000):
        for level in (1, 5, 9):
            assert ours.blosc2(chunk(blosc2, text, compressor, level, size), len(text)) == text


@pytest.mark.parametrize("compressor", ["zstd", "lz4"])
def test_blosc2_parts_and_blocks(compressor):
    blosc2 = pytest.importorskip("blosc2")
    rng = np.random.default_rng(2)
    text = rng.integers(0, 256, 40_000).astype("<u2").tobytes() + bytes(1_000) + rng.integers(0, 1 << 16, 30_000).astype("<u2").tobytes()
    for split in (blosc2.SplitMode.ALWAYS_SPLIT, blosc2.SplitMode.NEVER_SPLIT):
        for size in (1, 2, 4):
            data = chunk(blosc2, text, compressor, 5, size, splitmode=split)
            assert ours.blosc2(data, len(text)) == text
            assert bool(data[2] & 16) == (split is blosc2.SplitMode.NEVER_SPLIT)


def test_a_blosc2_chunk_of_every_kind_of_part():
    blosc2, zstandard = pytest.importorskip("blosc2"), pytest.importorskip("zstandard")
    noise, waves = bytes(range(100, 164)), bytes(range(8)) * 8
    packed = zstandard.ZstdCompressor().compress(waves)
    parts = [struct.pack("<i", 0), struct.pack("<i", -7) + b"\x01", struct.pack("<i", 64) + noise, struct.pack("<i", len(packed)) + packed]
    body = struct.pack("<i", 36) + b"".join(parts)
    head = bytes([5, 1, 0x85, 4]) + struct.pack("<3i", 256, 256, 32 + len(body)) + bytes(16)
    text = bytes(64) + b"\x07" * 64 + noise + waves
    assert ours.blosc2(head + body, 256) == text == blosc2.decompress2(head + body)
    for at, byte in ((2, 0x81), (2, 0x25), (3, 0), (3, 5), (9, 0), (16, 1), (31, 1), (31, 0x10), (31, 0x20), (32, 0), (32, 250), (44, 0)):
        damaged = bytearray(head + body)
        damaged[at] = byte
        with pytest.raises(ValueError, match=r"blosc2|zstd|lz4"):
            ours.blosc2(bytes(damaged), 256)


def zfp_library(data: bytes, shape: tuple[int, ...], tolerance: float) -> np.ndarray:
    zfpy = pytest.importorskip("zfpy")
    return zfpy._decompress(data + bytes(4000), zfpy.dtype_to_ztype(np.float32), shape, tolerance=tolerance)


@pytest.mark.parametrize("scale", [1.0, 1e-36, 1e-44, 1e30])
def test_zfp(scale):
    zfpy = pytest.importorskip("zfpy")
    rng = np.random.default_rng(5)
    for shape in ((1,), (9,), (30,), (5, 6), (1, 1, 7), (3, 8, 9), (12, 8, 11), (4, 4, 4)):
        for zeros in (0.0, 0.6, 1.0):
            x = (rng.standard_normal(shape) * scale * (rng.random(shape) >= zeros)).astype(np.float32)
            for tolerance in TOLERANCES:
                data = zfpy.compress_numpy(x, tolerance=tolerance, write_header=False)
                found = np.array(ours.zfp(data, shape, tolerance), np.float32).reshape(shape)
                assert np.array_equal(found.view(np.uint32), zfp_library(data, shape, tolerance).view(np.uint32))
                if scale == 1.0:
                    assert np.abs(found - x).max() <= max(tolerance, 1e-6)


def test_zfp_takes_what_it_can_decode_only():
    for shape, tolerance in (((), 1.0), ((1, 1, 1, 1), 1.0), ((4,), 0.0), ((4,), float("inf")), ((4,), float("nan"))):
        with pytest.raises(ValueError, match="zfp"):
            ours.zfp(bytes(8), shape, tolerance)
    assert ours.zfp(bytes(8), (4, 4), 1.0) == [0.0] * 16 and ours.zfp(b"", (0, 4), 1.0) == []
    for wrong in (bytes(7), bytes(9), bytes(16), b"", b"\2" + bytes(7)):
        with pytest.raises(ValueError, match="zfp"):
            ours.zfp(wrong, (4, 4), 1.0)


def samples(codec: str) -> list[tuple[bytes, Any, Callable[[bytes], Any], int]]:
    """(data, values, decoder, number of values) of short strings."""
    library = pytest.importorskip(LIBRARIES[codec])
    found: list[tuple[bytes, Any, Callable[[bytes], Any], int]] = []
    for text in texts(9, 70, 400, 3000):
        n = len(text)
        if codec == "zstd":
            found += [(library.ZstdCompressor(level=level).compress(text), text, lambda data, n=n: ours.zstd(data, n), n) for level in (1, 3, 19)]
        elif codec == "lz4":
            found.append((library.compress(text)[4:], text, lambda data, n=n: ours.lz4(data, n), n))
        elif codec == "blosc2":
            found += [(chunk(library, text, kind, 5, 1), text, lambda data, n=n: ours.blosc2(data, n), n) for kind in ("zstd", "lz4")]
        else:
            x = np.frombuffer(text[:70], np.uint8).astype(np.float32) / 7 - 9
            for shape in ((len(x),), (1, 1, len(x))):
                data = library.compress_numpy(x.reshape(shape), tolerance=0.05, write_header=False)
                found.append((data, None, lambda data, shape=shape: ours.zfp(data, shape, 0.05), len(x)))
    return found


@pytest.mark.parametrize("codec", LIBRARIES)
def test_what_is_cut_or_goes_on_is_refused(codec):
    for data, _, decode, _ in samples(codec):
        ends = {*range(min(len(data), 40)), len(data) // 2, len(data) - 1}
        for wrong in [data + b"\0", *(data[:end] for end in ends)]:
            with pytest.raises(ValueError, match=r"zstd|lz4|blosc2|zfp"):
                decode(wrong)


@pytest.mark.parametrize("codec", LIBRARIES)
def test_damage_ends_in_a_value_error_or_in_as_many_values(codec):
    known, dice, refused = samples(codec), random.Random(11), 0
    for _ in range(1500):
        data, _, decode, count = dice.choice(known)
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 5))):
            at = dice.randrange(len(damaged) if dice.random() < 0.5 else min(len(damaged), 40))
            damaged[at] = dice.choice((dice.randrange(256), damaged[at] ^ 1 << dice.randrange(8), 0, 255))
        try:
            assert len(decode(bytes(damaged))) == count
        except ValueError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("codec", LIBRARIES)
def test_golden_streams(codec):
    paths = sorted(GOLDEN.glob(f"v*/{codec}-*.tp"))
    assert paths
    for path in paths:
        stream = Stream.from_bytes(path.read_bytes())
        src = Reader(stream.payload)
        channels, rows, columns = chw(src.shape)
        pytest.importorskip(LIBRARIES[codec])
        values = registry.build(stream.codec, stream.params, stream.state).decode_payload(stream.payload)
        tolerance = stream.params["step"] * (stream.params["scale"] or 1.0) / 2
        found = []
        for number in range(src.stripes):
            shape = (channels, min(STRIPE_ROWS, rows - STRIPE_ROWS * number), columns)
            data = bytes(src.stripe())
            if codec == "zfp":
                found.append(np.array(ours.zfp(data, shape, tolerance), np.float32).reshape(shape))
                continue
            count = int(np.prod(shape)) * (1 if src.dtype.kind in "fb" else src.dtype.itemsize)
            words = np.frombuffer(ours.lz4(data[4:], count) if codec == "lz4" else getattr(ours, codec)(data, count), np.uint8)
            found.append(level_values(words, stream.params, src.dtype).reshape(shape))
        whole = np.concatenate(found, axis=1).reshape(src.shape).astype(src.dtype)
        assert np.array_equal(whole, values)
        expected = json.loads(path.with_suffix(".json").read_text())
        assert hashlib.sha256(whole.tobytes()).hexdigest() == expected["sha256"]


def level_values(words: np.ndarray, params: dict[str, Any], dtype: np.dtype) -> np.ndarray:
    """What section 6 of FORMAT.md makes of words at step 1: symbol 2k is -k, 2k - 1 is +k, and beyond the shorter side all are of the longer one."""
    assert params["step"] == 1
    if dtype.kind not in "f" and dtype.itemsize > 1:
        return words.view(dtype)
    zero = {"f": params["zero_point"], "i": 128}.get(dtype.kind, 0)
    short, s = min(zero, 255 - zero), words.astype(np.int64)
    side = 1 if 255 - zero >= zero else -1
    d = np.where(s > 2 * short, side * (s - short), np.where(s % 2, (s + 1) // 2, -(s // 2)))
    if dtype.kind != "f":
        return d + zero - (128 if dtype.kind == "i" else 0)
    return d.astype(np.float32) * np.float32(params["scale"])
