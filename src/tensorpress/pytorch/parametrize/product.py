"""Products of few factors, each on a grid: SVD, Tucker, CP, separable kernels. One Einstein sum says which.

Sums of products of integers are exact in any order, so the decoder's values are met bit for bit; gradients are those of the rounded factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Factors, Fixed, step_of
from tensorpress.core.errors import InputError
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation
from tensorpress.pytorch.parametrize.straight import rounded, straight
from tensorpress.pytorch.parametrize.uniform import Uniform

AXES = "oihwd"  # of a weight; p, q, r, s are those of factors


class Product(Parametrisation):
    """The Einstein sum `equation` of `parts`: Uniform with one step, or Fixed, in the order of its terms."""

    def __init__(self, equation: str, parts: Sequence[Uniform | Fixed]) -> None:
        super().__init__()
        self.equation, self.fixed = equation, tuple(p if isinstance(p, Fixed) else None for p in parts)
        self.factors = nn.ModuleList(p for p in parts if not isinstance(p, Fixed))
        if any(f.octaves.numel() != 1 for f in self._learned()):
            raise InputError("a factor has one step")

    def _learned(self) -> list[Uniform]:
        return [f for f in self.factors if isinstance(f, Uniform)]

    def _each(self, of_learned: Callable[[Uniform], Tensor], of_fixed: Callable[[Fixed], np.ndarray]) -> list[Tensor]:
        learned = iter(self._learned())
        place = self._learned()[0].latent.device
        return [of_learned(next(learned)) if f is None else torch.from_numpy(of_fixed(f)).to(place) for f in self.fixed]

    def decoded(self) -> Tensor:
        soft = torch.einsum(self.equation, self._each(lambda f: f.decoded(), matrix))
        exact = torch.einsum(self.equation, self._each(lambda f: rounded(f.positions()).double(), lambda f: f.levels.astype(np.float64)))
        step = sum(int(f.index) for f in self._learned()) + sum(f.step for f in self.fixed if f is not None)
        return straight((exact * float(step_of(step))).float() + 0.0, soft)

    def positions(self) -> Tensor:
        return torch.cat([f.positions().flatten() for f in self._learned()])

    def symbols(self) -> dict[str, np.ndarray]:
        return {f"factor {i}": f.symbols()["levels"] for i, f in enumerate(self._learned())}

    def bits(self) -> Tensor:
        return torch.stack([f.bits() for f in self._learned()]).sum()

    def form(self) -> Factors:
        learned = iter(self._learned())
        return Factors(self.equation, tuple(next(learned).form() if f is None else f for f in self.fixed))


def matrix(fixed: Fixed) -> np.ndarray:
    """Rows are basis vectors, float32."""
    return fixed.levels.astype(np.float32) * step_of(fixed.step)


def on_grids(equation: str, parts: Sequence[Tensor | Fixed], step: float, *, learn: bool = False) -> Product:
    """Factors at steps such that each one's errors weigh the same in the product, and a factor that leaves lengths as they are has `step` itself."""
    plain = [torch.from_numpy(matrix(p)) if isinstance(p, Fixed) else p.detach().float() for p in parts]
    return Product(equation, [p if isinstance(p, Fixed) else Uniform(p, step / _gain(equation, plain, i), learn=learn) for i, p in enumerate(parts)])


def _gain(equation: str, parts: Sequence[Tensor], number: int) -> float:
    """How much longer the product's error is than that of factor `number`, of errors all alike in size: by the squares of all other factors."""
    terms = [p if i != number else torch.ones_like(p) for i, p in enumerate(parts)]
    total = float(torch.einsum(equation, [t.double().square() for t in terms]).sum())
    return max((total / parts[number].numel()) ** 0.5, 1e-12)


def letters(weight: Tensor) -> str:
    if not 2 <= weight.ndim <= len(AXES):
        raise InputError(f"a weight of {weight.ndim} axes has no factors here: 2 to {len(AXES)}")
    return AXES[: weight.ndim]


def svd(weight: Tensor, rank: int, step: float, *, learn: bool = False) -> Product:
    """`rank` terms of rows x the rest. Linear layers: [o r][r i]; convolutions: 1 x 1 after `rank` kernels."""
    axes = letters(weight)
    left, right = _halves(weight.detach().float().flatten(1), rank)
    return on_grids(f"or,r{axes[1:]}->{axes}", [left, right.reshape(-1, *weight.shape[1:])], step, learn=learn)


def separable(weight: Tensor, rank: int, step: float, *, learn: bool = False) -> Product:
    """A column of `rank` filters, then a row: [o r w][r i h]."""
    if weight.ndim != 4:
        raise InputError("separable kernels are those of two-dimensional convolutions")
    outputs, inputs, height, width = weight.shape
    left, right = _halves(weight.detach().float().permute(0, 3, 1, 2).reshape(outputs * width, inputs * height), rank)
    return on_grids("owr,rih->oihw", [left.reshape(outputs, width, -1), right.reshape(-1, inputs, height)], step, learn=learn)


def tucker(weight: Tensor, outputs: int, inputs: int, step: float, *, learn: bool = False) -> Product:
    """A core with fewer `outputs` and `inputs`, and a matrix for each (Tucker-2, by the leading directions of either axis)."""
    axes, table = letters(weight), weight.detach().float()
    first = torch.linalg.svd(table.flatten(1), full_matrices=False)[0][:, :outputs]
    second = torch.linalg.svd(table.movedim(1, 0).flatten(1), full_matrices=False)[0][:, :inputs]
    core = torch.einsum(f"{axes},op,iq->pq{axes[2:]}", table, first, second)
    return on_grids(f"op,pq{axes[2:]},iq->{axes}", [first, core, second], step, learn=learn)


def cp(weight: Tensor, rank: int, step: float, *, rounds: int = 30, learn: bool = False) -> Product:
    """A sum of `rank` products of vectors, by alternating least squares from the leading directions."""
    axes, table = letters(weight), weight.detach().double()
    generator = torch.Generator().manual_seed(0)
    parts = []
    for axis, side in enumerate(table.shape):
        lead = torch.linalg.svd(table.movedim(axis, 0).flatten(1), full_matrices=False)[0][:, :rank]
        more = torch.randn(side, max(rank - lead.shape[1], 0), generator=generator, dtype=torch.float64) / side**0.5
        parts.append(torch.cat([lead, more], 1))
    terms = [f"{letter}r" for letter in axes]
    for _ in range(rounds):
        for axis in range(len(parts)):
            others = [i for i in range(len(parts)) if i != axis]
            gram = torch.stack([parts[i].T @ parts[i] for i in others]).prod(0)
            right = torch.einsum(f"{axes},{','.join(terms[i] for i in others)}->{terms[axis]}", table, *[parts[i] for i in others])
            parts[axis] = torch.linalg.solve(gram + 1e-9 * gram.diagonal().mean() * torch.eye(rank, dtype=gram.dtype), right.T).T
    norms = torch.stack([p.norm(dim=0) for p in parts])
    even = norms.log().mean(0).exp()
    return on_grids(f"{','.join(terms)}->{axes}", [(p / n.clamp(min=1e-30) * even).float() for p, n in zip(parts, norms)], step, learn=learn)


def _halves(table: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two sides of a truncated SVD, singular values shared."""
    left, values, right = torch.linalg.svd(table, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
