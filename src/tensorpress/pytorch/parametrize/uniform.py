"""Multiples of a step, one a tensor or one a row; the step may be learned.

Esser et al.: Learned step size quantization, ICLR 2020 (arXiv:1902.08153), the step's logarithm as in Jain et al., TQT, MLSys 2020 (arXiv:1903.08066).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Grid, step_of
from tensorpress.blocks.forms.grid import MAX_INDEX, OCTAVE
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation, by_row, integers
from tensorpress.pytorch.parametrize.rate import STEP_BITS
from tensorpress.pytorch.parametrize.straight import rounded, scaled, straight

Levels = tuple[int, int]  # the least and the greatest


class Uniform(Parametrisation):
    """`latent` rounded to multiples of `step` (a number, or one for each row), within `levels` where given. `learn`: the step has a gradient."""

    def __init__(self, weight: Tensor, step: float | Tensor, *, levels: Levels | None = None, learn: bool = False) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().clone().float())
        first = torch.as_tensor(step, dtype=torch.float32, device=weight.device).reshape(-1).clamp(min=2.0**-99)
        self.octaves = nn.Parameter(torch.log2(first), requires_grad=learn)
        self.levels = levels

    @classmethod
    def of_bits(cls, weight: Tensor, bits: int, *, by_rows: bool = False, learn: bool = False) -> Uniform:
        """2^bits levels around zero at the step of the least squared error; 1 bit is -1 and 0."""
        levels = (-(1 << bits - 1), (1 << bits - 1) - 1)
        return cls(weight, best_step(weight, levels, by_rows), levels=levels, learn=learn)

    @property
    def index(self) -> Tensor:
        return torch.round(self.octaves.detach() * OCTAVE).clamp(-MAX_INDEX, MAX_INDEX)

    def step(self) -> Tensor:
        """As the file has it, a vector of one or of one a row; with the gradient of 2^octaves, at a scale that suits the weights' own (LSQ, section 2.2)."""
        exact = torch.from_numpy(step_of(self.index.cpu().numpy())).to(self.octaves.device)
        if not self.octaves.requires_grad:
            return exact
        share = self.latent.numel() / self.octaves.numel() * (max(map(abs, self.levels)) if self.levels else 1)
        return straight(exact, torch.exp2(scaled(self.octaves, 1 / math.sqrt(share))))

    def positions(self) -> Tensor:
        found = self.latent / by_row(self.step(), self.latent)
        return found if self.levels is None else found.clamp(*self.levels)

    def decoded(self) -> Tensor:
        positions, step = self.positions(), by_row(self.step(), self.latent)
        levels = rounded(positions)
        return straight(levels * step.detach(), straight(levels, positions) * step)

    def form(self) -> Grid:
        return Grid(integers(self.positions()), self.index.cpu().numpy().astype("int32"))

    def bits(self) -> Tensor:
        return super().bits() + STEP_BITS * self.octaves.numel()


def best_step(weight: Tensor, levels: Levels, by_rows: bool = False) -> Tensor:
    """Steps of the least squared error, a vector of one or of one a row, out of those of a file."""
    table = weight.detach().float().reshape(weight.shape[0] if by_rows else 1, -1)
    top = table.abs().amax(1).clamp(min=2.0**-99)
    coarsest = torch.round(torch.log2(top / min(filter(None, map(abs, levels)))) * OCTAVE)
    best, least = coarsest, torch.full_like(top, math.inf)
    for finer in range(0, 4 * OCTAVE):
        index = (coarsest - finer).clamp(-MAX_INDEX, MAX_INDEX)
        step = torch.from_numpy(step_of(index.cpu().numpy())).to(table.device)[:, None]
        error = ((table / step).round().clamp(*levels) * step - table).square().sum(1)
        best, least = torch.where(error < least, index, best), torch.minimum(error, least)
    return torch.from_numpy(step_of(best.cpu().numpy())).to(table.device)
