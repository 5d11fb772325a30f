"""Products of grids: low rank (SVD, Tucker, CP, separable kernels) and transforms (KLT, ELT, DCT, Hadamard) in one form.

A tensor is an Einstein sum of factors on grids. Levels are integers and their sums stay below 2^53, so they are exact in
any order of summation; one multiply by the product of the steps makes values. That is what keeps a matrix product the
same on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks import dct
from tensorpress.blocks.forms.form import Form, Shape, Source, Target, expect
from tensorpress.blocks.forms.grid import Grid, step_index, step_of
from tensorpress.core.errors import InputError, StreamError

EQUATION = re.compile(r"[a-z]{1,6}(,[a-z]{1,6}){1,4}->[a-z]{1,6}")
EXACT = 1 << 53
MAX_SIDE = 1 << 16
ODD = {  # DCT-II of kernels' lengths, as the even ones: 64 sqrt(2) cos(pi (2 n + 1) k / (2 N)), to the nearest; row 0 is 64
    3: ((64, 64, 64), (78, 0, -78), (45, -91, 45)),
    5: ((64, 64, 64, 64, 64), (86, 53, 0, -53, -86), (73, -28, -91, -28, 73), (53, -86, 0, 86, -53), (28, -73, 91, -73, 28)),
    7: ((64, 64, 64, 64, 64, 64, 64), (88, 71, 39, 0, -39, -71, -88), (82, 20, -56, -91, -56, 20, 82), (71, -39, -88, 0, 88, 39, -71), (56, -82, -20, 91, -20, -82, 56), (39, -88, 71, 0, -71, 88, -39), (20, -56, 82, -91, 82, -56, 20)),
}  # fmt: skip
LENGTHS = {"dct": (*ODD, *dct.LENGTHS), "hadamard": (2, 4, 8, 16, 32, 64)}


@dataclass(frozen=True)
class Fixed:
    """A factor that no file holds: an orthogonal matrix by rule, `kind` 'dct' or 'hadamard', as integers times 2^(step / 32)."""

    kind: str
    length: int

    def __post_init__(self) -> None:
        if self.length not in LENGTHS.get(self.kind, ()):
            raise InputError(f"no {self.kind!r} of length {self.length}: known are {', '.join(f'{k} of {v}' for k, v in LENGTHS.items())}")

    @property
    def levels(self) -> NDArray[np.int32]:
        """Rows are basis vectors."""
        if self.kind == "dct":
            return np.asarray(ODD[self.length], np.int32) if self.length in ODD else dct.matrix(self.length)
        rows = np.ones((1, 1), np.int32)
        while len(rows) < self.length:
            rows = np.block([[rows, rows], [rows, -rows]]).astype(np.int32)
        return rows

    @property
    def step(self) -> int:
        """Index of the step that makes the mean row of length one."""
        squares = int((self.levels.astype(np.int64) ** 2).sum())  # of all rows: length / step^2
        return int(step_index(math.sqrt(self.length / squares)))


@dataclass(frozen=True, eq=False)
class Factors(Form):
    """The Einstein sum `equation` of `factors`, each a Grid with one step, or Fixed: "or,rk->ok" is a product of two matrices."""

    id: ClassVar[str] = "factors"
    equation: str
    factors: tuple[Grid | Fixed, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(self.factors))
        if not all(isinstance(f, Fixed) or f.steps.size == 1 for f in self.factors):
            raise InputError("a factor has one step; steps by row belong to a grid that stands alone")
        checked(self.equation, [f.levels.shape for f in self.factors])
        worst = math.prod(int(np.abs(f.levels.astype(np.int64)).max(initial=0)) for f in self.factors) * _terms(
            self.equation, [f.levels.shape for f in self.factors]
        )
        if worst >= EXACT:
            raise InputError("levels of these factors are too large for sums that are exact in any order")

    @property
    def shape(self) -> Shape:
        return checked(self.equation, [f.levels.shape for f in self.factors])

    @property
    def params(self) -> Mapping[str, Any]:
        sides = [[f.kind, f.length] if isinstance(f, Fixed) else list(f.levels.shape) for f in self.factors]
        return {"equation": self.equation, "factors": sides}

    def values(self) -> NDArray[np.float32]:
        exact = np.einsum(self.equation, *[f.levels.astype(np.float64) for f in self.factors], optimize=len(self.factors) > 2)
        steps = sum(int(f.step if isinstance(f, Fixed) else f.steps[0]) for f in self.factors)
        return (exact * step_of(steps).astype(np.float64)).astype(np.float32)

    def write(self, out: Target) -> None:
        for factor in self.factors:
            if isinstance(factor, Grid):
                factor.write(out)

    @classmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Factors:
        expect(params, equation=str, factors=list)
        sides: list[Shape | Fixed] = []
        try:
            for side in params["factors"]:
                if (
                    not isinstance(side, list)
                    or not side
                    or not all(
                        type(n) is int and 0 < n <= MAX_SIDE for n in side[-1:] + (side if side[0] not in ("dct", "hadamard") else [])
                    )
                ):
                    raise StreamError(f"a factor is {side!r}, not a list of lengths")
                sides.append(Fixed(side[0], side[1]) if isinstance(side[0], str) and len(side) == 2 else tuple(side))
            found = checked(params["equation"], [(s.length, s.length) if isinstance(s, Fixed) else s for s in sides])
            values = sum(math.prod(s) for s in sides if not isinstance(s, Fixed))
            if found != shape or values > 4 * math.prod(shape) + 4096:
                raise StreamError(f"factors of {values} values make a tensor of shape {found}, the file promised {shape}")
            return cls(params["equation"], tuple(s if isinstance(s, Fixed) else Grid.read({}, s, dtype, src) for s in sides))
        except InputError as error:
            raise StreamError(str(error)) from None


def checked(equation: str, shapes: Sequence[Shape]) -> Shape:
    """The shape that `equation` gives. InputError where equation and shapes do not suit."""
    sides = _sides(equation, shapes)
    return tuple(sides[c] for c in equation.split("->")[1])


def _sides(equation: str, shapes: Sequence[Shape]) -> dict[str, int]:
    if len(equation) > 64 or not EQUATION.fullmatch(equation):
        raise InputError(f"{equation[:64]!r} is no equation of two to five factors")
    terms, result = equation.split("->")
    sides: dict[str, int] = {}
    if terms.count(",") + 1 != len(shapes) or any(len(t) != len(s) for t, s in zip(terms.split(","), shapes)):
        raise InputError(f"equation {equation!r} does not suit factors of the shapes {[list(s) for s in shapes]}")
    for letter, side in ((c, n) for t, s in zip(terms.split(","), shapes) for c, n in zip(t, s)):
        if sides.setdefault(letter, side) != side:
            raise InputError(f"axis {letter!r} of {equation!r} has the lengths {sides[letter]} and {side}")
    if len(set(result)) != len(result) or not set(result) <= set(sides) or any(len(set(t)) != len(t) for t in terms.split(",")):
        raise InputError(f"equation {equation!r} repeats an axis, or gives one that no factor has")
    return sides


def _terms(equation: str, shapes: Sequence[Shape]) -> int:
    """How many products are summed for one value."""
    sides = _sides(equation, shapes)
    return math.prod(n for letter, n in sides.items() if letter not in equation.split("->")[1])
