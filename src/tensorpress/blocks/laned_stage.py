"""8-bit symbols to stripes of laned rANS, one table for all of them; and the native kernel of the whole chain."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.map_kernel import DIRECT, NOT_FINITE, OUTPUT_SMALL
from tensorpress.blocks.uniform import QUANTISABLE, Uniform, as_float32, quantise, restore
from tensorpress.coding.lanes import LaneTables, decode, encode
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, head_bytes, stripe_count
from tensorpress.core.stage import Stage
from tensorpress.core.threads import threads

Array = NDArray[Any]


class LanedStage(Stage[NDArray[np.uint8], None]):
    """Symbols (C, H, W) -> one string for each 8 rows, in the order channel, row, column."""

    def __init__(self, tables: LaneTables) -> None:
        self.tables = tables

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return view[0] * rows * view[2]  # a longer string is not taken

    def encode(self, x: NDArray[np.uint8], out: Writer) -> None:
        for number in range(stripe_count(out.shape)):
            out.stripe(encode(x[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS].reshape(-1), self.tables))

    def decode(self, y: None, src: Reader) -> NDArray[np.uint8]:
        symbols = np.empty(chw(src.shape), np.uint8)
        for number in range(stripe_count(src.shape)):
            stripe = symbols[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            try:
                stripe[...] = decode(src.stripe(), math.prod(stripe.shape), self.tables).reshape(stripe.shape)
            except StreamError as error:
                raise StripeError(number, str(error)) from None
        return symbols


class LanedKernel:
    """Byte-equal twin of `Uniform >> LanedStage`: float32 and 8-bit integers as they are, other floats by way of float32."""

    def __init__(self, levels: Uniform, tables: LaneTables) -> None:
        self.levels, self.tables, self.step, self.reciprocal = levels, tables, float(levels.step), float(levels.reciprocal)

    @cached_property
    def native(self) -> dict[str, _native.LanedRans]:
        """By kind of type; made when they are first used, for they are much larger than the tables."""
        levels, tables, found = self.levels, self.tables, {}
        frequencies, bottom, top = np.array(tables.frequencies, np.uint32), -levels.zero_point, levels.levels - 1 - levels.zero_point
        identity = np.minimum(np.arange(256), levels.levels - 1).astype(np.uint8)
        for kind, dtype in (("f", None), ("u", np.uint8), ("i", np.int8)):
            symbol_of, level_of = identity, np.arange(256, dtype=np.uint8)
            if dtype is not None:  # level: the value, from the least on
                values = np.arange(256) + np.iinfo(dtype).min
                symbol_of = (quantise(values.astype(np.float32), levels.reciprocal, bottom, top) + np.int16(levels.zero_point)).astype(np.uint8)
                level_of = np.resize((levels.values(np.dtype(dtype)).astype(np.int16) - np.iinfo(dtype).min).astype(np.uint8), 256)
            found[kind] = _native.LanedRans(frequencies, tables.escape, tables.bits, levels.zero_point, symbol_of, level_of)
        return found

    def accepts(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        return dtype in QUANTISABLE

    def capacity(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        return self.native[dtype.kind].capacity(*chw(shape), len(head_bytes(dtype, shape)))

    def encode(self, x: Array, out: Array | None = None, reference: Array | None = None) -> bytes | memoryview:
        plain = as_float32(x, self.levels.codec) if x.dtype.kind == "f" and x.dtype != np.float32 else x
        plain = plain if plain.ndim == 3 else plain.reshape(chw(x.shape))
        try:
            found, fault, *_ = self.native[x.dtype.kind].encode(plain, self.reciprocal, head_bytes(x.dtype, x.shape), out, threads(x.size))
        except ValueError as error:  # its size
            raise InputError(f"a tensor of shape {x.shape} cannot be encoded: {error}") from None
        if fault == NOT_FINITE:
            as_float32(x, self.levels.codec)  # says where
        if fault == OUTPUT_SMALL and out is not None:
            raise InputError(f"the output has {out.size} bytes; a {x.dtype} tensor of shape {x.shape} may need {self.capacity(x.dtype, x.shape)}")
        if fault:
            raise AssertionError(fault)
        return found if out is None else out.data[:found]

    def decode(self, src: Reader, out: Array) -> None:
        view = out if out.ndim == 3 else out.reshape(chw(out.shape))
        direct = out.dtype in DIRECT and (view is out or np.may_share_memory(out, view))
        if not direct:
            view = np.empty(view.shape, np.float32 if out.dtype.kind == "f" else out.dtype)
        _, fault, stripe, *_ = self.native[out.dtype.kind].decode(src.payload, src.head_nbytes, view, self.step, threads(view.size))
        if fault:
            raise StripeError(stripe, "its check fails, or its bytes are no rANS string of its symbols")
        if not direct:
            out[...] = restore(view.reshape(out.shape), out.dtype)
