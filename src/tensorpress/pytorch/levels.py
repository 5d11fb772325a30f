"""Codebooks of equally filled entries, for levels that are learned while every weight stays at its place."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tensorpress.pytorch.parametrize import CodebookWeights

MOST = 1 << 10  # entries


def shares(bits: float) -> list[float]:
    """What part of the weights each level holds, the lowest first: 2^bits equal parts, or, below log2 3 bits, three, of which the middle one holds more."""
    if bits >= math.log2(3):
        count = min(max(round(2**bits), 3), MOST)
        return [1 / count] * count
    low, high = 0.0, 1 / 3
    for _ in range(50):
        p = (low + high) / 2
        entropy = sum(-x * math.log2(x) for x in (p, p, 1 - 2 * p) if x > 0)
        low, high = (p, high) if entropy < bits else (low, p)
    return [low, 1 - 2 * low, low]


def equally_filled(weight: Tensor, bits: float) -> CodebookWeights:
    """`weight` by levels that hold equal shares of it (an entropy of `bits` each), each the mean of what it holds. Places are fixed, entries learn.

    An entry's gradient is the sum over its weights, divided by the square root of their number: as fast as a weight at a batch's noise.
    """
    values = weight.detach().float().flatten().numpy()
    parts = shares(bits)
    ends = np.rint(np.cumsum(parts) * values.size).astype(np.int64)
    place = np.empty(values.size, np.int64)
    place[np.argsort(values, kind="stable")] = np.searchsorted(ends, np.arange(values.size), side="right").clip(max=len(parts) - 1)
    count = np.bincount(place, minlength=len(parts))
    centres = np.bincount(place, values.astype(np.float64), len(parts)) / np.maximum(count, 1)
    found = CodebookWeights(weight, torch.from_numpy(np.where(count > 0, centres, np.maximum.accumulate(centres))).float())
    found.fixed = torch.from_numpy(place).reshape(weight.shape)
    found.latent.requires_grad_(False)
    root = torch.from_numpy(np.sqrt(np.maximum(count, 1))).float()
    found.books.register_hook(lambda gradient: gradient / root)  # type: ignore[no-untyped-call]
    return found
