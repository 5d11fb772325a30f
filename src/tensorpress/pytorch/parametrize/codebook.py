"""Entries of a codebook, one book a tensor or one for each group of rows: k-means at first, then learned with the weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.blocks.forms import Codebook
from tensorpress.core.errors import InputError
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation, integers
from tensorpress.pytorch.parametrize.rate import ENTRY_BITS, rate
from tensorpress.pytorch.parametrize.straight import straight

LLOYD = 30  # rounds of k-means


class CodebookWeights(Parametrisation):
    """Each value of `latent` by an entry of its row's book: the nearest one, or that of `fixed` where it is set. Gradients reach entries and latent values.

    `books`: [groups, entries]; `groups`: the book of each row. `zero`: every book has an exact zero, which stays.
    """

    groups: Tensor
    fixed: Tensor | None

    def __init__(self, weight: Tensor, books: Tensor, groups: Tensor | None = None, *, zero: bool = False) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().clone().float())
        self.books = nn.Parameter(torch.atleast_2d(books.detach().float()).sort(1).values.clone())
        self.register_buffer("groups", torch.zeros(len(weight), dtype=torch.int64, device=weight.device) if groups is None else groups.long())
        self.register_buffer("fixed", None)
        self.zero = zero
        if zero and self.books.shape[1] < 2:
            raise InputError("a codebook of one entry cannot hold an exact zero beside others")

    @classmethod
    def k_means(cls, weight: Tensor, entries: int, groups: Tensor | None = None, *, zero: bool = False) -> CodebookWeights:
        """Books of `entries` by k-means over the rows of each group."""
        rows = np.zeros(len(weight), np.int64) if groups is None else groups.cpu().numpy()
        values = weight.detach().float().cpu().numpy()
        books = np.stack([k_means(values[rows == g].reshape(-1), entries) for g in range(int(rows.max()) + 1)])
        return cls(weight, torch.from_numpy(books).to(weight.device), groups, zero=zero)

    def _sorted(self) -> tuple[Tensor, Tensor]:
        """Entries as the file has them, rising, as float32 without gradient; and the same ones with it."""
        exact = self.books.detach().half().float().clamp(-65504, 65504) + 0.0
        soft = self.books
        if self.zero:
            middle = nn.functional.one_hot(exact.abs().argmin(1), exact.shape[1]).bool()
            exact, soft = exact.masked_fill(middle, 0.0), soft.masked_fill(middle, 0.0)
        exact, order = exact.sort(dim=1, stable=True)
        return exact, soft.gather(1, order)

    def index(self) -> Tensor:
        """The place of each value's entry in its sorted book, int64 in the weight's shape."""
        if self.fixed is not None:
            return self.fixed
        books = self._sorted()[0].double()
        middles = ((books[:, 1:] + books[:, :-1]) / 2)[self.groups]
        return torch.searchsorted(middles, self.latent.detach().double().reshape(len(self.latent), -1).contiguous()).reshape(self.latent.shape)

    def _of(self, books: Tensor, index: Tensor) -> Tensor:
        return books[self.groups].gather(1, index.reshape(len(index), -1)).reshape(index.shape)

    def decoded(self) -> Tensor:
        exact, soft = self._sorted()
        index = self.index()
        return straight(self._of(exact, index), self._of(soft, index) + (self.latent - self.latent.detach()))

    def positions(self) -> Tensor:
        """Places counted from the entry nearest zero; in between two entries by distance."""
        exact = self._sorted()[0]
        index, zeros = self.index(), exact.abs().argmin(1)[self.groups].reshape(-1, *[1] * (self.latent.ndim - 1))
        low = (index - 1).clamp(min=0)
        gap = (self._of(exact, (index + 1).clamp(max=exact.shape[1] - 1)) - self._of(exact, low)).clamp(min=1e-12)
        return straight((index - zeros).to(self.latent.dtype), 2 * self.latent / gap)

    def form(self) -> Codebook:
        exact = self._sorted()[0]
        return Codebook(integers(self.index()), exact.cpu().numpy().astype(np.float16), self.groups.cpu().numpy().astype(np.int32))

    def bits(self) -> Tensor:
        return rate(self.positions()) + ENTRY_BITS * self.books.numel()


def k_means(values: NDArray[np.float32], entries: int) -> NDArray[np.float32]:
    """`entries` rising centres of a line's values: Lloyd's rounds from equal quantiles."""
    ordered = np.sort(np.asarray(values, np.float64))
    total = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.quantile(ordered, (np.arange(entries) + 0.5) / entries)
    for _ in range(LLOYD):
        ends = np.concatenate([[0], np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2), [len(ordered)]])
        count = np.diff(ends)
        fresh = np.where(count > 0, (total[ends[1:]] - total[ends[:-1]]) / np.maximum(count, 1), centres)
        if np.array_equal(fresh, centres):
            break
        centres = np.maximum.accumulate(fresh)
    return centres.astype(np.float32)
