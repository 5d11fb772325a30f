"""One step of a codec. Stages compose with `>>`; the chain is the specification and the slow twin of any fused kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from tensorpress.core.payload import Reader, View, Writer

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Stage(ABC, Generic[A, B]):
    """A pair of inverse maps (up to quantisation). The last stage of a chain writes to `out` and returns None."""

    @abstractmethod
    def encode(self, x: A, out: Writer) -> B: ...

    @abstractmethod
    def decode(self, y: B, src: Reader) -> A: ...

    def fit(self, samples: Sequence[A]) -> Stage[A, B]:
        """A new, frozen stage whose parameters suit `samples`; by default there is nothing to fit."""
        return self

    def shared(self) -> Mapping[str, bytes]:
        """Fitted binary state that a decoder must hold; it is counted, never hidden."""
        return {}

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        """Of a last stage: the most bytes that it writes for a stripe of `rows` rows of a map seen as `view`, whatever the values."""
        raise NotImplementedError(f"{type(self).__name__} does not say how long its stripes can be")

    def __rshift__(self, after: Stage[B, C]) -> Stage[A, C]:
        return Chain(self, after)


class Chain(Stage[Any, Any]):
    """`first >> second`."""

    def __init__(self, first: Stage[Any, Any], second: Stage[Any, Any]) -> None:
        self.first, self.second = first, second

    def encode(self, x: Any, out: Writer) -> Any:
        return self.second.encode(self.first.encode(x, out), out)

    def decode(self, y: Any, src: Reader) -> Any:
        return self.first.decode(self.second.decode(y, src), src)

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return self.second.max_stripe_nbytes(dtype, view, rows)

    def fit(self, samples: Sequence[Any]) -> Chain:
        first = self.first.fit(samples)
        middle = [first.encode(x, Writer(x.dtype, x.shape)) for x in samples]
        return Chain(first, self.second.fit(middle))

    def shared(self) -> Mapping[str, bytes]:
        return {**self.first.shared(), **self.second.shared()}
