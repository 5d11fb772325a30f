"""The fast coder of `context` with 32 cells side by side (AVX-512): whole payloads, equal to those of `ContextStage`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.context_stage import ContextStage
from tensorpress.blocks.uniform import as_float32, restore
from tensorpress.core.binary import Buffer
from tensorpress.core.errors import InputError, StripeError
from tensorpress.core.payload import Reader, Writer, chw, head_bytes, placed
from tensorpress.core.threads import threads

Array = NDArray[Any]
PLAIN = ("f4", "u1", "i1")  # what the native side takes as it is


def plain(x: Array, codec: str) -> Array:
    """(C, H, W) contiguous, 8-bit integers or finite float32."""
    if x.dtype.kind == "f":
        x = as_float32(x, codec)
    return np.ascontiguousarray(x.reshape(chw(x.shape)))


class ContextKernel:
    """Where the encoder chooses by rate and distortion, or caps stripes, the stage encodes; decoding is always native."""

    def __init__(self, stage: ContextStage) -> None:
        self.stage, self.codec = stage, stage.codec

    @property
    def native(self) -> Any:
        return self.stage.model.native  # made when it is first used: it is a thousand times what a plan holds of it

    def accepts(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        channels, rows, columns = chw(shape)
        return (dtype.kind == "f" or dtype.str[1:] in PLAIN) and channels == self.stage.model.channels and self.native.lanes(rows, columns)

    def capacity(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        _, rows, columns = chw(shape)
        return self.native.capacity(rows, columns, len(head_bytes(dtype, shape)))

    def encode(self, x: Array, out: Array | None = None, reference: Array | None = None) -> Buffer:
        if self.stage.lagrangian or self.stage.cap or self.stage.rounding != 0.5:
            writer = Writer(x.dtype, x.shape, reference)
            self.stage.encode(x, writer)
            payload = writer.finish()
            return payload if out is None else placed(payload, out)
        before = None if reference is None else plain(reference, self.codec)
        found = self.native.encode_payload(plain(x, self.codec), before, head_bytes(x.dtype, x.shape), out, threads(x.size))
        if found is None:
            assert out is not None
            raise InputError(f"the output has {out.size} bytes; a {x.dtype} tensor of shape {x.shape} may need {self.capacity(x.dtype, x.shape)}")
        return found if out is None else out.data[:found]

    def decode(self, src: Reader, out: Array) -> None:
        before = None if src.reference is None else plain(src.reference, self.codec)
        shape = chw(out.shape)
        whole = out.dtype.str[1:] in ("u1", "i1") and self.native.exact
        direct = (whole or out.dtype == np.float32) and out.flags.c_contiguous
        values = out.reshape(shape) if direct else np.empty(shape, out.dtype if whole else np.float32)
        fault, stripe = self.native.decode_payload(src.payload, src.head_nbytes, before, values, threads(out.size))
        if fault:
            raise StripeError(stripe, f"its bytes are not {self.codec} data of this shape, or its check fails")
        if not direct:
            out[...] = values.reshape(out.shape) if whole else restore(values, out.dtype).reshape(out.shape)
