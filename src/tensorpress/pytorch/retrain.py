"""Training that starts from the given network and ends in forms: on labels, or on what the network itself says where there are none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.blocks.forms import Form, Plain, Rounded
from tensorpress.core.errors import InputError
from tensorpress.pytorch.lockstep import tensors_of
from tensorpress.pytorch.state import array_of
from tensorpress.pytorch.weight_problem import Problem

VECTOR_BITS, SMALL_MATRIX_BITS = 7, 10  # of mantissa, of tensors that were trained and that no system takes
CLIP = 5.0  # length of the gradient over all parameters
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `epochs` over the inputs, the rate falling to 0 along a cosine."""

    epochs: float = 8.0
    batch: int = 64
    rate: float = 0.01
    momentum: float = 0.9
    decay: float = 0.0  # of weights, each step, times the rate
    teacher: float = 0.0  # share of the loss that is the original network's outputs; 1 without labels
    temperature: float = 4.0  # of both networks' outputs where they are compared

    def steps(self, count: int) -> int:
        """For `count` inputs."""
        return max(1, math.ceil(self.epochs * math.ceil(count / self.batch)))


def checked(schedule: Schedule) -> Schedule:
    """InputError where a figure is of no use."""
    if not (schedule.epochs > 0 and schedule.batch >= 1 and 0 < schedule.rate < 100 and 0 <= schedule.momentum < 1 and schedule.temperature > 0):
        raise InputError(f"training with {schedule}: epochs, batch, rate and temperature are above 0, momentum is 0 to 1")
    return schedule


class Nothing:
    """What happens around each step of a training: as it stands, nothing. Systems put their method here."""

    def seen(self, latent: Tensors) -> Tensors:
        """The weights that the forward pass uses in the place of those that are trained: by name, differentiable."""
        return {}

    def before(self, step: int, steps: int, network: nn.Module) -> None:
        """Before the step's forward pass: may change weights in place."""

    def graded(self, step: int, steps: int, network: nn.Module) -> None:
        """With gradients in place: may change these."""

    def after(self, step: int, steps: int, network: nn.Module) -> None:
        """After the optimiser's step: may change weights in place."""


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy where labels are integers: classes stand last, or behind the batch where labels have no axis for them. Squared error where they are floats."""
    if labels.is_floating_point():
        return F.mse_loss(outputs.float(), labels.float().reshape(outputs.shape))
    if outputs.ndim == labels.ndim + 1 and outputs.shape[:-1] == labels.shape:
        return F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1).long())
    return F.cross_entropy(outputs, labels.long())


def distance(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || outputs) at temperature T of outputs [n, classes] or [n, places, classes]; of others the squared error over the teacher's variance.

    Hinton, Vinyals, Dean 2015 (arXiv:1503.02531).
    """
    if outputs.ndim in (2, 3) and outputs.shape[-1] > 1:
        classes = outputs.shape[-1]
        ours, theirs = F.log_softmax(outputs.reshape(-1, classes) / temperature, 1), F.log_softmax(teacher.reshape(-1, classes) / temperature, 1)
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
    return F.mse_loss(outputs, teacher) / teacher.var(correction=0).clamp(min=1e-12)


def _answer(network: nn.Module, inputs: tuple[Tensor, ...], seen: Tensors) -> Tensor:
    found = torch.func.functional_call(network, dict(seen), inputs) if seen else network(*inputs)
    found = getattr(found, "logits", found)
    found = found[0] if isinstance(found, (tuple, list)) else found
    if not isinstance(found, Tensor):
        raise InputError(f"the network returns {type(found).__name__}, not a tensor that a loss can be taken of")
    return found


def retrain(problem: Problem, system: str, schedule: Schedule, method: Nothing, start: nn.Module | None = None, teacher: nn.Module | None = None) -> nn.Module:
    """A trained copy of `start` (the problem's network where there is none), in eval mode. The problem's network and the global generator stay as they are.

    `teacher` (the problem's network where there is none) answers where labels are missing or `schedule.teacher` is above 0. InputError without inputs, where the
    network does not run on them, and where the loss is no longer finite.
    """
    checked(schedule)
    given = problem.needed(system)
    inputs = (given,) if isinstance(given, Tensor) else tuple(given)
    count, labels = len(inputs[0]), problem.labels
    if labels is not None and len(labels) != count:
        raise InputError(f"{len(labels)} labels for {count} inputs")
    network = copy.deepcopy(problem.model if start is None else start).train()
    for norm in network.modules():
        if count == 1 and isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.eval()  # a single input has no statistics
    teacher = (problem.model if teacher is None else teacher).eval()
    share = 1.0 if labels is None else schedule.teacher
    parameters = dict(network.named_parameters())
    trained = [p.requires_grad_(True) for p in parameters.values() if p.is_floating_point()]
    optimiser = torch.optim.SGD(trained, schedule.rate, schedule.momentum, weight_decay=schedule.decay, nesterov=schedule.momentum > 0)
    generator, steps, order = problem.generator(), schedule.steps(count), torch.empty(0, dtype=torch.long)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(problem.seed)  # of dropout
        for step in range(steps):
            if len(order) < min(schedule.batch, count):
                order = torch.randperm(count, generator=generator)
            rows, order = order[: schedule.batch], order[schedule.batch :]
            batch = tuple(x[rows] for x in inputs)
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            method.before(step, steps, network)
            try:
                outputs = _answer(network, batch, method.seen(parameters))
                total = torch.zeros(())
                if share < 1 and labels is not None:
                    total = total + (1 - share) * loss(outputs, labels[rows])
                if share > 0:
                    with torch.no_grad():
                        wanted = _answer(teacher, batch, {})
                    total = total + share * distance(outputs, wanted, schedule.temperature)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise InputError(f"{system} cannot train on these inputs: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
            if not torch.isfinite(total):
                raise InputError(f"{system}: the loss is {float(total)} at step {step} of {steps}: a smaller rate is needed")
            problem.progress(f"{system}: training", step, steps)
            optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            method.graded(step, steps, network)
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            optimiser.step()
            with torch.no_grad():
                method.after(step, steps, network)
    for p in trained:
        p.requires_grad_(False)
    return network.eval()


def rest(problem: Problem, trained: nn.Module, forms: Mapping[str, Form]) -> dict[str, Form]:
    """`forms` and one for every other tensor that training has changed: vectors at 7 bits of mantissa, integers as they are."""
    found, before = dict(forms), tensors_of(problem.model)
    for name, tensor in tensors_of(trained).items():
        if name in found or torch.equal(tensor, before[name]):
            continue
        small = tensor.is_floating_point() and bool(torch.isfinite(tensor).all())
        found[name] = Rounded.nearest(tensor.detach().float().numpy(), VECTOR_BITS if tensor.ndim < 2 else SMALL_MATRIX_BITS) if small else Plain(array_of(tensor))
    return found


class Once:
    """Keeps what was trained for a problem while a budget is searched for, so that only the last stage moves."""

    def __init__(self) -> None:
        self._kept: tuple[Problem, float, nn.Module] | None = None

    def __call__(self, problem: Problem, setting: float, train: Callable[[], nn.Module], near: float = 1.0) -> nn.Module:
        """What was trained last where that was for this problem and a `setting` within a factor `near`; else what `train` gives."""
        kept = self._kept
        if kept is not None and kept[0] is problem and 1 / near <= kept[1] / setting <= near:
            return kept[2]
        found = train()
        self._kept = problem, setting, found
        return found
