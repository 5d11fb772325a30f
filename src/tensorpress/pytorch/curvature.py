"""How a network's answers bend with its weights: gradients of the loss, whose squares make the Fisher matrix, and products with the Hessian.

Labels are the caller's, or drawn from what the network itself says: then the squares of gradients are the Fisher matrix, the curvature of
KL(network || changed network). Outputs that are no logits are taken as means of Gaussians, which makes it the curvature of their squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from tensorpress.core.errors import InputError
from tensorpress.pytorch.lockstep import Inputs, unfused
from tensorpress.pytorch.weight_problem import Problem

BATCH = 8  # inputs whose gradients, with random signs, make one draw
EXAMPLES = 256


def parts(inputs: Inputs, size: int, limit: int) -> Iterator[tuple[tuple[Tensor, ...], slice]]:
    """The first `limit` inputs, `size` at a time, as the network's arguments; and which they are."""
    every = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    for start in range(0, min(len(every[0]), limit), size):
        rows = slice(start, min(start + size, limit))
        yield tuple(x[rows] for x in every), rows


def answers(model: torch.nn.Module, state: dict[str, Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """[rows, classes]: what the network says with `state` in place of its own tensors. InputError where that is no tensor."""
    found = functional_call(model, state, tuple(inputs))
    found = getattr(found, "logits", found)
    if not isinstance(found, Tensor):
        raise InputError(f"the network gives {type(found).__name__}, not a tensor whose change could be judged")
    return found if found.ndim == 2 else found.flatten(0, -2) if found.ndim > 2 else found[:, None]


def _wide_answers(problem: Problem, state: dict[str, Tensor], images: Sequence[Tensor]) -> Tensor:
    """In float32, whatever the network's own type. InputError where it cannot be derived."""
    try:
        out = answers(problem.model, state, [x.float() if x.is_floating_point() else x for x in images])
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise InputError(f"gradients of the network cannot be taken: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
    if not out.requires_grad:
        raise InputError("gradients of the network cannot be taken: its outputs do not hang on its weights")
    return out.float()


def classifies(out: Tensor, rows: int) -> bool:
    """Whether these are logits: a row for each input, or for each of its tokens."""
    return out.shape[1] > 1 and len(out) % rows == 0


def gradients(problem: Problem, names: Sequence[str], *, of: str = "loss", batch: int = BATCH, limit: int = EXAMPLES) -> Iterator[tuple[dict[str, Tensor], int]]:
    """For each few inputs sum s dL/dw by name, with a random sign s for each input; and their number. E[g g^T] / number is the mean over inputs.

    `of`: 'loss', or 'outputs' as they are: what a squared change of the weights does to the sum of their squares.
    """
    inputs, generator = problem.needed("curvature"), problem.generator()
    for images, rows in parts(inputs, batch, limit):
        with torch.enable_grad(), unfused():
            state, leaves = _leaves(problem, names)
            out = _wide_answers(problem, state, images)
            count = len(images[0])
            sign = (torch.randint(2, (count, 1), generator=generator) * 2.0 - 1).expand(count, len(out) // count).reshape(-1)
            if of == "outputs":
                losses = (out * torch.randn(out.shape, generator=generator)).sum(1)
            elif problem.labels is not None:
                losses = F.cross_entropy(out, problem.labels[rows].reshape(-1), reduction="none")
            elif classifies(out, count):
                drawn = torch.multinomial(out.detach().softmax(1), 1, generator=generator)[:, 0]
                losses = F.cross_entropy(out, drawn, reduction="none")
            else:
                losses = (out * torch.randn(out.shape, generator=generator)).sum(1)
            found = torch.autograd.grad((losses * sign).sum(), leaves, allow_unused=True)
        yield {n: torch.zeros_like(w) if g is None else g.detach() for n, w, g in zip(names, leaves, found)}, count


def sides(problem: Problem, names: Sequence[str], axes: Callable[[str], Sequence[int]], *, of: str = "loss", limit: int = EXAMPLES) -> dict[str, dict[int, Tensor]]:
    """G by name and axis: E over inputs of sum g g^T, where g are the gradient's vectors along that axis; float64 [side, side]."""
    found: dict[str, dict[int, Tensor]] = {n: {} for n in names}
    total = 0
    for grads, count in gradients(problem, names, of=of, limit=limit):
        total += count
        for name, grad in grads.items():
            for axis in axes(name):
                rows = grad.movedim(axis, 0).flatten(1)
                found[name][axis] = found[name].get(axis, 0) + (rows @ rows.T).double()
    return {n: {axis: g / total for axis, g in by_axis.items()} for n, by_axis in found.items()}


def squares(problem: Problem, names: Sequence[str], *, of: str = "loss", limit: int = EXAMPLES) -> dict[str, float]:
    """E over inputs of g^2, the mean of all values of each weight."""
    found, total = dict.fromkeys(names, 0.0), 0
    for grads, count in gradients(problem, names, of=of, limit=limit):
        total += count
        for name, grad in grads.items():
            found[name] += float(grad.double().square().mean())
    return {name: value / total for name, value in found.items()}


def _leaves(problem: Problem, names: Sequence[str]) -> tuple[dict[str, Tensor], list[Tensor]]:
    tensors = problem.tensors
    wide = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    leaves = [wide[n].detach().clone().requires_grad_() for n in names]
    return {**wide, **dict(zip(names, leaves))}, leaves


class Hessian:
    """Of the mean loss over the first `limit` inputs, at the network's own weights: cross entropy with the caller's labels, or with the network's own answers.

    For outputs that are no logits: half the mean squared change.
    """

    def __init__(self, problem: Problem, names: Sequence[str], *, limit: int = 64, batch: int = 32) -> None:
        self.problem, self.names, self.limit, self.batch = problem, list(names), limit, batch
        self.generator = problem.generator()

    def _graphs(self) -> Iterator[tuple[list[Tensor], tuple[Tensor, ...]]]:
        """Leaves and their gradients, which can be derived once more, for each batch."""
        inputs, labels = self.problem.needed("curvature"), self.problem.labels
        first = inputs if isinstance(inputs, Tensor) else inputs[0]
        total = min(len(first), self.limit)
        for images, rows in parts(inputs, self.batch, self.limit):
            with torch.enable_grad(), unfused(), sdpa_kernel(SDPBackend.MATH):
                state, leaves = _leaves(self.problem, self.names)
                out = _wide_answers(self.problem, state, images)
                share = len(images[0]) / total
                if labels is not None:
                    loss = F.cross_entropy(out, labels[rows].reshape(-1))
                elif classifies(out, len(images[0])):
                    loss = F.cross_entropy(out, out.detach().argmax(1))
                else:
                    loss = (out - out.detach()).square().sum(1).mean() / 2
                grads = torch.autograd.grad(loss * share, leaves, create_graph=True, allow_unused=True)
                yield leaves, tuple(torch.zeros_like(w, requires_grad=True) if g is None else g for w, g in zip(leaves, grads))

    def traces(self, probes: int) -> dict[str, float]:
        """Hutchinson: the mean of v^T H v over random signs v, of each weight's own block. One weight at a time: what joins the blocks would drown the small ones."""
        found = dict.fromkeys(self.names, 0.0)
        signs = [torch.randint(2, (probes, *self.problem.tensors[n].shape), generator=self.generator) * 2.0 - 1 for n in self.names]
        for leaves, grads in self._graphs():
            for name, leaf, grad, vectors in zip(self.names, leaves, grads, signs):
                for vector in vectors:
                    (product,) = torch.autograd.grad((grad * vector).sum(), [leaf], retain_graph=True, allow_unused=True)
                    found[name] += 0.0 if product is None else float((vector * product).sum()) / probes
        return found

    def largest(self, rounds: int) -> dict[str, float]:
        """The greatest eigenvalue of each weight's own block, by power iteration."""
        vectors = [torch.randn(self.problem.tensors[n].shape, generator=self.generator) for n in self.names]
        values = [0.0] * len(self.names)
        for _ in range(rounds):
            vectors = [v / v.norm().clamp(min=1e-30) for v in vectors]
            products = [torch.zeros_like(v) for v in vectors]
            for leaves, grads in self._graphs():
                for i, (leaf, grad, vector) in enumerate(zip(leaves, grads, vectors)):
                    (product,) = torch.autograd.grad((grad * vector).sum(), [leaf], retain_graph=True, allow_unused=True)
                    products[i] += 0 if product is None else product
            values = [float((v * p).sum()) for v, p in zip(vectors, products)]
            vectors = products
        return dict(zip(self.names, values))
