"""A tensor cut along its rows, each slab in a form by itself: so that neither side needs to hold all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.forms.form import FORMS, Form, Shape, Source, Target, expect
from tensorpress.core.errors import InputError, StreamError


@dataclass(frozen=True, eq=False)
class Slabs(Form):
    """`parts` follow each other along axis 0, of one form with the same parameters; all have as many rows but the last, which may have fewer."""

    id: ClassVar[str] = "slabs"
    parts: Sequence[Form]

    def __post_init__(self) -> None:
        shapes = [part.shape for part in self.parts]
        kinds = {(part.id, str(part.params)) for part in self.parts}
        if not shapes or not shapes[0] or len(kinds) > 1 or len({shape[0] for shape in shapes[:-1]}) > 1 or shapes[-1][0] > shapes[0][0]:
            raise InputError(f"slabs are not alike: shapes {shapes[:9]}, forms {sorted(kinds)[:3]}")
        if len({shape[1:] for shape in shapes}) > 1:
            raise InputError(f"slabs have rows of several shapes: {sorted({shape[1:] for shape in shapes})[:3]}")

    @property
    def shape(self) -> Shape:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def params(self) -> Mapping[str, Any]:
        first = self.parts[0]
        return {"rows": first.shape[0], "form": first.id, "own": dict(first.params)}

    def values(self) -> NDArray[Any]:
        return np.concatenate([part.values() for part in self.parts])

    def write(self, out: Target) -> None:
        for part in self.parts:
            part.write(out)

    @classmethod
    def forms(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Iterator[Form]:
        expect(params, rows=int, form=str, own=dict)
        rows, kind = params["rows"], params["form"]
        if kind not in FORMS or kind == cls.id:
            raise StreamError(f"slabs of the form {kind!r}")
        if not shape or not 0 < rows < max(shape[0], 2):
            raise StreamError(f"slabs of {rows} rows in a tensor of shape {list(shape)}")
        for at in range(0, shape[0], rows):
            yield FORMS[kind].read(params["own"], (min(rows, shape[0] - at), *shape[1:]), dtype, src)

    @classmethod
    def pieces(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Iterator[NDArray[Any]]:
        return (part.values().reshape(-1) for part in cls.forms(params, shape, dtype, src))

    @classmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Slabs:
        return cls(list(cls.forms(params, shape, dtype, src)))
