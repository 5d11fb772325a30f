"""Up or down, learned: AdaRound's soft rounding, hard at the end.

    w = step (floor(w0 / step) + h(a)),  h = clip(1.2 sigmoid(a) - 0.1, 0, 1)

Nagel et al.: Up or down? Adaptive rounding for post-training quantization, ICML 2020 (arXiv:2004.10568).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.blocks.forms import Grid, step_index, step_of
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation, by_row, integers
from tensorpress.pytorch.parametrize.rate import STEP_BITS
from tensorpress.pytorch.parametrize.straight import rounded, straight
from tensorpress.pytorch.parametrize.uniform import Levels

WIDE, LOW = 1.2, -0.1  # of the sigmoid, so that 0 and 1 are reached


class Rounding(Parametrisation):
    """`choice` is learned, floor and step stay. While `soft`, `decoded` is in between levels, and only `form` is what a file holds; `harden` ends that."""

    below: Tensor
    index: Tensor

    def __init__(self, weight: Tensor, step: float | Tensor, *, levels: Levels | None = None) -> None:
        super().__init__()
        index = step_index(torch.as_tensor(step, dtype=torch.float64).reshape(-1).cpu().numpy())
        self.register_buffer("index", torch.from_numpy(index))
        self.levels, self.soft = levels, True
        exact = weight.detach().float() / by_row(self.step.to(weight.device), weight)
        below = torch.floor(exact)
        share = ((exact - below).clamp(0.01, 0.99) - LOW) / WIDE
        self.register_buffer("below", below)
        self.choice = nn.Parameter(torch.log(share / (1 - share)))  # h(choice) is what is above the floor: at first nothing is changed

    @property
    def step(self) -> Tensor:
        return torch.from_numpy(step_of(self.index.cpu().numpy())).to(self.index.device)

    def up(self) -> Tensor:
        """h, 0 to 1."""
        return (WIDE * torch.sigmoid(self.choice) + LOW).clamp(0, 1)

    def undecided(self, power: float) -> Tensor:
        """AdaRound's regulariser, a scalar: the sum of 1 - |2h - 1|^power, 0 where all is decided."""
        return (1 - (2 * self.up() - 1).abs().pow(power)).sum()

    def harden(self) -> None:
        self.soft = False

    def positions(self) -> Tensor:
        up = self.up()
        found = self.below + (up if self.soft else straight((up > 0.5).to(up.dtype), up))
        return found if self.levels is None else found.clamp(*self.levels)

    def _levels(self) -> Tensor:
        found = self.below + (self.up().detach() > 0.5)
        return found if self.levels is None else found.clamp(*self.levels)

    def decoded(self) -> Tensor:
        found, step = self.positions(), by_row(self.step, self.below)
        return found * step if self.soft else straight(rounded(found) * step, found * step)

    def symbols(self) -> dict[str, NDArray[np.int32]]:
        return {"levels": integers(self._levels())}

    def form(self) -> Grid:
        return Grid(integers(self._levels()), self.index.cpu().numpy())

    def bits(self) -> Tensor:
        return super().bits() + STEP_BITS * self.index.numel()
