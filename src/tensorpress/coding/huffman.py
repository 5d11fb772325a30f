"""Canonical Huffman codes of at most 15 bits (package-merge: Larmore and Hirschberg, J. ACM 37(3), 1990).

Most significant bit first; codes go by (length, symbol); the last byte is filled up with zero bits, which are checked.
A row of one symbol spends no bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tensorpress._native import HuffmanCodes
from tensorpress.coding.rans import Index, Symbols, vector
from tensorpress.coding.tables import whole
from tensorpress.core.binary import Buffer, read_varint, varint
from tensorpress.core.errors import InputError, StreamError

LONGEST = 15
MAX_ROWS = 1 << 12
SLACK = 9  # bytes which the native encoder may touch after its last bit


@dataclass(frozen=True, eq=False)
class HuffmanTables:
    """Rows of one alphabet. `lengths` is uint8 (rows, symbols), each row a complete code. InputError where it is not."""

    lengths: NDArray[np.uint8]

    def __post_init__(self) -> None:
        lengths = whole(self.lengths, np.uint8, "code lengths")
        if lengths.ndim != 2 or not 1 <= lengths.shape[0] <= MAX_ROWS or not 1 <= lengths.shape[1] <= 1 << LONGEST:
            raise InputError(f"code lengths have the shape {lengths.shape}, not (rows, symbols)")
        if (lengths > LONGEST).any() or ((1 << LONGEST >> lengths.astype(np.int64)).sum(axis=1) != 1 << LONGEST).any():
            raise InputError(f"a row of code lengths is no complete code of at most {LONGEST} bits")
        lengths.setflags(write=False)
        object.__setattr__(self, "lengths", lengths)

    @property
    def rows(self) -> int:
        return int(self.lengths.shape[0])

    @property
    def symbols(self) -> int:
        return int(self.lengths.shape[1])

    @cached_property
    def native(self) -> Any:
        """The look-ups of the native kernels, made once."""
        return HuffmanCodes(self.lengths)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(rows, symbols): each symbol's code, right-aligned in its length."""
        codes = np.zeros(self.lengths.shape, np.int64)
        for row, lengths in enumerate(self.lengths):
            code = previous = 0
            for symbol in np.argsort(lengths, kind="stable"):
                code <<= int(lengths[symbol]) - previous
                previous = int(lengths[symbol])
                codes[row, symbol] = code
                code += 1
        return codes

    @classmethod
    def from_counts(cls, counts: ArrayLike) -> HuffmanTables:
        """Best lengths up to 15 bits for integer counts >= 0, (rows, symbols) or (symbols,). Every symbol gets a code; ties go by number."""
        rows = np.atleast_2d(np.asarray(counts))
        if rows.dtype.kind not in "iu" or rows.ndim != 2 or (rows < 0).any():
            raise InputError(f"counts must be integers >= 0 of shape (rows, symbols), not {rows.dtype} {rows.shape}")
        if not 1 <= rows.shape[1] <= 1 << LONGEST:
            raise InputError(f"{rows.shape[1]} symbols do not fit codes of {LONGEST} bits")
        return cls(np.array([_package_merge(row.tolist()) for row in rows], np.uint8))

    def to_bytes(self) -> bytes:
        """varint(rows) varint(symbols), then the code lengths, two to a byte, the first in the low half."""
        flat = np.append(self.lengths.reshape(-1), np.zeros(self.lengths.size % 2, np.uint8))
        return varint(self.rows) + varint(self.symbols) + (flat[::2] | flat[1::2] << 4).tobytes()

    @classmethod
    def from_bytes(cls, data: Buffer) -> HuffmanTables:
        """StreamError unless `data` is exactly what `to_bytes` writes."""
        data = bytes(data)
        rows, at = read_varint(data, 0, "code rows")
        symbols, at = read_varint(data, at, "code symbols")
        if len(data) - at != (rows * symbols + 1) // 2 or not 1 <= rows <= MAX_ROWS or not symbols:
            raise StreamError(f"lengths of {rows} rows and {symbols} symbols do not fit the {len(data) - at} bytes after byte {at}")
        packed = np.frombuffer(data, np.uint8, offset=at)
        flat = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
        if flat[rows * symbols :].any():
            raise StreamError(f"the last half byte of the code lengths, byte {len(data) - 1}, is not zero")
        try:
            return cls(flat[: rows * symbols].reshape(rows, symbols))
        except InputError as error:
            raise StreamError(str(error)) from None


def _package_merge(counts: Sequence[int]) -> NDArray[np.int64]:
    """Lengths of a best code of at most 15 bits. A count of 0 weighs 1, so that the symbol can be coded."""
    n = len(counts)
    lengths = np.zeros(n, np.int64)
    if n == 1:
        return lengths
    order = np.argsort(np.maximum(counts, 1), kind="stable")
    leaves = np.maximum(counts, 1).astype(np.int64)[order]
    level, sources = leaves, [np.ones(n, bool)]  # sources: which entries of a level are leaves
    for _ in range(LONGEST - 1):
        pairs = level[: level.size & ~1].reshape(-1, 2).sum(axis=1)
        merged = np.concatenate([leaves, pairs])
        places = np.argsort(merged, kind="stable")  # on a tie the leaf comes first
        level = merged[places]
        sources.append(places < n)
    take = 2 * n - 2
    for is_leaf in reversed(sources):
        used = int(is_leaf[:take].sum())
        lengths[order[:used]] += 1
        take = 2 * (take - used)
    return lengths


def max_nbytes(parts: Sequence[tuple[int, HuffmanTables]]) -> int:
    """The most bytes that an `Encoder` writes for so many symbols of each table: all of them its longest."""
    return -(-sum(count * int(tables.lengths.max()) for count, tables in parts) // 8)


class Encoder:
    """Collects symbols and writes their codes one after the other. Arrays are held, not copied, until it finishes."""

    def __init__(self) -> None:
        self._parts: list[tuple[Symbols, Index, HuffmanTables]] = []
        self._count = 0

    def put(self, symbols: Symbols, index: Index, tables: HuffmanTables) -> None:
        """Append `symbols`, each coded by the row of `tables` that `index` names. InputError for other types than uint8 and uint16."""
        symbols = vector(symbols, "symbols")
        self._parts.append((symbols, None if index is None else vector(index, "index"), tables))
        self._count += symbols.size

    def finish(self) -> bytes:
        """The bytes. InputError where a symbol or an index lies beyond its tables."""
        out = np.empty(LONGEST * self._count // 8 + SLACK, np.uint8)
        bit = first = 0
        for symbols, index, tables in self._parts:
            try:
                bit = tables.native.encode(symbols, index, out, bit)
            except ValueError as error:
                raise InputError(f"symbols {first} to {first + symbols.size}: {error}") from None
            first += symbols.size
        return out[: (bit + 7) // 8].tobytes()


class Decoder:
    """Gives back, put by put, what an `Encoder` took. `data` may be hostile: StreamError, and no byte beyond it is read."""

    def __init__(self, data: Buffer) -> None:
        self._data = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
        self._bit = self._count = 0

    def take(self, index: Index, tables: HuffmanTables, count: int | None = None, dtype: Any = None) -> Symbols:
        """The next symbols, as a vector: as many as `index` has, or `count` where it is None. `dtype`: the smallest that holds them."""
        which = None if index is None else vector(index, "index")
        size = which.size if which is not None else count
        if size is None or (count is not None and count != size):
            raise InputError(f"asked for {count} symbols with an index of {None if which is None else which.size}")
        out = np.empty(size, dtype or (np.uint8 if tables.symbols <= 256 else np.uint16))
        bit = tables.native.decode(self._data, self._bit, which, out)
        if bit < 0:
            raise StreamError(f"Huffman data ends at byte {self._data.size}, within symbols {self._count} to {self._count + size}")
        self._bit, self._count = bit, self._count + size
        return out

    def done(self) -> None:
        """StreamError unless all bytes were taken and the bits that fill up the last one are zero."""
        if (self._bit + 7) // 8 != self._data.size:
            raise StreamError(f"Huffman codes end at byte {(self._bit + 7) // 8}, the data at {self._data.size}")
        if self._bit % 8 and int(self._data[-1]) << self._bit % 8 & 0xFF:
            raise StreamError(f"the last {8 - self._bit % 8} bits of byte {self._data.size - 1} fill it up and must be zero")
