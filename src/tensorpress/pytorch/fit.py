"""One loop for all that trains: an objective of terms that add, events on a schedule, and everything by one seed.

    fit(net, problem, total(cross_entropy(), weighted(0.5, distillation(teacher, 4.0))),
        events=[every(50, prune(gradual(0.0, 0.8, 100, 600)), start=100, stop=601)], steps=1000, lr=cosine(0.02), optimizer=sgd())

A term takes a Batch and gives a scalar; an event takes a Moment and changes the network. Both are plain functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from tensorpress.core.errors import InputError
from tensorpress.pytorch.calibration import Progress, silent
from tensorpress.pytorch.parametrize import Mask, attached, elements
from tensorpress.pytorch.weight_problem import Problem


@dataclass(frozen=True)
class Batch:
    """What a term sees: `inputs` as the network took them (augmented), its `outputs`, and `labels` where there are any."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    outputs: Tensor
    number: int  # of the step
    steps: int


@dataclass(frozen=True)
class Moment:
    """What an event sees, before step `number` of `steps`, or after the last one (number = steps)."""

    model: nn.Module
    optimizer: Optimizer
    number: int
    steps: int
    losses: Sequence[float]


Term = Callable[[Batch], Tensor]
Act = Callable[[Moment], None]
Rate = Callable[[float], float]  # how much is done, 0 to 1 -> the learning rate
Maker = Callable[[Iterable[nn.Parameter]], Optimizer]
Augment = Callable[[Tensor, torch.Generator], Tensor]


def total(*terms: Term) -> Term:
    return lambda batch: torch.stack([term(batch) for term in terms]).sum()


def weighted(share: float, term: Term) -> Term:
    return lambda batch: share * term(batch)


def cross_entropy(smoothing: float = 0.0) -> Term:
    """With the labels: class indices of each row of logits, [n], or of each token, [n, tokens]."""

    def term(batch: Batch) -> Tensor:
        if batch.labels is None:
            raise InputError("cross entropy needs labels beside the calibration inputs")
        return F.cross_entropy(batch.outputs.flatten(0, -2), batch.labels.flatten(), label_smoothing=smoothing)

    return term


def distillation(teacher: nn.Module, temperature: float = 4.0) -> Term:
    """T^2 KL(teacher || network) of softened outputs, the mean over rows, on what the network itself was fed."""

    def term(batch: Batch) -> Tensor:
        wanted = _taught(teacher, batch).flatten(0, -2)
        return temperature**2 * F.kl_div(
            F.log_softmax(batch.outputs.flatten(0, -2) / temperature, 1), F.log_softmax(wanted / temperature, 1), log_target=True, reduction="batchmean"
        )

    return term


def reconstruction(teacher: nn.Module) -> Term:
    """The mean squared error of the outputs."""
    return lambda batch: F.mse_loss(batch.outputs, _taught(teacher, batch))


def penalty(of_model: Callable[[nn.Module], Tensor]) -> Term:
    """Whatever hangs on the network alone: a norm, a rank, a size."""
    return lambda batch: of_model(batch.model)


def bits_per_weight(model: nn.Module) -> Tensor:
    """The estimate of all attached parametrisations, for `penalty`."""
    chosen = list(attached(model).values())
    if not chosen:
        raise InputError("no weight of the network has a parametrisation whose bits could be counted")
    return torch.stack([p.bits() for p in chosen]).sum() / sum(p.decoded().numel() for p in chosen)


@torch.no_grad()
def _taught(teacher: nn.Module, batch: Batch) -> Tensor:
    return _outputs(teacher, batch.inputs)


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    found = model(*inputs)
    return getattr(found, "logits", found)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Event:
    """`act` before every `period`-th step from `start` on, the last before `stop`; `stop` beyond the last step: after it as well, where its turn has come."""

    act: Act
    period: int
    start: int
    stop: float

    def due(self, number: int) -> bool:
        return self.start <= number < self.stop and (number - self.start) % self.period == 0


def every(period: int, act: Act, *, start: int = 0, stop: float = math.inf) -> Event:
    return Event(act, max(int(period), 1), start, stop)


def at(number: int, act: Act) -> Event:
    """Once, before step `number`; the number of steps: after the last one."""
    return Event(act, 1, number, number + 1)


def gradual(first: float, last: float, start: int, stop: int) -> Callable[[int], float]:
    """A share that goes from `first` to `last` as Zhu and Gupta's cubic (arXiv:1710.01878): fast, then slow."""

    def share(number: int) -> float:
        done = min(max((number - start) / max(stop - start, 1), 0.0), 1.0)
        return last + (first - last) * (1 - done) ** 3

    return share


def prune(share: Callable[[int], float]) -> Act:
    """Every attached mask drops `share(number)` of its weights, the smallest."""

    def act(moment: Moment) -> None:
        for parametrisation in attached(moment.model).values():
            if isinstance(parametrisation, Mask):
                parametrisation.refresh(elements(share(moment.number)))

    return act


def project(chosen: Mapping[str, Callable[[Tensor], Tensor]]) -> Act:
    """Weights, by name, are replaced by a function of themselves; of parametrised ones, their latent values."""

    @torch.no_grad()
    def act(moment: Moment) -> None:
        latent = {name: p.latent for name, p in attached(moment.model).items() if isinstance(getattr(p, "latent", None), Tensor)}
        for name, function in chosen.items():
            weight = latent[name] if name in latent else moment.model.get_parameter(name)
            weight.copy_(function(weight.detach()))

    return act


def anneal(put: Callable[[float], None], first: float, last: float, start: int = 0, stop: int | None = None) -> Act:
    """`put` gets a number that goes in a line from `first` to `last` between the steps `start` and `stop` (the end)."""

    def act(moment: Moment) -> None:
        end = moment.steps if stop is None else stop
        done = min(max((moment.number - start) / max(end - start, 1), 0.0), 1.0)
        put(first + (last - first) * done)

    return act


def rewind(model: nn.Module) -> Act:
    """Puts all floats of the state back to what they are now, and forgets the optimiser's memory; masks stay."""
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}

    @torch.no_grad()
    def act(moment: Moment) -> None:
        state = moment.model.state_dict()
        for name, tensor in kept.items():
            if name in state:
                state[name].copy_(tensor)
        moment.optimizer.state.clear()

    return act


def constant(lr: float) -> Rate:
    return lambda done: lr


def cosine(lr: float, last: float = 0.0) -> Rate:
    """From `lr` to `last` along half a cosine."""
    return lambda done: last + (lr - last) * (1 + math.cos(math.pi * done)) / 2


def sgd(momentum: float = 0.9, decay: float = 0.0) -> Maker:
    return lambda parameters: SGD(parameters, lr=1.0, momentum=momentum, weight_decay=decay)


def adam(decay: float = 0.0) -> Maker:
    return lambda parameters: Adam(parameters, lr=1.0, weight_decay=decay)


def flips_and_shifts(most: int = 4) -> Augment:
    """Images [n, C, H, W] mirrored by a coin and moved by up to `most` pixels, zeros behind them."""

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = x.shape
        flip = torch.rand(count, generator=generator) < 0.5
        dy, dx = torch.randint(2 * most + 1, (2, count), generator=generator)
        columns = torch.arange(width).expand(count, width)
        columns = torch.where(flip[:, None], width - 1 - columns, columns) + dx[:, None]
        lines = torch.arange(height) + dy[:, None]
        padded = F.pad(x, [most] * 4)
        return padded[torch.arange(count)[:, None, None], :, lines[:, :, None], columns[:, None, :]].movedim(-1, 1)

    return augment


def fit(
    model: nn.Module,
    problem: Problem,
    objective: Term,
    *,
    events: Sequence[Event] = (),
    steps: int,
    batch: int = 64,
    lr: float | Rate = 1e-3,
    optimizer: Maker | None = None,
    generator: torch.Generator | None = None,
    augment: Augment | None = None,
    mode: str = "train",
    progress: Progress | None = None,
) -> list[float]:
    """Trains `model` in place on the inputs (and labels) of `problem`; the loss of each step.

    Batches are drawn without repetition, epoch after epoch. `mode`: 'train', 'norms' (as 'train', but batch norms keep their statistics), or 'eval'.
    The network ends in the mode it came in. InputError where there are no inputs, or where training diverges.
    """
    generator = generator or problem.generator()
    inputs = problem.needed("training")
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    learning = [p for p in model.parameters() if p.requires_grad and p.numel()]
    if not learning:
        raise InputError("the network has no parameter that could be trained")
    maker, rate, tell = optimizer or adam(), lr if callable(lr) else constant(lr), progress or problem.progress or silent
    optimiser, losses = maker(learning), list[float]()
    rows = _rows(len(given[0]), min(batch, len(given[0])), generator)
    with _mode(model, mode), torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))  # dropout's
        for number in range(steps + 1):
            for event in events:
                if event.due(number):
                    event.act(Moment(model, optimiser, number, steps, losses))
            if number == steps:
                break
            for group in optimiser.param_groups:
                group["lr"] = rate(number / steps)
            chosen = next(rows)
            fed = tuple(x[chosen] for x in given)
            if augment is not None:
                fed = (augment(fed[0], generator), *fed[1:])
            labels = None if problem.labels is None else problem.labels[chosen]
            optimiser.zero_grad(set_to_none=True)
            loss = objective(Batch(model, fed, labels, _outputs(model, fed), number, steps))
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise InputError(f"training has diverged at step {number} of {steps}: the loss is {losses[-1]}; a smaller learning rate may do")
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            tell("training", number + 1, steps)
    return losses


def _rows(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from (part for part in torch.randperm(count, generator=generator).split(batch) if len(part) == batch)


@contextmanager
def _mode(model: nn.Module, mode: str) -> Iterator[None]:
    if mode not in ("train", "norms", "eval"):
        raise InputError(f"mode {mode!r} is none of 'train', 'norms' and 'eval'")
    before: dict[Any, bool] = {module: module.training for module in model.modules()}
    model.train(mode != "eval")
    for module in model.modules():
        if mode == "norms" and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
