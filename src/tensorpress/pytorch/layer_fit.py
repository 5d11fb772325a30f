"""A layer's quantised weight, its steps and its bias, moved by gradients until its outputs are those of the original layer. Rounding is passed straight through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorpress.blocks.forms import Grid, step_index, step_of
from tensorpress.pytorch.lockstep import LAYERS, Layer
from tensorpress.pytorch.rounding import Settle
from tensorpress.pytorch.weight_problem import Problem

RUN = {kind: function for function, kind in LAYERS.items() if kind == "linear" or kind.startswith("conv")}


@dataclass(frozen=True)
class Fit:
    """Learning rates are those of the first step; they fall to zero in a straight line."""

    steps: int = 100
    batch: int = 50
    rate_weight: float = 0.005  # in steps of the grid
    rate_step: float = 0.01  # of its logarithm
    rate_bias: float = 0.001  # in deviations of the output


def fitted(layer: Layer, weight: Tensor, bias: Tensor | None, start: Grid, target: Tensor, fit: Fit, generator: torch.Generator) -> tuple[Grid, Tensor | None]:
    """The grid, and the bias where there is one, after `fit.steps` of Adam on E|target - (Q(W + V) x + b)|^2; never worse on these inputs than `start`.

    Levels stay in the range that `start` has: a smaller step does not buy more levels.
    """
    run, options = RUN[layer.kind], {k: v for k, v in layer.options.items() if k != "bias"}
    tall = [1] * (weight.ndim - 1)
    reach = int(abs(start.levels).max()) if start.levels.size else 0
    if not reach:
        return start, bias
    step0 = torch.from_numpy(step_of(start.steps)).float().reshape(-1, *tall)
    move = torch.zeros_like(weight, dtype=torch.float32, requires_grad=True)  # V, in steps
    log_step = torch.zeros_like(step0, requires_grad=True)
    shift = None if bias is None else torch.zeros_like(bias, requires_grad=True)
    deviation = float(target.float().std()) or 1.0
    groups = [{"params": [move], "lr": fit.rate_weight}, {"params": [log_step], "lr": fit.rate_step}]
    groups += [] if shift is None else [{"params": [shift], "lr": fit.rate_bias}]
    optimizer = torch.optim.Adam(groups)

    def grid() -> Grid:
        index = step_index((step0 * log_step.exp()).detach().reshape(-1).numpy())
        step = torch.from_numpy(step_of(index)).reshape(-1, *tall)
        levels = ((weight + move * step0) / step).round().clamp(-reach, reach)
        return Grid(levels.detach().numpy().astype("int64"), index)

    def moved() -> Tensor | None:
        return None if bias is None or shift is None else (bias + shift * deviation).detach()

    def loss(values: Tensor, b: Tensor | None) -> float:
        with torch.no_grad():
            return sum(float((run(x, values, b, **options) - y).double().square().sum()) for x, y in zip(layer.after.split(64), target.split(64)))

    with torch.enable_grad():
        for number in range(fit.steps):
            for group, first in zip(optimizer.param_groups, (fit.rate_weight, fit.rate_step, fit.rate_bias)):
                group["lr"] = first * (1 - number / fit.steps)
            rows = torch.randperm(len(target), generator=generator)[: fit.batch]
            step = step0 * log_step.exp()
            exact = ((weight + move * step0) / step).clamp(-reach, reach)
            values = (exact + (exact.round() - exact).detach()) * step
            b = bias if bias is None or shift is None else bias + shift * deviation
            error = (run(layer.after[rows], values, b, **options) - target[rows]).square().mean() / deviation**2
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
    found, b = grid(), moved()
    before, after = loss(torch.from_numpy(start.values()), bias), loss(torch.from_numpy(found.values()), b)
    return (found, b) if after < before else (start, bias)


class LayerFit(Settle):
    """Starts from `grids`, fits each layer when the pass reaches it (not where `fit` is None), and settles what stands beside it."""

    def __init__(self, problem: Problem, grids: Mapping[str, Grid], fit: Fit | None, *, vector_bits: int = 7, correct: bool = True) -> None:
        super().__init__(grids, {*grids, *problem.matrices}, vector_bits=vector_bits, correct=correct)
        self.problem, self.grids, self.fit, self.original = problem, grids, fit, problem.tensors
        self.generator = problem.generator()

    def enter(self, layer: Layer, state: dict[str, Tensor]) -> None:
        name, bias = layer.tensors.get("weight"), layer.tensors.get("bias")
        if name is None or name not in self.grids or name in self.forms:
            return
        form = self.grids[name]
        if self.fit is not None and layer.kind in RUN:
            self.problem.progress(f"fitting {name}", sum(n in self.forms for n in self.grids), len(self.grids))
            run, options = RUN[layer.kind], {k: v for k, v in layer.options.items() if k != "bias"}
            own = None if bias is None or bias in self.forms else state[bias].float()
            b = None if bias is None else self.original[bias].float()
            target = torch.cat([run(x.float(), self.original[name].float(), b, **options) for x in layer.before.split(64)])
            form, moved = fitted(layer, self.original[name].float(), own, form, target, self.fit, self.generator)
            if bias is not None and moved is not None and bias not in self.forms:
                state[bias] = moved.to(state[bias].dtype)
        self.put(name, form, state)
