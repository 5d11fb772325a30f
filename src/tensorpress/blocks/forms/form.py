"""What every form owes: its integers to the coder, a few parameters to the index, and values that only these give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tensorpress.coding.adaptive import AdaptiveDecoder, AdaptiveEncoder
from tensorpress.core.binary import Buffer, read_varint, varint
from tensorpress.core.errors import InputError, StreamError

Shape = tuple[int, ...]
FORMS: dict[str, type[Form]] = {}  # by id; filled as the forms are defined


class Target:
    """Where the tensors of one part of a file are written: integers through one adaptive coder, which goes on from tensor to tensor, and bytes as they are."""

    def __init__(self) -> None:
        self._coder, self._bytes = AdaptiveEncoder(), bytearray()

    def integers(self, values: NDArray[Any]) -> None:
        self._coder.put(np.ascontiguousarray(values, np.int32))

    def octets(self, data: Buffer) -> None:
        self._bytes += varint(len(data)) + data

    def finish(self) -> bytes:
        coded = self._coder.finish()
        return varint(len(coded)) + coded + bytes(self._bytes)


class Source:
    """The same part, read in the same order. `max_nbytes`: what its values may take."""

    def __init__(self, data: Buffer) -> None:
        view = memoryview(data)
        nbytes, at = read_varint(view, 0, "length of the coded integers")
        if nbytes > len(view) - at:
            raise StreamError(f"coded integers end at {len(view)}, their length promised {at + nbytes}")
        self._coder, self._rest, self._at = AdaptiveDecoder(view[at : at + nbytes]), view[at + nbytes :], 0

    def integers(self, shape: Shape) -> NDArray[np.int32]:
        return self._coder.take(shape)

    def octets(self) -> memoryview:
        nbytes, at = read_varint(self._rest, self._at, "length of bytes")
        if nbytes > len(self._rest) - at:
            raise StreamError(f"bytes end at {len(self._rest)}, their length promised {at + nbytes}")
        self._at = at + nbytes
        return self._rest[at : self._at]

    def done(self) -> None:
        """StreamError where anything is left over."""
        self._coder.done()
        if self._at != len(self._rest):
            raise StreamError(f"{len(self._rest) - self._at} bytes stand after the last tensor")


@dataclass(frozen=True, eq=False)
class Form(ABC):
    """Frozen. What is fitted stands in arrays, what a file's index holds in `params`: JSON values, small."""

    id: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "id" in cls.__dict__:
            FORMS[cls.id] = cls

    @property
    @abstractmethod
    def shape(self) -> Shape: ...

    @property
    def params(self) -> Mapping[str, Any]:
        return {}

    @abstractmethod
    def values(self) -> NDArray[Any]:
        """What a decoder gives, in `shape`: the same bits on every machine."""

    @abstractmethod
    def write(self, out: Target) -> None: ...

    @classmethod
    @abstractmethod
    def read(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Form:
        """StreamError where parameters or what follows are not what `write` gives. Nothing larger than `shape` is made before it is looked at."""

    @classmethod
    def pieces(cls, params: Mapping[str, Any], shape: Shape, dtype: np.dtype[Any], src: Source) -> Iterator[NDArray[Any]]:
        """The same values in a row, a vector at a time; forms of large tensors need not make all of them at once."""
        yield cls.read(params, shape, dtype, src).values().reshape(-1)

    def nbytes(self) -> int:
        """Bytes that this form alone would take, coded by itself."""
        out = Target()
        self.write(out)
        return len(out.finish())


def expect(params: Mapping[str, Any], **kinds: type) -> None:
    """StreamError unless `params` has exactly these keys, with values of these types."""
    if set(params) != set(kinds):
        raise StreamError(f"a form has the parameters {sorted(params)}, not {sorted(kinds)}")
    for name, kind in kinds.items():
        if type(params[name]) is not kind:
            raise StreamError(f"parameter {name!r} of a form is {params[name]!r}, not of type {kind.__name__}")


def finite(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """`values` as float64. InputError where one is not finite."""
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        at = np.unravel_index(int(np.argmin(np.isfinite(found))), found.shape)
        raise InputError(f"{what} has {found[at]} at {[int(i) for i in at]}")
    return found
