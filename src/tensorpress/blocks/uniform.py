"""From floats to integers and back: one defined operation, and the clipped uniform quantiser made of it.

To an integer: float32 multiply by a stored reciprocal, round half to even, clamp. Back: float32 multiply by the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer, chw
from tensorpress.core.stage import Stage

Array = NDArray[Any]
Floats = NDArray[np.float32]

QUANTISABLE = tuple(np.dtype(d) for d in ("f4", "f2", "f8", "u1", "i1"))
FIT_VALUES = 1 << 20  # about how many of the samples' values a fit sees
BULK_VALUES, TAIL_VALUES = 1 << 15, 1 << 12  # the clip search sees an even part of them, and all of the largest
SMALLEST, LARGEST = 2.0**-120, 2.0**119  # of a step or a clip: reciprocals and products stay finite in float32


def as_float32(x: Array, codec: str) -> Floats:
    """`x` as float32, contiguous. InputError for NaN, infinity, bool, wide integers and what float32 cannot hold."""
    if x.dtype not in QUANTISABLE:
        raise InputError(f"codec {codec!r} takes floats and 8-bit integers, not {x.dtype}; the codecs 'raw' and 'zvc' take every type")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = np.ascontiguousarray(x, np.float32).reshape(x.shape)
    finite = np.isfinite(values)
    if not finite.all():
        at = int(np.argmin(finite.reshape(-1)))
        value = x.reshape(-1)[at]
        what = f"{value}, beyond the range of float32," if np.isfinite(value) else "NaN or infinity"
        raise InputError(f"codec {codec!r}: {what} at flat index {at} of an array of shape {x.shape}")
    return values


def check_decodable(dtype: np.dtype[Any]) -> None:
    """StreamError for a type that no quantising encoder writes."""
    if dtype not in QUANTISABLE:
        raise StreamError(f"payload declares {dtype}; a quantising codec writes floats and 8-bit integers only")


def quantise(x: Floats, reciprocal: np.float32, low: int, high: int) -> NDArray[np.int16]:
    """Whole numbers in [low, high], within int16: clamp(round_half_even(x * reciprocal))."""
    with np.errstate(over="ignore", under="ignore"):  # a product beyond float32 is infinite, and clamped like any other
        scaled = np.multiply(x, np.float32(reciprocal), out=np.empty(x.shape, np.float32))
    np.rint(scaled, out=scaled)
    np.clip(scaled, low, high, out=scaled)
    return scaled.astype(np.int16)


def restore(values: Floats, dtype: np.dtype[Any]) -> Array:
    """Decoded float32 as `dtype`: integers by rounding half to even, and nothing beyond the type's range."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    if dtype == np.float16:
        with np.errstate(under="ignore"):
            return np.clip(values, -65504, 65504).astype(dtype)
    return values.astype(dtype, copy=False)


class Uniform(Stage[Array, Array]):
    """Array of any view -> uint8 symbols (C, H, W): `levels` steps, the one numbered `zero_point` being exactly 0."""

    def __init__(self, codec: str, levels: int, step: float, reciprocal: float, zero_point: int) -> None:
        self.codec, self.levels, self.zero_point = codec, levels, zero_point
        self.step, self.reciprocal = np.float32(step), np.float32(reciprocal)

    def encode(self, x: Array, out: Writer) -> NDArray[np.uint8]:
        q = quantise(as_float32(x, self.codec), self.reciprocal, -self.zero_point, self.levels - 1 - self.zero_point)
        return (q + np.int16(self.zero_point)).astype(np.uint8).reshape(chw(x.shape))

    def decode(self, y: Array, src: Reader) -> Array:
        check_decodable(src.dtype)
        return self.values(src.dtype)[y].reshape(src.shape)

    def values(self, dtype: np.dtype[Any]) -> Array:
        """(levels,): what each symbol decodes to."""
        numbers = np.arange(self.levels, dtype=np.float32) - np.float32(self.zero_point)
        return restore(numbers * self.step, dtype)


def thin(samples: Sequence[Floats]) -> Floats:
    """At most about 2^20 values of `samples`, evenly spread, as one vector. InputError where there are none."""
    total = sum(x.size for x in samples)
    if total == 0:
        raise InputError("nothing to fit: the samples hold no values")
    stride = -(-total // FIT_VALUES) | 1  # odd, so that it does not stay on the same columns
    return np.concatenate([x.reshape(-1)[::stride] for x in samples])


def fit_uniform(x: Floats, levels: int) -> tuple[float, float, int]:
    """(step, reciprocal, zero point), the clip being the one of least squared error on the values `x`.

    The ends of the range are searched on a grid of quarter octaves, then of sixteenths; first both together, then each alone.
    """
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    x = x[x != 0]  # a zero has no error whatever the clip
    largest = max(x.size - TAIL_VALUES, 0)
    x = x[np.argpartition(np.abs(x), largest)] if largest else x  # few, but a clip's whole error is theirs
    stride = -(-largest // BULK_VALUES) | 1
    values = np.concatenate([x[:largest:stride], x[largest:]])
    weights = np.where(np.arange(values.size) < values.size - (x.size - largest), float(stride), 1.0)
    if max(-low, high) < SMALLEST:
        return 1.0, 1.0, 0

    def grid(low: float, high: float) -> tuple[float, float, int]:
        step = np.float32(min(max((high - low) / (levels - 1), SMALLEST), LARGEST))
        return float(step), float(np.float32(1) / step), min(max(round(-low / float(step)), 0), levels - 1)

    def error(a: float, b: float) -> float:
        step, reciprocal, zero = grid(low * 2.0**-a, high * 2.0**-b)
        q = quantise(values, np.float32(reciprocal), -zero, levels - 1 - zero).astype(np.float32) * np.float32(step)
        return float(np.square(np.subtract(q, values, dtype=np.float64)) @ weights)

    def least(score: Any, around: float, reach: float, pace: float) -> float:
        points = [p for p in np.arange(around - reach, around + reach + pace / 2, pace).tolist() if p >= 0]
        return float(min(points, key=score))

    both = least(lambda o: error(o, o), 2.5, 2.5, 0.25)  # octaves below the full range
    both = least(lambda o: error(o, o), both, 0.1875, 0.0625)
    a = b = both
    if low < 0 < high:
        b = least(lambda o: error(a, o), b, 1.0, 0.25)
        a = least(lambda o: error(o, b), a, 1.0, 0.25)
        b = least(lambda o: error(a, o), b, 0.1875, 0.0625)
        a = least(lambda o: error(o, b), a, 0.1875, 0.0625)
    return grid(low * 2.0**-a, high * 2.0**-b)
