"""An array of any type, bit for bit, in byte planes: what the codec `float_planes` writes, a piece of about a million values at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.float_planes import decode_planes_natively, decode_words, encode_planes_natively, encode_words
from tensorpress.blocks.forms.form import Form, Shape, Source, Target, expect
from tensorpress.blocks.plane_words import Layout, words_of
from tensorpress.core.errors import StreamError

PIECE = 32 * 27 * 25 * 49  # values: whole vectors of every width that repeats are looked for in


def put_piece(out: Target, values: NDArray[Any], bfloat16: bool) -> None:
    """Up to PIECE values in a row."""
    out.octets(encode_words(words_of(values), Layout(values.dtype, bfloat16), encode_planes_natively))


@dataclass(frozen=True, eq=False)
class Planes(Form):
    """`bfloat16`: of uint16, whether they are the bits of bfloat16."""

    id: ClassVar[str] = "planes"
    array: NDArray[Any]
    bfloat16: bool = False

    @property
    def shape(self) -> Shape:
        return self.array.shape

    @property
    def params(self) -> Mapping[str, Any]:
        return {"bfloat16": True} if self.bfloat16 else {}

    def values(self) -> NDArray[Any]:
        return self.array

    def write(self, out: Target) -> None:
        row = np.ascontiguousarray(self.array).reshape(-1)
        for at in range(0, row.size, PIECE):
            put_piece(out, row[at : at + PIECE], self.bfloat16)

    @classmethod
    def pieces(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Iterator[NDArray[Any]]:
        if params:
            expect(params, bfloat16=bool)
            if not params["bfloat16"] or dtype != np.uint16:
                raise StreamError(f"planes of {dtype} are said to be those of bfloat16")
        layout, count = Layout(dtype, bool(params)), math.prod(shape)
        for at in range(0, count, PIECE):
            words = np.empty(min(PIECE, count - at), layout.dtype)
            try:
                decode_words(src.octets(), words, layout, decode_planes_natively)
            except StreamError as error:
                raise StreamError(f"piece {at // PIECE}: {error}") from None
            yield np.minimum(words, 1).view(dtype) if dtype.kind == "b" else words.view(dtype)

    @classmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Planes:
        found = list(cls.pieces(params, shape, dtype, src))
        return cls((np.concatenate(found) if found else np.empty(0, dtype)).reshape(shape), bool(params))
