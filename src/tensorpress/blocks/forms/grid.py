"""Whole multiples of a step: one step a tensor, or one a row.

Steps are powers of 2^(1/32), so a step is a small integer and costs a few bits; a row's step is coded as the difference to the row before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tensorpress.blocks.forms.form import Form, Shape, Source, Target, expect, finite
from tensorpress.core.errors import InputError, StreamError

OCTAVE = 32  # steps between a step and its double
MAX_INDEX = 100 * OCTAVE  # 2^-100 to 2^100
MAX_LEVEL = 1 << 24  # float32 holds all integers up to it


@cache
def _mantissas() -> NDArray[np.float32]:
    """floor(2^(23 + i / 32)) / 2^23: roots of integers by five square roots, so no library's rounding has a say."""
    found = []
    for i in range(OCTAVE):
        value = 1 << (23 * OCTAVE + i)
        for _ in range(5):
            value = math.isqrt(value)
        found.append(value)
    return np.asarray(found, np.float32) / np.float32(1 << 23)


def step_of(index: ArrayLike) -> NDArray[np.float32]:
    """The float32 step of each index: 2^(index / 32)."""
    found = np.asarray(index, np.int64)
    return np.ldexp(_mantissas()[found % OCTAVE], (found // OCTAVE).astype(np.int32)).astype(np.float32)


def step_index(step: ArrayLike) -> NDArray[np.int32]:
    """The index whose step is nearest to `step` in ratio."""
    wanted = np.maximum(np.asarray(step, np.float64), 2.0**-101)
    return np.clip(np.rint(np.log2(wanted) * OCTAVE), -MAX_INDEX, MAX_INDEX).astype(np.int32)


def largest(levels: NDArray[Any]) -> int:
    """The largest magnitude of integers of any width, without a copy."""
    return max(int(levels.max()), -int(levels.min())) if levels.size else 0


@dataclass(frozen=True, eq=False)
class Grid(Form):
    """`levels` (int32, the tensor's shape) times the step of `steps`, an int32 vector of one index or one for each row (axis 0)."""

    id: ClassVar[str] = "grid"
    levels: NDArray[np.int32]
    steps: NDArray[np.int32]

    def __post_init__(self) -> None:
        levels, steps = np.asarray(self.levels), np.atleast_1d(np.asarray(self.steps))
        if largest(levels) > MAX_LEVEL:
            raise InputError(f"a level is over {MAX_LEVEL}: the step is too small for the tensor")
        if steps.ndim != 1 or len(steps) not in (1, levels.shape[0] if levels.ndim else 1):
            raise InputError(f"{steps.size} steps for a tensor of shape {levels.shape}: one, or one a row, is needed")
        if steps.size and int(np.abs(steps.astype(np.int64)).max()) > MAX_INDEX:
            raise InputError("a step is outside 2^-100 to 2^100")
        object.__setattr__(self, "levels", np.require(levels, np.int32, "C"))
        object.__setattr__(self, "steps", np.ascontiguousarray(steps, np.int32))

    @classmethod
    def nearest(cls, x: ArrayLike, step: ArrayLike) -> Grid:
        """`x` rounded to multiples of `step` (one, or one a row; made a power of 2^(1/32) first)."""
        values = finite(np.asarray(x), "the tensor")
        steps = np.atleast_1d(step_index(step))
        width = step_of(steps).astype(np.float64)
        return cls(np.rint(values / (width if len(steps) == 1 else width.reshape(-1, *[1] * (values.ndim - 1)))).astype(np.int64), steps)

    @property
    def shape(self) -> Shape:
        return self.levels.shape

    @property
    def params(self) -> Mapping[str, Any]:
        return {"rows": True} if len(self.steps) != 1 else {}

    def values(self) -> NDArray[np.float32]:
        steps = step_of(self.steps)
        return np.asarray(self.levels.astype(np.float32) * (steps[0] if len(steps) == 1 else steps.reshape(-1, *[1] * (self.levels.ndim - 1))))

    def write(self, out: Target) -> None:
        out.integers(np.diff(self.steps, prepend=0))
        out.integers(self.levels)

    @classmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Grid:
        if params:
            expect(params, rows=bool)
        if params.get("rows") is False or (params and (not shape or shape[0] == 1)):
            raise StreamError("a grid says that it has a step for each row where it has one")
        steps = np.cumsum(src.integers((shape[0] if params else 1,)), dtype=np.int64)
        if steps.size and int(np.abs(steps).max()) > MAX_INDEX:
            raise StreamError("a step of a grid is outside 2^-100 to 2^100")
        levels = src.integers(shape)
        if largest(levels) > MAX_LEVEL:
            raise StreamError(f"a level of a grid is over {MAX_LEVEL}")
        return cls(levels, steps)
