"""Visitors that make forms as the pass reaches each layer, and put right by vectors what they have broken: means and deviations of channels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tensorpress.blocks.forms import Form, Grid, Rounded, step_index, step_of
from tensorpress.core.binary import crc32c
from tensorpress.core.errors import InputError
from tensorpress.pytorch.feedback import Feedback, prices
from tensorpress.pytorch.lockstep import Layer, lockstep
from tensorpress.pytorch.moments import Moments, matrix, moments
from tensorpress.pytorch.weight_problem import Problem


class Settle:
    """Puts given forms in place of weights, and corrects and rounds what the network reads beside them, but for `held`. `forms` has all of them after the pass."""

    def __init__(self, wanted: Mapping[str, Form], held: Collection[str], *, vector_bits: int = 7, correct: bool = True) -> None:
        self.wanted, self.held, self.vector_bits, self.correct = wanted, held, vector_bits, correct
        self.forms: dict[str, Form] = {}

    def enter(self, layer: Layer, state: dict[str, Tensor]) -> None:
        name = layer.tensors.get("weight")
        if name is not None and name in self.wanted and name not in self.forms:
            self.put(name, self.wanted[name], state)

    def put(self, name: str, form: Form, state: dict[str, Tensor]) -> None:
        self.forms[name] = form
        state[name] = torch.from_numpy(form.values()).to(state[name].dtype)

    def leave(self, layer: Layer, before: Tensor, after: Tensor, state: dict[str, Tensor]) -> bool:
        changed = False
        if self.correct:
            changed = self._norm(layer, state) if layer.kind == "batch_norm" else self._bias(layer, before, after, state)
        for name in layer.tensors.values():  # vectors are rounded once they are what they should be
            if name in self.forms or name in self.held or not state[name].is_floating_point():
                continue
            self.put(name, Rounded.nearest(state[name].detach().float().numpy(), self.vector_bits), state)
            changed = True
        return changed

    def _bias(self, layer: Layer, before: Tensor, after: Tensor, state: dict[str, Tensor]) -> bool:
        """The mean of every output channel is what it was."""
        name = layer.tensors.get("bias")
        if name is None or name in self.forms or layer.kind in ("layer_norm", "group_norm"):
            return False
        axes = [0, *range(2, before.ndim)] if "conv" in layer.kind else list(range(before.ndim - 1))
        state[name] = state[name] + (before - after).double().mean(axes).to(state[name].dtype)
        return True

    def _norm(self, layer: Layer, state: dict[str, Tensor]) -> bool:
        """Mean and deviation of every channel that comes out are what they were: BN's statistics take the difference.

        They are not estimated anew: that would undo what training's augmentation did to them.
        """
        mean, variance = layer.tensors.get("running_mean"), layer.tensors.get("running_var")
        if mean is None or variance is None or mean in self.forms:
            return False
        axes = [0, *range(2, layer.before.ndim)]
        old, new = layer.before.double(), layer.after.double()
        eps = float(layer.options.get("eps", 1e-5))
        wide = torch.sqrt(old.var(axes, correction=0) / new.var(axes, correction=0).clamp(min=1e-12)).clamp(0.5, 2.0)
        kept = state[mean]
        state[mean] = (new.mean(axes) - (old.mean(axes) - kept.double()) / wide).to(kept.dtype)
        state[variance] = ((state[variance].double() + eps) / wide.square() - eps).clamp(min=0).to(kept.dtype)
        return True


def settle(problem: Problem, wanted: Mapping[str, Form], *, vector_bits: int = 7, correct: bool = True) -> dict[str, Form]:
    """`wanted` and the forms of all vectors that the network reads beside them, after one pass over the calibration inputs; weights that it never reads as they are."""
    if problem.inputs is None:
        return dict(wanted)
    visitor = Settle(wanted, {*wanted, *problem.matrices}, vector_bits=vector_bits, correct=correct)
    lockstep(problem.model, problem.inputs, visitor)
    return {**wanted, **visitor.forms}


@dataclass(frozen=True)
class Rule:
    """How `Round` rounds a layer."""

    trade: float = 0.1  # what a bit is worth in the loop, in squared errors of a step at average importance; 0: rounds to the nearest
    repair: float = 0.5  # how much of the prefix's errors a layer tries to undo, 0 to 1
    damping: float = 0.01  # added to the diagonal of H, as a share of its mean

    def levels(self, weight: Tensor, found: Moments, step: Tensor) -> Tensor:
        """[groups, O, K] on the grid of `step`."""
        hessian = found.hessian.double()
        if not torch.isfinite(hessian).all():
            raise InputError("calibration inputs lead to values that are not finite")
        if self.repair > 0:
            mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp(min=1e-12)
            stiff = hessian + self.damping * mean * torch.eye(hessian.shape[-1], dtype=hessian.dtype)
            weight = weight + self.repair * torch.linalg.solve(stiff, (weight @ found.shift.double()).mT).mT
        feedback = Feedback(hessian, self.damping)
        levels = feedback.round(weight, step, self.trade)
        return feedback.round(weight, step, self.trade, prices(levels)) if self.trade else levels  # again, with the prices that came of it


class Round(Settle):
    """Rounds each layer with error feedback when it is reached. `steps`: by weight; those without one are left alone."""

    def __init__(self, rule: Rule, problem: Problem, steps: Mapping[str, float], *, vector_bits: int = 7, correct: bool = True) -> None:
        super().__init__({}, steps.keys(), vector_bits=vector_bits, correct=correct)
        self.rule, self.problem, self.steps = rule, problem, steps
        self.generator = problem.generator()
        self.key = "" if problem.work is None else problem.key([asdict(rule), vector_bits, correct, {n: int(step_index(s)) for n, s in steps.items()}])

    def enter(self, layer: Layer, state: dict[str, Tensor]) -> None:
        name = layer.tensors.get("weight")
        if name is None or name in self.forms or name not in self.steps:
            return
        self.problem.progress(f"rounding {name}", sum(n in self.forms for n in self.steps), len(self.steps))
        weight = state[name].detach()
        if not torch.isfinite(weight).all():
            raise InputError(f"weight {name!r} holds NaN or infinity")
        index = step_index(self.steps[name])
        step = torch.tensor(float(step_of(index)), dtype=torch.float64)
        found = moments(layer, weight, self.generator)
        if found is None or found.samples == 0:
            form = Grid.nearest(weight.float().numpy(), float(step))
        else:
            form = Grid(self._kept(name, lambda: self.rule.levels(matrix(weight.double(), layer), found, step).reshape(weight.shape).numpy().astype("int64")), index)
        self.put(name, form, state)

    def _kept(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What an earlier run that was stopped has made of this layer, or what is made now."""
        work, key = self.problem.work, f"{self.key}-{crc32c(name.encode()):08x}"
        found = None if work is None else work.get(key)
        if found is None:
            found = make()
            if work is not None:
                work.put(key, found)
        return found
