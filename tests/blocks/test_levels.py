"""Floats to levels: one rule."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.blocks import bits, dct
from tensorpress.blocks.levels import Levels, clip_range, scale_and_zero
from tensorpress.core import registry
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Writer


def encode(levels: Levels, x: np.ndarray) -> np.ndarray:
    return levels.encode(x, Writer(x.dtype, x.shape)).levels.reshape(x.shape)


def test_ties_round_to_even_and_ends_clamp():
    x = np.array([0.5, 1.5, 2.5, -3.0, 254.5, 255.5, 1e9], np.float32)
    assert encode(Levels(1.0, 1.0, 0), x).tolist() == [0, 2, 2, 0, 254, 255, 255]
    assert encode(Levels(1.0, 1.0, 10), x).tolist() == [10, 12, 12, 7, 255, 255, 255]


def test_the_reciprocal_is_multiplied_in_float32():
    scale, reciprocal, zero = scale_and_zero(0.0, 3.1)
    x = np.linspace(0, 3.1, 4001, dtype=np.float32)
    expected = np.clip(np.rint(x * np.float32(reciprocal)), 0, 255)
    assert zero == 0 and np.array_equal(encode(Levels(scale, reciprocal, zero), x), expected)


def test_zero_is_exact_in_signed_ranges():
    scale, reciprocal, zero = scale_and_zero(-1.3, 4.0)
    levels = Levels(scale, reciprocal, zero)
    assert encode(levels, np.zeros(1, np.float32))[0] == zero and 0 < zero < 255
    assert scale_and_zero(0.0, 0.0) == (1.0, 1.0, 0)


def test_ranges_by_rule():
    x = np.zeros(100_000, np.float32)
    x[0], x[1:20] = 50.0, 2.0
    assert clip_range([x], "max") == (0.0, 50.0)
    assert clip_range([x], "p99.99")[1] < 3.0
    with pytest.raises(InputError, match="inf"):
        clip_range([np.array([np.inf], np.float32)], "max")


@pytest.mark.parametrize("length", dct.LENGTHS)
def test_dct_matrices_are_nearly_orthogonal(length):
    m = dct.matrix(length).astype(np.int64)
    gram = m @ m.T
    assert (m[0] == 64).all() and np.abs(gram - np.diag(np.diag(gram))).max() <= 400
    assert np.allclose(np.sqrt(np.diag(gram)), dct.norms(length)) and np.allclose(dct.norms(length), 64 * length**0.5, rtol=1e-3)


def test_dct_4_is_the_standard_one():
    assert dct.matrix(4).tolist() == [[64, 64, 64, 64], [83, 36, -36, -83], [64, -64, -64, 64], [36, -83, 83, -36]]
    assert dct.matrix(8)[1].tolist() == [89, 75, 50, 18, -18, -50, -75, -89]


def test_bit_strings():
    values = np.array([5, 0, 7, 2])
    data = bits.to_bytes(bits.pack(values, 3))
    assert data == bytes([0b11000101, 0b00000101]) and bits.unpack(bits.from_bytes(data, 12, "x"), 3).tolist() == values.tolist()
    with pytest.raises(StreamError, match="padding"):
        bits.from_bytes(bytes([0xFF, 0xFF]), 12, "x")
    with pytest.raises(StreamError, match="bytes"):
        bits.from_bytes(data + b"\0", 12, "x")


@pytest.mark.parametrize("codec", ["raw", "zvc", "dct_cm", "zstd"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_largest_floats_of_both_signs_stay_finite(codec, dtype):
    x = np.array([[[1, -1, 0.25]]]).astype(dtype) * np.finfo(dtype).max
    made = registry.build(codec).fit([x])
    for fused in (True, False):
        y = made.decode_payload(made.encode_payload(x), fused=fused)
        assert np.isfinite(y).all()
        assert np.abs(y.astype(np.float64) - x).max() <= (0.503 if dtype == np.float16 else 1.001) * made.config.scale
