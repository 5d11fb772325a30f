"""Floats with few bits of mantissa: a weight that no quantiser has taken, under a mask above all."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Rounded
from tensorpress.core.errors import InputError
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation
from tensorpress.pytorch.parametrize.straight import straight

EXPONENT_BITS = 3.0  # about what an exponent takes


class Floats(Parametrisation):
    """`latent` with `mantissa` bits of mantissa, rounded to the nearest."""

    def __init__(self, weight: Tensor, mantissa: int = 10) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().clone().float())
        self.mantissa = mantissa

    def form(self) -> Rounded:
        return Rounded.nearest(self.latent.detach().cpu().numpy(), self.mantissa)

    def decoded(self) -> Tensor:
        return straight(torch.from_numpy(np.asarray(self.form().values())).to(self.latent.device), self.latent)

    def positions(self) -> Tensor:
        raise InputError("floats are not integers of a coder: quantise them first")

    def symbols(self) -> dict[str, np.ndarray]:
        return {"code": self.form().code}

    def bits(self) -> Tensor:
        """Constant, but for a faint pull of magnitudes to zero: what a float costs hardly hangs on its value."""
        size = self.latent.abs()
        pull = torch.log2(1 + size / size.detach().mean().clamp(min=1e-30))
        return straight(torch.tensor(self.latent.numel() * (1 + EXPONENT_BITS + self.mantissa)).to(size), pull.sum() / math.log(2))
