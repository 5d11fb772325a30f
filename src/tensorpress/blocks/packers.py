"""Packers of 8-bit words, one stripe at a time: zero runs, compressed columns, cells in slots. FORMAT.md, section 17.

    words (C, H, W) -> 8 rows of all channels -> native packer -> one stripe

The slow twins are in coding/word_reference.py.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.levels import LevelMap, Levels
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

Stripe = NDArray[np.uint8]  # (C, at most 8, W), contiguous

WRONG = -2  # native/include/tensorpress/words.h: lengths or padding bits of the whole stripe; from 0 on a place
FINE = -1
SLOT_NBYTES = 2112  # a cell of 2,048 values and its 128 codes of 4 bits
CELLS = {"deep": (32, 8), "wide": (16, 16)}  # channels and columns of a cell, which has 8 rows
LAYOUTS = ("packed", "slot")


def check_words(dtype: np.dtype[Any]) -> None:
    """StreamError where a payload of `dtype` has no 8-bit levels."""
    if dtype.kind != "f" and dtype.itemsize > 1:
        raise StreamError(f"payload declares {dtype}; this codec holds floats and 8-bit integers")


class Packer(Stage[LevelMap, None]):
    """Each stripe of words by itself. `pack` gives its bytes, `unpack` fills it: FINE, WRONG, or the place that is wrong."""

    unit = ""  # what `unpack` counts places in

    def __init__(self, levels: Levels) -> None:
        self.levels = levels

    @abstractmethod
    def pack(self, stripe: Stripe) -> Stripe: ...

    @abstractmethod
    def unpack(self, data: NDArray[np.uint8], stripe: Stripe) -> int: ...

    @abstractmethod
    def max_nbytes(self, shape: View) -> int:
        """The most bytes that `pack` makes of a stripe of this shape."""

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return self.max_nbytes((view[0], rows, view[2]))

    def encode(self, x: LevelMap, out: Writer) -> None:
        for number in range(stripe_count(out.shape)):
            out.stripe(self.pack(np.ascontiguousarray(x.levels[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS])).data)

    def decode(self, y: None, src: Reader) -> LevelMap:
        check_words(src.dtype)
        words = np.empty(chw(src.shape), np.uint8)
        for number in range(stripe_count(src.shape)):
            part = words[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            stripe = part if part.flags.c_contiguous else np.empty(part.shape, np.uint8)
            data = np.frombuffer(src.stripe(), np.uint8)
            found = self.unpack(data, stripe)
            if found != FINE:
                place = f"its {data.size} bytes" if found == WRONG else f"{self.unit} {found} of its {data.size} bytes"
                raise StripeError(number, f"{place} do not fit {' x '.join(map(str, part.shape))} words")
            if stripe is not part:
                part[...] = stripe
        return LevelMap(words, self.levels.zero_of(src.dtype))


class ZeroRuns(Packer):
    """Pairs of a run of zeros (5 bits) and the word after it (8 bits), end to end."""

    unit = "pair"

    def max_nbytes(self, shape: View) -> int:
        return (13 * math.prod(shape) + 7) // 8  # a pair a word

    def pack(self, stripe: Stripe) -> Stripe:
        out = np.empty(self.max_nbytes(stripe.shape), np.uint8)  # type: ignore[arg-type]
        return out[: _native.zero_runs_encode(stripe.reshape(-1), out)]

    def unpack(self, data: NDArray[np.uint8], stripe: Stripe) -> int:
        return _native.zero_runs_decode(data, stripe.reshape(-1))


class Columns(Packer):
    """For each channel a count, then for each entry the zeros before it (4 bits), then the entries' words."""

    unit = "channel"

    def max_nbytes(self, shape: View) -> int:
        length = shape[1] * shape[2]  # an entry a word
        return -(-shape[0] * length.bit_length() // 8) + -(-shape[0] * length // 2) + shape[0] * length

    def pack(self, stripe: Stripe) -> Stripe:
        out = np.empty(4 * stripe.shape[0] + 3 * stripe.size // 2 + 2, np.uint8)
        return out[: _native.columns_encode(stripe, out)]

    def unpack(self, data: NDArray[np.uint8], stripe: Stripe) -> int:
        return _native.columns_decode(data, stripe)


class Slots(Packer):
    """Cells of 2,048 values; each 16 of them as they are in the bits that they need, or behind a bitmap."""

    unit = "cell"

    def __init__(self, levels: Levels, cell: str, layout: str) -> None:
        super().__init__(levels)
        if cell not in CELLS or layout not in LAYOUTS:
            raise InputError(f"cell = {cell!r}, layout = {layout!r}: {', '.join(CELLS)} and {', '.join(LAYOUTS)} are known")
        self.channels, self.columns = CELLS[cell]
        self.padded = layout == "slot"

    def max_nbytes(self, shape: View) -> int:
        cells, size = cells_of(shape, self.channels, self.columns), math.prod(shape)
        return cells * SLOT_NBYTES if self.padded else size + size // 32 + 3 * cells  # of a cell: its size, and what is left of a byte of codes

    def pack(self, stripe: Stripe) -> Stripe:
        cells = cells_of(stripe.shape, self.channels, self.columns)
        out = np.empty(self.max_nbytes(stripe.shape) + (0 if self.padded else cells), np.uint8)  # type: ignore[arg-type]
        return out[: _native.slots_encode(stripe, self.channels, self.columns, self.padded, out)]

    def unpack(self, data: NDArray[np.uint8], stripe: Stripe) -> int:
        return _native.slots_decode(data, self.channels, self.columns, self.padded, stripe)


def cells_of(shape: Sequence[int], channels: int, columns: int) -> int:
    """Cells of a (C, rows, W) view that has at most 8 rows."""
    return -(-shape[0] // channels) * -(-shape[2] // columns)


def slots_nbytes(shape: Sequence[int], cell: str = "deep") -> int:
    """The memory that a tensor of `shape` takes where every cell has a slot, however few bytes cross the bus."""
    return stripe_count(shape) * cells_of(chw(shape), *CELLS[cell]) * SLOT_NBYTES
