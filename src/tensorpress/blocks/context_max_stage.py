"""Arrays to stripes of the context codec's back-end `max`: its last and only stage, around the native kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.context_max_model import MaxModel, whole_stripes
from tensorpress.blocks.context_max_twin import STATES
from tensorpress.blocks.context_stage import FEW_STRIPES, capped, plane
from tensorpress.blocks.uniform import check_decodable, restore
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage
from tensorpress.core.threads import threads

Array = NDArray[Any]
# The least chance is 8 of 2^15: 12 bits and what rounding adds to a state, 8 / 2^16 of it; words take away 16 bits less log2(1 + 1/2), as in `Tables.worst_bits`.
WORST_BITS = (12 + math.log2(1 + 8 / 65536)) * 16 / (16 - math.log2(1.5))
DIRECT = tuple(np.dtype(d) for d in ("f4", "u1", "i1"))  # types that the kernel writes


class MaxStage(Stage[Array, None]):
    """`lagrangian`: squared error, in steps, that the encoder takes for a bit; `cap`: every stripe's least ratio, 0 for none."""

    def __init__(self, codec: str, model: MaxModel, lagrangian: float, rounding: float, cap: float) -> None:
        self.codec, self.model, self.lagrangian, self.rounding, self.cap = codec, model, lagrangian, rounding, cap

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        values, parts = view[0] * rows * view[2], self.model.parts
        words = int(values * WORST_BITS / 16 * (1 + 1e-12))
        return parts * (4 + 4 * min(STATES, rows) + 1) + 2 * words + -(-values * int(self.model.bits.max()) // 8)

    def encode(self, x: Array, out: Writer) -> None:
        self._encoded(x, out, None)

    def simulate(self, x: Array, out: Writer) -> Array:
        """Encodes, and gives what the decoder would: the encoder knows it."""
        decoded = np.zeros(chw(x.shape), x.dtype if x.dtype in DIRECT else np.float32)
        self._encoded(x, out, decoded)
        return (decoded if x.dtype in DIRECT else restore(decoded, x.dtype)).reshape(x.shape)

    def _encoded(self, x: Array, out: Writer, decoded: Array | None) -> None:
        values = x.reshape(chw(x.shape)) if x.dtype in DIRECT[1:] else plane(x, self.codec)
        assert values is not None
        self._check_channels(values.shape[0], x.size, InputError)
        count = stripe_count(x.shape)
        before, prices = plane(out.reference, self.codec), [self.lagrangian] * count
        stripes = self.model.native.encode(values, before, whole_stripes(count), prices, self.rounding, threads(x.size), decoded) if prices else []
        if self.cap:
            stripes = self._capped(values, before, stripes, out, decoded)
        for data in stripes:
            out.stripe(data)

    def _capped(self, values: Array, before: Array | None, stripes: list[bytes], out: Writer, decoded: Array | None) -> list[bytes]:
        """Stripes over their budget again, at twice the price of a bit each round; zeros where even that does not do."""
        for number, data in enumerate(stripes):
            rows = slice(number * STRIPE_ROWS, (number + 1) * STRIPE_ROWS)
            part, beside = values[:, rows], None if before is None else np.ascontiguousarray(before[:, rows])
            budget = part.size / self.cap - 8 - (out.head_nbytes + 12 if number == 0 else 0)
            whole = int(number < whole_stripes(len(stripes)))
            price = max(self.lagrangian, 0.05)

            def encode(price: float) -> bytes:
                (found,) = self.model.native.encode(part, beside, whole, [price], self.rounding, threads(part.size))  # noqa: B023
                return found  # type: ignore[no-any-return]

            stripes[number] = capped(data, budget, price, encode)
            if decoded is not None:
                self.model.native.decode([np.frombuffer(stripes[number], np.uint8)], beside, whole, decoded[:, rows], 1)
        return stripes

    def decode(self, y: None, src: Reader) -> Array:
        check_decodable(src.dtype)
        shape = chw(src.shape)
        self._check_channels(shape[0], math.prod(shape), StreamError)
        out = np.zeros(shape, src.dtype if src.dtype in DIRECT else np.float32)
        count, before = stripe_count(src.shape), plane(src.reference, self.codec)
        for first in range(0, count, FEW_STRIPES):
            stripes = [np.frombuffer(src.stripe(), np.uint8) for _ in range(first, min(first + FEW_STRIPES, count))]
            part = out[:, first * STRIPE_ROWS : (first + FEW_STRIPES) * STRIPE_ROWS]
            beside = None if before is None else np.ascontiguousarray(before[:, first * STRIPE_ROWS : (first + FEW_STRIPES) * STRIPE_ROWS])
            bad = self.model.native.decode(stripes, beside, min(max(whole_stripes(count) - first, 0), len(stripes)), part, threads(part.size))
            if bad >= 0:
                raise StripeError(first + bad, f"its {len(stripes[bad])} bytes are not {self.codec} data of this shape")
        return (out if src.dtype in DIRECT else restore(out, src.dtype)).reshape(src.shape)

    def _check_channels(self, channels: int, size: int, error: type[Exception]) -> None:
        if size and channels != self.model.channels:
            raise error(f"the tensor has {channels} channels, codec {self.codec!r} was fitted to {self.model.channels}")

    def decode_cell(self, *_: Any) -> Any:
        raise InputError("back-end 'max' codes whole stripes: cells are decoded alone from back-end 'fast'")
