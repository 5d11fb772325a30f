"""Codecs that lose nothing: integers and bool bit for bit; of floats, the 8-bit levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tensorpress.blocks.uniform import restore
from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.facade import decode
from tests.properties.cases import holds
from tests.properties.strategies import FLOATS, LOSSLESS, Array, arrays, fitted, shapes, taken

CODECS = st.sampled_from(LOSSLESS)
LEVELLED = st.sampled_from([codec for codec in LOSSLESS if codec != "uniform_rans"])  # which has a clip of its own, and loses of floats


def equal(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def of_levels(x: Array, config: Any) -> Array:
    """What FORMAT.md, section 3, makes of floats and back."""
    zero = config.zero_point
    with np.errstate(over="ignore"):
        scaled = x.astype(np.float32) * np.float32(config.reciprocal)
    level = np.clip(np.rint(scaled), -zero, 255 - zero)
    return restore(level.astype(np.float32) * np.float32(config.scale), x.dtype)


@holds(150, st.data(), CODECS)
def test_integers_come_back_bit_for_bit(data: st.DataObject, codec: str) -> None:
    x = data.draw(arrays([d for d in taken(codec) if d.kind != "f"]))
    if x.size == 0 and codec in ("uniform_rans", "context"):
        x = np.zeros((3, 2), x.dtype)  # they have nothing to fit: an InputError
    made = data.draw(fitted(codec, x, exact=True))
    assert equal(decode(made.encode(x).to_bytes()), x)


@holds(100, st.data(), CODECS)
def test_integers_come_back_from_a_codec_fitted_to_others(data: st.DataObject, codec: str) -> None:
    dtype = data.draw(st.sampled_from([d for d in taken(codec) if d.kind != "f"]))
    sample = data.draw(arrays([dtype], shapes(empty=False, least_rank=1)))
    x = data.draw(arrays([dtype], sample.shape if codec == "context" else None))
    made = data.draw(fitted(codec, sample, exact=True))
    assert equal(decode(made.encode(x).to_bytes()), x)


@holds(150, st.data(), LEVELLED)
def test_floats_come_back_as_their_levels(data: st.DataObject, codec: str) -> None:
    x = data.draw(arrays(FLOATS, shapes(empty=False)))
    made = data.draw(fitted(codec, x, exact=True))
    expected = of_levels(x, made.config)
    assert np.isfinite(expected).all()
    check(made, x, expected)


@holds(80, st.data(), LEVELLED)
def test_floats_beyond_the_fitted_range_become_its_ends(data: st.DataObject, codec: str) -> None:
    sample = data.draw(arrays(FLOATS, shapes(empty=False, least_rank=1)))
    x = data.draw(arrays(FLOATS, sample.shape))
    made = data.draw(fitted(codec, sample, exact=True))
    check(made, x, of_levels(x, made.config))


@holds(60, st.data(), st.sampled_from(("max", "fast")))
def test_a_reference_changes_no_value(data: st.DataObject, backend: str) -> None:
    dtype = data.draw(st.sampled_from(taken("context")))
    x = data.draw(arrays([dtype], shapes(1000, empty=False, least_rank=1)))
    beside = data.draw(arrays([dtype], x.shape))
    before = data.draw(st.sampled_from((x, beside)))
    made = registry.build("context", {"backend": backend}).fit([x], [before])
    assert made.reference
    for reference in (before, beside):
        payload = made.encode_payload(x, reference=reference)
        found = made.decode_payload(payload, reference=reference)
        assert np.array_equal(found, x if dtype.kind != "f" else of_levels(x, made.config))


def check(made: Codec, x: Array, expected: Array) -> None:
    found = decode(made.encode(x).to_bytes())
    assert found.dtype == x.dtype and found.shape == x.shape
    assert np.array_equal(found, expected)
    simulated, _ = made.simulate(x)
    assert np.array_equal(simulated, found)
