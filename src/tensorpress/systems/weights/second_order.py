"""Second-order error feedback with the rate in the loop, in one pass over the network: the engine behind `weights.compress`.

    original  ──x'──► W x' ─────────────────────┐ mean and deviation of each channel
    compressed ─x──► H = E[x x^T] ► round W, column by column, errors fed back ► bias, BN statistics corrected ─► next layer
                     target W x', not W x: what the prefix has broken is repaired where it can be

Each layer is rounded when the pass reaches it, so it sees what the compressed prefix gives. Rounding minimises error + lambda x bits.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, ICLR 2023 (arXiv:2210.17323); Hassibi, Stork, Wolff: Optimal Brain Surgeon, 1993;
the correction of the prefix's errors after Li et al., GPTAQ, 2025 (arXiv:2504.02692); bias correction after Nagel et al., DFQ, ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tensorpress.blocks.forms import Form, Grid, Rounded, step_index, step_of
from tensorpress.core.binary import crc32c
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.feedback import Feedback, prices
from tensorpress.pytorch.lockstep import Layer, lockstep
from tensorpress.pytorch.moments import Moments, matrix, moments
from tensorpress.pytorch.weight_problem import Problem, common_step

CARD = Card(
    id="second_order",
    family="weights",
    title="second-order error feedback, rate in the loop, context-adaptive coding",
    paper="after Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323; coder after Wiedemann et al., DeepCABAC, 2020, arXiv:1907.11900",
    claim="",
    measured="results/weights/curves.json",
    fidelity="ours",
    makes="method",
    needs="inputs",
    portability="a decoder sees integers and one float32 multiply",
)


@dataclass(frozen=True)
class Config:
    trade: float = 0.1  # what a bit is worth in the loop, in squared errors of a step at average importance; 0: rounds to the nearest
    repair: float = 0.5  # how much of the prefix's errors a layer tries to undo, 0 to 1
    damping: float = 0.01  # added to the diagonal of H, as a share of its mean
    vector_bits: int = 5  # of mantissa, for biases, norms and statistics
    correct: bool = True  # means and deviations of channels, in biases and BN statistics


def build(config: Config) -> SecondOrder:
    return SecondOrder(config)


@dataclass(frozen=True)
class SecondOrder:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        inputs = problem.needed("second_order")
        matrices = problem.matrices
        step = common_step(list(matrices.values()), bits)
        visitor = Rounding(self.config, problem, dict.fromkeys(matrices, step))
        lockstep(problem.model, inputs, visitor)
        return visitor.forms


class Rounding:
    """A visitor that rounds each layer when it is reached. `steps`: by weight; those without one are left alone."""

    def __init__(self, config: Config, problem: Problem, steps: Mapping[str, float]) -> None:
        self.config, self.problem, self.steps = config, problem, steps
        self.forms: dict[str, Form] = {}
        self.generator = problem.generator()
        self.key = "" if problem.work is None else problem.key([asdict(config), {n: int(step_index(s)) for n, s in steps.items()}])

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
            form = Grid(
                self._kept(
                    name, lambda: self.levels(matrix(weight.double(), layer), found, step).reshape(weight.shape).numpy().astype("int64")
                ),
                index,
            )
        self.forms[name] = form
        state[name] = torch.from_numpy(form.values()).to(weight.dtype)

    def _kept(self, name: str, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """What an earlier run that was stopped has made of this layer, or what is made now."""
        work, key = self.problem.work, f"{self.key}-{crc32c(name.encode()):08x}"
        found = None if work is None else work.get(key)
        if found is None:
            found = make()
            if work is not None:
                work.put(key, found)
        return found

    def levels(self, weight: Tensor, found: Moments, step: Tensor) -> Tensor:
        """[groups, O, K] on the grid."""
        config, hessian = self.config, found.hessian.double()
        if not torch.isfinite(hessian).all():
            raise InputError("calibration inputs lead to values that are not finite")
        if config.repair > 0:
            mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp(min=1e-12)
            stiff = hessian + config.damping * mean * torch.eye(hessian.shape[-1], dtype=hessian.dtype)
            weight = weight + config.repair * torch.linalg.solve(stiff, (weight @ found.shift.double()).mT).mT
        feedback = Feedback(hessian, config.damping)
        levels = feedback.round(weight, step, config.trade)
        return (
            feedback.round(weight, step, config.trade, prices(levels)) if config.trade else levels
        )  # again, with the prices that came of it

    def leave(self, layer: Layer, before: Tensor, after: Tensor, state: dict[str, Tensor]) -> bool:
        changed = False
        if self.config.correct:
            changed = self._norm(layer, state) if layer.kind == "batch_norm" else self._bias(layer, before, after, state)
        for name in layer.tensors.values():  # vectors are rounded once they are what they should be
            if name in self.forms or name in self.steps or not state[name].is_floating_point():
                continue
            self.forms[name] = form = Rounded.nearest(state[name].detach().float().numpy(), self.config.vector_bits)
            state[name] = torch.from_numpy(form.values()).to(state[name].dtype)
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
