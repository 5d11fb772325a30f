"""uniform_rans: any number of levels, an exact zero, a clip of least error, 8-bit integers bit for bit."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tensorpress.coding.lanes import LaneTables
from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer
from tensorpress.core.stream import Stream
from tensorpress.systems.features import uniform_rans


def relu_map(seed: int, shape: tuple[int, ...] = (12, 20, 17)) -> np.ndarray:
    x = np.random.default_rng(seed).laplace(size=shape)
    return np.maximum(x, 0).astype(np.float32)


def fitted(levels: int, samples: list[np.ndarray]) -> Codec:
    return registry.build("uniform_rans", {"levels": levels}).fit(samples)


@pytest.mark.parametrize("levels", [2, 3, 17, 100, 256])
@pytest.mark.parametrize("signed", [False, True])
def test_values_are_the_nearest_levels(levels: int, signed: bool) -> None:
    samples = [relu_map(s) - (0.3 if signed else 0) * (s + 1) for s in range(3)]
    codec, x = fitted(levels, samples), relu_map(9) - (0.5 if signed else 0)
    config = codec.config
    grid = ((np.arange(levels) - config.zero_point) * np.float32(config.step)).astype(np.float32)
    y = codec.decode_payload(codec.encode_payload(x))
    nearest = np.abs(x[..., None].astype(np.float64) - grid).min(axis=-1)
    assert np.isin(y, grid).all() and 0 in grid
    assert np.abs(np.abs(x - y.astype(np.float64)) - nearest).max() < 1e-6
    assert (y[x == 0] == 0).all()
    assert signed or config.zero_point == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_eight_bit_integers_are_lossless(dtype: type) -> None:
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(limits.min, limits.max, (5, 9, 31), dtype, endpoint=True)
    codec = fitted(256, [x[:, :2]])
    y = codec.decode_payload(codec.encode_payload(x))
    assert y.dtype == dtype and np.array_equal(y, x) and codec.config.step == 1
    coarse = fitted(16, [x])
    assert coarse.decode_payload(coarse.encode_payload(x)).dtype == dtype


@pytest.mark.parametrize("levels", [4, 16])
def test_clip_beats_the_full_range_and_its_neighbours(levels: int) -> None:
    samples = [relu_map(s, (8, 64, 64)) for s in range(4)]
    values = np.concatenate([s.reshape(-1) for s in samples])

    def error(step: float) -> float:
        codec = uniform_rans.build(replace(best.config, step=float(np.float32(step)), reciprocal=float(1 / np.float32(step))), best.state)
        return float(np.square(codec.simulate(values)[0] - values).mean())

    best = fitted(levels, samples)
    step = best.config.step
    assert error(step) < 0.7 * error(values.max() / (levels - 1))
    assert error(step) < 1.02 * min(error(step * f) for f in (0.8, 0.9, 1.1, 1.25))


def test_size_is_near_the_entropy_and_falls_with_the_levels() -> None:
    samples, x = [relu_map(s, (16, 64, 64)) for s in range(3)], relu_map(8, (16, 64, 64))
    sizes = []
    for levels in (256, 64, 16, 4):
        codec = fitted(levels, samples)
        y, nbytes = codec.simulate(x)
        counts = np.unique(y, return_counts=True)[1] / x.size
        sizes.append(nbytes)
        assert nbytes < -(counts * np.log2(counts)).sum() * x.size / 8 * 1.02 + 8 * 120  # of each stripe's 32 lanes
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < x.size  # below 8 bits a value


def test_float_types_come_back_as_themselves() -> None:
    codec = fitted(256, [relu_map(1)])
    for dtype in (np.float16, np.float64):
        x = relu_map(2).astype(dtype)
        y = codec.decode_payload(codec.encode_payload(x))
        assert y.dtype == dtype and np.abs(y - x).max() < 2.5 * codec.config.step + max(0, x.max() - 255 * codec.config.step)
    big = registry.build("uniform_rans", {}).fit([np.array([60000, 65504], np.float16)])
    assert np.isfinite(big.decode_payload(big.encode_payload(np.array([65504, 0], np.float16)))).all()


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e37])
def test_extreme_ranges(scale: float) -> None:
    x = (relu_map(1) * np.float32(scale)).astype(np.float32)
    codec = fitted(256, [x])
    y = codec.decode_payload(codec.encode_payload(x))
    assert np.isfinite(y).all() and (scale < 1e-30 or np.abs(y - x).max() <= 1.1e-2 * x.max())


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (np.array([[1, 2], [np.nan, 0]], np.float32), "NaN or infinity at flat index 2"),
        (np.array([0, -np.inf], np.float16), "NaN or infinity at flat index 1"),
        (np.array([0, 1e300]), "beyond the range of float32"),
        (np.zeros(3, np.uint16), "raw"),
        (np.zeros(3, bool), "zvc"),
        (np.zeros(3, complex), "complex128"),
    ],
)
def test_refused_input(x: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        fitted(64, [relu_map(1)]).encode_payload(x)


def test_unfitted_and_unusable_options() -> None:
    with pytest.raises(InputError, match=r"not fitted: call fit\(samples\)"):
        registry.build("uniform_rans", {}).encode_payload(relu_map(1))
    for samples in ([], [np.zeros((0, 3), np.float32)]):
        with pytest.raises(InputError, match="nothing to fit"):
            registry.build("uniform_rans", {}).fit(samples)
    for options in ({"levels": 1}, {"levels": 257}, {"levels": 2.5}, {"table_bits": 10}, {"table_bits": 13}):
        with pytest.raises(InputError):
            registry.build("uniform_rans", options)


def test_json_and_state_make_the_same_codec() -> None:
    codec, x = fitted(77, [relu_map(1) - 0.2]), relu_map(3)
    again = registry.build("uniform_rans", json.loads(json.dumps(codec.params)), codec.state)
    assert again.digest == codec.digest and again.encode_payload(x) == codec.encode_payload(x)
    assert np.array_equal(again.decode(Stream.from_bytes(codec.encode(x).to_bytes())), codec.simulate(x)[0])


def test_hostile_parameters_and_stripes() -> None:
    codec, x = fitted(16, [relu_map(1)]), relu_map(2)
    for params in (
        {"step": 1e308},
        {"step": "a"},
        {"reciprocal": 0.0},
        {"zero_point": 16},
        {"levels": 17},
        {"table_bits": 11},
        {"step": None},
    ):
        with pytest.raises(StreamError):
            registry.build_from_stream("uniform_rans", {**codec.params, **params}, codec.state).decode_payload(codec.encode_payload(x))
    with pytest.raises(StreamError):
        registry.build_from_stream("uniform_rans", codec.params, {"tables": codec.state["tables"][:-1]})
    rng = np.random.default_rng(4)
    for nbytes in (0, 15, 16, 40, 4000):  # whole by its checks, and nonsense
        out = Writer(x.dtype, x.shape)
        for _ in range(3):
            out.stripe(rng.integers(0, 256, nbytes, np.uint8).tobytes())
        with pytest.raises(StreamError, match="stripe 0"):
            codec.decode_payload(out.finish())
    out = Writer(np.dtype(np.int32), (0, 4))
    with pytest.raises(StreamError, match="int32"):
        codec.decode_payload(out.finish())


COUNTS = (1, 7, 8, 40, 4097, 8191, 8192, 8193, 8500, 20011, (3 << 14) - 1, 3 << 14, 50000, 65537)  # around where the number of lanes changes


def skewed(seed: int, size: int, levels: int = 256) -> np.ndarray:
    """Half zeros, few large values, and some stretches of noise."""
    rng = np.random.default_rng(seed)
    x = np.minimum(rng.geometric(0.12, size) - 1, levels - 1) * (rng.random(size) < 0.6)
    x[size // 3 : size // 3 + size // 50] = rng.integers(0, levels, size // 50)
    return x.astype(np.uint8).reshape(1, 1, size)


@pytest.mark.parametrize("bits", [11, 12])
def test_kernel_equals_its_twin_for_every_number_of_lanes(bits: int) -> None:
    codec = registry.build("uniform_rans", {"table_bits": bits}).fit([skewed(0, 30000)])
    assert 0 in LaneTables.from_bytes(codec.state["tables"], 256).frequencies
    plain = registry.build("uniform_rans", {"levels": 5, "table_bits": bits}).fit([skewed(0, 30000, 5)])
    for count in COUNTS:
        for found, x in ((codec, skewed(count, count)), (plain, skewed(count, count, 5)), (codec, np.full((1, 1, count), 255, np.uint8))):
            payload = found.encode_payload(x)
            assert payload == found.encode_payload(x, fused=False)
            assert len(payload) <= 20 + count
            assert np.array_equal(found.decode_payload(payload), found.decode_payload(payload, fused=False))
            assert found is plain or np.array_equal(found.decode_payload(payload), x)


LANES = """
import hashlib
from tests.systems.test_uniform_rans import COUNTS, skewed
from tensorpress.core import registry
codec, h = registry.build("uniform_rans").fit([skewed(0, 30000)]), hashlib.sha256()
for count in COUNTS:
    data = codec.encode_payload(skewed(count, count))
    h.update(data); h.update(codec.decode_payload(data).tobytes())
print(h.hexdigest())
"""


def test_lanes_have_the_same_bytes_for_every_instruction_set() -> None:
    found = set()
    for isa in ("scalar", "avx2", ""):
        env = {**os.environ, "TENSORPRESS_ISA": isa}
        found.add(subprocess.run([sys.executable, "-c", LANES], env=env, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


@pytest.mark.parametrize("count", [200, 8200, 50000])
def test_hostile_strings(count: int) -> None:
    """Behind right checks: kernel and twin agree on what is refused, and on what is not."""
    codec, rng, agreed = registry.build("uniform_rans").fit([skewed(0, 30000)]), np.random.default_rng(count), set()
    data = bytes(Reader(codec.encode_payload(skewed(1, count))).stripe())
    for trial in range(40):
        changed = bytearray(data)
        if trial % 4 == 0:
            del changed[int(rng.integers(len(data))) :]
        elif trial % 4 == 1:
            changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        elif trial % 4 == 2:
            changed[rng.integers(min(len(data), 300))] = rng.integers(256)
        elif trial > 3:
            changed[rng.integers(len(data) + 1) : 0] = bytes(rng.integers(0, 256, int(rng.integers(1, 99)), np.uint8))
        out = Writer(np.dtype(np.uint8), (1, 1, count))
        out.stripe(changed)
        outcomes = []
        for fused in (True, False):
            try:
                outcomes.append(codec.decode_payload(out.finish(), fused=fused).tobytes())
            except StreamError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]
        agreed.add(outcomes[0] is None)
    assert agreed == {True, False}  # the data as it is was among them


def test_tables_in_bytes() -> None:
    tables = LaneTables.from_counts(np.bincount(skewed(0, 30000).reshape(-1), minlength=256), 12)
    data = tables.to_bytes()
    assert LaneTables.from_bytes(data, 256) == tables
    for bad in (b"", data[:-1], data + b"\0", b"\x0d" + data[1:], data[:1] + b"\0" + data[2:]):
        with pytest.raises(StreamError):
            LaneTables.from_bytes(bad, 256)
    with pytest.raises(StreamError):
        LaneTables.from_bytes(data, 255)
    for frequencies, escape in (((4096, 0), 0), ((4095, 0), 0), ((0, 0), 4096), ((4097, -1), 0), ((4000, 90), 5), ((4096,), 0)):
        with pytest.raises(InputError):
            LaneTables(frequencies, escape, 12)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 5), (0, 4, 4), (), (1,), (7,), (3, 5), (2, 3, 9, 4), (1, 1, 1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    codec, x = fitted(256, [relu_map(1)]), relu_map(5, shape)
    y = codec.decode_payload(codec.encode_payload(x))
    assert y.shape == shape and (x.size == 0 or np.abs(y - np.minimum(x, 255 * codec.config.step)).max() <= codec.config.step)
    assert codec.encode_payload(np.moveaxis(relu_map(6), 0, -1)) == codec.encode_payload(np.moveaxis(relu_map(6), 0, -1).copy())
