"""Weights as products of two thin matrices: how a kernel is laid out as a matrix, its truncated SVD, and a step that makes ranks fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorpress.core.errors import InputError

LAYOUTS = {"channel": "[O, I h w]: all weights of an output against each other", "spatial": "[O w, I h]: columns against rows of the kernel"}


def unfold(weight: Tensor, layout: str = "channel") -> Tensor:
    """A weight [O, I, ...] as a matrix: [O, I h w], or for a kernel with height and width [O w, I h]."""
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    if layout == "channel" or weight.ndim != 4:
        return weight.reshape(weight.shape[0], -1)
    o, i, h, w = weight.shape
    return weight.permute(0, 3, 1, 2).reshape(o * w, i * h)


def fold(matrix: Tensor, shape: tuple[int, ...], layout: str = "channel") -> Tensor:
    """The inverse of `unfold`."""
    if layout == "channel" or len(shape) != 4:
        return matrix.reshape(shape)
    o, i, h, w = shape
    return matrix.reshape(o, w, i, h).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Split:
    """A matrix as u diag(s) v, with singular values s that fall."""

    u: Tensor
    s: Tensor
    v: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Split:
        return cls(*torch.linalg.svd(matrix.detach().double(), full_matrices=False))

    def rank(self, energy: float) -> int:
        """The least rank, 1 or more, that holds a share `energy` of the squared singular values."""
        squares = self.s.square().cumsum(0)
        return int((squares < energy * squares[-1] * (1 - 1e-12)).sum()) + 1 if energy < 1 else len(self.s)

    def cut(self, rank: int) -> Split:
        return Split(self.u[:, :rank], self.s[:rank], self.v[:rank])

    def matrix(self) -> Tensor:
        return (self.u * self.s) @ self.v

    def factors(self) -> tuple[Tensor, Tensor]:
        """u sqrt(s) and sqrt(s) v."""
        root = self.s.sqrt()
        return self.u * root, root[:, None] * self.v

    def shrunk(self, by: float) -> Split:
        """Singular values less `by`, none below 0: a step down the nuclear norm, whose subgradient is u v."""
        return Split(self.u, (self.s - by).clamp(min=0), self.v)


def cost(shape: torch.Size | tuple[int, ...], rank: int) -> int:
    """Numbers that an [O, K] matrix takes: those of two factors, or its own where that is less."""
    return min(rank * (shape[0] + shape[1]), shape[0] * shape[1])


def common_energy(splits: Sequence[Split], share: float, rounds: int = 40) -> float:
    """The share of squared singular values at which the factors of all matrices have at most `share` of their numbers."""
    shapes = [(len(split.u), split.v.shape[1]) for split in splits]
    wanted = share * sum(math.prod(shape) for shape in shapes)
    low, high = 0.0, 1.0
    for _ in range(rounds):
        middle = (low + high) / 2
        found = sum(cost(shape, split.rank(middle)) for shape, split in zip(shapes, splits))
        low, high = (middle, high) if found <= wanted else (low, middle)
    return low


def equation(shape: tuple[int, ...], layout: str, rank: int) -> tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The Einstein sum that makes a weight of `shape` out of the factors of its `unfold`, and the factors' shapes."""
    if layout == "spatial" and len(shape) == 4:
        o, i, h, w = shape
        return "owr,rih->oihw", ((o, w, rank), (rank, i, h))
    axes = "abcdef"[: len(shape) - 1]
    return f"or,r{axes}->o{axes}", ((shape[0], rank), (rank, *shape[1:]))
