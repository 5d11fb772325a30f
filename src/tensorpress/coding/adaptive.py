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
    """One string over many tensors."""

    def __init__(self) -> None:
        self._native = _native.AdaptiveEncoder()
        self._finished = False

    def put(self, values: Values) -> None:
        """Append integers of any rank. InputError where they are no integers, or beyond 32 bits."""
        if self._finished:
            raise InputError("the string is finished: nothing can be put behind it")
        self._native.put(whole(values))

    def finish(self) -> bytes:
        """The string; empty only where no value was put or all were foretold."""
        if self._finished:
            raise InputError("the string is finished already")
        self._finished = True
        return self._native.finish()


class AdaptiveDecoder:
    """Gives back, tensor by tensor, what an `AdaptiveEncoder` took. `data` may be hostile: StreamError, and no byte beyond it is read."""

    def __init__(self, data: Buffer) -> None:
        self._data = np.frombuffer(row_of_bytes(data), np.uint8)
        self._native = _native.AdaptiveDecoder(self._data)
        self._tensors = 0

    def take(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """The next tensor, int32 of `shape`. StreamError names the tensor and the value at which the string is seen to end."""
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


def encode(tensors: Sequence[Values]) -> bytes:
    """One string of all `tensors`."""
    encoder = AdaptiveEncoder()
    for values in tensors:
        encoder.put(values)
    return encoder.finish()


def decode(data: Buffer, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.int32]]:
    """The tensors of a string, which must hold no more than these."""
    decoder = AdaptiveDecoder(data)
    found = [decoder.take(shape) for shape in shapes]
    decoder.done()
    return found


def encoded_nbytes(values: Sequence[Values]) -> int:
    """How many bytes one string of these tensors takes."""
    return len(encode(values))
