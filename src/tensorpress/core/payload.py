"""The payload of one tensor: its type, its shape and its checked stripes. FORMAT.md, section 3.

    dtype(1) rank(1) {varint dim}*   {nbytes(4) check(4)}*stripes   stripe bytes …

One payload stands unchanged in both forms of a stream. A stripe holds 8 rows of the tensor's (C, H, W) view and can be
decoded when its neighbours are lost, so each has a check of its own, seeded with the head and the stripe's number.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.core.binary import Buffer, crc32c, read_varint, row_of_bytes, varint
from tensorpress.core.container import MAX_NBYTES, section_seed
from tensorpress.core.errors import InputError, StreamError, StripeError

STRIPE_ROWS = 8
MAX_RANK = 8
MAX_VALUES = 1 << 40
MAX_STRIPE_NBYTES = (1 << 32) - 1
# the order is the code in the format: append only
DTYPES = tuple(np.dtype(d) for d in ("f4", "f2", "f8", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "?"))
DTYPE_CODES = {d: i for i, d in enumerate(DTYPES)}

Shape = tuple[int, ...]
View = tuple[int, int, int]  # channels, rows, columns


def chw(shape: Sequence[int]) -> View:
    """The (channels, rows, columns) view of any shape: leading axes fold into channels, a matrix is (C, W), a vector (C)."""
    if len(shape) >= 3:
        return math.prod(shape[:-2]), shape[-2], shape[-1]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return (shape[0] if shape else 1), 1, 1


def stripe_count(shape: Sequence[int]) -> int:
    channels, rows, columns = chw(shape)
    return -(-rows // STRIPE_ROWS) if channels and columns else 0


@lru_cache(1024)
def head_bytes(dtype: np.dtype, shape: Shape) -> bytes:
    if dtype not in DTYPE_CODES:
        raise InputError(f"arrays of type {dtype} cannot be encoded; known are {', '.join(str(d) for d in DTYPES)}")
    if len(shape) > MAX_RANK:
        raise InputError(f"an array of {len(shape)} dimensions cannot be encoded; at most {MAX_RANK} are allowed")
    return bytes([DTYPE_CODES[dtype], len(shape)]) + b"".join(varint(n) for n in shape)


@lru_cache(1024)
def index_nbytes(dtype: np.dtype, shape: Shape) -> int:
    """Bytes of a payload's head and stripe table."""
    return len(head_bytes(dtype, shape)) + 8 * stripe_count(shape)


def check_size(dtype: np.dtype, shape: Shape) -> None:
    """InputError where an array is larger than a payload can be, or its stripes are before any codec has made them shorter."""
    channels, rows, columns = chw(shape)
    if channels * rows * columns > MAX_VALUES:
        raise InputError(f"a tensor of shape {shape} has more than 2^40 values")
    if channels * min(rows, STRIPE_ROWS) * columns * (1 if dtype.kind == "f" else dtype.itemsize) > MAX_STRIPE_NBYTES:
        raise InputError(f"{STRIPE_ROWS} rows of a tensor of shape {shape} take more than a stripe's 4 GiB")


def max_payload_nbytes(dtype: np.dtype, shape: Shape, of_stripe: Callable[[np.dtype, View, int], int]) -> int:
    """The most bytes of a payload whose stripes take at most `of_stripe(dtype, view of the map, rows of the stripe)`."""
    view, stripes = chw(shape), stripe_count(shape)
    if stripes == 0:
        return index_nbytes(dtype, shape)
    last = view[1] - (stripes - 1) * STRIPE_ROWS
    whole = (stripes - 1) * of_stripe(dtype, view, STRIPE_ROWS) if stripes > 1 else 0
    return index_nbytes(dtype, shape) + whole + of_stripe(dtype, view, last)


def placed(payload: Buffer, out: NDArray[np.uint8]) -> memoryview:
    """A copy of `payload` at the front of `out`. InputError where it does not fit."""
    if len(payload) > out.size:
        raise InputError(f"the output has {out.size} bytes, the payload {len(payload)}")
    out[: len(payload)] = np.frombuffer(payload, np.uint8)
    return out.data[: len(payload)]


class Writer:
    """Collects the stripes that the last stage of a codec writes."""

    def __init__(self, dtype: np.dtype, shape: Sequence[int], reference: NDArray[Any] | None = None) -> None:
        self.dtype, self.shape, self.reference = np.dtype(dtype), tuple(shape), reference
        self._head = head_bytes(self.dtype, self.shape)
        self._stripes: list[bytes] = []

    @property
    def head_nbytes(self) -> int:
        return len(self._head)

    def stripe(self, data: Buffer) -> None:
        if len(data) > MAX_STRIPE_NBYTES:
            raise InputError(f"stripe {len(self._stripes)} takes {len(data)} bytes, more than a stripe's 4 GiB")
        self._stripes.append(bytes(data))

    def finish(self) -> bytes:
        expected = stripe_count(self.shape)
        if len(self._stripes) != expected:
            raise AssertionError(f"codec wrote {len(self._stripes)} stripes, the shape has {expected}")
        seed = crc32c(self._head)
        table = b"".join(struct.pack("<II", len(s), crc32c(s, section_seed(seed, i))) for i, s in enumerate(self._stripes))
        return b"".join([self._head, table, *self._stripes])


def parse_head(payload: memoryview) -> tuple[int, Shape, int, int]:
    """(code of the type, shape, bytes of the head, stripes); the stripe table is not looked at. StreamError says what is wrong."""
    if len(payload) < 2:
        raise StreamError(f"payload of {len(payload)} bytes is cut: it has no head")
    if payload[0] >= len(DTYPES):
        raise StreamError(f"payload byte 0: unknown dtype code {payload[0]}")
    if payload[1] > MAX_RANK:
        raise StreamError(f"payload byte 1: {payload[1]} dimensions, at most {MAX_RANK} are allowed")
    dims, at = [], 2
    for axis in range(payload[1]):
        dim, at = read_varint(payload, at, f"payload dimension {axis}")
        dims.append(dim)
    if math.prod(d for d in dims if d) > MAX_VALUES:
        raise StreamError(f"declared shape {tuple(dims)} has more than 2^40 values")
    return payload[0], tuple(dims), at, stripe_count(dims)


def _parse(payload: memoryview, whole: int) -> tuple[int, Shape, int, int]:
    """The twin of `_native.read_index`, which says what is wrong."""
    code, shape, at, count = parse_head(payload)
    end = at + 8 * count
    if end > len(payload):
        raise StreamError(f"stripe table ends at {end}, the payload at {len(payload)}")
    end += int(np.frombuffer(payload, "<u4", 2 * count, at)[::2].sum(dtype=np.int64))
    if end != whole:
        raise StreamError(f"stripes end at {end}, the payload at {whole}")
    return code, shape, at, count


def check_needed(dtype: np.dtype, shape: Shape, max_nbytes: int) -> None:
    """StreamError where a declared shape takes more than `max_nbytes`: decoders work in at most 4 bytes a value beside wide types."""
    needed = math.prod(shape) * max(dtype.itemsize, 4)
    if needed > max_nbytes:
        raise StreamError(f"declared shape {shape} of {dtype} needs {needed} bytes, over the limit of {max_nbytes}")


class Reader:
    """Parses a payload, checks its bounds at once and each stripe when it is taken."""

    _seed: int | None  # of the checks; who decodes natively needs none

    def __init__(self, payload: Buffer, *, max_nbytes: int = MAX_NBYTES, reference: NDArray[Any] | None = None, nbytes: int | None = None) -> None:
        """`nbytes`: of the whole payload, where only its front is at hand, for the head and the stripe table."""
        self.reference = reference
        self.payload = row_of_bytes(payload)
        index = _native.read_index(self.payload) if nbytes is None else None
        if index is None or index[0] >= len(DTYPES):
            code, self.shape, self.head_nbytes, self.stripes = _parse(self.payload, len(self.payload) if nbytes is None else nbytes)
        else:
            code, self.shape, self.head_nbytes, self.stripes = index
        self.dtype = DTYPES[code]
        self.index_nbytes = self._at = self.head_nbytes + 8 * self.stripes
        check_needed(self.dtype, self.shape, max_nbytes)
        self._number, self._seed = 0, None

    def _entry(self, number: int) -> tuple[int, int]:
        """(bytes, check) of a stripe."""
        return struct.unpack_from("<II", self.payload, self.head_nbytes + 8 * number)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(stripes,) bytes of each stripe."""
        return np.frombuffer(self.payload, "<u4", 2 * self.stripes, self.head_nbytes)[::2].astype(np.int64)

    def place(self, number: int) -> str:
        """Where a stripe lies, for messages."""
        at = self.index_nbytes + int(self.lengths[:number].sum())
        return f" (payload bytes {at} to {at + int(self.lengths[number])})"

    def skip(self, stripes: int) -> None:
        """Pass over the next stripes without looking at them."""
        for _ in range(stripes):
            self._at += self._entry(self._number)[0]
            self._number += 1

    def stripe(self) -> memoryview:
        """The next stripe's bytes, verified."""
        number = self._number
        nbytes, check = self._entry(number)
        if self._seed is None:
            self._seed = crc32c(self.payload[: self.head_nbytes])
        data = self.payload[self._at : self._at + nbytes]
        if crc32c(data, section_seed(self._seed, number)) != check:
            raise StripeError(number, "its check fails", self.place(number))
        self._at += nbytes
        self._number += 1
        return data


def sealed(payload: NDArray[np.uint8]) -> bytes:
    """A payload whose checks were left open, with them: what a GPU wrote, fit to leave the machine."""
    out = bytearray(payload)
    src = Reader(payload.data, max_nbytes=1 << 62)
    at, seed = src.index_nbytes, crc32c(out[: src.head_nbytes])
    for number, nbytes in enumerate(src.lengths.tolist()):
        check = crc32c(memoryview(out)[at : at + nbytes], section_seed(seed, number))
        struct.pack_into("<I", out, src.head_nbytes + 8 * number + 4, check)
        at += nbytes
    return bytes(out)
