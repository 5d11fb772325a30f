"""The chain of a codec that has not seen samples yet: it says so."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, View, Writer
from tensorpress.core.stage import Stage


class Unfitted(Stage[Any, None]):
    """InputError on encode, StreamError on decode: without fitted state a stream says nothing."""

    def __init__(self, codec: str) -> None:
        self.codec = codec

    def encode(self, x: Any, out: Writer) -> NoReturn:
        raise InputError(f"codec {self.codec!r} is not fitted: call fit(samples)")

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> NoReturn:
        raise InputError(f"codec {self.codec!r} is not fitted: call fit(samples)")

    def decode(self, y: Any, src: Reader) -> NoReturn:
        raise StreamError(f"the stream of codec {self.codec!r} holds no fitted state")
