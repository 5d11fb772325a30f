"""No array takes more bytes than `max_encoded_nbytes` says: the worst that each codec has, of any type and shape, behind any fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import max_payload_nbytes
from tensorpress.core.stream import MAX_FRAME_HEAD_NBYTES
from tensorpress.systems.features import predictive
from tests.conftest import feature_map
from tests.contract.test_contract import VARIANTS, fitted

CHANNELS = 64  # of the fits, which some codecs keep to
SHAPES = [(64, 8, 8), (64, 19, 30), (64, 7, 9), (64, 1, 1), (64, 3, 1), (64, 1, 5), (64, 65), (2, 32, 17, 13)]
FITS = {"signed": feature_map((64, 16, 16), signed=True), "relu": feature_map((64, 16, 16)), "one value": np.ones((64, 9, 9), np.float32)}


def worst(shape: tuple[int, ...], dtype: type, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Noise, extremes, alternation, values far outside of any fit, and one rare symbol everywhere."""
    at = np.arange(int(np.prod(shape))).reshape(shape)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        top = 6e4 if kind.itemsize == 2 else 1e30
        yield rng.uniform(-5, 5, shape)
        yield rng.uniform(0, 5, shape)
        yield np.where(rng.random(shape) < 0.5, top, -top)
        yield np.where(at % 2, top, 0)
        yield np.full(shape, top)
        yield np.full(shape, -top)
        yield 10.0 ** rng.uniform(-3, 3, shape) * rng.choice([-1, 1], shape)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        yield rng.integers(low, high, shape, dtype, endpoint=True)
        yield rng.integers(1, 127, shape)
        yield np.where(at % 2, high, low)
        yield np.full(shape, high)
        yield np.where(rng.random(shape) < 0.1, high, 1)


def check(codec: Codec, x: np.ndarray) -> float:
    """The share of its bound that `x` takes; 0 where the codec does not take it."""
    try:
        payload = codec.encode_payload(x)
    except InputError:
        return 0.0
    bound = codec.max_encoded_nbytes(x.dtype, x.shape)
    of_stages = max_payload_nbytes(x.dtype, x.shape, codec.stage.max_stripe_nbytes)
    assert len(payload) <= min(bound - MAX_FRAME_HEAD_NBYTES, of_stages)
    out = np.empty(bound, np.uint8)
    assert codec.encode_payload(x, out) == payload
    assert len(codec.encode_frame(x, 300, 7, out)) == len(payload) + MAX_FRAME_HEAD_NBYTES
    assert codec.encode(x).nbytes <= codec.max_stream_nbytes(x.dtype, x.shape)
    return len(payload) / of_stages


# how much of the bound the worst input takes at least: a bound that says little is no use
TIGHT = {"predictive": 0.3, "context": 0.6, "apack": 0.8, "dct2d": 0.8, "ebpc": 0.8, "zfp": 0.85}
LOOSE = {"dct_cm-30.0-fixed-dct-(32,)": 0.2, "slots-6.0": 0.7}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v[0]}-{'-'.join(str(x) for x in v[1].values()) or 'default'}")
def test_no_array_takes_more(variant):
    found = 0.0
    for number, samples in enumerate(FITS.values()):
        codec, rng = fitted(*variant, samples), np.random.default_rng(number)
        for shape in SHAPES:
            for dtype in (np.float32, np.float16, np.uint8, np.int8, np.uint16, np.uint64):
                for x in worst(shape, dtype, rng):
                    found = max(found, check(codec, np.ascontiguousarray(x, dtype)))
    name = f"{variant[0]}-{'-'.join(str(x) for x in variant[1].values())}"
    assert found >= LOOSE.get(name, TIGHT.get(variant[0], 0.84)), found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_array_takes_more_whatever_it_is(data):
    name, options = data.draw(st.sampled_from(VARIANTS))
    samples = FITS[data.draw(st.sampled_from(sorted(FITS)))]
    rows, columns = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 16)))
    dtype = data.draw(st.sampled_from([np.float32, np.uint8, np.int8, np.float64]))
    runs = np.repeat(rng.integers(-128, 255, CHANNELS * rows * columns + 1), rng.integers(1, data.draw(st.sampled_from([2, 3, 9, 40])), CHANNELS * rows * columns + 1))
    x = (runs[: CHANNELS * rows * columns].reshape(CHANNELS, rows, columns) * data.draw(st.sampled_from([1, 0.1, 1e3]))).clip(-128, 255)
    check(fitted(name, options, samples), x.astype(dtype))


def test_raw_is_exact():
    codec = fitted("raw", {}, FITS["relu"])
    for shape in [(), (5,), (3, 0, 5), (64, 19, 30), (2, 3, 4, 5)]:
        for dtype in (np.float32, np.float64, np.uint8, np.int64):
            x = np.zeros(shape, dtype)
            assert len(codec.encode_payload(x)) + MAX_FRAME_HEAD_NBYTES == codec.max_encoded_nbytes(x.dtype, x.shape)


def test_a_codec_that_is_not_fitted_says_so():
    from tensorpress.core import registry

    for codec in ("klt", "context", "uniform_rans", "huffman", "apack"):
        with pytest.raises(InputError, match="not fitted"):
            registry.build(codec).max_encoded_nbytes(np.dtype(np.float32), (3, 4, 5))


def test_flags_of_predictive_cost_what_its_bound_says():
    """Every state of the adaptive chance, every sequence of flags: what is beyond FLAG_BITS each never adds up to more than nothing from the first state on."""
    p = np.arange(1, 65536)
    of = p.clip(64, 65472) / 65536
    after_one, after_zero = p + (65535 - p >> 5), p - (p - 1 >> 5)
    beyond = np.zeros(p.size)
    for _ in range(1000):
        known, beyond = beyond, np.maximum(0, np.maximum(-np.log2(of) + beyond[after_one - 1], -np.log2(1 - of) + beyond[after_zero - 1]) - predictive.FLAG_BITS)
        if np.array_equal(known, beyond):
            break
    assert np.array_equal(known, beyond) and beyond[32768 - 1] == 0
