"""The fixed profile of dct_cm: what its 16-bit integers promise, and that every body gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from tensorpress.blocks import channel_dct, dct
from tensorpress.core import registry
from tests.conftest import feature_map

LENGTHS = pytest.mark.parametrize("length", dct.LENGTHS)
ZEROS = pytest.mark.parametrize("zero", [0, 77, 128, 255])


def extremes(length: int) -> np.ndarray:
    """(length, n) levels: maps that drive each coefficient to its ends, and noise."""
    rows = [np.where((sign * row > 0), 255, 0) for row in dct.matrix(length) for sign in (1, -1)]
    rng = np.random.default_rng(length)
    return np.concatenate([np.array(rows).T, rng.integers(0, 256, (length, 4000)), 255 * rng.integers(0, 2, (length, 4000))], 1).astype(np.uint8)


@LENGTHS
def test_forward_is_the_dct(length):
    shift = channel_dct.shift_of(length)
    x = (extremes(length).astype(np.int16) - np.int16(100)) << np.int16(shift)
    exact = dct.matrix(length).astype(np.int64) @ x / 128
    assert np.abs(channel_dct.forward(x) - exact).max() <= length / 4


@LENGTHS
@ZEROS
@pytest.mark.parametrize("step", [1.0, 3.0, 11.0, 128.0])
def test_every_map_fits_8_bits_and_comes_back_within_the_quantiser(length, zero, step):
    dead_zone = 0.5 if step == 1 else 0.36
    rules = channel_dct.make(zero, step=step, dead_zone=dead_zone, length=length)
    levels = extremes(length)
    y = channel_dct.forward((levels.astype(np.int16) - np.int16(zero)) << np.int16(channel_dct.shift_of(length)))
    a = (np.abs(y).astype(np.int64) + rules.offset[:, None]) * rules.multiplier[:, None].astype(np.int64) >> 16
    limit = np.full((length, 1), 127)
    limit[channel_dct.plain(rules)] = 255
    assert (a <= limit).all()
    symbols = channel_dct.analyse(levels, rules)
    assert np.array_equal(symbols > 0, a > 0)
    error = np.abs(channel_dct.synthesise(symbols, rules).astype(int) - levels)
    steps, norms = np.array(channel_dct.coefficient_steps(length, zero, step, dead_zone)), np.array(dct.norms(length))
    each = steps * (1 - dead_zone) + 1 + 0.02 * 255 * np.sqrt(length)  # of a coefficient: the quantiser, rounding, and what 16 bits hold of the step
    bound = (np.abs(dct.matrix(length)) * (each / norms)[:, None]).sum(0)[:, None] + 1
    assert (error <= bound).all()
    if step <= 3:
        assert np.sqrt((error.astype(float) ** 2).mean()) < 1.2 * np.sqrt((steps**2).mean() / 12) + 0.3


@LENGTHS
def test_worst_case_fits_the_capacity(length):
    rng = np.random.default_rng(0)
    for shape in [(64, 16, 16), (33, 7, 9), (70, 1, 1), (5,), (40, 6), (1, 1, 65), (9, 8, 8), (200, 2, 2)]:
        x = rng.integers(0, 256, shape).astype(np.uint8)
        for options in ({"length": length}, {"transform": "none"}):
            codec = registry.build("dct_cm", {"profile": "fixed", "scale": 1.0, "reciprocal": 1.0, **options})
            out = np.full(codec.max_encoded_nbytes(x.dtype, x.shape) + 64, 0xA5, np.uint8)
            payload = codec.encode_payload(x, out[:-64])
            assert (out[-64:] == 0xA5).all() and payload == codec.encode_payload(x, fused=False)


def test_masked_coefficients_cost_nothing():
    x = feature_map((64, 14, 14))
    sizes = []
    for keep in ((1,) * 8, (1, 1, 0, 0, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0, 0, 0, *(0,) * 8)):
        codec = registry.build("dct_cm", {"profile": "fixed", "step": 4.0, "length": 8, "keep": keep}).fit([x])
        assert codec.config.keep == keep
        payload = codec.encode_payload(x)
        assert payload == codec.encode_payload(x, fused=False)
        assert np.array_equal(codec.decode_payload(payload), codec.decode_payload(payload, fused=False))
        sizes.append(len(payload))
    assert sizes[1] < 0.5 * sizes[0] and sizes[2] < 0.7 * sizes[1]


def test_the_fit_takes_the_transform_where_channels_are_alike():
    smooth = np.repeat(np.abs(feature_map((8, 16, 16), signed=True)), 8, 0) + 0.01 * feature_map((64, 16, 16))
    alone = feature_map((64, 16, 16))
    options = {"profile": "fixed", "step": 4.0}
    assert registry.build("dct_cm", options).fit([smooth]).config.length >= 8
    assert registry.build("dct_cm", options).fit([alone]).config.length == 0


SCRIPT = """
import hashlib, itertools
import numpy as np
from tensorpress.core import registry
from tests.conftest import feature_map
h = hashlib.sha256()
shapes = [(64, 16, 16), (37, 7, 7), (20, 14, 14), (3, 9, 20), (70, 1, 1), (5,), (40, 6), (24, 5, 3), (2, 3, 11, 9, 11), (130, 4, 4), (64, 1, 100)]
for shape, signed, length in itertools.product(shapes, (False, True), (0, 4, 8, 16, 32)):
    x = feature_map(shape, signed=signed)
    for y in (x, np.clip(20 * x + 60 * signed, 0, 255).astype(np.uint8), np.clip(20 * x, -128, 127).astype(np.int8)):
        for step in (1.0, 4.0, 50.0):
            c = registry.build("dct_cm", {"profile": "fixed", "step": step, "length": length, "scale": 0.05, "reciprocal": 20.0, "zero_point": 100 * signed})
            data = bytes(c.encode_payload(y))
            assert data == bytes(c.encode_payload(np.moveaxis(np.ascontiguousarray(np.moveaxis(y, 0, -1)), -1, 0)))
            h.update(data)
            h.update(c.decode_payload(data).tobytes())
print(h.hexdigest())
"""


def test_same_bytes_for_every_body():
    found = set()
    for isa in ("scalar", "avx2", ""):
        run = subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, "TENSORPRESS_ISA": isa}, capture_output=True, text=True, check=True)
        found.add(run.stdout.strip())
    assert len(found) == 1 and found != {hashlib.sha256().hexdigest()}
