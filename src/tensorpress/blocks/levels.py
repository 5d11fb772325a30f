"""Floats to 8-bit levels, the representation that every feature-map ratio is counted against.

The one rule from float to integer is `blocks.uniform.quantise`; the zero point is added after it. 8-bit integers are levels already; wider ones pass as they are to the codecs that take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.uniform import quantise, restore
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer, chw
from tensorpress.core.stage import Stage

Array = NDArray[Any]
TOP = 255


def check_finite(x: Array) -> None:
    bad = ~np.isfinite(x)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"the tensor holds {x[where]} at index {where}; only finite values can be quantised")


def scale_and_zero(low: float, high: float) -> tuple[float, float, int]:
    """(scale, reciprocal, zero point) of the 8-bit levels that cover [low, high], but for a step where it is nearly all of float32.

    0.0 falls exactly on the zero point.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / TOP)
    if not 1e-37 < scale < 1e37:
        scale = np.float32(1)  # a map of zeros, or as good as: any scale is right
    zero = int(np.clip(np.rint(-low / float(scale)), 0, TOP))
    largest = float(np.finfo(np.float32).max) / max(zero, TOP - zero)
    if scale > largest:  # the range is nearly all of float32: no level may stand for more
        scale = np.nextafter(np.float32(largest), np.float32(0))
    return float(scale), float(np.float32(1) / scale), zero


def clip_range(samples: Sequence[Array], rule: str) -> tuple[float, float]:
    """The range [low, high] that `samples` need: their extremes ('max') or a percentile of each sign ('p99.99')."""
    with np.errstate(over="ignore", under="ignore"):
        values = np.concatenate([np.asarray(s, np.float32).reshape(-1) for s in samples]) if samples else np.zeros(0, np.float32)
    if values.size == 0:
        return 0.0, 0.0
    check_finite(values)
    if rule == "max":
        return float(values.min()), float(values.max())
    q = float(rule.removeprefix("p"))
    low, high = (np.percentile(values, 100 - q) if values.min() < 0 else 0.0), np.percentile(values, q)
    return float(low), float(high)


@dataclass(frozen=True)
class LevelMap:
    """`levels`: (C, H, W) unsigned integers; `zero`: the level that stands for 0."""

    levels: Array
    zero: int


@dataclass(frozen=True)
class Levels(Stage[Array, LevelMap]):
    """float, 8-bit integer -> LevelMap of uint8; with `wide`, integers of 16 to 64 bits -> LevelMap of their own words."""

    scale: float | None
    reciprocal: float | None
    zero_point: int
    rule: str = "max"
    wide: bool = False

    def __post_init__(self) -> None:
        for what, value in (("scale", self.scale), ("reciprocal", self.reciprocal)):
            if value is not None and not (isinstance(value, int | float) and 1e-38 <= value <= 1e38):
                raise InputError(f"{what} is {value!r}: a number between 1e-38 and 1e38 is needed")
        if type(self.zero_point) is not int or not 0 <= self.zero_point <= TOP:
            raise InputError(f"zero_point is {self.zero_point!r}: 0 to {TOP} are allowed")

    def scale_for(self, dtype: np.dtype[Any]) -> float:
        """Value of one level where a payload of `dtype` is decoded. StreamError where floats have none."""
        if dtype.kind != "f":
            return 1.0
        if self.scale is None:
            raise StreamError("the parameters hold no scale: floats cannot be decoded")
        return self.scale

    def zero_of(self, dtype: np.dtype[Any]) -> int:
        if dtype.kind == "f":
            return self.zero_point
        return 128 if dtype == np.int8 else 0

    def fit(self, samples: Sequence[Array]) -> Levels:
        if any(s.dtype.kind != "f" for s in samples):
            return replace(self, scale=1.0, reciprocal=1.0, zero_point=0)
        low, high = clip_range(samples, self.rule)
        scale, reciprocal, zero = scale_and_zero(low, high)
        return replace(self, scale=scale, reciprocal=reciprocal, zero_point=zero)

    def encode(self, x: Array, out: Writer) -> LevelMap:
        zero = self.zero_of(x.dtype)
        if x.dtype.kind == "f":
            if self.reciprocal is None:
                raise InputError("the codec is not fitted: it has no scale; call fit(samples)")
            with np.errstate(over="ignore", under="ignore"):
                y = x.astype(np.float32).reshape(chw(x.shape))
            check_finite(y)
            return LevelMap((quantise(y, np.float32(self.reciprocal), -zero, TOP - zero) + np.int16(zero)).astype(np.uint8), zero)
        words = x.view(np.uint8) if x.dtype == bool else x
        if x.dtype.itemsize > 1 and not self.wide:
            raise InputError(f"this codec takes floats and 8-bit integers, not {x.dtype}; 'raw' and 'zvc' keep every integer type")
        if x.dtype == np.int8:
            words = (x.astype(np.int16) + 128).astype(np.uint8)
        elif x.dtype.kind == "i":
            words = x.view(f"u{x.dtype.itemsize}")
        return LevelMap(words.reshape(chw(x.shape)), zero)

    def decode(self, y: LevelMap, src: Reader) -> Array:
        scale = np.float32(self.scale_for(src.dtype))
        if src.dtype.kind == "f":
            with np.errstate(over="ignore", under="ignore"):
                values = (y.levels.astype(np.int32) - self.zero_of(src.dtype)).astype(np.float32) * scale
            return restore(values, src.dtype).reshape(src.shape)
        words = y.levels
        if words.itemsize != src.dtype.itemsize:
            raise StreamError(f"payload declares {src.dtype}, which this codec does not write")
        if src.dtype == np.int8:
            words = (y.levels.astype(np.int16) - 128).astype(np.int8)
        return np.ascontiguousarray(words).view(src.dtype).reshape(src.shape)
