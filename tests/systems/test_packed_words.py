"""rle, csc, huffman and slots: lossless at step 1, sizes that follow from their papers, stripes and cells by themselves, honest state."""

from __future__ import annotations

import numpy as np
import pytest

import tensorpress
from tensorpress.blocks.packers import slots_nbytes
from tensorpress.coding.huffman import HuffmanTables
from tensorpress.core import registry
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer, stripe_count
from tests.conftest import feature_map

CODECS = pytest.mark.parametrize(
    ("codec_id", "options"), [("rle", {}), ("csc", {}), ("huffman", {}), ("slots", {}), ("slots", {"cell": "wide"}), ("slots", {"layout": "slot"})]
)


def stripes(payload: bytes) -> list[bytes]:
    src = Reader(payload)
    return [bytes(src.stripe()) for _ in range(stripe_count(src.shape))]


def sparse(shape: tuple[int, ...], density: float, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = -128 if dtype is np.int8 else 0
    return (rng.integers(low, low + 256, shape) * (rng.random(shape) < density)).astype(dtype)


@CODECS
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_integers_of_8_bits_come_back(codec_id, options, dtype):
    for density in (0, 0.01, 0.5, 1):
        for shape in [(35, 17, 13), (4, 60, 120), (513,), (3, 40)]:
            x = sparse(shape, density, dtype)
            assert np.array_equal(tensorpress.decode(tensorpress.encode(x, codec_id, **options)), x)


@CODECS
def test_levels_at_step_1_come_back(codec_id, options):
    x = feature_map((20, 19, 18), signed=True)
    codec, raw = (registry.build(name, o).fit([x]) for name, o in ((codec_id, options), ("raw", {})))
    y = codec.decode_payload(codec.encode_payload(x))
    assert np.array_equal(y, raw.decode_payload(raw.encode_payload(x)))
    assert codec.encode_payload(y) == codec.encode_payload(x)


@CODECS
def test_each_stripe_stands_alone(codec_id, options):
    """Rows of a stripe decode from its bytes alone, put into a payload of those rows."""
    x = sparse((34, 24, 20), 0.4)
    codec = registry.build(codec_id, options).fit([x])
    for number, data in enumerate(stripes(codec.encode_payload(x))):
        out = Writer(x.dtype, (34, 8, 20))
        out.stripe(data)
        assert np.array_equal(codec.decode_payload(out.finish()), x[:, 8 * number : 8 * number + 8])


@CODECS
def test_a_damaged_stripe_is_named(codec_id, options):
    x = sparse((34, 24, 20), 0.4)
    codec = registry.build(codec_id, options).fit([x])
    parts = stripes(codec.encode_payload(x))
    parts[1] = parts[1][:-1] if codec_id != "slots" else parts[1][: len(parts[1]) // 2]
    out = Writer(x.dtype, x.shape)
    for part in parts:
        out.stripe(part)
    with pytest.raises(StreamError, match="stripe 1"):
        codec.decode_payload(out.finish())


@CODECS
def test_wider_types_are_refused(codec_id, options):
    codec = registry.build(codec_id, options).fit([sparse((3, 4, 5), 0.5)])
    with pytest.raises(InputError, match="int32"):
        codec.encode_payload(np.zeros((3, 4), np.int32))
    for shape in [(2, 3), (0, 3)]:
        out = Writer(np.dtype(np.int32), shape)
        for _ in range(stripe_count(shape)):
            out.stripe(bytes(8))
        with pytest.raises(StreamError, match="int32"):
            codec.decode_payload(out.finish())


@pytest.mark.parametrize("step", [1.0, 2.0, 5.0, 64.0])
@CODECS
def test_steps_only_shorten(codec_id, options, step):
    x = feature_map((40, 16, 16))
    fine, codec = (registry.build(codec_id, {**options, "step": s}).fit([x]) for s in (1.0, step))
    y, nbytes = codec.simulate(x)
    assert nbytes <= fine.simulate(x)[1]
    assert np.abs(y - x).max() <= (1.2 * step + 0.51) * codec.config.scale


def test_sizes_of_rle_and_csc():
    dense = np.full((16, 8, 8), 7, np.uint8)
    zeros = np.zeros((16, 8, 8), np.uint8)

    def payload_stripe(codec_id, x):
        return len(stripes(registry.build(codec_id).fit([x]).encode_payload(x))[0])

    assert payload_stripe("rle", dense) == 1024 * 13 // 8  # a pair a value
    assert payload_stripe("rle", zeros) == 1024 // 32 * 13 // 8  # a pair for 32 zeros
    assert payload_stripe("csc", dense) == 16 * 7 / 8 + 512 + 1024  # counts of 7 bits, as up to 64 entries need; runs; words
    assert payload_stripe("csc", zeros) == 16 * 7 / 8


def test_huffman_tables_are_counted_and_near_the_entropy():
    x = feature_map((40, 32, 32))
    codec = registry.build("huffman").fit([x])
    assert set(codec.state) == {"tables"} and codec.shared_nbytes >= len(codec.state["tables"]) == 3 + 128
    levels = np.rint(x * np.float32(codec.config.reciprocal)).astype(int)
    p = np.bincount(levels.reshape(-1), minlength=256) / x.size
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
    lengths = HuffmanTables.from_bytes(codec.state["tables"]).lengths[0]
    bits = sum(8 * len(s) for s in stripes(codec.encode_payload(x)))
    assert entropy * x.size <= (p * lengths).sum() * x.size <= bits < (p * lengths).sum() * x.size + 8 * 4 + 1
    assert bits < 1.02 * entropy * x.size + 32
    other = registry.build("huffman").fit([feature_map((40, 32, 32), seed=3) ** 2])  # another layer, another table
    assert other.state != codec.state
    assert len(registry.build("huffman", {"step": 8.0}).fit([x]).state["tables"]) < 40  # no codes for words that a step leaves out


def test_huffman_says_what_is_missing_or_wrong():
    x = feature_map((4, 9, 9))
    codec = registry.build("huffman").fit([x])
    with pytest.raises(InputError, match="fit"):
        registry.build("huffman").encode_payload(x)
    with pytest.raises(StreamError, match="state"):
        registry.build("huffman", codec.params).decode_payload(codec.encode_payload(x))
    with pytest.raises(InputError, match="'tables'"):
        registry.build("huffman", codec.params, {"table": codec.state["tables"]})
    with pytest.raises(InputError, match="symbols"):
        registry.build("huffman", {**codec.params, "step": 9.0}, codec.state)
    new = 3 * feature_map((4, 9, 9), seed=8)  # words that the fit never saw have codes too
    assert np.array_equal(codec.simulate(new)[0], codec.decode_payload(codec.encode_payload(new), fused=False))


@pytest.mark.parametrize(("cell", "channels", "columns"), [("deep", 32, 8), ("wide", 16, 16)])
def test_slots_are_found_by_a_multiplication(cell, channels, columns):
    """Cell n of a stripe stands at 2,112 n and decodes alone; what is allocated is said by slots_nbytes."""
    x = sparse((64, 16, 32), 0.5)
    codec = registry.build("slots", {"cell": cell, "layout": "slot"}).fit([x])
    parts = stripes(codec.encode_payload(x))
    assert sum(map(len, parts)) == slots_nbytes(x.shape, cell) == 2112 * x.size // 2048
    across = x.shape[2] // columns
    for stripe, number in [(0, 0), (1, 3), (1, x.shape[0] // channels * across - 1)]:
        block, column = divmod(number, across)
        out = Writer(x.dtype, (channels, 8, columns))
        out.stripe(parts[stripe][2112 * number : 2112 * (number + 1)])
        there = x[block * channels : (block + 1) * channels, 8 * stripe : 8 * stripe + 8, column * columns : (column + 1) * columns]
        assert np.array_equal(codec.decode_payload(out.finish()), there)


def test_packed_cells_are_the_slots_without_what_fills_them():
    x = sparse((40, 11, 20), 0.5)
    slot, packed = (stripes(registry.build("slots", {"layout": layout}).fit([x]).encode_payload(x)) for layout in ("slot", "packed"))
    for full, tight in zip(slot, packed):
        cells = len(full) // 2112
        sizes = np.frombuffer(tight, "<u2", cells)
        ends = 2 * cells + np.cumsum(sizes)
        assert ends[-1] == len(tight)
        for n, (end, size) in enumerate(zip(ends, sizes)):
            assert full[2112 * n : 2112 * (n + 1)] == tight[end - size : end].ljust(2112, b"\0")


def test_allocation_is_never_less_than_raw():
    assert slots_nbytes((64, 56, 56)) == 2 * 7 * 7 * 2112
    assert slots_nbytes((512, 7, 7)) == 16 * 2112  # cells of 7 by 7 fill three quarters of their slots
    assert slots_nbytes((1000,)) == 32 * 2112
    assert slots_nbytes((0, 8, 8)) == 0
    for shape in [(64, 56, 56), (1, 9, 9), (33, 8, 8)]:
        assert slots_nbytes(shape) >= np.prod(shape) * 2112 / 2048


def test_unknown_cells_and_layouts_are_named():
    for options in ({"cell": "tall"}, {"layout": "slots"}):
        with pytest.raises(InputError, match="are known"):
            registry.build("slots", options)
