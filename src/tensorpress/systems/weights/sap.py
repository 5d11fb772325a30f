"""Sparsity-informed adaptive pruning: the PQ index of the weights says how many of them can go in each round.

    given weights ─► train ─► I = 1 - d^(1/q - 1/p) |w|_p / |w|_q of what is left ─► prune at most gamma (1 - m / d), m the bound at I
          ▲                                                                                 │
          └──────────────────── rewind what is left to the given weights ◄──────────────────┘      until the density is reached

Rewinding is to the weights that were given: to an initialisation where the network is fresh, else to where it was trained to before.
Rounds run once for a problem: further calls only move the step of the grid, unless they ask for another density by more than `near`.

Diao et al.: Pruning deep neural networks from a sparsity perspective, ICLR 2023 (arXiv:2302.05601).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Form
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.pruning import density_at, largest, pq_index, pq_kept
from tensorpress.pytorch.retrain import Once, Schedule, held, retrain
from tensorpress.pytorch.settled import rounded
from tensorpress.pytorch.weight_problem import Problem

CARD = Card(
    id="sap",
    family="weights",
    title="rounds of pruning by the PQ index of the weights, survivors on a grid",
    paper="E. Diao et al., Pruning deep neural networks from a sparsity perspective, ICLR 2023, arXiv:2302.05601",
    claim="the PQ index falls, rises and falls again over rounds; pruning by it is ahead of lottery tickets and one-shot pruning in compression (MNIST, CIFAR-10)",
    measured="results/weights/systems.json",
    fidelity="published",
    makes="method",
    needs="labels",
    retrains=True,
    portability="a decoder sees integers and one float32 multiply",
)
SCOPES = ("neuron", "layer", "global")


@dataclass(frozen=True)
class Config:
    density: float = 0.0  # share of the weights that is kept; 0: what suits the bits
    value_bits: float = 4.5  # that a kept value is thought to take, where the density follows from the bits
    p: float = 0.5  # of the PQ index, below q
    q: float = 1.0  # of the PQ index
    eta: float = 0.0  # of the bound
    gamma: float = 1.0  # share of what the bound allows that is pruned
    beta: float = 0.9  # and the most of what is left, in one round
    scope: str = "global"  # what the index is taken of: each 'neuron' (row), each 'layer', or all: 'global'
    share: float = 0.0  # above 0: so much of what is left goes in each round, whatever the index: lottery tickets
    rounds: int = 8  # at the most
    reach: bool = True  # the last round prunes to the density even where the index would not
    rewind: bool = True  # to the given weights before each round; else training goes on
    epochs: float = 4.0  # of a round
    batch: int = 64  # inputs of a step
    rate: float = 0.01  # learning rate
    teacher: float = 0.0  # share of the loss that is the original network's outputs; 1 without labels
    near: float = 1.5  # ratio of densities within which a trained network serves again


def build(config: Config) -> Sap:
    if config.scope not in SCOPES or not (0 <= config.density <= 1 and 0 < config.p <= 1 and config.p < config.q):
        raise InputError(f"sap: scope is one of {', '.join(SCOPES)}, density 0 to 1, and 0 < p <= 1, p < q")
    if not (0 <= config.share < 1 and 0 < config.beta <= 1 and config.gamma > 0 and config.eta >= 0 and config.rounds >= 1 and config.near >= 1):
        raise InputError("sap: share is 0 to 1, beta above 0 and at most 1, gamma above 0, eta not negative, rounds and near at least 1")
    return Sap(config)


class Sap:
    def __init__(self, config: Config) -> None:
        self.config, self._once = config, Once[nn.Module]()

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        density = self.config.density or density_at(bits, self.config.value_bits)
        trained = self._once(problem, density, lambda: self.train(problem, density), self.config.near)
        return rounded(problem, trained, bits)

    def train(self, problem: Problem, density: float) -> nn.Module:
        """The network with a share `density` of its matrices' values, or more where the rounds do not suffice. Notes: index and density of each round."""
        config = self.config
        schedule = Schedule(config.epochs, config.batch, config.rate, teacher=config.teacher)
        masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in problem.matrices.items()}
        values, seen = sum(m.numel() for m in masks.values()), list[dict[str, float]]()
        network = retrain(problem, "sap", schedule, copy.deepcopy(problem.model))
        for number in range(config.rounds + 1):
            weights = {name: p.detach() for name, p in network.named_parameters() if name in masks}
            left = sum(int(m.sum()) for m in masks.values())
            every = torch.cat([w[masks[name]] for name, w in weights.items()]) if weights else torch.zeros(0)
            seen.append({"pq_index": pq_index(every, config.p, config.q), "density": left / max(values, 1)})
            spare = left - round(density * values)
            if number == config.rounds or spare <= 0:
                break
            fewer = self.pruned(weights, masks, spare, all_of_it=config.reach and number == config.rounds - 1)
            if sum(int(m.sum()) for m in fewer.values()) == left:
                break
            masks = fewer
            network = retrain(problem, "sap", schedule, copy.deepcopy(problem.model if config.rewind else network), [held(masks)])
        problem.notes["rounds"] = seen
        return network

    def pruned(self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], spare: int, all_of_it: bool = False) -> dict[str, Tensor]:
        """Masks without the smallest weights of each scope, `spare` of them at the most in all; or, whatever the index says, about as many."""
        config = self.config
        scopes: list[Tensor] = [w[masks[name]] for name, w in weights.items()]
        if config.scope == "global":
            scopes = [torch.cat(scopes)]
        elif config.scope == "neuron":
            scopes = [row[kept] for name, w in weights.items() for row, kept in zip(w.flatten(1), masks[name].flatten(1))]
        left = sum(values.numel() for values in scopes)
        counts = [round(spare * values.numel() / max(left, 1)) if all_of_it else self._dropped(values) for values in scopes]
        scale = min(1.0, spare / max(sum(counts), 1))
        kept = [largest(values, values.numel() - math.floor(count * scale)) for values, count in zip(scopes, counts)]
        flat = torch.cat(kept).split([int(masks[name].sum()) for name in weights]) if weights else ()  # type: ignore[no-untyped-call]
        found = {}
        for (name, weight), part in zip(weights.items(), flat):
            found[name] = torch.zeros_like(weight, dtype=torch.bool).masked_scatter(masks[name], part)
        return found

    def _dropped(self, values: Tensor) -> int:
        """How many of a scope's remaining values may go."""
        config, count = self.config, values.numel()
        if config.share:
            return math.floor(config.share * count)
        least = pq_kept(pq_index(values, config.p, config.q), count, config.p, config.q, config.eta)
        return math.floor(count * min(config.gamma * (1 - least / count), config.beta)) if count else 0
