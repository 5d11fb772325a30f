"""A sign and a scale: one bit a weight.

The gradient of the sign is that of the identity within a window (STE), or of sign(x) |x|^(1/power), which comes ever closer to the sign as
`power` rises: Wu et al., Estimator meets equilibrium perspective: a rectified straight through estimator, ICCV 2023 (arXiv:2308.06689).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Grid, step_index, step_of
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation, by_row, integers
from tensorpress.pytorch.parametrize.rate import STEP_BITS
from tensorpress.pytorch.parametrize.straight import straight

LINEAR, WINDOW = 0.1, 1.5  # in scales: below the one the gradient is constant, beyond the other there is none


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, power: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.power = power
        return signs(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        size, o = x.abs(), ctx.power
        slope = torch.where(size <= LINEAR, LINEAR ** (1 / o) / LINEAR, size.clamp(min=LINEAR).pow((1 - o) / o) / o)
        return grad * torch.where(size <= WINDOW, slope, 0.0), None


def signs(x: Tensor) -> Tensor:
    """+1 or -1; zero is +1."""
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


class Binary(Parametrisation):
    """The signs of `latent` times the mean of its magnitudes, of each row or of all. `power` 1 is the plain straight-through gradient; it may be moved while training."""

    def __init__(self, weight: Tensor, *, by_rows: bool = True, power: float = 1.0) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().clone().float())
        self.by_rows, self.power = by_rows, power

    def _mean(self) -> Tensor:
        return (self.latent.abs().reshape(len(self.latent), -1).mean(1) if self.by_rows else self.latent.abs().mean().reshape(1)).clamp(min=2.0**-99)

    def _index(self) -> np.ndarray:
        return step_index(self._mean().detach().cpu().numpy())

    def positions(self) -> Tensor:
        mean = by_row(self._mean(), self.latent)
        return _Sign.apply(self.latent / mean.detach(), self.power)  # type: ignore[no-any-return]

    def decoded(self) -> Tensor:
        scale = by_row(torch.from_numpy(step_of(self._index())).to(self.latent.device), self.latent)
        return straight(signs(self.latent) * scale, self.positions() * by_row(self._mean(), self.latent))

    def form(self) -> Grid:
        return Grid(integers(signs(self.latent.detach())), self._index())

    def bits(self) -> Tensor:
        return super().bits() + STEP_BITS * (len(self.latent) if self.by_rows else 1)
