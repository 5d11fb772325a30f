"""The fast way from a tensor to words and back: one native pass in place of the stages `Levels >> Stepped`, with equal results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorpress import _native
from tensorpress.blocks.cells import CellRules
from tensorpress.blocks.levels import Array, LevelMap, Levels
from tensorpress.blocks.uniform import restore
from tensorpress.core.binary import Buffer
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader, Writer, chw, max_payload_nbytes, placed
from tensorpress.core.stage import Stage

MIDDLE = np.arange(256) ^ 128  # levels of int8, in the order of their bytes


class SteppedKernel:
    """Byte-equal twin of `Levels >> Stepped >> words`. `rules`: by zero point, as `Stepped` has them."""

    def __init__(self, levels: Levels, rules: Mapping[int, CellRules], words: Stage[LevelMap, None]) -> None:
        self.levels, self.rules, self.words = levels, rules, words

    def accepts(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        return dtype.kind == "f" or dtype.itemsize == 1

    def capacity(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        return max_payload_nbytes(dtype, shape, self.words.max_stripe_nbytes)

    def encode(self, x: Array, out: Array | None = None, reference: Array | None = None) -> Buffer:
        zero = self.levels.zero_of(x.dtype)
        table = self.rules[zero].symbol_of
        words = np.empty(x.size, np.uint8)
        if x.dtype.kind == "f":
            if self.levels.reciprocal is None:
                raise InputError("the codec is not fitted: it has no scale; call fit(samples)")
            with np.errstate(over="ignore", under="ignore"):
                values = np.ascontiguousarray(x, np.float32).reshape(-1)
            wild = _native.floats_to_words(values, self.levels.reciprocal, zero, table, words)
            if wild >= 0:
                where = tuple(int(i) for i in np.unravel_index(wild, x.shape))
                raise InputError(f"the tensor holds {x[where]} at index {where}; only finite values can be quantised")
        else:
            by_byte = np.ascontiguousarray(table[MIDDLE]) if x.dtype == np.int8 else table
            _native.bytes_to_words(np.ascontiguousarray(x).view(np.uint8).reshape(-1), by_byte, words)
        writer = Writer(x.dtype, x.shape)
        self.words.encode(LevelMap(words.reshape(chw(x.shape)), zero), writer)
        payload = writer.finish()
        return payload if out is None else placed(payload, out)

    def decode(self, src: Reader, out: Array) -> None:
        found = self.words.decode(None, src)
        words = np.ascontiguousarray(found.levels).reshape(-1)
        table = self.values(out.dtype, found.zero)
        direct = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        if out.dtype == np.float32:
            _native.words_to_floats(words, table, direct.reshape(-1))
        elif out.dtype.itemsize == 1:
            _native.bytes_to_words(words, table, direct.view(np.uint8).reshape(-1))
        else:
            np.take(table, words, out=direct.reshape(-1))
        if direct is not out:
            out[...] = direct

    def values(self, dtype: np.dtype[Any], zero: int) -> Array:
        """What each word stands for: 256 floats of `dtype`, or the bytes of an integer type."""
        levels = self.rules[zero].level_of
        if dtype.kind != "f":
            return levels ^ np.uint8(128) if dtype == np.int8 else levels
        with np.errstate(over="ignore", under="ignore"):
            values = (levels.astype(np.int32) - zero).astype(np.float32) * np.float32(self.levels.scale_for(dtype))
        return restore(values, dtype)
