"""Cells: every mode, masks, bounds, and the fused kernel beside the twin."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress import _native
from tensorpress.blocks.cells import (
    DCTM,
    MODES,
    RAW,
    ZERO,
    ZVC,
    boxes,
    cell_channels,
    dct_levels,
    decode_cell,
    encode_cell,
    fold,
    make_rules,
    native_cells,
    unfold,
)
from tensorpress.core import registry
from tensorpress.core.payload import Reader
from tests.conftest import feature_map

RELU = {"dead_zone": 0.5, "centroid": (0.0, 0.0, 0.0), "modes": MODES, "plane_codes": True, "zero_map": True}


def one_cell(levels: np.ndarray, **options) -> tuple[int, int, np.ndarray]:
    rules = make_rules(options.pop("zero", 0), **{**RELU, "step": 1.0, **options})
    data = encode_cell(levels, 0, rules)
    decoded, used, mode = decode_cell(memoryview(data), *levels.shape, 0, rules)
    assert used == len(data) <= levels.size + 3
    return mode, len(data), decoded


def test_each_mode_is_reached():
    rng = np.random.default_rng(0)
    sparse = (rng.integers(0, 200, (32, 64)) * (rng.random((32, 64)) < 0.2)).astype(np.uint8)
    smooth = np.repeat(rng.integers(0, 200, (4, 64)), 8, 0).astype(np.uint8)
    noise = rng.integers(0, 256, (32, 64)).astype(np.uint8)
    assert one_cell(np.zeros((32, 64), np.uint8))[:2] == (ZERO, 3)
    for levels, mode, options in [(sparse, ZVC, {}), (noise, RAW, {}), (smooth, DCTM, {"length": 8, "step": 4.0, "lagrangian": 2.0})]:
        found, _, decoded = one_cell(levels, **options)
        assert found == mode
        assert np.array_equal(decoded, levels) if mode != DCTM else np.abs(decoded.astype(int) - levels).max() <= 4


@pytest.mark.parametrize("zero", [0, 100, 255])
def test_symbols_fold_any_range(zero):
    q = np.arange(256, dtype=np.int32) - zero
    short, sign = min(zero, 255 - zero), 1 if 255 - zero >= zero else -1
    symbols = fold(q, short)
    assert sorted(symbols) == list(range(256)) and np.array_equal(unfold(symbols, short, sign), q)


def test_masks_by_layer_and_by_group():
    smooth = np.repeat(np.arange(0, 128, 8), 2).reshape(32, 1) * np.ones((1, 64), int)
    smooth = smooth.astype(np.uint8)
    common = {"length": 8, "step": 3.0, "modes": ("dct",), "lagrangian": 100.0}
    sizes = [one_cell(smooth, keep=keep, **common)[1] for keep in ((), (1,) * 3 + (0,) * 5, ((1,) * 8 + (1,) + (0,) * 7) * 2)]
    assert sizes[1] <= sizes[0] and sizes[2] <= sizes[0]
    mode, _, decoded = one_cell(smooth, keep=(1,) + (0,) * 7, **common)
    assert mode == DCTM and np.abs(decoded.reshape(4, 8, 64).mean(1) - smooth.reshape(4, 8, 64).mean(1)).max() < 3


def test_step_1_loses_nothing_whatever_may_be_chosen():
    for zero in (0, 77):
        levels = np.random.default_rng(1).integers(0, 256, (20, 35)).astype(np.uint8)
        assert np.array_equal(one_cell(levels, zero=zero, length=16)[2], levels)


@pytest.mark.parametrize(("rows", "columns", "channels"), [(56, 56, 32), (7, 7, 32), (4, 4, 128), (1, 1, 2048), (1, 9, 256), (100, 2, 128)])
def test_cells_hold_2048_values_where_they_can(rows, columns, channels):
    assert cell_channels(rows, columns) == channels


def test_boxes_cover_a_map_once():
    seen = np.zeros((70, 19, 21), int)
    for stripe in range(3):
        for box in boxes(seen.shape, stripe):
            seen[box] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("shape", [(64, 28, 28), (256, 7, 7), (40, 13, 17), (512, 4, 4), (4096,)])
@pytest.mark.parametrize("step", [1.0, 3.0, 9.0])
@pytest.mark.parametrize("signed", [False, True])
def test_never_half_a_percent_behind_the_plain_zero_bitmap(shape, step, signed):
    """Each cell may choose it: only headers can be lost."""
    x = feature_map(shape, signed=signed, seed=4)
    fitted = registry.build("zvc", {"step": step}).fit([x])
    scale = {k: getattr(fitted.config, k) for k in ("scale", "reciprocal", "zero_point")}
    cells = registry.build("dct_cm", {"step": step, **scale}).fit([x])
    assert len(cells.encode_payload(x)) <= 1.005 * len(fitted.encode_payload(x))


def test_modes_are_counted_from_the_bytes():
    x = feature_map((64, 20, 20))
    codec = registry.build("dct_cm", {"step": 5.0, "transform": "dct"}).fit([x])
    payload = codec.encode_payload(x)
    counts = _native.count_modes(np.frombuffer(payload, np.uint8), Reader(payload).index_nbytes)
    assert sum(counts) == 2 * 3 * 3 and counts[DCTM] > 0 and counts[ZVC] == 0


def test_centroids_beyond_all_measure_stay_in_32_bits():
    """Found by fuzzing: parameters of a stranger could lead the sum of a step and its shift out of 32 bits."""
    symbols = np.array([[3] * 6, [5] * 6, [9] * 6, [200] * 6], np.int32)
    large, beyond = (dct_levels(symbols, make_rules(0, step=100.0, dead_zone=0.5, centroid=(0, 0, 0), modes=MODES, length=4, dct_centroid=(c, c, c))) for c in (1e6, 1e300))
    assert (large == beyond).all()
    rules = make_rules(0, step=100.0, dead_zone=0.5, centroid=(0, 0, 0), modes=MODES, length=4)
    rules.shift[0, 0] = 2**31 - 1
    with pytest.raises(ValueError, match="32 bits"):
        native_cells(rules)
