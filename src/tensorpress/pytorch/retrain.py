"""Training that starts from the given network and ends in forms: on labels, or on what the network itself says where there are none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Form, Plain, Rounded
from tensorpress.core.errors import InputError
from tensorpress.pytorch.fit import (
    Batch,
    Event,
    Moment,
    Term,
    cosine,
    cross_entropy,
    distillation,
    every,
    fit,
    reconstruction,
    sgd,
    total,
    weighted,
)
from tensorpress.pytorch.lockstep import tensors_of
from tensorpress.pytorch.state import array_of
from tensorpress.pytorch.weight_problem import Problem

VECTOR_BITS, SMALL_MATRIX_BITS = 7, 10  # of mantissa, of tensors that were trained and that no system takes

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `epochs` over the inputs, the rate falling to 0 along a cosine."""

    epochs: float = 8.0
    batch: int = 64
    rate: float = 0.01
    momentum: float = 0.9
    decay: float = 0.0  # of weights, each step, times the rate
    teacher: float = 0.0  # share of the loss that is the teacher's outputs; 1 without labels
    temperature: float = 4.0  # of both networks' outputs where they are compared

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and self.batch >= 1 and 0 < self.rate < 100 and 0 <= self.momentum < 1 and 0 <= self.teacher <= 1 and self.temperature > 0):
            raise InputError(f"training with {self}: epochs, batch, rate and temperature are above 0, momentum and teacher 0 to 1")

    def steps(self, problem: Problem, system: str) -> int:
        """For the problem's inputs. InputError without any."""
        given = problem.needed(system)
        return max(1, math.ceil(self.epochs * math.ceil(len(given if isinstance(given, Tensor) else given[0]) / self.batch)))


def taught(teacher: nn.Module, temperature: float) -> Term:
    """What the teacher says: softened where outputs are rows of logits, [n, classes] or [n, tokens, classes]; else their squared error."""
    soft, plain = distillation(teacher, temperature), reconstruction(teacher)

    def term(batch: Batch) -> Tensor:
        return soft(batch) if batch.outputs.ndim in (2, 3) and batch.outputs.shape[-1] > 1 else plain(batch)

    return term


def objective(problem: Problem, schedule: Schedule, teacher: nn.Module | None = None) -> Term:
    """The loss: on labels, on what the teacher (the problem's network where there is none) says, or both."""
    share = 1.0 if problem.labels is None else schedule.teacher
    terms = [weighted(1 - share, cross_entropy())] if share < 1 else []
    terms += [weighted(share, taught((teacher or problem.model).eval(), schedule.temperature))] if share > 0 else []
    return total(*terms)


def held(masks: Mapping[str, Tensor]) -> Event:
    """Weights, by name, are 0 where their mask of the moment is, before each step and after the last."""

    @torch.no_grad()
    def act(moment: Moment) -> None:
        for name, mask in masks.items():
            moment.model.get_parameter(name).mul_(mask)

    return every(1, act)


def retrain(problem: Problem, system: str, schedule: Schedule, network: nn.Module, events: Sequence[Event] = (), teacher: nn.Module | None = None) -> nn.Module:
    """`network`, trained in place on the problem's labels, its `teacher` (the problem's network where there is none), or both; in eval mode.

    InputError where there are no inputs or the network does not run on them, or where the loss is no longer finite.
    """
    steps = schedule.steps(problem, system)
    for p in network.parameters():
        p.requires_grad_(p.is_floating_point())
    try:
        loss, optimizer = objective(problem, schedule, teacher), sgd(schedule.momentum, schedule.decay)
        fit(network, problem, loss, events=events, steps=steps, batch=schedule.batch, lr=cosine(schedule.rate), optimizer=optimizer)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{system} cannot train on these inputs: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
    return network.requires_grad_(False).eval()


def untied(problem: Problem) -> dict[str, Tensor]:
    """The problem's matrices that stand in one place of the network only: a parametrisation of any other would part what is tied."""
    places = Counter(id(p) for _, p in problem.model.named_parameters(remove_duplicate=False))
    own = dict(problem.model.named_parameters())
    return {name: weight for name, weight in problem.matrices.items() if places[id(own[name])] == 1}


def rest(problem: Problem, trained: nn.Module, forms: Mapping[str, Form]) -> dict[str, Form]:
    """`forms` and one for every other tensor that training has changed: vectors at 7 bits of mantissa, integers as they are."""
    found, before = dict(forms), tensors_of(problem.model)
    for name, tensor in tensors_of(trained).items():
        if name in found or torch.equal(tensor, before[name]):
            continue
        small = tensor.is_floating_point() and bool(torch.isfinite(tensor).all())
        found[name] = Rounded.nearest(tensor.detach().float().numpy(), VECTOR_BITS if tensor.ndim < 2 else SMALL_MATRIX_BITS) if small else Plain(array_of(tensor))
    return found


class Once(Generic[T]):
    """Keeps what was trained for a problem, in its memory, while a budget is searched for, so that only the last stage moves."""

    def __call__(self, problem: Problem, setting: float, train: Callable[[], T], near: float = 1.0) -> T:
        """What was trained last where that was for this problem and a `setting` (above 0) within a factor `near`; else what `train` gives."""
        if self in problem.memory:
            before, kept = problem.memory[self]
            if 1 / near <= before / setting <= near:
                return kept  # type: ignore[no-any-return]
        found = train()
        problem.memory[self] = setting, found
        return found
