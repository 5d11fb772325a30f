"""What every parametrisation owes: a weight as a decoder will give it, and the form that gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.blocks.forms import Form
from tensorpress.pytorch.parametrize.rate import rate


class Parametrisation(nn.Module, ABC):
    """A weight that is made from parameters of its own. They compose: a mask has an inner one, a product one for each factor.

    `decoded()` is float32 and equals `form().values()` bit for bit; its gradients reach the parameters, straight through what is rounded.
    It is used by itself, or by `attach` as a torch parametrisation of a layer's weight; then `original` is empty and without meaning.
    """

    dtype: torch.dtype = torch.float32  # of the weight it stands for: values are rounded to it last, as the file's reader does
    order: tuple[str, ...] = ()  # the parameters of its layer, as they were

    @abstractmethod
    def decoded(self) -> Tensor: ...

    @abstractmethod
    def form(self) -> Form: ...

    @abstractmethod
    def positions(self) -> Tensor:
        """Integers of the coder before they are rounded, in the weight's shape, with gradients. InputError where there are none."""

    def symbols(self) -> dict[str, NDArray[np.int32]]:
        """The integers that the coder gets, by what they are."""
        return {"levels": integers(self.positions())}

    def bits(self) -> Tensor:
        """A differentiable estimate of the coded size, a scalar."""
        return rate(self.positions())

    def forward(self, original: Tensor | None = None) -> Tensor:
        return self.decoded().to(self.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.new_empty(0)


def integers(x: Tensor) -> NDArray[np.int32]:
    return torch.round(x.detach()).cpu().numpy().astype(np.int32)


def by_row(x: Tensor, like: Tensor) -> Tensor:
    """A vector of one value, or of one a row (axis 0), so that it broadcasts over `like`."""
    return x if x.numel() == 1 else x.reshape(-1, *[1] * (like.ndim - 1))
