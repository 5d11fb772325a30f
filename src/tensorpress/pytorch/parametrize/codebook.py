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
    `parts`: [groups, entries - 1], where a cell ends on the way to the next entry, as a share of it (a dear next one may lie within the cell); half way where not given.
    """

    groups: Tensor
    fixed: Tensor | None
    parts: Tensor

    def __init__(self, weight: Tensor, books: Tensor, groups: Tensor | None = None, *, parts: Tensor | None = None, zero: bool = False) -> None:
        super().__init__()
        self.latent = nn.Parameter(weight.detach().clone().float())
        self.books = nn.Parameter(torch.atleast_2d(books.detach().float()).sort(1).values.clone())
        self.register_buffer("groups", torch.zeros(len(weight), dtype=torch.int64, device=weight.device) if groups is None else groups.long())
        self.register_buffer("fixed", None)
        self.register_buffer("parts", torch.full_like(self.books[:, 1:], 0.5) if parts is None else parts.float())
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
        return self.nearest() if self.fixed is None else self.fixed

    def nearest(self) -> Tensor:
        """As `index`, whatever is fixed."""
        books = self._sorted()[0].double()
        middles = (books[:, :-1] + self.parts * (books[:, 1:] - books[:, :-1])).cummax(1).values[self.groups]
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


def k_means(values: NDArray[np.float32], entries: int, price: float = 0.0) -> NDArray[np.float32]:
    """`entries` rising centres of a line's values: Lloyd's rounds from equal quantiles."""
    return books_of(values, entries, price)[0]


def books_of(values: NDArray[np.float32], entries: int, price: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Rising centres of a line's values at the least squared error + `price` x bits; where cells part, as shares of the way to the next centre; and the bits of all values.

    Bits are those of the centres' own frequencies (Chou, Lookabaugh, Gray: Entropy-constrained vector quantization, 1989). With a price, centres that none
    would take are dropped, so there may be fewer than `entries`.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    total = np.concatenate([[0.0], np.cumsum(ordered)])
    if price:  # evenly over the range: quantiles would crowd where the price is to thin out
        centres = np.linspace(ordered[0], ordered[-1], entries)
        centres -= centres[np.abs(centres).argmin()]
    else:
        centres = np.quantile(ordered, (np.arange(entries) + 0.5) / entries)
    cost = np.zeros(entries)
    for _ in range(LLOYD):
        gaps = np.maximum(np.diff(centres), 1e-30)
        edges = centres[:-1] + gaps / 2 + price * np.diff(cost) / (2 * gaps)
        ends = np.concatenate([[0], np.searchsorted(ordered, np.maximum.accumulate(edges)), [len(ordered)]])
        count = np.diff(ends)
        fresh = np.where(count > 0, (total[ends[1:]] - total[ends[:-1]]) / np.maximum(count, 1), centres)
        if price and (count == 0).any():
            fresh, count = fresh[count > 0], count[count > 0]
        cost = np.log2(max(len(ordered), 1) / np.maximum(count, 1)) if price else np.zeros(len(fresh))
        done, centres = np.array_equal(fresh, centres), np.maximum.accumulate(fresh)
        if done:
            break
    gaps = np.maximum(np.diff(centres), 1e-30)
    parts = 0.5 + price * np.diff(cost) / (2 * gaps * gaps)
    share = count[count > 0] / max(len(ordered), 1)
    return centres.astype(np.float32), parts.astype(np.float32), float(-(share * np.log2(share)).sum() * len(ordered))
