"""Integer frequency tables: what a model tells the rANS coder, as cumulative sums of 2^bits with no zero frequency."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tensorpress._native import RansTables
from tensorpress.core.binary import Buffer, read_varint, varint
from tensorpress.core.errors import InputError, StreamError

USUAL_BITS, MAX_BITS = 12, 16
MAX_SLOTS = 1 << 24  # rows * 2^bits: what a decoder may be asked to hold (2 bytes a slot)


def _roomy(rows: NDArray[Any]) -> range:
    """The table sizes that are tried: at least twice as many slots as symbols."""
    return range(min(max(USUAL_BITS, rows.shape[1].bit_length() + 1), MAX_BITS), MAX_BITS + 1)


def whole(values: ArrayLike, dtype: Any, what: str) -> NDArray[Any]:
    """`values` as a contiguous array of the integer type `dtype`. InputError where they are no integers, or do not fit: none is cut to size."""
    found = np.asarray(values)
    limits = np.iinfo(dtype)
    if found.dtype.kind not in "iu" or (found.size and not (limits.min <= int(found.min()) and int(found.max()) <= limits.max)):
        raise InputError(f"{what} must be integers from {limits.min} to {limits.max}, not {found.dtype}")
    return np.ascontiguousarray(found, dtype)


@dataclass(frozen=True, eq=False)
class Tables:
    """Rows of one alphabet. `cdf` is uint32 (rows, symbols + 1), each row strictly rising from 0 to 2^`bits`, 10 <= bits <= 16.

    InputError where it is not.
    """

    cdf: NDArray[np.uint32]
    bits: int = 12

    def __post_init__(self) -> None:
        if not 10 <= self.bits <= 16:
            raise InputError(f"tables of {self.bits} bits: 10 to 16 are allowed")
        cdf = whole(self.cdf, np.uint32, "CDF rows")
        if cdf.ndim != 2 or cdf.shape[0] < 1 or cdf.shape[1] < 2:
            raise InputError(f"CDF rows have the shape {cdf.shape}, not (rows, symbols + 1)")
        if cdf.shape[0] << self.bits > MAX_SLOTS:
            raise InputError(f"{cdf.shape[0]} rows of 2^{self.bits} slots are over the limit of {MAX_SLOTS} slots")
        if cdf[:, 0].any() or (cdf[:, -1] != 1 << self.bits).any() or (cdf[:, 1:] <= cdf[:, :-1]).any():
            raise InputError(f"a CDF row does not rise strictly from 0 to 2^{self.bits}: every symbol needs a frequency of at least 1")
        cdf.setflags(write=False)
        object.__setattr__(self, "cdf", cdf)

    @property
    def rows(self) -> int:
        return int(self.cdf.shape[0])

    @property
    def symbols(self) -> int:
        return int(self.cdf.shape[1]) - 1

    @property
    def frequencies(self) -> NDArray[np.uint32]:
        """(rows, symbols), each row summing to 2^bits."""
        return np.diff(self.cdf, axis=1)

    @cached_property
    def native(self) -> Any:
        """The look-ups of the native kernels, made once."""
        return RansTables(self.cdf, self.bits)

    @cached_property
    def worst_bits(self) -> NDArray[np.float64]:
        """(rows, symbols): the most bits that a symbol adds to a rANS string, rounding of states included.

        A state x becomes at most (x / f + 1) 2^bits: it grows by 2^bits / f and, as x is 2^16 at least, by 1 + f / 2^16. Where a word has just
        gone, x / f is 2^(16 - bits) at least, and the last factor 1 + 2^(bits - 16): a word takes away 16 bits less that one's logarithm.
        """
        f = self.frequencies.astype(np.float64)
        bits = self.bits - np.log2(f) + np.log2(1 + f / 65536)
        return np.asarray(bits * 16 / (16 - math.log2(1 + 2.0 ** (self.bits - 16))) * (1 + 1e-12))

    @classmethod
    def from_frequencies(cls, frequencies: ArrayLike, bits: int = 12) -> Tables:
        """From integer frequencies (rows, symbols) or (symbols,), each row summing to 2^bits."""
        rows = np.atleast_2d(whole(frequencies, np.int64, "frequencies"))
        if (rows < 1).any() or (rows.sum(axis=1) != 1 << bits).any():
            raise InputError(f"frequencies must be at least 1 and sum to 2^{bits} in every row")
        return cls(np.pad(np.cumsum(rows, axis=1), ((0, 0), (1, 0))).astype(np.uint32), bits)

    @classmethod
    def from_counts(cls, counts: ArrayLike, bits: int | None = None) -> Tables:
        """From how often each symbol was seen: integers >= 0, (rows, symbols) or (symbols,). No float takes part in the frequencies.

        Every symbol keeps a frequency of at least 1; a row of zeros becomes uniform. `bits`, where it is not given: the fewest from 12 on
        at which no row costs more than 1 / 500 above its entropy, or 16.
        """
        rows = np.atleast_2d(np.asarray(counts))
        if rows.dtype.kind not in "iu" or rows.ndim != 2 or (rows < 0).any():
            raise InputError(f"counts must be integers >= 0 of shape (rows, symbols), not {rows.dtype} {rows.shape}")
        if bits is None:
            return next(tables for tables in (cls.from_counts(rows, bits) for bits in _roomy(rows)) if tables.bits == MAX_BITS or tables._suits(rows))
        if not 1 <= rows.shape[1] <= 1 << bits:
            raise InputError(f"{rows.shape[1]} symbols do not fit tables of {bits} bits")
        return cls.from_frequencies([_normalised(row.tolist(), 1 << bits) for row in rows], bits)

    def _suits(self, counts: NDArray[Any]) -> bool:
        """Whether no row costs more than 1 / 500 above the entropy of its counts."""
        total = np.maximum(counts.sum(axis=1, keepdims=True, dtype=np.float64), 1)
        seen = np.maximum(counts, 1)
        least = (counts * np.log2(total / seen)).sum(axis=1)
        cost = (counts * (self.bits - np.log2(self.frequencies))).sum(axis=1)
        return bool((cost <= 1.002 * least).all())

    @classmethod
    def from_density(
        cls,
        density: ArrayLike | Callable[[NDArray[np.float64]], ArrayLike],
        edges: ArrayLike | None = None,
        bits: int = 12,
    ) -> Tables:
        """From a model's masses (rows, symbols), or from a CDF and the `edges` (…, symbols + 1) between its symbols.

        The floats become integers here, once; what a decoder needs is the result, never the model.
        """
        if callable(density):
            if edges is None:
                raise InputError("a CDF needs the edges between its symbols")
            masses = np.diff(np.asarray(density(np.atleast_2d(np.asarray(edges, np.float64))), np.float64), axis=-1)
        else:
            masses = np.atleast_2d(np.asarray(density, np.float64))
        if masses.ndim != 2 or not np.isfinite(masses).all() or (masses < 0).any():
            raise InputError("masses must be finite and >= 0, of shape (rows, symbols)")
        total = masses.sum(axis=1, keepdims=True)
        return cls.from_counts(np.rint(masses / np.where(total > 0, total, 1) * float(1 << 40)).astype(np.int64), bits)

    def to_bytes(self) -> bytes:
        """bits(1) varint(rows) varint(symbols), then each row's frequencies less one as varints; after a 0, how many more 0s follow."""
        out = bytearray([self.bits])
        out += varint(self.rows) + varint(self.symbols)
        for row in (self.frequencies - 1).tolist():
            at = 0
            while at < len(row):
                out += varint(row[at])
                at += 1
                if row[at - 1] == 0:
                    start = at
                    while at < len(row) and row[at] == 0:
                        at += 1
                    out += varint(at - start)
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: Buffer, *, max_rows: int = MAX_SLOTS) -> Tables:
        """StreamError unless `data` is exactly what `to_bytes` writes, of at most `max_rows` rows: a row of a few bytes may stand for 2^16 numbers."""
        data = bytes(data)
        if not data or not 10 <= data[0] <= 16:
            raise StreamError(f"tables of {data[0] if data else 'no'} bits: 10 to 16 are allowed")
        bits = data[0]
        rows, at = read_varint(data, 1, "table rows")
        symbols, at = read_varint(data, at, "table symbols")
        if not 1 <= rows <= min(max_rows, MAX_SLOTS >> bits) or not 1 <= symbols <= 1 << bits or rows > len(data):
            raise StreamError(f"tables of {rows} rows and {symbols} symbols do not fit {bits} bits and {len(data)} bytes")
        cdf = np.empty((rows, symbols + 1), np.uint32)
        for row in range(rows):
            frequencies: list[int] = []
            while len(frequencies) < symbols:
                less, at = read_varint(data, at, f"frequency in table row {row}")
                frequencies.append(less + 1)
                if less == 0:
                    more, at = read_varint(data, at, f"run in table row {row}")
                    if more > symbols - len(frequencies):
                        raise StreamError(f"run in table row {row} ends at symbol {len(frequencies) + more} of {symbols}")
                    frequencies += [1] * more
            if sum(frequencies) != 1 << bits:
                raise StreamError(f"table row {row} sums to {sum(frequencies)}, not 2^{bits}")
            cdf[row, 0] = 0
            cdf[row, 1:] = np.cumsum(frequencies)
        tables = cls(cdf, bits)
        if at != len(data) or tables.to_bytes() != data:
            raise StreamError(f"tables end at {at} of {len(data)} bytes, or are not in their shortest form")
        return tables


def _normalised(counts: Sequence[int], total: int) -> list[int]:
    """Frequencies >= 1 with the sum `total`, near the least code length for `counts`. Exact: the same on every machine."""
    seen = sum(counts)
    if seen == 0:
        counts, seen = [1] * len(counts), len(counts)
    frequencies = [max(1, count * total // seen) for count in counts]
    spare = total - sum(frequencies)
    # One step of frequency f gains about count / (f + 1/2), or costs count / (f - 1/2): 2c / (2f ± 1), in 2^-40ths.
    if spare > 0:
        heap = [(-((count << 41) // (2 * f + 1)), i) for i, (count, f) in enumerate(zip(counts, frequencies))]
    else:
        heap = [((count << 41) // (2 * f - 1), i) for i, (count, f) in enumerate(zip(counts, frequencies)) if f > 1]
    heapq.heapify(heap)
    step = 1 if spare > 0 else -1
    for _ in range(abs(spare)):
        _, i = heap[0]
        frequencies[i] += step
        rate = (counts[i] << 41) // (2 * frequencies[i] + step)
        if step < 0 and frequencies[i] == 1:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (-step * rate, i))
    return frequencies
