"""Codecs that lose: how much, at most. Each bound is the one that its system's docstring states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from tensorpress.blocks import channel_dct, dct
from tensorpress.blocks.cells import boxes
from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.core.payload import chw, stripe_count
from tests.properties.cases import holds
from tests.properties.strategies import BYTES, CARDS, FLOATS, Array, arrays, fitted, options, shapes

STEPPED = tuple(c for c in CARDS if CARDS[c].quality == "step" and CARDS[c].lossless and c not in ("dct_cm", "context"))
TAME = ("normal", "relu", "equal", "outlier", "offset", "whole", "spread", "small", "any", "extremes")
SLACK = 1e-4  # of a step: what float32 products and reciprocals round
DTYPES = st.sampled_from(FLOATS + BYTES)


def level_error(x: Array, y: Array, config: Any) -> Array:
    """(C, H, W) |error| in levels, of floats from the nearest that the fitted range holds; what the decoded type rounds is taken off."""
    if x.dtype.kind != "f":
        return np.abs(y.astype(np.float64) - x).reshape(chw(x.shape))
    scale = config.scale
    inside = np.clip(x.astype(np.float64), -config.zero_point * scale, (255 - config.zero_point) * scale)
    error = np.abs(y.astype(np.float64) - inside) - rounding(y)
    return np.maximum(error, 0).reshape(chw(x.shape)) / scale


def rounding(y: Array) -> Array:
    """Half a unit in the last place of float16, to which all that is decoded is rounded; of wider floats it is slack."""
    return np.abs(np.spacing(y)).astype(np.float64) / 2 if y.dtype == np.float16 else 0 * np.abs(y).astype(np.float64)


def pair(data: st.DataObject, codec: str, least: int = 0) -> tuple[Array, Array, Any]:
    """(array, decoded array, codec): fitted to it, or to another of its type and shape."""
    dtype = data.draw(DTYPES)
    x = data.draw(arrays([dtype], shapes(empty=False, least_rank=least), TAME))
    sample = x if data.draw(st.booleans()) else data.draw(arrays([dtype], x.shape, TAME))
    made = data.draw(fitted(codec, sample))
    return x, made.decode(made.encode(x)), made


@holds(200, st.data(), st.sampled_from(STEPPED))
def test_stepped_codecs_keep_every_level_within_a_step(data: st.DataObject, codec: str) -> None:
    x, y, made = pair(data, codec)
    step = made.config.step
    bound = step + 0.5 if step > 1 else 0.0
    if x.dtype.kind == "f":
        bound += 0.5 + SLACK
    assert level_error(x, y, made.config).max() <= bound


def cells(error: Array) -> Iterator[Array]:
    for stripe in range(stripe_count(error.shape)):
        for box in boxes(error.shape, stripe):
            yield error[box]


@holds(150, st.data())
def test_a_cell_of_dct_cm_costs_no_more_than_its_raw_levels(data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    x = data.draw(arrays([dtype], shapes(empty=False), TAME))
    made = registry.build("dct_cm", {**data.draw(options("dct_cm")), "profile": data.draw(st.sampled_from(("extended", "paper")))}).fit([x])
    y = made.decode(made.encode(x))
    bound = math.sqrt(8 * made.config.lagrangian) + (0.5 + SLACK if dtype.kind == "f" else 0)
    assert math.sqrt(8 * made.config.lagrangian) <= 0.97 * made.config.step
    for error in cells(level_error(x, y, made.config)):
        assert math.sqrt(np.square(error).mean()) <= bound + 1e-9


@holds(100, st.data())
def test_profile_fixed_without_masks_keeps_groups_within_their_steps(data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    x = data.draw(arrays([dtype], shapes(empty=False), TAME))
    made = registry.build("dct_cm", {**data.draw(options("dct_cm")), "profile": "fixed", "masks": False}).fit([x])
    y, config = made.decode(made.encode(x)), made.config
    error = level_error(x, y, config)
    size = config.length
    whole = len(error) - len(error) % size if size else 0
    extra = 0.5 + SLACK if dtype.kind == "f" else 0.0
    assert error[whole:].max(initial=0) <= (config.step + 0.5 if config.step > 1 else 0) + extra
    if whole:
        zero = config.zero_point if dtype.kind == "f" else 128 if dtype == np.int8 else 0
        steps = channel_dct.coefficient_steps(size, zero, config.step, 0.5 if config.step == 1 else 0.36)
        groups = error[:whole].reshape(-1, size, *error.shape[1:])
        bound = math.sqrt(np.mean(np.square(steps))) * 0.64 + 2.5  # the dead zone; what 16-bit products, HEVC's matrix and levels round
        assert np.sqrt(np.square(groups).mean(1)).max() <= bound + extra


@holds(100, st.data())
def test_blocks_of_dct2d_keep_within_their_steps(data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    x = data.draw(arrays([dtype], shapes(empty=False), TAME))
    made = data.draw(fitted("dct2d", x))
    y, config = made.decode(made.encode(x)), made.config
    error = level_error(x, y, config)
    grown = config.step * (1 + config.slope * np.add.outer(np.arange(8), np.arange(8)))
    bound = 64 * (0.6 * math.sqrt(np.mean(np.square(grown))) + 2 + (0.5 if dtype.kind == "f" else 0)) ** 2
    for top in range(0, error.shape[1], 8):
        for left in range(0, error.shape[2], 8):
            assert np.square(error[:, top : top + 8, left : left + 8]).sum((1, 2)).max() <= bound


@holds(120, st.data())
def test_uniform_levels_keep_within_half_a_step_of_the_clip(data: st.DataObject) -> None:
    x, y, made = pair(data, "uniform_rans")
    c = made.config
    inside = np.clip(x.astype(np.float64), -c.zero_point * c.step, (c.levels - 1 - c.zero_point) * c.step)
    bound = (0.5 + SLACK) * c.step + (0.5 if x.dtype.kind in "iu" and c.step != 1 else 0)
    assert (np.abs(y.astype(np.float64) - inside) - rounding(y) <= bound).all()


@holds(80, st.data())
def test_zfp_keeps_its_tolerance(data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    x = data.draw(arrays([dtype], shapes(empty=False), TAME))
    made = data.draw(fitted("zfp", x))
    y = made.decode(made.encode(x))
    bound = made.config.step * made.config.scale / 2 + (0.5 if dtype.kind in "iu" else 0)
    assert (np.abs(y.astype(np.float64) - x.astype(np.float32).astype(np.float64)) - rounding(y) <= bound).all()


@holds(80, st.data())
def test_context_keeps_within_its_price(data: st.DataObject) -> None:
    x, y, made = pair(data, "context", 1)
    c = made.config
    model = (made.stage).model
    step = float(model.steps[0].max(initial=0))
    inside = np.clip(x.astype(np.float64), -float(model.low) * step, float(model.high) * step)
    lagrangian = 0 if c.step == 1 else c.lagrangian
    bound = math.sqrt(2.25 + 28 * lagrangian) if c.step > 1 else 0.5 + SLACK
    assert (np.abs(y.astype(np.float64) - inside) - rounding(y) <= bound * step + (0.5 if x.dtype.kind in "iu" else 0)).all()


def deviation(block: Array, gain: float) -> float:
    """How far a basis is from orthonormal: the spectral norm of BᵀB / g² - I."""
    b = block.astype(np.float64) / gain
    return float(np.linalg.norm(b.T @ b - np.eye(len(b)), 2))


@holds(60, st.data())
def test_klt_keeps_what_it_was_fitted_to_within_half_a_step(data: st.DataObject) -> None:
    x = data.draw(arrays(FLOATS, shapes(empty=False, least_rank=1), ("normal", "relu", "equal", "offset", "whole", "outlier")))
    made = data.draw(fitted("klt", x))
    y = made.decode(made.encode(x)).reshape(chw(x.shape)).astype(np.float64)
    basis = made.stage.first.basis
    flat = x.astype(np.float32).reshape(chw(x.shape)).astype(np.float64)
    error = np.maximum(np.abs(y - flat) - rounding(y.astype(x.dtype)), 0)
    at = 0
    for block, gain in zip(basis.blocks, basis.gains):
        rows = slice(at, at := at + len(block))
        distance = np.sqrt(np.square(flat[rows] - basis.means[rows, None, None]).sum(0)).max()
        largest = np.abs(flat[rows]).max() * 2.0**-22
        reach = math.sqrt(1 + deviation(block, gain))
        bound = reach * math.sqrt(len(block)) * (basis.step / 2 + reach * basis.fixed / 2 + largest) + deviation(block, gain) * distance
        assert np.sqrt(np.square(error[rows]).sum(0)).max() <= bound * (1 + 1e-6)


@holds(60, st.data(), st.sampled_from(("klt", "context", "uniform_rans", "zfp", "dct_cm", "dct2d")))
def test_what_is_decoded_is_finite_whatever_was_fitted(data: st.DataObject, codec: str) -> None:
    sample = data.draw(arrays(FLOATS, shapes(empty=False, least_rank=1)))
    x = data.draw(arrays(FLOATS, sample.shape))
    try:
        made = data.draw(fitted(codec, sample))
    except InputError as error:  # steps beyond float32: said, not written
        assert codec == "context" and "beyond what its models hold" in str(error)
        assume(False)
    assert np.isfinite(made.decode(made.encode(x))).all()


@holds(60, st.lists(st.integers(0, 255), min_size=8, max_size=8), st.sampled_from(dct.LENGTHS))
def test_integer_dct_is_orthogonal_to_a_hundredth(row: Sequence[int], length: int) -> None:
    matrix, norms = dct.matrix(length).astype(np.float64), np.array(dct.norms(length))
    x = np.resize(np.array(row, np.float64), length)
    back = (matrix / norms[:, None]).T @ ((matrix / norms[:, None]) @ x)
    assert np.abs(back - x).max() <= 0.01 * np.linalg.norm(x) + 1e-9
