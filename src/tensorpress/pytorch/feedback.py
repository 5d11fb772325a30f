"""Rounding with second-order error feedback, and the rate in the loop.

A layer's loss for a change D of its weights is tr(D H D^T), H = E[x x^T] over what it is fed. Weights are rounded column by column; each
error is spread over the columns that are still free, where H says that it hurts least (OBQ / GPTQ: Frantar et al., ICLR 2023).
Here each value goes to the point of the grid with the least error + lambda x bits (of the coder's own statistics), so zeros are
taken where they are cheap, and the columns behind repair it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tensorpress.core.errors import InputError

BLOCK = 64  # columns whose errors are gathered before they are spread
LEVELS = 16  # magnitudes with a price of their own


def prices(levels: Tensor) -> Tensor:
    """Bits of each magnitude 0 … 15 (and more) as an adaptive coder would come to charge them: order-0 entropy, and a bit for the sign."""
    counts = torch.bincount(levels.abs().clamp(max=LEVELS - 1).long().flatten(), minlength=LEVELS).double() + 0.5
    bits = -torch.log2(counts / counts.sum())
    bits[1:] += 1
    bits[-1] += 1
    return bits


class Feedback:
    """Where errors go: the columns' order, and the upper factor U of H^-1 = U^T U in that order, for `hessian` [groups, K, K].

    The diagonal is raised by `damping` of its mean, and by more where that does not do. InputError where nothing does.
    """

    def __init__(self, hessian: Tensor, damping: float = 0.01) -> None:
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        self.order = torch.argsort(diagonal.mean(0), descending=True)  # what matters most is rounded while most columns can still help
        self.back = torch.argsort(self.order)
        ordered = hessian[:, self.order][:, :, self.order]
        mean = diagonal.mean(-1)[:, None, None].clamp(min=1e-12)
        eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
        for _ in range(6):
            lower, info = torch.linalg.cholesky_ex(
                (ordered + damping * mean * eye).flip(-2, -1)
            )  # turned round, so that its factor is the upper one
            if not info.any():
                break
            damping *= 10
        else:
            raise InputError("a layer's inputs are so correlated, or so large, that their second-order statistics cannot be used")
        self.factor = torch.linalg.solve_triangular(lower.flip(-2, -1), eye.expand_as(ordered), upper=True)
        self.importance = (
            hessian.shape[-1] / self.factor.square().sum((-2, -1))[:, None]
        )  # of the average column: 1 / mean of H^-1's diagonal

    def round(self, weight: Tensor, step: Tensor, trade: float = 0.0, bits: Tensor | None = None) -> Tensor:
        """Levels (whole numbers, in the type of `weight`) of [groups, O, K] on a grid of `step`, [] or [groups, O].

        `trade`: what a bit is worth, in units of the squared error that a step makes in a weight of average importance; 0 rounds to the nearest.
        `bits`: of each magnitude; where None, those of the weights rounded to the nearest.
        """
        work = weight[..., self.order].clone()
        step = step.to(work.dtype)
        if trade > 0:
            bits = prices(torch.round(work / (step[..., None] if step.ndim else step))) if bits is None else bits
            price, scale = (trade * bits).to(work.dtype), step * step * self.importance
        levels, columns = torch.empty_like(work), work.shape[-1]
        for start in range(0, columns, BLOCK):
            end = min(start + BLOCK, columns)
            errors = torch.empty_like(work[..., start:end])
            for j in range(start, end):
                value, own = work[..., j], self.factor[:, j, j, None]
                exact = value / step
                level = torch.round(exact)
                if trade > 0:
                    level = _cheapest(level, exact, (step / own).square(), scale, price)
                levels[..., j] = level
                error = (value - level * step) / own
                errors[..., j - start] = error
                work[..., j + 1 : end] -= error[..., None] * self.factor[:, None, j, j + 1 : end]
            work[..., end:] -= errors @ self.factor[:, start:end, end:]
        return levels[..., self.back]


def _cheapest(nearest: Tensor, exact: Tensor, weight: Tensor, scale: Tensor, price: Tensor) -> Tensor:
    """The nearest level, its neighbour nearer zero, or zero: whichever has the least weight x error^2 + scale x price."""
    magnitude = nearest.abs()
    toward = (magnitude - 1).clamp(min=0)
    best, level = None, nearest
    for candidate in (magnitude, toward, torch.zeros_like(magnitude)):
        cost = weight * (exact.abs() - candidate).square() + scale * price[candidate.clamp(max=LEVELS - 1).long()]
        if best is None:
            best, level = cost, candidate
        else:
            level = torch.where(cost < best, candidate, level)
            best = torch.minimum(cost, best)
    return torch.copysign(level, exact)
