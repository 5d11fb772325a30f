"""Entries of a codebook: any levels, fitted to the weights (k-means, learned levels). One book a tensor, or one for each group of rows.

Entries are float16 and rise; indices count from the entry nearest zero, so that what is frequent is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.forms.form import Form, Shape, Source, Target, expect
from tensorpress.core.errors import InputError, StreamError

MAX_ENTRIES = 1 << 12


@dataclass(frozen=True, eq=False)
class Codebook(Form):
    """`books`: float16 (groups, entries), each row rising; `index`: int32 in the tensor's shape, an entry's place; `groups`: int32, the book of each row (axis 0)."""

    id: ClassVar[str] = "codebook"
    index: NDArray[np.int32]
    books: NDArray[np.float16]
    groups: NDArray[np.int32]

    def __post_init__(self) -> None:
        index, books, groups = np.asarray(self.index), np.asarray(self.books), np.asarray(self.groups)
        rows = index.shape[0] if index.ndim else 1
        if (
            books.dtype != np.float16
            or books.ndim != 2
            or not 1 <= books.shape[1] <= MAX_ENTRIES
            or not 1 <= books.shape[0] <= max(rows, 1)
        ):
            raise InputError(
                f"codebooks are {books.dtype} {books.shape}, not float16 (groups, entries) with 1 to {MAX_ENTRIES} entries and at most a group a row"
            )
        if not np.isfinite(books).all() or (np.diff(books.astype(np.float64), axis=1) < 0).any():
            raise InputError("entries of a codebook are finite and do not fall")
        if groups.shape != (rows,) or (groups.size and not 0 <= groups.min() <= groups.max() < len(books)):
            raise InputError(f"groups of {groups.shape} rows for a tensor of {rows}, or a group without a book")
        if index.size and not 0 <= index.min() <= index.max() < books.shape[1]:
            raise InputError(f"an index is outside the {books.shape[1]} entries")
        for name, value, dtype in (("index", index, np.int32), ("books", books, np.float16), ("groups", groups, np.int32)):
            object.__setattr__(self, name, np.ascontiguousarray(value, dtype))

    @classmethod
    def nearest(cls, x: NDArray[Any], books: NDArray[Any], groups: NDArray[Any] | None = None) -> Codebook:
        """Each value of `x` by the entry of its row's book that is nearest; entries are sorted and rounded to float16 first."""
        groups = np.zeros(x.shape[0], np.int32) if groups is None else groups
        sorted_books = np.sort(np.atleast_2d(np.asarray(books, np.float64)), axis=1).astype(np.float16)
        index = np.empty(x.shape, np.int32)
        for number, book in enumerate(sorted_books.astype(np.float64)):
            index[groups == number] = np.searchsorted((book[1:] + book[:-1]) / 2, x[groups == number])
        return cls(index, sorted_books, groups)

    @property
    def shape(self) -> Shape:
        return self.index.shape

    @property
    def params(self) -> Mapping[str, Any]:
        return {"books": len(self.books), "entries": self.books.shape[1]}

    def _rows(self, of_group: NDArray[Any]) -> NDArray[Any]:
        return of_group[self.groups].reshape(-1, *[1] * (self.index.ndim - 1))

    def _zeros(self) -> NDArray[np.int32]:
        return np.abs(self.books.astype(np.float32)).argmin(axis=1).astype(np.int32)

    def values(self) -> NDArray[np.float32]:
        return self.books[np.broadcast_to(self._rows(np.arange(len(self.books))), self.index.shape), self.index].astype(np.float32)

    def write(self, out: Target) -> None:
        out.integers(np.diff(_ordered(self.books), axis=1, prepend=0))
        if len(self.books) > 1:
            out.integers(self.groups)
        out.integers(self.index - self._rows(self._zeros()))

    @classmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Codebook:
        expect(params, books=int, entries=int)
        rows = shape[0] if shape else 1
        if not 1 <= params["books"] <= max(rows, 1) or not 1 <= params["entries"] <= MAX_ENTRIES:
            raise StreamError(f"{params['books']} codebooks of {params['entries']} entries for a tensor of shape {shape}")
        books = _from_ordered(np.cumsum(src.integers((params["books"], params["entries"])), axis=1, dtype=np.int64))
        groups = src.integers((rows,)) if len(books) > 1 else np.zeros(rows, np.int32)
        if groups.size and not 0 <= int(groups.min()) <= int(groups.max()) < len(books):
            raise StreamError("a row of a codebook tensor names a book that is not there")
        shifted = src.integers(shape).astype(np.int64)
        zeros = np.abs(books.astype(np.float32)).argmin(axis=1)
        index = shifted + zeros[groups].reshape(-1, *[1] * (len(shape) - 1)) if shape else shifted + zeros[0]
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < params["entries"]:
            raise StreamError(f"an index of a codebook is outside its {params['entries']} entries")
        try:
            return cls(index, books, groups)
        except InputError as error:
            raise StreamError(str(error)) from None


def _ordered(x: NDArray[np.float16]) -> NDArray[np.int32]:
    """Integers in the order of the floats: those of rising entries rise."""
    bits = (x + np.float16(0)).view(np.int16).astype(np.int32)  # -0 becomes 0
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


def _from_ordered(n: NDArray[np.int64]) -> NDArray[np.float16]:
    if n.size and int(np.abs(n).max()) >= 0x7C00:
        raise StreamError("an entry of a codebook is not finite")
    return np.where(n < 0, -n | 0x8000, n).astype(np.uint16).view(np.float16)
