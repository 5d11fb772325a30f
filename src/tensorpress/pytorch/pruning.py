"""Which weights are kept: the largest of all, and as many as bits or the sparsity of the weights themselves say."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tensorpress.core.errors import InputError


def largest(values: Tensor, kept: int) -> Tensor:
    """A mask, bool in the shape of `values`, of its `kept` entries of largest magnitude; of equal ones the first."""
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    order = torch.sort(values.detach().abs().reshape(-1), descending=True, stable=True).indices
    mask[order[: min(max(kept, 0), values.numel())]] = True
    return mask.reshape(values.shape)


def by_magnitude(weights: Mapping[str, Tensor], density: float, everywhere: bool = True) -> dict[str, Tensor]:
    """Masks that keep a share `density` of all `weights`: the largest `everywhere`, or of each tensor by itself."""
    if not 0 <= density <= 1:
        raise InputError(f"density is {density}: a share of the weights from 0 to 1")
    if not everywhere:
        return {name: largest(w, round(density * w.numel())) for name, w in weights.items()}
    if not weights:
        return {}
    every = torch.cat([w.detach().reshape(-1).float() for w in weights.values()])
    parts = largest(every, round(density * every.numel())).split([w.numel() for w in weights.values()])  # type: ignore[no-untyped-call]
    return {name: part.reshape(w.shape) for (name, w), part in zip(weights.items(), parts)}


def pq_index(values: Tensor, p: float = 0.5, q: float = 1.0) -> float:
    """Sparsity index 1 - d^(1/q - 1/p) |w|_p / |w|_q of d values: 0 where all are equal, 1 - d^(1/q - 1/p) for a single one.

    Diao et al., ICLR 2023 (arXiv:2302.05601), definition 1. 0 where all are 0.
    """
    if not 0 < p < q or p > 1:
        raise InputError(f"the PQ index needs 0 < p <= 1 and p < q, not p = {p} and q = {q}")
    x = values.detach().abs().double().reshape(-1)
    top = float(x.max()) if x.numel() else 0.0
    if top == 0.0:
        return 0.0
    x = x / top
    norm_p, norm_q = float((x**p).sum()) ** (1 / p), float((x**q).sum()) ** (1 / q)
    return float(1 - x.numel() ** (1 / q - 1 / p) * norm_p / norm_q)


def pq_kept(index: float, count: int, p: float = 0.5, q: float = 1.0, eta: float = 0.0) -> int:
    """The least number of `count` values that a vector of PQ index `index` needs (theorem 2 of the same), at the most `count`."""
    share = float((1 + eta) ** (-q / (q - p)) * max(1 - index, 0.0) ** (q * p / (q - p)))
    return min(max(math.ceil(count * share - 1e-9), 0), count)


def density_at(bits: float, value_bits: float, least: float = 1 / 256) -> float:
    """The share of weights to keep so that places (their entropy) and `value_bits` for each kept value take `bits` a weight."""

    def cost(d: float) -> float:
        places = 0.0 if d in (0.0, 1.0) else -d * math.log2(d) - (1 - d) * math.log2(1 - d)
        return places + d * value_bits

    low, high = least, 2**value_bits / (1 + 2**value_bits)  # the cost rises up to there
    if bits >= value_bits:
        return 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < bits else (low, middle)
    return (low + high) / 2
