"""N of every M weights, trained from the dense network with a straight-through gradient and a pull on what is dropped.

    W ─► mask: the n largest of every m along the input ─► W x mask ─► network
    dL/dW = dL/d(W x mask) + lambda (1 - mask) W          lambda = 0: the plain straight-through estimator

The mask is chosen anew at every step. The pull keeps dropped weights small, so that fewer of them come and go: `sad` in the problem's notes is the
number of mask entries that changed from step to step, summed over the training, for each weight.

Training runs once for a problem, whatever the bits: the pattern is fixed, and only the step of the grid moves.

Zhou et al.: Learning N:M fine-grained structured sparse neural networks from scratch, ICLR 2021 (arXiv:2102.04010).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tensorpress.blocks.forms import Form
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.fit import Moment, every
from tensorpress.pytorch.parametrize import Floats, Mask, attach, attached, n_of_m, remove
from tensorpress.pytorch.retrain import Once, Schedule, retrain, untied
from tensorpress.pytorch.settled import rounded
from tensorpress.pytorch.weight_problem import Problem

CARD = Card(
    id="nm_srste",
    family="weights",
    title="N:M sparsity, sparse-refined straight-through training, survivors on a grid",
    paper="A. Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, ICLR 2021, arXiv:2102.04010",
    claim="ResNet-50 on ImageNet from scratch: 2:4 77.0, 1:4 75.9 top-1 against 77.3 dense; the pull on dropped weights makes masks change less (SAD)",
    measured="results/weights/systems.json",
    fidelity="published",
    makes="method",
    needs="labels",
    retrains=True,
    portability="a decoder sees integers and one float32 multiply",
)
MANTISSA = 23  # of the weights while they are trained: all of it


@dataclass(frozen=True)
class Config:
    n: int = 2  # weights kept
    m: int = 4  # of so many neighbours along the input
    pull: float = 2e-4  # lambda, what a dropped weight's gradient gets of the weight itself; 0: plain straight-through
    fixed: bool = False  # the first mask stays and only what it keeps is trained: one-shot pruning and fine-tuning
    epochs: float = 8.0  # of the training
    batch: int = 64  # inputs of a step
    rate: float = 0.01  # learning rate
    decay: float = 5e-4  # of all weights
    teacher: float = 0.0  # share of the loss that is the original network's outputs; 1 without labels


def build(config: Config) -> NmSrste:
    if not (0 < config.n <= config.m <= 64 and config.pull >= 0):
        raise InputError(f"nm_srste: {config.n}:{config.m} with a pull of {config.pull}: n is 1 to m, m to 64, and pull is not negative")
    return NmSrste(config)


class NmSrste:
    def __init__(self, config: Config) -> None:
        self.config, self._once = config, Once[nn.Module]()

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        trained = self._once(problem, 1.0, lambda: self.train(problem))
        return rounded(problem, trained, bits)

    def train(self, problem: Problem) -> nn.Module:
        """The network with at most n of every m weights of its matrices, the rest 0. Notes: `sad`, and `density`."""
        config, network = self.config, copy.deepcopy(problem.model)
        schedule = Schedule(config.epochs, config.batch, config.rate, decay=config.decay, teacher=config.teacher)
        rule = n_of_m(config.n, config.m)
        moving = not config.fixed
        masks = {
            name: Mask(Floats(weight, MANTISSA), rule, live=moving, dense=moving, decay=config.pull if moving else 0.0) for name, weight in untied(problem).items()
        }
        attach(network, masks)
        before, changed = {name: mask.keep.clone() for name, mask in masks.items()}, [0]

        def compare(moment: Moment) -> None:
            for name, mask in masks.items():
                now = rule(_latent(mask)) if moving else mask.keep
                changed[0] += int((now ^ before[name]).sum())
                before[name] = now

        retrain(problem, "nm_srste", schedule, network, [every(1, compare)])
        if moving:
            for mask in attached(network).values():
                assert isinstance(mask, Mask)
                mask.refresh()  # after the last step
        values = sum(mask.keep.numel() for mask in masks.values())
        problem.notes["sad"] = changed[0] / max(values, 1)
        problem.notes["density"] = sum(int(mask.keep.sum()) for mask in masks.values()) / max(values, 1)
        return remove(network)


def _latent(mask: Mask) -> Tensor:
    assert isinstance(mask.inner, Floats)
    return mask.inner.latent.detach()
