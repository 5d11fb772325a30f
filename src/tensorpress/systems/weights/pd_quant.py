"""PD-Quant: rounding learned block by block, so that the prediction of the whole network stays what it was.

    float     x' ─► block ─────► y' ─► rest of the network ─► z'      x' nudged until the block's norms see the statistics they were trained with
                                 │ squared error              │ KL
    rounded   x ─► soft rounding ► y ─► the same rest ──────► z       then hard rounding, and what it gives is fed to the next block

Up or down is learned for every weight (AdaRound) against the block's own output and against the prediction, which the rest makes in float.
Here the grid is one step for all layers, entropy coded; the paper's activations of 2 or 4 bits are left out: a file holds weights.

Liu, Niu, Yuan, Yang, Wu: PD-Quant: post-training quantization based on prediction difference metric, CVPR 2023 (arXiv:2212.07048).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.blocks.forms import Form, Grid
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.fit import Batch, adam, anneal, every, fit, penalty, total, weighted
from tensorpress.pytorch.parametrize import Rounding, attach, attached, forms
from tensorpress.pytorch.rounding import settle
from tensorpress.pytorch.units import Units
from tensorpress.pytorch.weight_problem import Problem, common_step

CARD = Card(
    id="pd_quant",
    family="weights",
    title="rounding learned by block against the network's prediction",
    paper="Liu, Niu, Yuan, Yang, Wu: PD-Quant, CVPR 2023, arXiv:2212.07048",
    claim="ImageNet, 1,024 calibration images, 20,000 iterations a block: ResNet-18 W2A2 53.1 % top-1 (float 71.0), W4A4 69.3 %, W2A4 65.1 %; RegNet-600MF W2A2 40.7 %",
    measured="results/weights/systems.json",
    fidelity="reconstruction",
    makes="method",
    needs="inputs",
    portability="a decoder sees integers and one float32 multiply",
)


@dataclass(frozen=True)
class Config:
    steps: int = 200  # of Adam, for each block (the paper takes 20,000 at 3e-3)
    batch: int = 16  # inputs of a step
    largest: int = 4  # matrices of a block, at the most
    lr: float = 0.05  # learning rate of the soft rounding (Adam)
    prediction: float = 5.0  # weight of the prediction's KL beside the block's squared error; 0: AdaRound
    temperature: float = 7.0  # of both predictions
    correction: bool = True  # nudge the float inputs of a block towards its norms' statistics
    nudge_steps: int = 10  # of the distribution correction, on the inputs
    nudge_lr: float = 1e-3  # learning rate of the distribution correction
    nudge_hold: float = 0.02  # what the squared distance from the real inputs costs beside the statistics' errors
    mix: float = 0.5  # share of a block's input values that are the float ones (QDrop)
    decide: float = 0.03  # weight of the regulariser that drives roundings to 0 or 1
    settled: bool = True  # means and deviations of channels are put right at the end, by biases and norms (ours)
    vector_bits: int = 7  # of mantissa, for biases, norms and statistics


def build(config: Config) -> PDQuant:
    if config.steps < 0 or config.batch < 1 or not config.temperature > 0 or not 0 <= config.mix <= 1:
        raise InputError("pd_quant: steps are 0 or more, batch is 1 or more, temperature is above 0 and mix is 0 to 1")
    return PDQuant(config)


class Mixed(nn.Module):
    def __init__(self, block: nn.Module, share: float, generator: torch.Generator) -> None:
        super().__init__()
        self.block, self.share, self.generator = block, share, generator

    def forward(self, x: Tensor, in_float: Tensor) -> Tensor:
        return self.block(torch.where(torch.rand(x.shape, generator=self.generator) < self.share, in_float, x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PDQuant:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        inputs, matrices, generator = problem.needed("pd_quant"), problem.matrices, problem.generator()
        step = common_step(list(matrices.values()), bits)
        units = Units(problem.model, inputs, matrices, self.config.largest)
        answers = F.log_softmax(units.outputs() / self.config.temperature, -1) if self.config.prediction else torch.empty(0)
        found: dict[str, Form] = {}
        for number, name in enumerate(units.names):
            problem.progress(f"rounding {name}", number, len(units.names))
            block = self.learned(units, number, {n.removeprefix(name + "."): w for n, w in matrices.items() if n.startswith(name + ".")}, step, answers, generator)
            found |= {f"{name}.{n}": form for n, form in forms(block).items()}
        for name in matrices.keys() - found.keys():  # what no block holds
            found[name] = Grid.nearest(matrices[name].float().numpy(), step)
        return settle(problem, {name: found[name] for name in matrices}, vector_bits=self.config.vector_bits, correct=self.config.settled)

    def learned(self, units: Units, number: int, weights: Mapping[str, Tensor], step: float, answers: Tensor, generator: torch.Generator) -> nn.Module:
        """The block with its roundings decided; what it gives is kept for those behind it."""
        config = self.config
        x, in_float = units.fed(number, in_float=False), units.fed(number, in_float=True)
        if config.correction:
            in_float = self.nudged(units.copy(number), in_float)
        wanted = units.through(number, in_float)
        block = attach(units.copy(number), {n: Rounding(w, step) for n, w in weights.items()})
        power = [20.0]

        def error(batch: Batch) -> Tensor:
            assert batch.labels is not None  # rows of the inputs
            return (batch.outputs - wanted[batch.labels]).square().sum(1).mean()

        def prediction(batch: Batch) -> Tensor:
            given = F.log_softmax(units.rest(number, batch.outputs, batch.labels) / config.temperature, -1)
            return F.kl_div(given.flatten(0, -2), answers[batch.labels].flatten(0, -2), log_target=True, reduction="batchmean")

        def undecided(network: nn.Module) -> Tensor:
            return torch.stack([p.undecided(power[0]) for p in attached(network).values() if isinstance(p, Rounding)]).sum()

        terms = [error, *([weighted(config.prediction, prediction)] if config.prediction else []), weighted(config.decide, penalty(undecided))]
        rows = torch.arange(len(x))
        cool = every(1, anneal(lambda p: power.__setitem__(0, p), 20.0, 2.0, config.steps // 5))
        data = Problem(block, (x, in_float), rows)
        fit(Mixed(block, config.mix, generator), data, total(*terms), events=[cool], steps=config.steps, batch=config.batch, lr=config.lr, optimizer=adam(), generator=generator, mode="eval")
        for parametrisation in attached(block).values():
            if isinstance(parametrisation, Rounding):
                parametrisation.harden()
        units.keep(units.through(number, x, block))
        return block

    def nudged(self, block: nn.Module, x: Tensor) -> Tensor:
        """Distribution correction: inputs near `x` whose means and variances, where the block has batch norms, are those that it was trained with."""
        norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
        if not norms or not self.config.nudge_steps:
            return x
        errors: list[Tensor] = []

        def compare(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
            axes = [0, *range(2, args[0].ndim)]
            errors.append((args[0].mean(axes) - norm.running_mean).square().mean() + (args[0].var(axes, correction=0) - norm.running_var).square().mean())

        handles = [norm.register_forward_pre_hook(compare) for norm in norms]
        moved = x.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([moved], self.config.nudge_lr)
        for _ in range(self.config.nudge_steps):
            errors.clear()
            block(moved)
            loss = torch.stack(errors).sum() + self.config.nudge_hold * (moved - x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for handle in handles:
            handle.remove()
        return moved.detach()
