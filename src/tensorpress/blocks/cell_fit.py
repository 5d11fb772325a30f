"""Fitting the cell codec to a layer: centroids, DCT length and keep-mask, judged by real bytes and squared error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks import dct
from tensorpress.blocks.cells import DCT_SHIFT, CellRules
from tensorpress.blocks.levels import TOP, LevelMap
from tensorpress.core.payload import STRIPE_ROWS, head_bytes, stripe_count

SAMPLE_VALUES = 1 << 17  # values of each map that a trial codes: enough for a choice between a handful of options
HEAD_U8 = np.dtype(np.uint8)

Rules = Callable[[Any, int], CellRules]
Native = Callable[[Any, int], _native.MapKernel]


def cost(levels: NDArray[np.uint8], native: _native.MapKernel, lagrangian: float) -> float:
    """Squared error + lagrangian * bits of coding (C, H, W) levels for real."""
    head = head_bytes(HEAD_U8, levels.shape)
    payload, *_ = native.encode(levels, 1.0, head, None, 1)  # as uint8 it takes levels as they are; the rules hold the zero point
    decoded = np.empty_like(levels)
    native.decode(payload, len(head), decoded, 1.0, 1)
    error = float(((levels.astype(np.int32) - decoded) ** 2).sum(dtype=np.int64))
    return error + lagrangian * 8.0 * (len(payload) - len(head) - 8 * stripe_count(levels.shape))


def excerpt(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whole stripes from the middle of a map, of at most SAMPLE_VALUES values (one stripe at least)."""
    channels, rows, columns = levels.shape
    take = max(SAMPLE_VALUES // max(channels * columns * STRIPE_ROWS, 1), 1) * STRIPE_ROWS
    start = max((rows - take) // 2 // STRIPE_ROWS * STRIPE_ROWS, 0)
    return np.ascontiguousarray(levels[:, start : start + take])


def mean_excess(magnitude: NDArray[Any], value: NDArray[Any], weight: NDArray[Any]) -> tuple[float, float, float]:
    """Mean of `value` where magnitude is 1, 2 and >= 3 (0 where there is none), rounded to 1/64."""
    classes = np.minimum(magnitude, 3).astype(np.int64).reshape(-1)
    total = np.bincount(classes, (value * weight).reshape(-1), 4)
    count = np.bincount(classes, np.broadcast_to(weight, value.shape).reshape(-1), 4)
    means = np.where(count > 0, total / np.maximum(count, 1), 0.0)
    one, two, more = (float(np.rint(64 * m) / 64) for m in means[1:])
    return one, two, more


def fit_centroid(maps: Sequence[LevelMap], rules: CellRules, step: float) -> tuple[float, float, float]:
    """How far, in levels, the mean of each magnitude lies from its multiple of the step."""
    counts = sum((np.bincount(m.levels.reshape(-1), minlength=TOP + 1) for m in maps), np.zeros(TOP + 1, np.int64))
    d = np.abs(np.arange(TOP + 1) - rules.zero)
    return mean_excess(rules.magnitude, d - rules.magnitude * step, counts)


def coefficients(maps: Sequence[NDArray[np.uint8]], zero: int, length: int) -> NDArray[np.int32]:
    """[length, n] integer DCT coefficients of all whole channel groups."""
    parts = []
    for levels in maps:
        whole = levels.shape[0] - levels.shape[0] % length
        d = levels[:whole].astype(np.int32).reshape(-1, length, levels.shape[1] * levels.shape[2]) - zero
        parts.append(np.einsum("kn,gna->kga", dct.matrix(length), d).reshape(length, -1))
    return np.concatenate(parts, 1)


def fit_transform(maps: Sequence[LevelMap], config: Any, rules_of: Rules, native_of: Native) -> dict[str, Any]:
    """The DCT length (0: none), keep-mask and DCT centroids with the least cost on excerpts of `maps`.

    `config` is a frozen dataclass with step, lengths, masks, transform, lagrangian; `rules_of(config, zero)` its rules, `native_of` its kernel.
    """
    zero = maps[0].zero
    samples = [excerpt(m.levels) for m in maps]
    lagrangian = config.lagrangian

    def total(candidate: Any) -> float:
        native = native_of(candidate, zero)
        return sum(cost(levels, native, lagrangian) for levels in samples)

    if config.length is not None:  # a length and a mask that were given, or learned, stay
        given = {"length": config.length, "keep": tuple(config.keep), "dct_centroid": (0.0, 0.0, 0.0)}
        if 0 < config.length <= samples[0].shape[0] and config.profile == "extended":
            given["dct_centroid"] = dct_centroid(*transformed(samples, replace(config, **given), rules_of, zero), config)
        return given
    best = {"length": 0, "keep": (), "dct_centroid": (0.0, 0.0, 0.0)}
    least = np.inf if config.transform == "dct" else total(replace(config, length=0))
    for length in config.lengths:
        if length > samples[0].shape[0]:
            continue
        found: dict[str, Any] = {"length": length, "keep": (), "dct_centroid": (0.0, 0.0, 0.0)}
        y, q = transformed(samples, replace(config, **found), rules_of, zero)
        if config.profile == "extended":
            found["dct_centroid"] = dct_centroid(y, q, config)
        price = total(replace(config, **found))
        if config.masks:
            keep = fit_mask(y, q, config)
            if not all(keep):
                masked = {**found, "keep": keep}
                masked_price = total(replace(config, **masked))
                if masked_price < price:
                    found, price = masked, masked_price
        if price < least:
            best, least = found, price
    return best


def transformed(samples: Sequence[NDArray[np.uint8]], config: Any, rules_of: Rules, zero: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """([length, n] orthonormal DCT coefficients in levels, their quantised magnitudes)."""
    rules = rules_of(config, zero)
    c = coefficients(samples, zero, config.length)
    q = ((np.abs(c).astype(np.uint64) * rules.forward[:, None] + np.uint64(rules.offset)) >> np.uint64(DCT_SHIFT)).astype(np.int64)
    return c / np.array(dct.norms(config.length))[:, None], q


def dct_centroid(y: NDArray[Any], q: NDArray[np.int64], config: Any) -> tuple[float, float, float]:
    return mean_excess(q, np.abs(y) - q * config.step, np.ones(1))


def fit_mask(y: NDArray[Any], q: NDArray[Any], config: Any) -> tuple[int, ...]:
    """Drop coefficient k where its energy costs less than its bits: one of bitmap each, 8 or the measured width a non-zero."""
    restored = q * config.step
    saved_error = (np.abs(y) ** 2 - (np.abs(y) - restored) ** 2).sum(1)
    width = 8.0 if config.profile == "paper" else np.log2(np.maximum(q.max(1), 1)) + 1
    bits = y.shape[1] + (q > 0).sum(1) * width
    keep = saved_error > config.lagrangian * bits
    keep[0] = True  # without its mean a group is better coded otherwise
    return tuple(int(k) for k in keep)
