"""APack: values as one of 16 ranges, entropy-coded, and an offset in raw bits.

    x -> 8-bit levels -> step, dead zone -> words -+-> range number -> static coder, 10-bit table a layer
                                                   +-> offset in the range -> its bits as they are

A reconstruction: the paper finds its ranges by a greedy search, here they are the best there are; the symbol coder is our static rANS with the same 10-bit counts, where the paper builds a 16-bit
arithmetic coder, so sizes agree but for each string's head.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.levels import LevelMap, Levels
from tensorpress.blocks.packers import FINE, WRONG
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.blocks.words import Words, WordStage
from tensorpress.coding import rans
from tensorpress.coding.tables import Tables
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import Writer

CARD = Card(
    id="apack",
    family="features",
    title="16 ranges, entropy-coded, and offsets",
    paper="Delmas Lascorz, Mahmoud, Moshovos: APack, arXiv 2201.08830",
    claim="2.08x average on 8-bit activations of many networks, lossless",
    measured="results/board",
    fidelity="reconstruction",
    portability="integers only",
    lossless=True,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)
RANGES, TABLE_BITS = 16, 10


@dataclass(frozen=True)
class Config(SteppedConfig):
    """The step, and what is fitted."""


class Ranges:
    """`starts`: 16 rising first values, from 0. Every word has a range, an offset, and as many bits for it as its range needs."""

    def __init__(self, starts: Sequence[int]) -> None:
        ends = np.array([*starts[1:], 256])
        self.starts = np.array(starts, np.int64)
        self.bits = np.array([int(n - 1).bit_length() for n in ends - self.starts], np.int64)
        self.of = np.repeat(np.arange(RANGES), ends - self.starts).astype(np.uint8)  # [256]
        self.native = self.starts.astype(np.uint8), self.bits.astype(np.uint8), self.of

    def footprint(self, counts: NDArray[np.int64]) -> float:
        """Bits of words with these counts [256]."""
        sizes = np.bincount(self.of, counts, RANGES)
        seen = sizes[sizes > 0]
        return float(-(seen * np.log2(seen / max(sizes.sum(), 1))).sum() + (sizes * self.bits).sum())


def fit_ranges(counts: NDArray[np.int64]) -> tuple[int, ...]:
    """The 16 ranges of least footprint: a dynamic programme over where the last one begins, for the footprint is a sum over ranges."""
    below = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    first, end = np.arange(256)[:, None], np.arange(257)[None, :]
    size, length = below[end] - below[first], np.maximum(end - first, 1)
    bits = np.ceil(np.log2(length))
    whole = max(below[-1], 1.0)
    cost = np.where(end > first, size * (bits - np.log2(np.maximum(size, 1.0) / whole)), np.inf)  # [first, end)
    best, chosen = cost[0], []
    for _ in range(RANGES - 1):
        total = best[:256, None] + cost
        chosen.append(total.argmin(0))
        best = total.min(0)
    starts, at = [], 256
    for row in reversed(chosen):
        at = int(row[at])
        starts.append(at)
    return (0, *reversed(starts))


class RangeWords(WordStage):
    """State: 'ranges' (15 bytes: first values after 0) and 'tables' (one row of 16)."""

    def __init__(self, levels: Levels, ranges: Ranges | None = None, tables: Tables | None = None) -> None:
        super().__init__(levels)
        self.ranges, self.tables = ranges, tables

    def fit(self, samples: Sequence[LevelMap]) -> RangeWords:
        counts = sum((np.bincount(m.levels.reshape(-1), minlength=256) for m in samples), np.zeros(256, np.int64))
        ranges = Ranges(fit_ranges(np.asarray(counts)))
        return RangeWords(self.levels, ranges, Tables.from_counts(np.bincount(ranges.of, counts, RANGES).astype(np.int64), TABLE_BITS))

    def shared(self) -> Mapping[str, bytes]:
        assert self.ranges is not None and self.tables is not None
        return {"ranges": bytes(self.ranges.starts[1:].tolist()), "tables": self.tables.to_bytes()}

    def encode(self, x: LevelMap, out: Writer) -> None:
        if self.ranges is None:
            raise InputError("the codec is not fitted: it has no ranges; call fit(samples)")
        super().encode(x, out)

    def max_nbytes(self, words: int, itemsize: int) -> int:
        if self.ranges is None or self.tables is None:
            raise InputError("the codec is not fitted: it has no ranges; call fit(samples)")
        worst = float((self.tables.worst_bits[0] + self.ranges.bits).max())  # of a range's number and an offset in it
        return 4 + rans.HEAD_NBYTES + int(words * worst / 8) + 1

    def pack(self, words: Words) -> bytes:
        assert self.ranges is not None and self.tables is not None
        numbers, offsets = np.empty(words.size, np.uint8), np.empty(words.size + 8, np.uint8)
        nbytes = _native.ranges_encode(*self.ranges.native, words, numbers, offsets)
        symbols = rans.encode(numbers, self.tables)
        return len(symbols).to_bytes(4, "little") + symbols + offsets[:nbytes].tobytes()

    def unpack(self, data: memoryview, out: Words, stripe: int) -> None:
        if self.ranges is None or self.tables is None:
            raise StreamError("the state holds no ranges: nothing can be decoded")
        length = int.from_bytes(data[:4], "little")
        if len(data) < 4 or length > len(data) - 4:
            raise StripeError(stripe, f"it is cut: its symbols end at {4 + length} of {len(data)} bytes")
        try:
            numbers = rans.decode(data[4 : 4 + length], self.tables, out.size)
        except StreamError as error:
            raise StripeError(stripe, str(error)) from None
        rest = np.frombuffer(data[4 + length :], np.uint8)
        found = _native.ranges_decode(*self.ranges.native, numbers, rest, out)
        if found == WRONG:
            raise StripeError(stripe, f"{rest.size} bytes of offsets are not what its ranges need, or bits after them are not zero")
        if found != FINE:
            raise StripeError(stripe, f"the offset of word {found} leads out of its range")


def stage(config: Any, levels: Levels, state: Mapping[str, bytes]) -> RangeWords:
    if not state:
        return RangeWords(levels)
    if set(state) != {"ranges", "tables"}:
        raise InputError(f"state of codec {CARD.id!r} holds {sorted(state)}, not 'ranges' and 'tables'")
    starts = [0, *bytes(state["ranges"])]
    if len(starts) != RANGES or any(a >= b for a, b in itertools.pairwise(starts)):
        raise InputError("apack: the first values of the ranges are not 16 rising numbers")
    tables = Tables.from_bytes(state["tables"], max_rows=1)
    if (tables.rows, tables.symbols, tables.bits) != (1, RANGES, TABLE_BITS):
        raise InputError(f"apack: tables of {tables.rows} rows, {tables.symbols} symbols and {tables.bits} bits, not 1, 16 and 10")
    return RangeWords(levels, Ranges(starts), tables)


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """State: 'ranges', 'tables'."""
    return stepped_codec(CARD.id, config, state, stage)
