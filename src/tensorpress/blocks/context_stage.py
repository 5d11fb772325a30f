"""Arrays to context-coded stripes: the last and only stage of the codec `context`, around the native kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.cells import CELL_COLUMNS, Box, boxes, cell_channels
from tensorpress.blocks.context_model import ContextModel
from tensorpress.blocks.uniform import as_float32, check_decodable, restore
from tensorpress.core.binary import Buffer
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage
from tensorpress.core.threads import threads

Array = NDArray[Any]
FEW_STRIPES = 1 << 12  # that are decoded at a time: each is an object meanwhile
CAP_ROUNDS = 12  # doublings of the price of a bit before a stripe is written as zeros


def plane(x: Array | None, codec: str) -> NDArray[np.float32] | None:
    """(C, H, W) contiguous float32."""
    return None if x is None else as_float32(x, codec).reshape(chw(x.shape))


def capped(data: bytes, budget: float, price: float, encode: Callable[[float], bytes]) -> bytes:
    """A stripe within its budget: `data`, or what `encode` writes at twice the price of a bit each round; no bytes, which are zeros, where even that does not do."""
    for _ in range(CAP_ROUNDS):
        if len(data) <= budget:
            break
        price *= 2
        data = encode(price)
    return data if len(data) <= budget else b""


class ContextStage(Stage[Array, None]):
    """`lagrangian`: squared error, in steps, that the encoder takes for a bit; `cap`: every stripe's least ratio, 0 for none."""

    def __init__(self, codec: str, model: ContextModel, lagrangian: float, rounding: float, cap: float) -> None:
        self.codec, self.model, self.lagrangian, self.rounding, self.cap = codec, model, lagrangian, rounding, cap

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        cells = -(-view[0] // cell_channels(view[1], view[2])) * -(-view[2] // CELL_COLUMNS)
        return 2 * cells + view[0] * rows * view[2]  # a cell whose words take more stands as one byte a value

    def encode(self, x: Array, out: Writer) -> None:
        self._encoded(x, out, None)

    def simulate(self, x: Array, out: Writer) -> Array:
        """Encodes, and gives what the decoder would: the encoder knows it."""
        decoded = np.zeros(chw(x.shape), np.float32)
        self._encoded(x, out, decoded)
        return restore(decoded, x.dtype).reshape(x.shape)

    def _encoded(self, x: Array, out: Writer, decoded: Array | None) -> None:
        values, before = plane(x, self.codec), plane(out.reference, self.codec)
        assert values is not None
        self._check_channels(values.shape[0], x.size)
        prices = [self.lagrangian] * stripe_count(x.shape)
        stripes = self.model.native.encode(values, before, prices, self.rounding, threads(x.size), decoded=decoded) if prices else []
        if self.cap:
            stripes = self._capped(values, before, stripes, out, decoded)
        for data in stripes:
            out.stripe(data)

    def _capped(self, values: Array, before: Array | None, stripes: list[bytes], out: Writer, decoded: Array | None) -> list[bytes]:
        """Stripes over their budget again, at twice the price of a bit each round; zeros where even that does not do."""
        for number, data in enumerate(stripes):
            rows = slice(number * STRIPE_ROWS, (number + 1) * STRIPE_ROWS)
            part, beside = np.ascontiguousarray(values[:, rows]), None if before is None else np.ascontiguousarray(before[:, rows])
            budget = part.size / self.cap - 8 - (out.head_nbytes + 12 if number == 0 else 0)
            price = max(self.lagrangian, 0.05)

            def encode(price: float) -> bytes:
                (found,) = self.model.native.encode(part, beside, [price], self.rounding, 1, values.shape[1])  # noqa: B023
                return found  # type: ignore[no-any-return]

            stripes[number] = capped(data, budget, price, encode)
            if decoded is not None:
                again = np.zeros(part.shape, np.float32)
                self.model.native.decode([np.frombuffer(stripes[number], np.uint8)], beside, again, 1, -1, values.shape[1])
                decoded[:, rows] = again
        return stripes

    def decode(self, y: None, src: Reader) -> Array:
        check_decodable(src.dtype)
        shape = chw(src.shape)
        self._check_channels(shape[0], math.prod(shape), StreamError)
        out = np.zeros(shape, np.float32)
        count, before = stripe_count(src.shape), plane(src.reference, self.codec)
        for first in range(0, count, FEW_STRIPES):
            stripes = [np.frombuffer(src.stripe(), np.uint8) for _ in range(first, min(first + FEW_STRIPES, count))]
            rows = np.s_[:, first * STRIPE_ROWS : (first + FEW_STRIPES) * STRIPE_ROWS]
            part = np.ascontiguousarray(out[rows])  # itself, where there are few
            beside = None if before is None else np.ascontiguousarray(before[rows])
            bad = self.model.native.decode(stripes, beside, part, threads(part.size), map_rows=shape[1])
            if bad >= 0:
                raise StripeError(first + bad, f"its {len(stripes[bad])} bytes are not {self.codec} data of this shape")
            if not np.may_share_memory(part, out):
                out[rows] = part
        return restore(out, src.dtype).reshape(src.shape)

    def decode_cell(self, payload: Buffer, cell: int, reference: Array | None = None, *, max_nbytes: int = MAX_NBYTES) -> tuple[Box, Array]:
        """(where it lies in the (C, H, W) view, values) of one cell of the fast back-end; only its stripe is read.

        Cells are numbered by stripe, in it by channel block, in it by column block. InputError for one that does not exist, StreamError as
        from `decode_payload`, `max_nbytes` (1 GiB by default) included: that of the whole tensor.
        """
        src = Reader(payload, max_nbytes=max_nbytes)
        check_decodable(src.dtype)
        shape = chw(src.shape)
        self._check_channels(shape[0], math.prod(shape), StreamError)
        stripes = stripe_count(src.shape)
        places = list(boxes(shape, 0)) if stripes else []  # every stripe has as many
        if not 0 <= cell < stripes * len(places):
            raise InputError(f"cell {cell} does not exist: the payload has {stripes * len(places)}, numbered from 0")
        stripe, number = divmod(cell, len(places))
        box = places[number]._replace(rows=slice(stripe * STRIPE_ROWS, min((stripe + 1) * STRIPE_ROWS, shape[1])))
        src.skip(stripe)
        data = np.frombuffer(src.stripe(), np.uint8)
        out = np.zeros((shape[0], box.rows.stop - box.rows.start, shape[2]), np.float32)
        before = plane(reference, self.codec)
        beside = None if before is None else np.ascontiguousarray(before[:, box.rows])
        if self.model.native.decode([data], beside, out, 1, number, shape[1]) >= 0:
            raise StripeError(stripe, f"its {len(data)} bytes are not {self.codec} data of this shape", src.place(stripe))
        return box, restore(out[box.channels, :, box.columns], src.dtype)

    def _check_channels(self, channels: int, size: int, error: type[Exception] | None = None) -> None:
        if size and channels != self.model.channels:
            raise (error or InputError)(f"the tensor has {channels} channels, codec {self.codec!r} was fitted to {self.model.channels}")
