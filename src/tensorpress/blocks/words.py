"""Levels as they are, and levels behind a zero bitmap: one stripe of 8 rows at a time, channels outermost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.cells import CellRules
from tensorpress.blocks.levels import LevelMap, Levels
from tensorpress.core.codec import DeviceKernel
from tensorpress.core.errors import StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

Words = NDArray[Any]


def stripes_of(words: Words, count: int) -> list[Words]:
    """`count` blocks of 8 rows, each flat, contiguous and little-endian."""
    return [np.ascontiguousarray(words[:, s * STRIPE_ROWS : (s + 1) * STRIPE_ROWS]).reshape(-1) for s in range(count)]


def word_type(src: Reader, levels: Levels) -> np.dtype[Any]:
    """The unsigned words that a payload of this type holds: 8-bit levels for floats, else its own width. StreamError where `levels` has no such words."""
    if src.dtype.kind != "f" and src.dtype.itemsize > 1 and not levels.wide:
        raise StreamError(f"payload declares {src.dtype}, which this codec does not write")
    return np.dtype(np.uint8) if src.dtype.kind == "f" else np.dtype(f"<u{src.dtype.itemsize}")


class WordStage(Stage[LevelMap, None]):
    """Maps each stripe's words to bytes with `pack` and back with `unpack`."""

    def __init__(self, levels: Levels) -> None:
        self.levels = levels

    def pack(self, words: Words) -> bytes:
        return words.tobytes()

    def unpack(self, data: memoryview, out: Words, stripe: int) -> None:
        if len(data) != out.nbytes:
            raise StripeError(stripe, f"{len(data)} bytes, its shape needs {out.nbytes}")
        out[...] = np.frombuffer(data, out.dtype)

    def max_nbytes(self, words: int, itemsize: int) -> int:
        """The most bytes that `pack` makes of so many words of so many bytes."""
        return words * itemsize

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return self.max_nbytes(view[0] * rows * view[2], 1 if dtype.kind == "f" else dtype.itemsize)

    def encode(self, x: LevelMap, out: Writer) -> None:
        for words in stripes_of(x.levels, stripe_count(out.shape)):
            out.stripe(self.pack(words))

    def decode(self, y: None, src: Reader) -> LevelMap:
        channels, rows, columns = chw(src.shape)
        words = np.empty((channels, rows, columns), word_type(src, self.levels))
        for stripe in range(stripe_count(src.shape)):
            part = words[:, stripe * STRIPE_ROWS : (stripe + 1) * STRIPE_ROWS]
            flat = np.empty(part.size, words.dtype)
            self.unpack(src.stripe(), flat, stripe)
            part[...] = flat.reshape(part.shape)
        return LevelMap(words, self.levels.zero_of(src.dtype))


class ZeroBitmap(WordStage):
    """One bit a value, then the non-zero words (1 to 8 bytes)."""

    def on_device(self, rules: Mapping[int, CellRules]) -> DeviceKernel:
        from tensorpress.blocks.gpu.zero_bitmap import ZeroBitmapOnDevice

        return ZeroBitmapOnDevice(self.levels, rules)

    def max_nbytes(self, words: int, itemsize: int) -> int:
        return -(-words // 8) + words * itemsize

    def pack(self, words: Words) -> bytes:
        raw = words.view(np.uint8)
        out = np.empty(self.max_nbytes(words.size, words.itemsize) + words.itemsize, np.uint8)
        nbytes = _native.zero_bitmap_encode(raw, words.itemsize, out)
        return out[:nbytes].tobytes()

    def unpack(self, data: memoryview, out: Words, stripe: int) -> None:
        if not _native.zero_bitmap_decode(np.frombuffer(data, np.uint8), out.itemsize, out.view(np.uint8)):
            raise StripeError(stripe, f"its {len(data)} bytes are not a zero bitmap of {out.size} words and their non-zeros")
