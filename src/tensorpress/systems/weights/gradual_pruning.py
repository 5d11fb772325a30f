"""Gradual magnitude pruning: sparsity rises along a cubic while the network trains, so that it has time to make up for each loss.

    train step ─► every few steps: sparsity s(t) ─► mask of the largest weights ─► weights x mask ─► train step …
                                s(t) = s_f + (s_i - s_f)(1 - (t - t0) / n)^3     └─► last: survivors on a grid, with error feedback

Training runs once for a problem: further calls only move the step of the grid, unless they ask for another density by more than `near`.

Zhu and Gupta: To prune, or not to prune, 2017 (arXiv:1710.01878).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tensorpress.blocks.forms import Form
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.fit import Moment, at, every, gradual
from tensorpress.pytorch.pruning import by_magnitude, density_at
from tensorpress.pytorch.retrain import Once, Schedule, held, retrain
from tensorpress.pytorch.settled import rounded
from tensorpress.pytorch.weight_problem import Problem

CARD = Card(
    id="gradual_pruning",
    family="weights",
    title="gradual magnitude pruning on a cubic schedule, survivors on a grid",
    paper="M. Zhu, S. Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression, 2017, arXiv:1710.01878",
    claim="large sparse networks are better than small dense ones of the same number of nonzero weights (Inception V3, MobileNets on ImageNet; LSTMs)",
    measured="results/weights/systems.json",
    fidelity="published",
    makes="method",
    needs="labels",
    retrains=True,
    portability="a decoder sees integers and one float32 multiply",
)

LEAST_PRUNINGS = 8


@dataclass(frozen=True)
class Config:
    density: float = 0.0  # share of the weights that is kept; 0: what suits the bits
    value_bits: float = 4.5  # that a kept value is thought to take, where the density follows from the bits
    epochs: float = 8.0  # of the training
    batch: int = 64  # inputs of a step
    rate: float = 0.01  # learning rate
    teacher: float = 0.0  # share of the loss that is the original network's outputs; 1 without labels
    begin: float = 0.0  # part of the training before the first pruning
    end: float = 0.7  # and at which the last density is reached
    every: int = 8  # steps between prunings, fewer where training is short
    everywhere: bool = True  # the smallest weights of all layers together; else of each layer
    near: float = 1.5  # ratio of densities within which a trained network serves again


def build(config: Config) -> GradualPruning:
    if not (0 <= config.density <= 1 and 0 <= config.begin <= config.end <= 1 and config.every >= 1 and config.near >= 1 and config.value_bits > 0):
        raise InputError("gradual_pruning: density, begin and end are 0 to 1, begin not after end; every and near are 1 or more")
    return GradualPruning(config)


class GradualPruning:
    def __init__(self, config: Config) -> None:
        self.config, self._once = config, Once[nn.Module]()

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        config = self.config
        density = config.density or density_at(bits, config.value_bits)
        trained = self._once(problem, density, lambda: self.train(problem, density), config.near)
        weights = [p for name, p in trained.named_parameters() if name in problem.matrices]
        problem.notes["density"] = sum(int(w.count_nonzero()) for w in weights) / max(sum(w.numel() for w in weights), 1)
        return rounded(problem, trained, bits)

    def train(self, problem: Problem, density: float) -> nn.Module:
        """The network with a share `density` of its matrices' values, the rest 0."""
        config = self.config
        schedule = Schedule(config.epochs, config.batch, config.rate, teacher=config.teacher)
        steps = schedule.steps(problem, "gradual_pruning")
        first, last = int(config.begin * (steps - 1)), int(config.end * (steps - 1))
        sparsity, masks = gradual(0.0, 1 - density, first, last), dict[str, Tensor]()
        period = max(1, min(config.every, (last - first) // LEAST_PRUNINGS))

        def weights(moment: Moment) -> dict[str, Tensor]:
            return {name: p for name, p in moment.model.named_parameters() if name in problem.matrices}

        def choose(moment: Moment) -> None:
            share = 1 - density if last == first else sparsity(moment.number)
            masks.update(by_magnitude(weights(moment), 1 - share, config.everywhere))

        events = [every(period, choose, start=first, stop=last), at(last, choose), held(masks)]
        return retrain(problem, "gradual_pruning", schedule, copy.deepcopy(problem.model), events)
