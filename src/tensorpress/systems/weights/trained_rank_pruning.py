"""Trained rank pruning: every few steps weights are replaced by their truncated SVD, so that training itself makes them of low rank.

    train ─► every `period` steps: W = U S V, S less lambda x rate, cut at a share of its energy ─► train …
                                                                        └─► last: (U sqrt S)(sqrt S V), two grids

The subgradient of the nuclear norm, U V, is taken in the basis of each SVD, where it is a shift of all singular values towards zero.
A layer's rank is at most that at which it keeps a share of the energy, one share for all layers, so that the factors of the given network take the bits that
are asked for; it falls further where the norm leaves nothing. (The paper cuts at the same share each time: repeated, that takes all but the first rank of a layer
whose energy is spread.)

Training runs once for a problem: further calls only move the steps of the grids, unless they ask for another size by more than `near`.

Xu et al.: TRP: trained rank pruning for efficient deep neural networks, IJCAI 2020 (arXiv:2004.14566).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Factors, Form, Grid
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.fit import Moment, at, every
from tensorpress.pytorch.retrain import Once, Schedule, retrain
from tensorpress.pytorch.settled import settled
from tensorpress.pytorch.truncation import LAYOUTS, Split, common_energy, cost, equation, fold, unfold
from tensorpress.pytorch.weight_problem import Problem, entropy, solve

CARD = Card(
    id="trained_rank_pruning",
    family="weights",
    title="low rank by training: periodic truncated SVD and the nuclear norm, factors on grids",
    paper="Y. Xu et al., TRP: trained rank pruning for efficient deep neural networks, IJCAI 2020, arXiv:2004.14566",
    claim="ResNet-20 on CIFAR-10: 90.50 % at 2.17 times fewer operations (channel), 90.62 % at 2.84 times (spatial), of 91.74 %; no fine-tuning after the decomposition",
    measured="results/weights/systems.json",
    fidelity="published",
    makes="method",
    needs="labels",
    retrains=True,
    portability="a decoder sees integers, exact sums of their products and one multiply",
)

NEGLIGIBLE = 1e-4  # share of the energy that a cut may always take


@dataclass(frozen=True)
class Config:
    layout: str = "spatial"  # a kernel as [O w, I h], or 'channel': [O, I h w]
    share: float = 0.0  # of the numbers, that factors may take in the given network; 0: what suits the bits
    value_bits: float = 6.0  # that a number is thought to take, where the share follows from the bits
    nuclear: float = 3e-4  # lambda, of the nuclear norm
    period: int = 20  # steps between truncations, fewer where training is short; 0: only the last one
    epochs: float = 8.0  # of the training
    batch: int = 64  # inputs of a step
    rate: float = 0.01  # learning rate
    teacher: float = 0.0  # share of the loss that is the original network's outputs; 1 without labels
    near: float = 1.5  # ratio of shares within which a trained network serves again


def build(config: Config) -> TrainedRankPruning:
    if config.layout not in LAYOUTS or not (0 <= config.share <= 1 and config.value_bits > 0 and config.nuclear >= 0 and config.period >= 0 and config.near >= 1):
        raise InputError(f"trained_rank_pruning: layout is one of {', '.join(LAYOUTS)}, share 0 to 1, near at least 1; nothing is negative")
    return TrainedRankPruning(config)


class TrainedRankPruning:
    def __init__(self, config: Config) -> None:
        self.config, self._once = config, Once[nn.Module]()

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        share = self.config.share or min(bits / self.config.value_bits, 1.0)
        trained = self._once(problem, share, lambda: self.train(problem, share), self.config.near)
        weights = {name: p.detach() for name, p in trained.named_parameters() if name in problem.matrices}
        parts = {name: self.parts(weight) for name, weight in weights.items()}
        problem.notes["ranks"] = {name: len(p.s) for name, p in parts.items() if p is not None}
        values = sum(w.numel() for w in weights.values())

        def forms(step: float) -> dict[str, Form]:
            return {name: self.form(weight, parts[name], step) for name, weight in weights.items()}

        def measure(step: float) -> float:
            grids = [g for form in forms(step).values() for g in (form.factors if isinstance(form, Factors) else [form])]
            return sum(entropy(g.levels) for g in grids if isinstance(g, Grid)) / max(values, 1)

        top = max((float(w.abs().max()) for w in weights.values()), default=1.0) or 1.0
        return settled(problem, trained, forms(solve(measure, bits, top * 2.0**-12, 16 * top, 24)))

    def parts(self, weight: Tensor) -> Split | None:
        """The SVD of what is of low rank enough to be stored as factors."""
        matrix = unfold(weight, self.config.layout)
        split = Split.of(matrix)
        split = split.cut(max(1, int((split.s > 1e-5 * split.s[0]).sum())))
        return split if cost(matrix.shape, len(split.s)) < matrix.numel() else None

    def form(self, weight: Tensor, split: Split | None, step: float) -> Form:
        """Factors, at the step that adds as much noise to the weights as `step` would to themselves."""
        if split is None or not bool(split.s[0] > 0):
            return Grid.nearest(weight.float().numpy(), step)
        left, right = split.factors()
        fine = step / math.sqrt(float(split.s.sum()) * (1 / len(left) + 1 / right.shape[1]))
        text, shapes = equation(tuple(weight.shape), self.config.layout, len(split.s))
        grids = [_grid(side.reshape(shape), fine) for side, shape in zip((left, right), shapes)]
        return Factors(text, tuple(grids))

    def train(self, problem: Problem, share: float) -> nn.Module:
        """The network with matrices of low rank: at the start their factors have `share` of the numbers."""
        config = self.config
        schedule = Schedule(config.epochs, config.batch, config.rate, teacher=config.teacher)
        steps = schedule.steps(problem, "trained_rank_pruning")
        splits = {name: Split.of(unfold(w, config.layout)) for name, w in problem.matrices.items()}
        energy = common_energy(list(splits.values()), share)
        most = {name: split.rank(energy) for name, split in splits.items()}
        period = max(1, min(config.period, steps // 4))

        @torch.no_grad()
        def cut(moment: Moment) -> None:
            rate = float(moment.optimizer.param_groups[0]["lr"]) if moment.number else 0.0  # the first step's is not set yet
            for name, p in moment.model.named_parameters():
                if name in problem.matrices:
                    split = Split.of(unfold(p, config.layout))
                    rank = min(most[name], split.rank(1 - NEGLIGIBLE))
                    if cost(unfold(p, config.layout).shape, rank) < p.numel():
                        p.copy_(fold(split.cut(rank).shrunk(rate * period * config.nuclear).matrix(), tuple(p.shape), config.layout).to(p.dtype))

        events = ([every(period, cut, stop=steps)] if config.period else []) + [at(steps, cut)]
        return retrain(problem, "trained_rank_pruning", schedule, copy.deepcopy(problem.model), events)


def _grid(side: Tensor, step: float) -> Grid:
    """Levels small enough that sums of products are exact."""
    return Grid.nearest(np.asarray(side.float()), max(step, float(side.abs().max()) / 2**15))
