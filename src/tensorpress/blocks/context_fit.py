"""Fitting the context codec to a layer: predictors by least squares, classes, tables and centroids by counting.

What is counted is what the encoder really chooses, so tables and choices are made in turn, twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.context_model import (
    BINS,
    FAST_BINS,
    FAST_LIMIT,
    POSITIONS,
    SPATIAL,
    TABLE_BITS,
    Alphabet,
    Bins,
    ContextModel,
    steps_of,
)
from tensorpress.coding.tables import Tables
from tensorpress.core.payload import STRIPE_ROWS
from tensorpress.core.threads import threads

Array = NDArray[Any]
Floats = NDArray[np.float32]
WEIGHT = 64  # of a weight of 1
FIT_POSITIONS = 3072  # pixels that a predictor is fitted on
RIDGE = 2.0  # squared root units
CLASSES = 32
PSEUDO = 8.0  # observations of the layer's own distribution added to every context's
COUNTED_VALUES = 1_250_000  # values that classes, tables and centroids are counted on: whole stripes, evenly spread
BLOCK = 32  # channels that a cell surely holds together
PLACES = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))  # of the spatial neighbours: (row, column)
AROUND = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


@dataclass(frozen=True)
class Wanted:
    """What a layer's model is asked for."""

    cells: bool
    lossless: bool
    earlier: int  # channels that a prediction reads
    low: int
    high: int
    base: float
    exponents: NDArray[np.int8]
    lagrangian: float
    rounding: float
    centroids: bool = True
    neighbours: bool = True
    classes: int = 0


def bordered(t: NDArray[np.int16], cells: bool) -> Floats:
    """(C, H, W) roots with the zeros that the coder sees at the borders of stripes, or of cells: (C, stripes, 8 + 3, columns + 4) boxes."""
    channels, rows, columns = t.shape
    width = 8 if cells else columns
    down, across = -(-rows // STRIPE_ROWS), -(-columns // width)
    padded = np.zeros((channels, down * STRIPE_ROWS, across * width), np.float32)
    padded[:, :rows, :columns] = t
    boxes = padded.reshape(channels, down, STRIPE_ROWS, across, width).transpose(0, 1, 3, 2, 4).reshape(channels, down * across, STRIPE_ROWS, width)
    return np.pad(boxes, ((0, 0), (0, 0), (2, 1), (2, 2)))


def positions(shape: tuple[int, int], cells: bool, count: int, random: np.random.Generator) -> tuple[Array, Array, Array]:
    """(box, row, column) in `bordered` of `count` of the map's pixels (all, where it has fewer)."""
    rows, columns = shape
    every = np.arange(rows * columns) if count >= rows * columns else np.sort(random.choice(rows * columns, count, replace=False))
    y, x = every // columns, every % columns
    width = 8 if cells else columns
    across = -(-columns // width)
    return y // STRIPE_ROWS * across + x // width, y % STRIPE_ROWS + 2, x % width + 2


def chosen_channels(t: NDArray[np.float32], count: int, cells: bool) -> NDArray[np.int16]:
    """[channels, count] the channels before each that correlate with it most; -1 where there is none. t: (channels, samples)."""
    channels = len(t)
    found = np.full((channels, count), -1, np.int16)
    if not count:
        return found
    centred = t - t.mean(1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    block = BLOCK if cells else channels
    for start in range(0, channels, block):
        stop = min(start + block, channels)
        with np.errstate(all="ignore"):  # matrix kernels of some libraries for ARM raise flags on finite values
            likeness = np.abs(centred[start:stop] @ centred[start:stop].T)
        likeness[np.triu_indices(stop - start)] = -1
        take = min(count, stop - start)
        best = np.argpartition(-likeness, take - 1, axis=1)[:, :take] if take < stop - start else np.argsort(-likeness, axis=1, kind="stable")
        score = np.take_along_axis(likeness, best, 1)
        best = np.take_along_axis(best, np.argsort(-score, axis=1, kind="stable"), 1)
        score = np.take_along_axis(likeness, best, 1)
        found[start:stop, :take] = np.where(score > 0, best + start, -1)
    return found


def fit_predictors(
    roots: Sequence[NDArray[np.int16]], before: Sequence[NDArray[np.int16]] | None, earlier: int, cells: bool, neighbours: bool, top: int, heaviest: int
) -> tuple[NDArray[np.int16], NDArray[np.int8], NDArray[np.int16]]:
    """(channel, weights, bias) of every channel: ridge regression of its roots on what the decoder knows."""
    channels = roots[0].shape[0]
    random = np.random.default_rng(0)
    per_map = max(FIT_POSITIONS // len(roots), 16)
    boxes = [bordered(t, cells) for t in roots]
    at = [positions(t.shape[1:], cells, per_map, random) for t in roots]
    others = [bordered(t, cells) for t in before] if before is not None else []

    def gather(maps: Sequence[Floats], which: Any, place: tuple[int, int]) -> Floats:
        return np.concatenate([m[which][:, b, y + place[0], x + place[1]] for m, (b, y, x) in zip(maps, at)], axis=1)

    channel = chosen_channels(gather(boxes, slice(None), (0, 0)), earlier, cells)
    names = SPATIAL + (POSITIONS + earlier - 1 if earlier else 0) + (POSITIONS if before is not None else 0)
    weights, bias = np.zeros((channels, names), np.int8), np.zeros(channels, np.int16)
    for start in range(0, channels, 64):
        some = slice(start, min(start + 64, channels))
        columns = [gather(boxes, some, p) * np.float32(neighbours) for p in PLACES]
        for k in range(earlier):
            of = channel[some, k]
            known = (of >= 0)[:, None].astype(np.float32)
            columns += [gather(boxes, np.maximum(of, 0), p) * known for p in (AROUND if k == 0 else AROUND[:1])]
        if before is not None:
            columns += [gather(others, some, p) for p in AROUND]
        a = np.stack(columns, -1)
        y = gather(boxes, some, (0, 0))
        mean_a, mean_y = a.mean(1, keepdims=True), y.mean(1, keepdims=True)
        a -= mean_a
        gram = a.transpose(0, 2, 1) @ a + np.eye(names, dtype=np.float32) * np.float32(RIDGE * 256)
        w = np.linalg.solve(gram.astype(np.float64), (a.transpose(0, 2, 1) @ (y - mean_y)[..., None]).astype(np.float64))[..., 0]
        fixed = np.clip(np.rint(w * WEIGHT), -127, 127)
        if cells:  # room for the bias as well
            fixed = np.clip(fixed, -heaviest, heaviest)
            fixed = np.trunc(fixed * np.minimum(1, 0.75 * FAST_LIMIT / top / np.maximum(np.abs(fixed).sum(1, keepdims=True), 1)))
        weights[some] = fixed
        limit = FAST_LIMIT - top * np.abs(fixed).sum(1) if cells else 32767
        bias[some] = np.clip(np.rint(WEIGHT * mean_y[:, 0] - (fixed * mean_a[:, 0]).sum(1)), -limit, limit)
    return channel, weights, bias


def fit_bins(p: NDArray[np.int32], classes: int, grid: int = BINS) -> Bins:
    """Classes half by equal mass, half by equal width, on a grid that holds nearly all of `p`."""
    some = p.reshape(-1)[:: max(1, p.size // 400_000)].astype(np.int64)
    low, high = (int(v) for v in np.quantile(some, (0.002, 0.9995), method="nearest"))
    shift = max(int(max(high - low, 1) // grid).bit_length(), 0)
    mass = np.quantile(some, np.arange(1, classes) / classes, method="nearest")
    width = low + (high - low) * np.arange(1, classes) / classes
    edges = np.clip(np.rint(((mass + width) / 2 - low) / (1 << shift)), 1, grid - 1).astype(int)
    return Bins(low, shift, tuple(sorted(edges.tolist())))


def counts_of(rows: Array, tokens: Array, contexts: int, alphabet: int) -> NDArray[np.float64]:
    return np.bincount(rows.reshape(-1) * alphabet + tokens.reshape(-1), minlength=contexts * alphabet).reshape(contexts, alphabet).astype(np.float64)


def smoothed(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row's distribution, drawn towards that of all rows."""
    whole = counts.sum(0) + 0.02
    rows = counts + PSEUDO * whole / whole.sum()
    return np.asarray(rows / rows.sum(1, keepdims=True))


def fit_model(samples: Sequence[Floats], before: Sequence[Floats] | None, wanted: Wanted) -> ContextModel:
    """The model of a layer from sample maps (C, H, W) float32, and references of the same shapes."""
    alphabet = Alphabet(wanted.low, wanted.high)
    _step, reciprocal = steps_of(wanted.base, wanted.exponents)
    linear = wanted.low > 0
    root = alphabet.roots(linear, True)

    def whole(x: Floats, offset: float) -> Array:
        with np.errstate(over="ignore"):  # what lies beyond float32 is clamped like any other
            scaled = x * reciprocal[:, None, None]
        q = np.rint(scaled) if offset == 0.5 else np.copysign(np.floor(np.abs(scaled) + np.float32(offset)), scaled)
        return np.clip(q, -wanted.low, wanted.high).astype(np.int16)

    offset = wanted.rounding if wanted.lossless or wanted.lagrangian <= 0 else 0.38
    q0 = [whole(x, offset) for x in samples]
    references = [root[whole(x, 0.5) + wanted.low] for x in before] if before is not None else None
    roots = [root[q + wanted.low] for q in q0]
    channel, weights, bias = fit_predictors(roots, references, wanted.earlier, True, wanted.neighbours, int(np.abs(root).max()), 64 if linear else 127)
    classes, tokens = wanted.classes or CLASSES, alphabet.tokens
    flat = np.full((1, tokens), 1.0 / tokens)
    model = ContextModel(
        linear, before is not None, wanted.low, wanted.high, wanted.base, wanted.exponents, channel, weights, bias, Bins(0, 0, ()), frequencies_of(flat),
        np.zeros((1, 4), np.int8),
    )  # fmt: skip
    samples, before = thinned(samples, before)
    rounds = 1 if wanted.lossless or wanted.lagrangian <= 0 else 3
    for number in range(rounds):
        lagrangian = wanted.lagrangian if number else 0.0
        rounding = wanted.rounding if rounds == 1 else 0.38
        q, spatial, cross = traced(model, samples, before, lagrangian, rounding)
        p = spatial + cross
        if number == 0:
            bins = fit_bins(p, classes, FAST_BINS)
        token = alphabet.arrays["token"].astype(np.int64)[q + wanted.low]
        row = bins.of(p)
        counts = counts_of(row, token, classes, tokens)
        centroid = np.zeros((classes, 4), np.int8)
        if wanted.centroids and not wanted.lossless:
            centroid = fit_centroid(samples, q, row, classes, reciprocal, wanted)
        model = replace(model, bins=bins, centroid=centroid, frequencies=frequencies_of(smoothed(counts)))
    return model


def thinned(samples: Sequence[Floats], before: Sequence[Floats] | None) -> tuple[list[Floats], list[Floats] | None]:
    """Stripes of the samples, which the coder sees alone as well: all, or as many as are counted."""
    every = [(i, y) for i, x in enumerate(samples) for y in range(0, x.shape[1], STRIPE_ROWS)]
    total = sum(x.size for x in samples)
    count = max(min(len(every), round(len(every) * COUNTED_VALUES / total)), 1)
    some = [every[round(k * (len(every) - 1) / max(count - 1, 1))] for k in range(count)]

    def cut(maps: Sequence[Floats]) -> list[Floats]:
        return [np.ascontiguousarray(maps[i][:, y : y + STRIPE_ROWS]) for i, y in some]

    return cut(samples), None if before is None else cut(before)


def frequencies_of(p: NDArray[np.float64]) -> NDArray[np.uint16]:
    return (Tables.from_density(p, bits=TABLE_BITS).frequencies - 1).astype(np.uint16)


def traced(
    model: ContextModel, samples: Sequence[Floats], before: Sequence[Floats] | None, lagrangian: float, rounding: float
) -> tuple[NDArray[np.int16], NDArray[np.int32], NDArray[np.int32]]:
    """(q, spatial part, cross part) of every value of every sample, flat, in order."""
    total = sum(x.size for x in samples)
    q, spatial, cross = np.empty(total, np.int16), np.empty(total, np.int32), np.empty(total, np.int32)
    at = 0
    for i, x in enumerate(samples):
        here = slice(at, at + x.size)
        parts = [v[here].reshape(x.shape) for v in (q, spatial, cross)]
        model.native.trace(x, None if before is None else before[i], lagrangian, rounding, *parts, threads())
        at += x.size
    return q, spatial, cross


def fit_centroid(
    samples: Sequence[Floats], q: NDArray[np.int16], row: Array, classes: int, reciprocal: NDArray[np.float32], wanted: Wanted
) -> NDArray[np.int8]:
    """[classes, 4] how far, in 1/128 step, the mean of magnitude 0, 1, 2 and above lies from its multiple of the step."""
    scaled = np.concatenate([(x * reciprocal[:, None, None]).reshape(-1) for x in samples])
    magnitude = np.minimum(np.abs(q), 3).astype(np.int64)
    excess = np.where(q < 0, -1, 1) * (scaled - q)
    excess[(np.abs(q) > 3) & (np.abs(excess) > 1)] = 0  # clipped values say nothing
    key = row.reshape(-1) * 4 + magnitude
    count = np.bincount(key, minlength=4 * classes).reshape(classes, 4)
    total = np.bincount(key, excess, minlength=4 * classes).reshape(classes, 4)
    if wanted.low:  # zeros of both signs are zero
        total[:, 0] = 0
    everywhere = total.sum(0) / np.maximum(count.sum(0), 1)
    mean = (total + 16 * everywhere) / (count + 16)
    return np.clip(np.rint(128 * mean), -63, 63).astype(np.int8)
