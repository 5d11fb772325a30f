"""Values as they are, or floats with fewer bits of mantissa: biases, norms, statistics, counters, and whatever no system touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.forms.form import Form, Shape, Source, Target, expect
from tensorpress.core.errors import InputError, StreamError

MANTISSA = 23  # bits of a float32's
SMALL = 4096  # integers


@dataclass(frozen=True, eq=False)
class Rounded(Form):
    """float32 `x` (finite) with `bits` of mantissa, rounded to the nearest: relative errors of at most 2^-(bits + 1)."""

    id: ClassVar[str] = "rounded"
    code: NDArray[np.int32]  # the float's bits, shifted right by 23 - bits
    bits: int

    @classmethod
    def nearest(cls, x: NDArray[Any], bits: int) -> Rounded:
        values = np.require(x, np.float32, "C")
        if not np.isfinite(values).all():
            raise InputError(f"a tensor has {values[~np.isfinite(values)].flat[0]} among its values")
        raw, shift = values.view(np.int32).astype(np.int64), MANTISSA - bits
        magnitude = raw & 0x7FFFFFFF
        rounded = np.minimum((magnitude + ((1 << shift) >> 1)) >> shift, (0x7F7FFFFF >> shift))  # never to infinity
        return cls(
            np.where((raw < 0) & (rounded > 0), rounded | 1 << (31 - shift), rounded).astype(np.int64).astype(np.uint32).view(np.int32),
            bits,
        )

    @property
    def shape(self) -> Shape:
        return self.code.shape

    @property
    def params(self) -> Mapping[str, Any]:
        return {"bits": self.bits}

    def values(self) -> NDArray[np.float32]:
        return (self.code.view(np.uint32) << np.uint32(MANTISSA - self.bits)).astype(np.uint32).view(np.float32)

    def write(self, out: Target) -> None:
        """Three small tensors: exponents (as differences to the first), signs and mantissas."""
        code = self.code.view(np.uint32).reshape(-1).astype(np.int64)
        exponent = code >> self.bits & 0xFF
        first = exponent[:1]
        out.integers(first)
        out.integers(exponent - first)
        out.integers(code >> (self.bits + 8))
        out.integers(code & ((1 << self.bits) - 1))

    @classmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Rounded:
        expect(params, bits=int)
        bits = params["bits"]
        if not 0 <= bits <= MANTISSA:
            raise StreamError(f"floats with {bits} bits of mantissa; 0 to {MANTISSA} are allowed")
        count = int(np.prod(shape, dtype=np.int64))
        first = src.integers((min(count, 1),))
        exponent = src.integers((count,)).astype(np.int64) + (first if count else 0)
        sign, mantissa = src.integers((count,)).astype(np.int64), src.integers((count,)).astype(np.int64)
        if count and not (
            0 <= exponent.min() <= exponent.max() < 255
            and 0 <= sign.min() <= sign.max() <= 1
            and 0 <= mantissa.min() <= mantissa.max() < 1 << bits
        ):
            raise StreamError("a rounded float has a part that no finite float has")
        return cls((sign << (bits + 8) | exponent << bits | mantissa).astype(np.uint32).view(np.int32).reshape(shape), bits)


@dataclass(frozen=True, eq=False)
class Plain(Form):
    """An array of any type, bit for bit."""

    id: ClassVar[str] = "plain"
    array: NDArray[Any]

    @property
    def shape(self) -> Shape:
        return self.array.shape

    def values(self) -> NDArray[Any]:
        return self.array

    @property
    def params(self) -> Mapping[str, Any]:
        return {"coded": True} if self._small else {}

    @property
    def _small(self) -> bool:
        """Whether these are few integers: counters, indices, flags. They join the tensors around them."""
        array = self.array
        return array.dtype.kind in "iub" and 0 < array.size <= SMALL and int(array.min()) >= -(1 << 31) and int(array.max()) < 1 << 31

    def write(self, out: Target) -> None:
        if self._small:
            out.integers(self.array.astype(np.int64))
        else:
            out.octets(np.ascontiguousarray(self.array).tobytes())

    @classmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Plain:
        if params:
            expect(params, coded=bool)
            if not params["coded"] or dtype.kind not in "iub" or not 0 < int(np.prod(shape, dtype=np.int64)) <= SMALL:
                raise StreamError(f"a tensor of {dtype} {shape} is said to be coded as few integers")
            found = src.integers(shape)
            if not (found.astype(dtype).astype(np.int64) == found).all():
                raise StreamError(f"an integer is outside what {dtype} holds")
            return cls(found.astype(dtype))
        data = src.octets()
        if len(data) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise StreamError(f"a plain tensor of {dtype} {shape} has {len(data)} bytes")
        return cls(np.frombuffer(data, dtype).reshape(shape))
