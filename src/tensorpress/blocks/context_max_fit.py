"""Fitting the context codec's back-end `max`: predictors, classes, each class's intervals and rows, counted on what the encoder chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.context_fit import Wanted, counts_of, fit_bins, fit_centroid, fit_predictors, thinned
from tensorpress.blocks.context_max_model import (
    EDGES,
    GRID,
    NEAR,
    OTHER,
    ROWS,
    SYMBOLS,
    MaxModel,
    weight_of,
    whole_stripes,
)
from tensorpress.blocks.context_model import Alphabet, steps_of
from tensorpress.core.payload import STRIPE_ROWS, stripe_count
from tensorpress.core.threads import threads

Array = NDArray[Any]
Floats = NDArray[np.float32]
CLASSES = 24
PART_VALUES = 1 << 15  # of a stripe that is worth two parts
PSEUDO = 20.0  # observations of its class that a row starts with
FLOOR = 0.05  # observations of a symbol that a class starts with


def fit_max_model(samples: Sequence[Floats], before: Sequence[Floats] | None, wanted: Wanted) -> MaxModel:
    """The model of a layer from sample maps (C, H, W) float32, and references of the same shapes."""
    _step, reciprocal = steps_of(wanted.base, wanted.exponents)
    linear = wanted.low > 0
    root = Alphabet(wanted.low, wanted.high).roots(linear, False)
    plain = wanted.lossless or wanted.lagrangian <= 0

    def whole(x: Floats, offset: float) -> Array:
        with np.errstate(over="ignore"):  # what lies beyond float32 is clamped like any other
            scaled = x * reciprocal[:, None, None]
        q = np.rint(scaled) if offset == 0.5 else np.copysign(np.floor(np.abs(scaled) + np.float32(offset)), scaled)
        return np.clip(q, -wanted.low, wanted.high).astype(np.int16)

    roots = [root[whole(x, wanted.rounding if plain else 0.38) + wanted.low] for x in samples]
    references = [root[whole(x, 0.5) + wanted.low] for x in before] if before is not None else None
    parts = 2 if max(x.shape[0] * min(x.shape[1], STRIPE_ROWS) * x.shape[2] for x in samples) >= PART_VALUES else 1
    channel, weights, bias = fit_predictors(roots, references, wanted.earlier, False, wanted.neighbours, 0, 127)
    mean = np.mean([np.abs(t).mean((1, 2)) for t in roots], axis=0)
    group = np.searchsorted(np.quantile(mean, np.arange(1, NEAR) / NEAR), mean).astype(np.uint8)
    samples, before = thinned(samples, before)
    model = MaxModel(
        linear, before is not None, wanted.low, wanted.high, parts, wanted.base, wanted.exponents, channel, weights, bias, group,
        fit_bins(np.zeros(1, np.int32), 1), np.full((1, EDGES), GRID, np.uint8), np.full((1, SYMBOLS), 4, np.uint8),
        np.zeros((1, 1 + 2 * ROWS, SYMBOLS), np.uint8), np.zeros((1, 4), np.int8),
    )  # fmt: skip
    for number in range(1 if plain else 3):
        q, p = traced(model, samples, before, wanted.lagrangian if number else 0.0, wanted.rounding if plain else 0.38)
        if number == 0:
            model = replace(model, bins=fit_bins(p, wanted.classes or CLASSES))
        classes, of = model.classes, model.bins.of(p)
        centroid = np.zeros((classes, 4), np.int8)
        if wanted.centroids and not wanted.lossless:
            centroid = fit_centroid(samples, q, of, classes, reciprocal, wanted)
        model = replace(model, centroid=centroid, bits=intervals(counts_of(of, q + wanted.low, classes, wanted.low + wanted.high + 1)))
        west, north, texture = surroundings(samples, root[q + wanted.low])
        w, n, texture = model.grid.place(west), model.grid.place(north), model.grid.texture(texture)
        model = replace(model, edges=np.concatenate([edges_of(of, w, classes, NEAR), edges_of(of, texture, classes, OTHER), edges_of(of, n, classes, OTHER)], 1))
        w_of, t_of, n_of = model.lookups
        symbol = model.symbol[of, q + wanted.low].astype(np.int64)
        groups = np.concatenate([np.repeat(group, x[0].size) for x in samples]).astype(np.int64)
        first = (of * NEAR + w_of[of, w]) * OTHER + t_of[of, texture]
        second = (of * NEAR + groups) * OTHER + n_of[of, n]
        by_class = counts_of(of, symbol, classes, SYMBOLS) + FLOOR
        by_class /= by_class.sum(1, keepdims=True)
        rows = [counts_of(r, symbol, classes * ROWS, SYMBOLS).reshape(classes, ROWS, SYMBOLS) for r in (first, second)]
        model = replace(model, codes=codes_of(np.concatenate([by_class[:, None]] + [r + PSEUDO * by_class[:, None] for r in rows], axis=1)))
    return model


def traced(model: MaxModel, samples: Sequence[Floats], before: Sequence[Floats] | None, lagrangian: float, rounding: float) -> tuple[Array, Array]:
    """(q, prediction) of every value of every sample, flat, in order."""
    total = sum(x.size for x in samples)
    q, p = np.empty(total, np.int16), np.empty(total, np.int32)
    at = 0
    for i, x in enumerate(samples):
        here = slice(at, at + x.size)
        whole = whole_stripes(stripe_count(x.shape))
        model.native.trace(x, None if before is None else before[i], whole, lagrangian, rounding, q[here].reshape(x.shape), p[here].reshape(x.shape), threads())
        at += x.size
    return q, p


def intervals(counts: Array) -> NDArray[np.uint8]:
    """[classes, symbols] bits: the cut of each class's values into runs of 2^bits that costs least, each run's values being equally dear.

    counts: [classes, values]. Least cost by dynamic programming over (symbols used, values covered).
    """
    classes, values = counts.shape
    whole = counts.sum(0) + 0.02
    mass = np.pad(np.cumsum(counts + 0.02 + 4 * whole / whole.sum(), axis=1), ((0, 0), (1, 0)))
    cost = np.full((classes, SYMBOLS + 1, values + 1), np.inf)
    came = np.zeros((classes, SYMBOLS + 1, values + 1), np.uint8)
    cost[:, 0, 0] = 0
    prices = []
    for bits in range(9):
        stop = np.minimum(np.arange(values) + (1 << bits), values)
        n = mass[:, stop] - mass[:, :values]
        prices.append(n * (np.log2(mass[:, -1:] / n) + bits))
    begin = np.zeros((classes, SYMBOLS + 1, values + 1), np.int64)
    for used in range(SYMBOLS):
        for bits in range(9):
            reach = 1 << bits
            found = cost[:, used, :values] + prices[bits]
            inner = max(values - reach + 1, 0)  # runs from these begin and end within the values
            if inner:
                to = slice(reach, values + 1)
                better = found[:, :inner] < cost[:, used + 1, to]
                cost[:, used + 1, to] = np.where(better, found[:, :inner], cost[:, used + 1, to])
                came[:, used + 1, to] = np.where(better, bits, came[:, used + 1, to])
                begin[:, used + 1, to] = np.where(better, np.arange(inner), begin[:, used + 1, to])
            if inner < values:  # the last run may reach beyond them
                last = found[:, inner:].argmin(1) + inner
                least = np.take_along_axis(found, last[:, None], 1)[:, 0]
                better = least < cost[:, used + 1, values]
                cost[better, used + 1, values] = least[better]
                came[better, used + 1, values], begin[better, used + 1, values] = bits, last[better]
    out = np.zeros((classes, SYMBOLS), np.uint8)
    for k in range(classes):
        used, end = int(cost[k, :, values].argmin()), values
        while used:
            out[k, used - 1] = came[k, used, end]
            end = int(begin[k, used, end])
            used -= 1
    return out


def surroundings(samples: Sequence[Floats], roots: Array) -> tuple[Array, Array, Array]:
    """(W, N, texture) of every value, flat; zero beyond a stripe's border."""
    found: list[tuple[Array, Array, Array]] = []
    at = 0
    for x in samples:
        t = roots[at : at + x.size].reshape(x.shape).astype(np.int32)
        at += x.size
        padded = np.pad(t, ((0, 0), (0, 0), (1, 1)))
        above = np.zeros_like(padded)
        above[:, 1:] = padded[:, :-1]
        above[:, ::STRIPE_ROWS] = 0
        w, nw, n, ne = padded[:, :, :-2], above[:, :, :-2], above[:, :, 1:-1], above[:, :, 2:]
        found.append((w.reshape(-1), n.reshape(-1), (np.abs(w - nw) + np.abs(n - nw) + np.abs(n - ne)).reshape(-1)))
    w, n, texture = (np.concatenate(part) for part in zip(*found, strict=True))
    return w, n, texture


def edges_of(of: Array, place: Array, classes: int, rows: int) -> NDArray[np.uint8]:
    """[classes, rows - 1] places, 0 to 64, that cut each class's values into `rows` of about equal number."""
    below = np.cumsum(counts_of(of, place, classes, GRID), axis=1)
    wanted = below[:, -1:] * np.arange(1, rows) / rows
    return np.stack([np.searchsorted(b, w, side="right") for b, w in zip(below, wanted)]).astype(np.uint8)


def codes_of(rows: Array) -> NDArray[np.uint8]:
    """The code of every symbol: its share of its row's largest, rounded to eight codes an octave."""
    table = weight_of(np.arange(128))
    share = rows / rows.max(-1, keepdims=True) * table[-1]
    return np.searchsorted((table[1:] + table[:-1]) / 2, share).astype(np.uint8)
