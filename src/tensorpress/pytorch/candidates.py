"""What each weight may become: grids of rising steps, what each takes in bytes, what each alone does to the network's answers, and the choice of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tensorpress.blocks.forms import Form, Grid
from tensorpress.planning.allocate import Method, allocate
from tensorpress.planning.table import Table
from tensorpress.pytorch.curvature import answers, classifies, parts
from tensorpress.pytorch.weight_problem import Problem

RATIOS = tuple(2.0 ** (k / 2) for k in range(-6, 6))  # of a step to the root mean square of what it divides: 1/8 to 5.7, half-octaves


def spread(weight: Tensor, rows: bool = False) -> np.ndarray:
    """Root mean square of all values, [1], or of each row (axis 0) that is not all zero; others, and zero, have that of the tensor or 1."""
    squares = weight.detach().double().square()
    whole = float(squares.mean().sqrt()) or 1.0
    found = squares.flatten(1).mean(1).sqrt() if rows else squares.mean().sqrt()[None]
    return torch.where(found > 1e-6 * whole, found, whole).numpy()


def grids(weight: Tensor, ratios: Sequence[float] = RATIOS, rows: bool = False) -> list[Grid]:
    """The weight rounded to multiples of each ratio of its spread."""
    width, values = spread(weight, rows), weight.detach().float().cpu().numpy()
    return [Grid.nearest(values, ratio * width) for ratio in ratios]


def one_at_a_time(problem: Problem, forms: Mapping[str, Sequence[Form]], *, limit: int = 32, batch: int = 32) -> dict[str, list[float]]:
    """KL(network || network with this form in place of one weight) by name and form, mean over the first `limit` inputs (and tokens), in nats.

    Where outputs are no logits: half their mean squared change.
    """
    inputs, tensors = problem.needed("a table of measured losses"), problem.tensors
    found = {name: [0.0] * len(options) for name, options in forms.items()}
    rows = 0
    with torch.no_grad():
        for images, _ in parts(inputs, batch, limit):
            before = answers(problem.model, dict(tensors), images).double()
            rows += len(before)
            for number, (name, options) in enumerate(forms.items()):
                problem.progress(f"measuring {name}", number, len(forms))
                for i, form in enumerate(options):
                    value = torch.from_numpy(form.values()).to(tensors[name].dtype)
                    after = answers(problem.model, {**tensors, name: value}, images).double()
                    found[name][i] += divergence(before, after, classifies(before, len(images[0])))
    return {name: [max(x, 0.0) / rows for x in losses] for name, losses in found.items()}


def loss_of(problem: Problem, state: Mapping[str, Tensor], *, limit: int, batch: int = 32) -> float:
    """KL(network || network with `state`), mean over the first `limit` inputs (and tokens), in nats; where outputs are no logits half their mean squared change."""
    total, rows = 0.0, 0
    with torch.no_grad():
        for images, _ in parts(problem.needed("a measured loss"), batch, limit):
            before = answers(problem.model, problem.tensors, images).double()
            after = answers(problem.model, dict(state), images).double()
            total, rows = total + divergence(before, after, classifies(before, len(images[0]))), rows + len(before)
    return max(total, 0.0) / rows


def divergence(before: Tensor, after: Tensor, logits: bool) -> float:
    """Summed over rows."""
    if not logits:
        return float((before - after).square().sum()) / 2
    p, q = before.log_softmax(1), after.log_softmax(1)
    return float((p.exp() * (p - q)).sum())


def choose(losses: Sequence[Sequence[float]], forms: Sequence[Sequence[Form]], bits: float, method: Method = "auto") -> tuple[int, ...]:
    """The option of each weight that makes the least sum of losses within `bits` for each of all values, coded."""
    values = sum(int(np.prod(options[0].shape)) for options in forms)
    costs = [[8.0 * form.nbytes() for form in options] for options in forms]
    return allocate(Table(losses, costs), max_cost=bits * values, method=method).choice
