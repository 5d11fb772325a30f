"""A fused native kernel: a float tensor to a finished payload and back in one call, byte-equal to the chain of stages it stands for.

The native side (`_native.MapKernel`, native/include/tensorpress/payload.h) is one object for each zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.levels import Levels
from tensorpress.core.errors import InputError, StripeError
from tensorpress.core.payload import Reader, chw, head_bytes
from tensorpress.core.threads import threads

Array = NDArray[Any]

# native/include/tensorpress/payload.h, Fault
FAULTS = (
    "",
    "not finite",
    "output is too small",
    "cell header is cut",
    "cell header has flags 0x{at:02x}, which no encoder writes",
    "payload ends past its stripe",
    "the payload has another length than its sections fill",
    "cell of mode dct where the codec has no DCT of that length",
    "a section ends past its payload",
    "padding bits are not zero",
    "{at} bytes stand after the last cell",
    "the check of its stripe fails",
)
NOT_FINITE, OUTPUT_SMALL = 1, 2
DIRECT = frozenset(np.dtype(d) for d in (np.float32, np.uint8, np.int8))  # types that kernels take as they are


class MapKernel:
    """Byte-equal twin of `levels >> …`. `native`: by zero point."""

    def __init__(self, levels: Levels, native: Mapping[int, _native.MapKernel]) -> None:
        self.levels, self.native = levels, native

    def accepts(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        return dtype.kind == "f" or dtype.itemsize == 1

    def capacity(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        """Bytes that an output must have, at least: those of the largest payload, and room to write in whole registers."""
        return self.native[self.levels.zero_of(dtype)].capacity(*chw(shape), len(head_bytes(dtype, shape)))

    def encode(self, x: Array, out: Array | None = None, reference: Array | None = None) -> bytes | memoryview:
        dtype = x.dtype
        if dtype.kind == "f":
            if self.levels.reciprocal is None:
                raise InputError("the codec is not fitted: it has no scale; call fit(samples)")
            if dtype != np.float32:
                with np.errstate(over="ignore"):
                    x = x.astype(np.float32)
        elif dtype.kind == "b":
            x = x.view(np.uint8)
        native = self.native[self.levels.zero_of(dtype)]
        try:
            found, fault, _, _, at = native.encode(
                x if x.ndim == 3 else x.reshape(chw(x.shape)), self.levels.reciprocal or 1.0, head_bytes(dtype, x.shape), out, threads(x.size)
            )
        except ValueError as error:  # its size
            raise InputError(f"a tensor of shape {x.shape} cannot be encoded: {error}") from None
        if fault == NOT_FINITE:
            where = tuple(int(i) for i in np.unravel_index(at, x.shape))
            raise InputError(f"the tensor holds {x[where]} at index {where}; only finite values can be quantised")
        if fault == OUTPUT_SMALL and out is not None:
            raise InputError(f"the output has {out.size} bytes; a {dtype} tensor of shape {x.shape} may need {self.capacity(dtype, x.shape)}")
        if fault:
            raise AssertionError(FAULTS[fault])
        return found if out is None else out.data[:found]

    def decode(self, src: Reader, out: Array) -> None:
        target = out.view(np.uint8) if out.dtype == bool else out
        view = target if target.ndim == 3 else target.reshape(chw(out.shape))
        direct = target.dtype in DIRECT and (view is target or np.may_share_memory(target, view))
        if not direct:
            view = np.empty(view.shape, np.float32 if out.dtype.kind == "f" else target.dtype)
        native = self.native[self.levels.zero_of(out.dtype)]
        _, fault, stripe, cell, at = native.decode(src.payload, src.head_nbytes, view, self.levels.scale_for(out.dtype), threads(view.size))
        if fault:
            raise StripeError(stripe, f"cell {cell}: {FAULTS[fault].format(at=at)}")
        if not direct:
            with np.errstate(over="ignore"):
                target[...] = view.reshape(out.shape)
