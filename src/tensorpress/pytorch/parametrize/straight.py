"""The value of one tensor with the gradient of another, exactly: no sum in between that would round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, grad


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad * ctx.factor, None


def straight(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard`, bit for bit, with the gradient of `soft`, of the same shape."""
    return _Straight.apply(hard.detach(), soft)  # type: ignore[no-any-return]


def scaled(x: Tensor, factor: float) -> Tensor:
    """`x` with its gradient times `factor`."""
    return _Scaled.apply(x, factor)  # type: ignore[no-any-return]


def rounded(x: Tensor) -> Tensor:
    """The nearest integers, half to even, never -0: integers in a file have no negative zero."""
    return torch.round(x.detach()) + 0.0
