"""Published codecs byte by byte: ebpc, apack, dct2d, predictive, and those of general libraries."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from tensorpress import _native
from tensorpress.coding.range_reference import Interval
from tensorpress.core import registry
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader
from tensorpress.systems.features import apack, dct2d
from tests.conftest import feature_map

LOSSLESS = ("ebpc", "apack", "predictive", "zstd", "lz4", "blosc2")


def stripe(codec, x):
    return bytes(Reader(codec.encode_payload(x)).stripe())


@pytest.mark.parametrize("codec", LOSSLESS)
def test_integers_and_levels_come_back(codec):
    x = feature_map((20, 12, 9))
    fitted = registry.build(codec).fit([x])
    levels = np.rint(x * np.float32(fitted.config.reciprocal)) * np.float32(fitted.config.scale)
    assert np.array_equal(fitted.decode_payload(fitted.encode_payload(x)), levels)
    for dtype in (np.uint8, np.int8):
        whole = np.clip(feature_map((20, 12, 9), signed=True) * 30, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
        other = registry.build(codec).fit([whole])
        assert np.array_equal(other.decode_payload(other.encode_payload(whole)), whole)
        noise = np.random.default_rng(0).integers(0, 256, (5, 9, 7)).astype(np.uint8).view(dtype)
        assert np.array_equal(other.decode_payload(other.encode_payload(noise)), noise)


# --- ebpc --------------------------------------------------------------------------------------------------------------


def bits(text: str) -> bytes:
    text = text.replace(" ", "")
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def test_ebpc_by_hand():
    # three zeros, 5, 17 zeros (16 and 1), then 5 5 5 5 5 5 7: deltas 0 0 0 0 0 0 2, so planes 8 to 2 are zero, plane 1 has its
    # last bit (dbx 1), plane 0 is zero again (dbx 1, plane zero)
    words = np.array([0, 0, 0, 5, *[0] * 17, 5, 5, 5, 5, 5, 5, 7], np.uint8)
    zeros = bits("0 0010  1  0 1111 0 0000  1111111")
    values = bits("00000101  001 101  00011 000  00001")
    assert _native.ebpc_encode(words) == len(zeros).to_bytes(4, "little") + zeros + values
    # descending by one: every delta is -1, nine planes of ones; the first differs from nothing above it, the others not
    words = np.arange(20, 12, -1).astype(np.uint8)
    assert _native.ebpc_encode(words)[5:] == bits("00010100  00000  001 110")
    # 1 and 4, then 4s: delta 3 alone in planes 1 and 0; a single bit, then no change
    words = np.array([1, 4, 4, 4, 4, 4, 4, 4], np.uint8)
    assert _native.ebpc_encode(words)[5:] == bits("00000001  001 101  00011 110  01")


def twin_ebpc(words):
    """The encoder of FORMAT.md, in strings."""
    zeros, values, held = "", "", [int(w) for w in words if w]
    at = 0
    while at < len(words):
        if words[at]:
            zeros, at = zeros + "1", at + 1
            continue
        run = 1
        while run < 16 and at + run < len(words) and not words[at + run]:
            run += 1
        zeros, at = zeros + f"0{run - 1:04b}", at + run
    while len(held) % 8:
        held.append(held[-1])
    for start in range(0, len(held), 8):
        block = held[start : start + 8]
        deltas = [f"{(b - a) % 512:09b}" for a, b in itertools.pairwise(block)]
        planes = ["0" * 7] + ["".join(d[p] for d in deltas) for p in range(9)]
        dbx = [int(a, 2) ^ int(b, 2) for a, b in itertools.pairwise(planes)]
        values += f"{block[0]:08b}"
        p = 0
        while p < 9:
            if dbx[p] == 0:
                run = 1
                while run < 9 and p + run < 9 and dbx[p + run] == 0:
                    run += 1
                values += "01" if run == 1 else f"001{run - 2:03b}"
                p += run
                continue
            text = f"{dbx[p]:07b}"
            first = 6 - text.index("1")
            if dbx[p] == 127:
                values += "00000"
            elif int(planes[p + 1], 2) == 0:
                values += "00001"
            elif text.count("1") == 2 and "11" in text:
                values += f"00010{first:03b}"
            elif text.count("1") == 1:
                values += f"00011{first:03b}"
            else:
                values += "1" + text
            p += 1
    return len(bits(zeros)).to_bytes(4, "little") + bits(zeros) + bits(values)


def test_ebpc_equals_its_twin_and_refuses_the_rest():
    random = np.random.default_rng(0)
    for spread in (1.0, 20.0, 300.0):
        for count in (0, 1, 7, 8, 9, 400):
            words = np.clip(random.laplace(0, spread, count), 0, 255).astype(np.uint8)
            data = _native.ebpc_encode(words)
            assert data == twin_ebpc(words)
            out = np.empty(count, np.uint8)
            assert _native.ebpc_decode(np.frombuffer(data, np.uint8), out) and np.array_equal(out, words)
            for _ in range(30):  # whatever passes is what an encoder would have written, or decodes within bounds
                damaged = np.frombuffer(data, np.uint8).copy()
                if damaged.size:
                    damaged[random.integers(damaged.size)] ^= 1 << random.integers(8)
                _native.ebpc_decode(damaged, out)
            assert not _native.ebpc_decode(np.frombuffer(data + b"\0", np.uint8), out)


# --- apack -------------------------------------------------------------------------------------------------------------


def test_apack_ranges():
    ranges = apack.Ranges([0, 1, 2, 4, 8, 16, 32, 64, 128, 129, 130, 131, 132, 133, 134, 135])
    assert ranges.bits.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 7]
    assert (ranges.of[3], ranges.of[255]) == (2, 15)
    counts = np.zeros(256, np.int64)
    counts[[0, 200]] = 1000, 3000
    assert ranges.footprint(counts) == pytest.approx(4000 * 0.8112781 + 3000 * 7)
    skewed = np.bincount(np.clip(np.random.default_rng(0).exponential(6, 50_000), 0, 255).astype(int), minlength=256)
    even = apack.Ranges([16 * k for k in range(16)])
    fitted = apack.Ranges(apack.fit_ranges(skewed))
    p = skewed[skewed > 0] / skewed.sum()
    entropy = float(-(p * np.log2(p)).sum() * skewed.sum())
    assert entropy <= fitted.footprint(skewed) < min(1.01 * entropy, 0.93 * even.footprint(skewed))


def test_apack_refuses_offsets_beyond_their_range():
    x = feature_map((8, 8, 8))
    codec = registry.build("apack").fit([x])
    words = codec.stage.second
    data = words.pack(np.zeros(10, np.uint8))
    out = np.empty(10, np.uint8)
    words.unpack(memoryview(data), out, 0)
    assert not out.any()
    for bad in (data[:3], data[:-1] if len(data) > 4 else b"", data + b"\0"):
        with pytest.raises(StreamError):
            words.unpack(memoryview(bad), out, 0)


# --- dct2d -------------------------------------------------------------------------------------------------------------


def test_dct2d_of_a_constant_is_one_coefficient():
    x = np.full((1, 8, 8), 100, np.uint8)
    codec = registry.build("dct2d", {"step": 4.0}).fit([x])
    data = stripe(codec, x)
    # orthonormal DC is 8 * 100 = 800, 200 steps of 4: too large for a byte, so the symbol is an escape
    assert data == (8 + 1).to_bytes(4, "little") + b"\x01" + bytes(7) + b"\xff" + (200).to_bytes(2, "little")
    assert np.array_equal(codec.decode_payload(codec.encode_payload(x)), x)


def test_dct2d_error_falls_with_the_step_and_smooth_maps_cost_little():
    y, x = np.mgrid[0:24, 0:24]
    smooth = np.stack([np.maximum(np.sin(y / 5 + c) + np.cos(x / 7), 0) for c in range(4)]).astype(np.float32)
    errors, sizes = [], []
    for step in (1.0, 4.0, 16.0):
        codec = registry.build("dct2d", {"step": step}).fit([smooth])
        payload = codec.encode_payload(smooth)
        errors.append(float(np.square(codec.decode_payload(payload) - smooth).mean()) ** 0.5 / codec.config.scale)
        sizes.append(len(payload))
    assert errors[0] < 1 < errors[2] < 8 and errors == sorted(errors) and sizes == sorted(sizes, reverse=True)
    assert sizes[1] < smooth.size / 3
    assert len(registry.build("zvc").fit([smooth]).encode_payload(smooth)) > 1.5 * sizes[1]
    assert dct2d.CARD.lossless is False


# --- predictive ----------------------------------------------------------------------------------------------------------


def test_predictive_uses_the_predictor_that_fits():
    base = np.abs(feature_map((1, 16, 16), signed=True) * 10).clip(0, 200).astype(np.uint8)
    alike = np.repeat(base, 24, axis=0)  # every channel the same
    assert bytes(registry.build("predictive").fit([alike]).state["predictor"]) == b"channel"
    y, x = np.mgrid[0:16, 0:16]
    ramps = np.stack([(y * 3 + x * (1 + c % 3) + 40 * (c % 4) + 1) for c in range(24)]).astype(np.uint8)
    codec = registry.build("predictive").fit([ramps])
    assert bytes(codec.state["predictor"]) == b"spatial"
    assert len(codec.encode_payload(ramps)) < ramps.size / 2
    for name in ("spatial", "channel", "both"):
        fixed = registry.build("predictive", {"predictor": name}).fit([ramps])
        assert np.array_equal(fixed.decode_payload(fixed.encode_payload(ramps)), ramps)
    with pytest.raises(InputError, match="predictor"):
        registry.build("predictive", {"predictor": "best"})


def twin_predictive(words, predictor):
    """The encoder of FORMAT.md."""
    interval, chances, rice = Interval(), [32768] * 15, [[8, 2] for _ in range(8)]
    channels, rows, columns = words.shape
    x = words.astype(int)

    def at(c, y, i):
        return x[c, y, i] if c >= 0 and y >= 0 and 0 <= i < columns else 0

    for c in range(channels):
        for y in range(rows):
            for i in range(columns):
                w, n, nw, ne, b = at(c, y, i - 1), at(c, y - 1, i), at(c, y - 1, i - 1), at(c, y - 1, i + 1), at(c - 1, y, i)
                context = 3 * sum(v > 0 for v in (w, n, nw, ne)) + (b > 0) + (b > 3)
                word, p = x[c, y, i], chances[context]
                interval.code(min(max(p, 64), 65472), int(word > 0))
                chances[context] = p + (65535 - p >> 5) if word else p - (p - 1 >> 5)
                if not word:
                    continue
                edge = min(w, n) if nw >= max(w, n) else max(w, n) if nw <= min(w, n) else w + n - nw
                r = word - 1 - max((edge, b, (edge + b + 1) // 2)[predictor] - 1, 0)
                u = 2 * r - 1 if r > 0 else -2 * r
                d = abs(w - nw) + abs(n - nw) + abs(n - ne)
                state = rice[next((k for k in range(7) if 4 << k > d + 3), 7)]
                k = next((k for k in range(8) if state[1] << k >= state[0]), 8)
                high = u >> k
                for _ in range(min(high, 20)):
                    interval.code(32768, 1)
                if high < 20:
                    interval.code(32768, 0)
                for j in reversed(range(k if high < 20 else 9)):
                    interval.code(32768, u >> j & 1)
                state[0], state[1] = state[0] + u, state[1] + 1
                if state[1] == 64:
                    state[0], state[1] = (state[0] + 1) >> 1, 32
    return interval.finish()


@pytest.mark.parametrize("predictor", [0, 1, 2])
def test_predictive_equals_its_twin(predictor):
    random = np.random.default_rng(predictor)
    for shape in ((1, 1, 1), (3, 8, 7), (9, 5, 11)):
        for spread in (1.0, 8.0, 90.0):
            words = np.clip(random.laplace(0, spread, shape), 0, 255).astype(np.uint8)
            data = _native.predictive_encode(words, predictor)
            assert data == twin_predictive(words, predictor)
            out = np.zeros_like(words)
            assert _native.predictive_decode(np.frombuffer(data, np.uint8), out, predictor) and np.array_equal(out, words)


def test_predictive_stops_at_impossible_words():
    random = np.random.default_rng(0)
    for _ in range(200):
        _native.predictive_decode(random.integers(0, 256, 60).astype(np.uint8), np.zeros((4, 8, 8), np.uint8), int(random.integers(3)))
    zeros = np.zeros((4, 8, 8), np.uint8)
    assert len(_native.predictive_encode(zeros, 0)) < 12
    assert not _native.predictive_decode(np.frombuffer(_native.predictive_encode(zeros, 0) + b"\x01\x02\x03\x04\x05", np.uint8), zeros.copy(), 0)


# --- libraries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "module"), [("zstd", "zstandard"), ("lz4", "lz4.block"), ("blosc2", "blosc2"), ("zfp", "zfpy")])
def test_a_missing_library_is_named(codec, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"needs the library {module}: pip install 'tensorpress\["):
        registry.build(codec).fit([feature_map((4, 8, 8))]).encode_payload(feature_map((4, 8, 8)))


@pytest.mark.parametrize("codec", ["zstd", "lz4", "blosc2"])
def test_a_declared_size_is_checked_before_it_is_opened(codec):
    x = np.zeros((64, 8, 64), np.uint8)
    big, small = registry.build(codec).fit([x]), np.zeros((1, 8, 8), np.uint8)
    words = big.stage.second
    with pytest.raises(StreamError, match="declares 32768 bytes, its shape needs 64"):
        words.unpack(memoryview(stripe(big, x)), small.reshape(-1), 0)


def test_zfp_keeps_its_tolerance():
    x = feature_map((12, 10, 9), signed=True)
    codec = registry.build("zfp", {"step": 4.0}).fit([x])
    assert np.abs(codec.decode_payload(codec.encode_payload(x)) - x).max() <= 2.0 * codec.config.scale


def test_zfp_opens_what_it_wrote_of_the_largest_floats():
    pytest.importorskip("zfpy")
    x = np.array([[[1, -1, 0.25, 1]]], np.float32) * np.finfo(np.float32).max
    codec = registry.build("zfp").fit([x])
    y = codec.decode(codec.encode(x))
    assert np.isfinite(y).all() and np.abs(y.astype(np.float64) - x).max() <= codec.config.scale / 2
