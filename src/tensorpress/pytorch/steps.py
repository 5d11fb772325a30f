"""One step for each weight: who gets how many bits.

    common     the same step everywhere: the least squared error of all weights; good where batch normalisation keeps layers alike
    relative   in units of each weight's root mean square: the same bits everywhere, whatever scales layers have
    sensitive  by gradients: step^2 ~ 1 / (E[(d outputs / dw)^2] x what error feedback leaves), so that each layer's last bit is worth the same to the outputs
    measured   by integer programming over what each weight alone, on grids of rising steps, does to the answers
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tensorpress.core.errors import InputError
from tensorpress.pytorch.candidates import RATIOS, choose, grids, one_at_a_time, spread
from tensorpress.pytorch.curvature import squares
from tensorpress.pytorch.feedback import Feedback
from tensorpress.pytorch.lockstep import Layer, lockstep
from tensorpress.pytorch.moments import moments
from tensorpress.pytorch.weight_problem import Problem, common_step

ALLOCATIONS = ("common", "relative", "sensitive", "measured")
EXAMPLES, MEASURED = 128, 8  # calibration inputs: whose gradients are taken; that each measured loss is the mean of
MARKS = sorted({*range(0, len(RATIOS), 3), len(RATIOS) - 1})  # grids that are measured; what lies between follows a straight line of logarithms
LEAST = 1e-6  # of the greatest: what a weight without any sensitivity is taken to have, in units of its size


def steps_of(problem: Problem, bits: float, allocation: str) -> dict[str, float]:
    """A step by name for each of `problem.matrices`: rounded to its multiples, they have about `bits` of entropy on average. InputError for an unknown `allocation`."""
    matrices = problem.matrices
    if allocation == "measured":
        return _measured(problem, bits)
    if allocation == "common":
        scales = dict.fromkeys(matrices, 1.0)
    elif allocation == "relative":
        scales = {n: float(spread(w)[0]) for n, w in matrices.items()}
    elif allocation == "sensitive":
        scales = {n: s**-0.5 for n, s in sensitivities(problem).items()}
    else:
        raise InputError(f"allocation {allocation!r} is none of {', '.join(ALLOCATIONS)}")
    step = common_step(list(matrices.values()), bits, list(scales.values()))
    return {n: step * s for n, s in scales.items()}


def sensitivities(problem: Problem) -> dict[str, float]:
    """What a squared rounding error of each matrix's values costs in squared error of the outputs, on average. Found once: it hangs on the network alone.

    The mean square of d outputs / dw, less what error feedback takes away: where inputs hang together, other columns make an error good.
    """
    if "sensitivities" not in problem.memory:
        matrices = problem.matrices
        found = squares(problem, list(matrices), of="outputs", limit=EXAMPLES)
        left = feedback_left(problem)
        sizes = {n: float(spread(w)[0]) ** 2 for n, w in matrices.items()}
        worth = {n: found[n] * left.get(n, 1.0) * size for n, size in sizes.items()}  # of an error in units of the weight's own size
        least = max(LEAST * max(worth.values(), default=0.0), 1e-30)
        problem.memory["sensitivities"] = {n: max(worth[n], least) / size for n, size in sizes.items()}
    return problem.memory["sensitivities"]  # type: ignore[no-any-return]


def feedback_left(problem: Problem, damping: float = 0.01) -> dict[str, float]:
    """The share of a rounding error's cost that error feedback leaves, by weight: the mean of 1 / U_jj^2, over the mean of H's diagonal. Near 1 where inputs do not hang together."""
    matrices, generator, found = problem.matrices, problem.generator(), {}

    class Look:
        def enter(self, layer: Layer, state: dict[str, Tensor]) -> None:
            name = layer.tensors.get("weight")
            if name not in matrices or name in found:
                return
            seen = moments(layer, matrices[name], generator)
            if seen is None or not seen.samples or not float(seen.hessian.diagonal(dim1=-2, dim2=-1).mean()) > 0:
                return
            own = Feedback(seen.hessian, damping).factor.diagonal(dim1=-2, dim2=-1)
            found[name] = min(float(own.square().reciprocal().mean() / seen.hessian.diagonal(dim1=-2, dim2=-1).mean()), 1.0)

        def leave(self, layer: Layer, before: Tensor, after: Tensor, state: dict[str, Tensor]) -> bool:
            return False

    inputs = problem.needed("second_order")
    few = inputs[:EXAMPLES] if isinstance(inputs, Tensor) else tuple(x[:EXAMPLES] for x in inputs)
    lockstep(problem.model, few, Look())
    return found


def _measured(problem: Problem, bits: float) -> dict[str, float]:
    matrices = problem.matrices
    if "measured" not in problem.memory:
        forms = {n: grids(w) for n, w in matrices.items()}
        losses = one_at_a_time(problem, {n: [options[at] for at in MARKS] for n, options in forms.items()}, limit=MEASURED)
        full = {n: np.exp(np.interp(range(len(RATIOS)), MARKS, np.log(np.maximum(row, 1e-12)))).tolist() for n, row in losses.items()}
        problem.memory["measured"] = forms, full
    forms, losses = problem.memory["measured"]
    choice = choose(list(losses.values()), list(forms.values()), bits)
    return {n: RATIOS[at] * float(spread(matrices[n])[0]) for n, at in zip(forms, choice)}
