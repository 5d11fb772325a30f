"""safetensors files read and written a piece at a time, so that no tensor need ever be held: 8 bytes of length, a JSON header, the values one after another."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.binary import depth_of
from tensorpress.core.errors import InputError, StreamError
from tensorpress.planning.weight_file import DTYPES, MAX_RANK

MAX_HEADER_NBYTES = 1 << 25  # some hundred thousand tensors; parsed, a header takes several times its size
MAX_LENGTH = 1 << 40


@dataclass(frozen=True)
class Place:
    """A tensor of the file: `start` and `nbytes` of its values behind the header."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    start: int

    @property
    def array_dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.dtype])

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.values * self.array_dtype.itemsize


class SafetensorsFile:
    """Open for reading. `places` in the order of the values, `metadata` as it stands. InputError where it cannot be read, StreamError where it is no such file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = opened(path)
        try:
            self.places, self.metadata, self._start = self._front()
        except BaseException:
            self._file.close()
            raise

    def _front(self) -> tuple[list[Place], dict[str, str], int]:
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        head = self._file.read(8)
        if len(head) < 8:
            raise StreamError(f"{self.path}: {size} bytes are no safetensors file: the length of a header takes 8")
        nbytes = int.from_bytes(head, "little")
        if nbytes > size - 8:
            raise StreamError(f"{self.path}: header of {nbytes} bytes ends at {nbytes + 8}, the file at {size}: it is cut, or no safetensors file")
        if nbytes > MAX_HEADER_NBYTES:
            raise StreamError(f"{self.path}: header of {nbytes} bytes; at most {MAX_HEADER_NBYTES} are read")
        found = header_of(self._file.read(nbytes), str(self.path))
        metadata = found.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise StreamError(f"{self.path}: __metadata__ is not made of strings")
        places = places_of(found, size - 8 - nbytes, str(self.path))
        return places, metadata, 8 + nbytes

    def read(self, place: Place, first: int, count: int) -> NDArray[Any]:
        """`count` values of a tensor from the value `first` on, as a vector that is its reader's own."""
        out = np.empty(count, place.array_dtype)
        view, at = memoryview(out.view(np.uint8)), 0
        where = self._start + place.start + first * out.itemsize
        while at < len(view):
            found = os.preadv(self._file.fileno(), [view[at:]], where + at)
            if not found:
                raise StreamError(f"{self.path}: tensor {place.name!r} ends at byte {where + at}: the file became shorter")
            at += found
        return out

    def pieces(self, place: Place, count: int) -> Iterator[NDArray[Any]]:
        """All values of a tensor, at most `count` at a time."""
        return (self.read(place, at, min(count, place.values - at)) for at in range(0, place.values, count))

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def opened(path: str | Path) -> BinaryIO:
    """For reading. InputError where that cannot be."""
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def header_of(text: bytes, path: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{name!r} stands twice")
            found[name] = value
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise StreamError(f"{path}: the header is no JSON: {error}") from None
    if not isinstance(header, dict) or depth_of(header) > 3:
        raise StreamError(f"{path}: the header is not an object of tensors")
    return header


def places_of(header: Mapping[str, Any], nbytes: int, path: str) -> list[Place]:
    """Sorted by place. StreamError unless they fill `nbytes` one after another."""
    found = []
    for name, row in header.items():
        what = f"{path}: tensor {name!r}"
        if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
            raise StreamError(f"{what} does not have dtype, shape and data_offsets")
        dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise StreamError(f"{what} is of type {str(dtype)[:99]!r}; known are {', '.join(DTYPES)}")
        if not whole(shape) or len(shape) > MAX_RANK or math.prod(shape) >= MAX_LENGTH:
            raise StreamError(f"{what} has the shape {str(shape)[:99]}: at most {MAX_RANK} dimensions and 2^40 values are read")
        if not whole(offsets) or len(offsets) != 2:
            raise StreamError(f"{what} has the data_offsets {str(offsets)[:99]}")
        place = Place(name, dtype, tuple(shape), offsets[0])
        if offsets[1] - offsets[0] != place.nbytes:
            raise StreamError(f"{what} takes {place.nbytes} bytes, its data_offsets say {offsets[1] - offsets[0]}")
        found.append(place)
    found.sort(key=lambda p: (p.start, p.nbytes))
    at = 0
    for place in found:
        if place.start != at:
            reason = "overlaps the tensor before it" if place.start < at else "leaves a gap before it"
            raise StreamError(f"{path}: tensor {place.name!r} begins at {place.start}, not at {at}: it {reason}")
        at += place.nbytes
    if at != nbytes:
        raise StreamError(f"{path}: tensors take {at} bytes, the file has {nbytes} for them" + (": it is cut" if at > nbytes else ""))
    return found


def whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in values)


def laid_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Place]:
    """Places of tensors (name, dtype, shape) one after another."""
    found, at = [], 0
    for name, dtype, shape in tensors:
        found.append(Place(name, dtype, shape, at))
        at += found[-1].nbytes
    return found


def front_of(places: Iterable[Place], metadata: Mapping[str, str]) -> bytes:
    """What stands before the values, padded to a multiple of 8 bytes as the library does."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for place in places:
        header[place.name] = {"dtype": place.dtype, "shape": list(place.shape), "data_offsets": [place.start, place.start + place.nbytes]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
