"""Quantised distillation: a network on few levels learns from the outputs of one in floats. Two ways, by `mode`.

    qd   W ─► nearest multiple of the step ─► network ─► (1 - a) CE + a T^2 KL(teacher || network) ─► gradient straight through to W
    dq   W ─► place among the levels, fixed ─► levels learned: dL/dp = sum of dL/dw over the weights at p

The teacher is the original network, or another one given to `QuantizedDistillation`: then the network that is compressed is the student.
Training runs once for a problem at its first bits; a further call goes on from there with its own step for a `polish` of the training (qd). In dq the levels
are trained anew where their number has changed, which at 2 bits it rarely does.

Polino, Pascanu, Alistarh: Model compression via distillation and quantization, ICLR 2018 (arXiv:1802.05668). Here scales are of a tensor or a row, the paper's of
256 weights; biases and norms stay in floats and are trained in both modes.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Form, Grid
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.fit import Batch
from tensorpress.pytorch.levels import equally_filled
from tensorpress.pytorch.parametrize import Uniform, attach, attached, forms, remove
from tensorpress.pytorch.retrain import Once, Schedule, objective, rest, retrain, untied
from tensorpress.pytorch.weight_problem import Problem, common_step

CARD = Card(
    id="quantized_distillation",
    family="weights",
    title="quantised training with a teacher: uniform levels (qd), or learned ones (dq)",
    paper="A. Polino, R. Pascanu, D. Alistarh, Model compression via distillation and quantization, ICLR 2018, arXiv:1802.05668",
    claim="quantised shallow students reach nearly the accuracy of full-precision teachers, an order of magnitude smaller (CIFAR-10, CIFAR-100, ImageNet)",
    measured="results/weights/systems.json",
    fidelity="published",
    makes="method",
    needs="labels",
    retrains=True,
    portability="a decoder sees integers and float16 levels, or one float32 multiply",
)
SENSED = 256  # inputs, for the gradients by which dq shares out bits


@dataclass(frozen=True)
class Config:
    mode: str = "qd"  # 'qd': uniform levels and trained weights; 'dq': fixed places and trained levels
    by_rows: bool = False  # qd: a scale for each row, not for each tensor
    redistribute: bool = False  # dq: up to one bit more or less for a tensor, by the norm of its gradient; needs labels
    teacher: float = 0.5  # share of the loss that is the teacher's outputs; 1 without labels
    temperature: float = 4.0  # of the teacher's softmax
    epochs: float = 8.0  # of the training
    polish: float = 0.25  # of the epochs, at each further call
    batch: int = 64  # inputs of a step
    rate: float = 0.01  # learning rate
    near: float = 1.5  # ratio of bits within which a trained network serves again


def build(config: Config) -> QuantizedDistillation:
    if config.mode not in ("qd", "dq") or not (0 < config.polish <= 1 and config.near >= 1):
        raise InputError(f"quantized_distillation: mode is 'qd' or 'dq', not {config.mode!r}; polish is above 0 and at most 1, near at least 1")
    return QuantizedDistillation(config)


@dataclass(frozen=True)
class Trained:
    forms: Mapping[str, Form]
    network: nn.Module  # with plain weights, those of the forms
    latent: Mapping[str, Tensor]  # the weights from which levels are made


class QuantizedDistillation:
    def __init__(self, config: Config, teacher: nn.Module | None = None) -> None:
        self.config, self.teacher, self._once = config, teacher, Once[Trained]()
        self.schedule = Schedule(config.epochs, config.batch, config.rate, teacher=config.teacher, temperature=config.temperature)

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        self.schedule.steps(problem, "quantized_distillation")
        if self.config.mode == "dq":
            trained = self._once(problem, float(max(round(2**bits), 3)) if bits > math.log2(3) else bits, lambda: self.learn_levels(problem, bits))
            return self._finished(problem, trained, bits)
        latent = self._once(problem, bits, lambda: self.learn_weights(problem, problem.model, bits, 1.0), self.config.near)
        start = copy.deepcopy(latent.network)
        for name, weight in latent.latent.items():
            start.get_parameter(name).data.copy_(weight)
        return self._finished(problem, self.learn_weights(problem, start, bits, self.config.polish), bits)

    def learn_weights(self, problem: Problem, start: nn.Module, bits: float, share: float) -> Trained:
        """qd: `start` with weights on a grid of about `bits`, after a share of the epochs."""
        network, own = copy.deepcopy(start), dict(start.named_parameters())
        scales = {name: self._scale(own[name].detach()) for name in untied(problem)}
        step = common_step([own[name].detach() / by for name, by in scales.items()], bits)
        attach(network, {name: Uniform(own[name].detach(), (by * step).flatten()) for name, by in scales.items()})
        return self._train(problem, network, share)

    def learn_levels(self, problem: Problem, bits: float) -> Trained:
        """dq: the given weights by places among equally filled levels, which are trained."""
        network, shares = copy.deepcopy(problem.model), self._shares(problem, bits)
        attach(network, {name: equally_filled(weight, shares[name]) for name, weight in untied(problem).items()})
        return self._train(problem, network, 1.0)

    def _train(self, problem: Problem, network: nn.Module, share: float) -> Trained:
        schedule = dataclasses.replace(self.schedule, epochs=self.schedule.epochs * share)
        retrain(problem, "quantized_distillation", schedule, network, teacher=self.teacher)
        latent = {name: p.latent.detach() for name, p in attached(network).items() if isinstance(p, Uniform)}
        return Trained(forms(network), remove(network), latent)

    def _finished(self, problem: Problem, trained: Trained, bits: float) -> dict[str, Form]:
        """With forms of tied weights, which have no levels of their own while they are trained, and of vectors."""
        tied = {name: p.detach() for name, p in trained.network.named_parameters() if name in problem.matrices and name not in trained.forms}
        step = common_step(list(tied.values()), bits)
        return rest(problem, trained.network, {**trained.forms, **{name: Grid.nearest(w.float().numpy(), step) for name, w in tied.items()}})

    def _scale(self, weight: Tensor) -> Tensor:
        """Root mean squares of a tensor or of its rows, so that it can be divided by them."""
        axes = tuple(range(1 if self.config.by_rows else 0, weight.ndim))
        mean = weight.float().square().mean(axes, keepdim=True).sqrt()
        return mean.clamp(min=max(1e-12, 0.01 * float(weight.float().square().mean().sqrt())))

    def _shares(self, problem: Problem, bits: float) -> dict[str, float]:
        """Bits of each tensor: all the same, or by the logarithm of its gradient's root mean square, the mean over weights unchanged."""
        names = list(untied(problem))
        if not self.config.redistribute or problem.labels is None:
            return dict.fromkeys(names, bits)
        given = problem.needed("quantized_distillation")
        inputs = tuple(x[:SENSED] for x in ((given,) if isinstance(given, Tensor) else given))
        network = copy.deepcopy(problem.model).requires_grad_(True)
        with torch.enable_grad():
            loss = objective(problem, self.schedule, self.teacher)
            loss(Batch(network, inputs, problem.labels[:SENSED], network(*inputs), 0, 1)).backward()  # type: ignore[no-untyped-call]
        gradients = [network.get_parameter(name).grad for name in names]
        sizes = np.array([1e-30 if g is None else float(g.square().mean().sqrt()) + 1e-30 for g in gradients])
        counts = np.array([problem.matrices[name].numel() for name in names])
        more = np.log2(sizes) - np.average(np.log2(sizes), weights=counts)
        return {name: max(bits + float(m), 0.05) for name, m in zip(names, np.clip(more, -1, 1))}
