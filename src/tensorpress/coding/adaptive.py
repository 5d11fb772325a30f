"""Quantised weights to few bytes: binary decisions, each foretold by the weights coded before it (in the spirit of DeepCABAC, arXiv 1907.11900).

A tensor is seen as (rows, columns, taps): filters, input channels, places in the kernel. For each value it is said whether it is zero, its sign, and
then by how much it is larger than one; row, column, place and neighbours foretell how probable that is, and what was learned goes on to the next tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.core.binary import Buffer, row_of_bytes
from tensorpress.core.errors import InputError, StreamError

Values = NDArray[Any]
FORMS = ("small", "fast")  # the first byte of a string is its number here
SMALL_VALUES = 1 << 20  # the small form decodes ten million values a second, the fast one fifty, at 1 to 3 % more bytes
MAX_VALUES_A_BIT = 1 << 16  # a value takes a decision, and the surest costs more than 2^-16 bits


def view(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(rows, columns, taps) of a tensor: a vector is one row, a scalar one value."""
    if len(shape) < 2:
        return 1, math.prod(shape), 1
    return shape[0], shape[1], math.prod(shape[2:])


def whole(values: Values) -> NDArray[np.int32]:
    """`values` as contiguous int32 (rows, columns, taps). InputError where they are no integers, or beyond 32 bits."""
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise InputError(f"weights to code must be integers, not {values.dtype}")
    if values.dtype != np.int32:
        limits = np.iinfo(np.int32)
        if values.size and (int(values.min()) < limits.min or int(values.max()) > limits.max):
            raise InputError(f"weights to code must fit in 32 bits, but reach from {values.min()} to {values.max()}")
        values = values.astype(np.int32)
    return np.require(values, requirements=["C", "A"]).reshape(view(values.shape))


class AdaptiveEncoder:
    """One string over many tensors. `form`: "small" or "fast"; None takes small up to `SMALL_VALUES` values, and holds them until it is known."""

    def __init__(self, form: str | None = None) -> None:
        if form not in (None, *FORMS):
            raise InputError(f"form {form!r} is none of {', '.join(FORMS)}")
        self._native = None if form is None else _native.AdaptiveEncoder(form == "fast")
        self._held: list[NDArray[np.int32]] = []
        self._count = 0
        self._finished = False

    def put(self, values: Values) -> None:
        """Append integers of any rank. InputError where they are no integers, or beyond 32 bits."""
        if self._finished:
            raise InputError("the string is finished: nothing can be put behind it")
        seen = whole(values)
        if self._native is not None:
            self._finished = True  # what is interrupted is of no use
            self._native.put(seen)
            self._finished = False
            return
        self._held.append(seen.copy())
        self._count += seen.size
        if self._count > SMALL_VALUES:
            self._native = self._flushed(fast=True)

    def finish(self) -> bytes:
        """The string."""
        if self._finished:
            raise InputError("the string is finished already")
        self._finished = True
        return (self._native or self._flushed(fast=False)).finish()

    def _flushed(self, fast: bool) -> _native.AdaptiveEncoder:
        native = _native.AdaptiveEncoder(fast)
        for one in self._held:
            native.put(one)
        self._held = []
        return native


class AdaptiveDecoder:
    """Gives back, tensor by tensor, what an `AdaptiveEncoder` took. `data` may be hostile: StreamError, and no byte beyond it is read."""

    def __init__(self, data: Buffer) -> None:
        self._data = np.frombuffer(row_of_bytes(data), np.uint8)
        if not self._data.size or self._data[0] >= len(FORMS):
            raise StreamError(f"a string of weights begins with {bytes(self._data[:1]).hex() or 'nothing'}, which names no form")
        self._native = _native.AdaptiveDecoder(self._data)
        self._tensors = 0

    def take(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """The next tensor, int32 of `shape`. StreamError names the tensor and the value at which the string is seen to end.

        A string of n bytes may hold some 500,000 n zeros: where shapes are a stranger's, bound their sum before.
        """
        if any(n < 0 for n in shape):
            raise InputError(f"a tensor cannot have the shape {shape}")
        count = math.prod(shape)
        if count > 8 * (self._data.size + 8) * MAX_VALUES_A_BIT:
            raise StreamError(f"tensor {self._tensors}: {self._data.size} bytes cannot hold {count} values")
        out = np.empty(view(shape), np.int32)
        done = self._native.take(out)
        if done < count:
            where = f"tensor {self._tensors}, value {done} of {count}"
            if self._native.beyond():
                raise StreamError(f"{where}: beyond 32 bits")
            raise StreamError(f"{where}: the string of {self._data.size} bytes has ended")
        self._tensors += 1
        return out.reshape(shape)

    def done(self) -> None:
        """StreamError unless the string is, byte for byte, what an encoder of the tensors taken would have written."""
        if not self._native.done():
            raise StreamError(f"the string of {self._data.size} bytes does not end where its {self._tensors} tensors do")


def encode(tensors: Sequence[Values], form: str | None = None) -> bytes:
    """One string of all `tensors`."""
    encoder = AdaptiveEncoder(form)
    for values in tensors:
        encoder.put(values)
    return encoder.finish()


def decode(data: Buffer, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.int32]]:
    """The tensors of a string, which must hold no more than these."""
    decoder = AdaptiveDecoder(data)
    found = [decoder.take(shape) for shape in shapes]
    decoder.done()
    return found


def encoded_nbytes(values: Sequence[Values], form: str | None = None) -> int:
    """How many bytes one string of these tensors takes."""
    return len(encode(values, form))

