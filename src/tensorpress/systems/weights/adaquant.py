"""AdaQuant: each layer's weights, steps and bias are moved by Adam until its quantised outputs are the original ones; an integer program shares out the bits.

    one layer at a time through the nearest grid ─► KL of the answers, coded bytes ─► integer program ─► a step for each layer
    original ─x'─► W x' ───────────────────────────┐
    quantised ─x─► Q(W + V; step of each row) x + b ┴► squared error ─► Adam on V, log step, b (straight through Q) ─► next layer ─► BN statistics

The file's integers go through an adaptive coder, so the bits of a layer are a step, not a width: levels are cut at the range that the nearest grid has.
Activations stay as they are.

Hubara, Nahshan, Hanani, Banner, Soudry: Accurate Post Training Quantization with Small Calibration Sets, ICML 2021 (arXiv:2006.10518).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from tensorpress.blocks.forms import Form, Grid
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.candidates import RATIOS, choose, grids, one_at_a_time, spread
from tensorpress.pytorch.layer_fit import Fit, LayerFit
from tensorpress.pytorch.lockstep import lockstep
from tensorpress.pytorch.weight_problem import Problem, common_step

CARD = Card(
    id="adaquant",
    family="weights",
    title="layer-wise optimisation of quantised layers, integer programming of bits",
    paper="Hubara et al., Accurate Post Training Quantization with Small Calibration Sets, ICML 2021, arXiv:2006.10518",
    claim="ResNet-50 at 4 bits for weights and activations in all but two layers loses less than 1 % on ImageNet, from a small unlabelled calibration set",
    measured="results/weights/systems.json",
    fidelity="reconstruction",
    makes="method",
    needs="inputs",
    portability="a decoder sees integers and one float32 multiply",
)


@dataclass(frozen=True)
class Config:
    fit: bool = True  # AdaQuant; without it weights are rounded to the nearest
    program: bool = True  # bits by integer programming; without it every layer has the same step in units of its rows' root mean squares
    tune: bool = True  # means and deviations of channels, in BN statistics and biases that were not fitted
    solver: str = "auto"  # of planning.allocate: auto, lagrange, dp, milp
    measured: int = 32  # calibration inputs behind each measured loss
    steps: int = 100  # of Adam, a layer
    batch: int = 50  # inputs of a step
    rate_weight: float = 0.005  # learning rate of weights, in steps of the grid
    rate_step: float = 0.01  # learning rate of the steps' logarithms
    rate_bias: float = 0.001  # learning rate of biases, in deviations of the output


def build(config: Config) -> AdaQuant:
    if config.solver not in ("auto", "lagrange", "dp", "milp"):
        raise InputError(f"solver {config.solver!r} is none of auto, lagrange, dp, milp")
    if min(config.measured, config.steps, config.batch) < 1:
        raise InputError("measured, steps and batch are at least 1")
    return AdaQuant(config)


@dataclass(frozen=True)
class AdaQuant:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        inputs, config = problem.needed("adaquant"), self.config
        forms = self.shared(problem, bits) if config.program else self.same(problem, bits)
        fit = Fit(config.steps, config.batch, config.rate_weight, config.rate_step, config.rate_bias) if config.fit else None
        visitor = LayerFit(problem, forms, fit, correct=config.tune)
        lockstep(problem.model, inputs, visitor)
        return {**forms, **visitor.forms}

    def same(self, problem: Problem, bits: float) -> dict[str, Grid]:
        matrices = problem.matrices
        even = {n: w.double() / torch.from_numpy(spread(w, rows=True)).reshape(-1, *[1] * (w.ndim - 1)) for n, w in matrices.items()}
        ratio = common_step(list(even.values()), bits)
        return {n: grids(w, [ratio], rows=True)[0] for n, w in matrices.items()}

    def shared(self, problem: Problem, bits: float) -> dict[str, Grid]:
        """By the least sum of measured losses; the table is made once, with the grids of a half-octave each."""
        if self not in problem.memory:
            forms = {n: grids(w, RATIOS, rows=True) for n, w in problem.matrices.items()}
            problem.memory[self] = forms, one_at_a_time(problem, forms, limit=self.config.measured)
        forms, losses = problem.memory[self]
        choice = choose(list(losses.values()), list(forms.values()), bits, self.config.solver)  # type: ignore[arg-type]
        problem.notes["steps"] = {n: float(np.log2(RATIOS[at])) for n, at in zip(forms, choice)}
        return {n: options[at] for (n, options), at in zip(forms.items(), choice)}
