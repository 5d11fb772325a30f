"""Interleaved static rANS (Duda, arXiv 1311.2540): four 32-bit states, 16-bit words, symbol i in lane i % 4.

Data: four u32, the decoder's first states, then the words in the order in which the decoder takes them; little endian.
After the last symbol each state is 2^16 again, so a wrong or cut string is noticed (16 bits a lane).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.coding.tables import Tables
from tensorpress.core.binary import Buffer
from tensorpress.core.errors import InputError, StreamError

LANES, LOW = 4, 1 << 16
HEAD_NBYTES = 4 * LANES

Symbols = NDArray[Any]  # uint8 or uint16, any shape; coded in C order
Index = NDArray[Any] | None  # each symbol's table row: uint8 or uint16 of the same shape, or None for row 0


def vector(values: NDArray[Any], what: str) -> NDArray[Any]:
    """`values` as a contiguous, aligned vector of uint8 or uint16; InputError for another type."""
    if values.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{what} must be uint8 or uint16, not {values.dtype}")
    return np.require(values, requirements=["C", "A"]).reshape(-1)


def max_nbytes(parts: Sequence[tuple[int, Tables]]) -> int:
    """The most bytes that an `Encoder` writes for so many symbols of each table: all of them its dearest, or a word for each."""
    bits = sum(count * float(tables.worst_bits.max()) for count, tables in parts)
    return HEAD_NBYTES + 2 * min(int(bits / 16), sum(count for count, _ in parts))


class Encoder:
    """Collects symbols, and writes them backwards when it finishes. Arrays are held, not copied, until then."""

    def __init__(self) -> None:
        self._parts: list[tuple[Symbols, Index, Tables]] = []
        self._count = 0

    def put(self, symbols: Symbols, index: Index, tables: Tables) -> None:
        """Append `symbols`, each coded by the row of `tables` that `index` names. InputError for other types than uint8 and uint16."""
        symbols = vector(symbols, "symbols")
        self._parts.append((symbols, None if index is None else vector(index, "index"), tables))
        self._count += symbols.size

    def finish(self) -> bytes:
        """The bytes. InputError where a symbol or an index lies beyond its tables."""
        out = np.empty(HEAD_NBYTES + 2 * self._count, np.uint8)
        states = np.full(LANES, LOW, np.uint32)
        at, first = out.size, self._count
        for symbols, index, tables in reversed(self._parts):
            first -= symbols.size
            try:
                at = tables.native.encode(symbols, index, first, states, out, at)
            except ValueError as error:
                raise InputError(f"symbols {first} to {first + symbols.size}: {error}") from None
        out[at - HEAD_NBYTES : at] = states.astype("<u4").view(np.uint8)
        return out[at - HEAD_NBYTES :].tobytes()


class Decoder:
    """Gives back, put by put, what an `Encoder` took. `data` may be hostile: StreamError, and no byte beyond it is read."""

    def __init__(self, data: Buffer) -> None:
        if len(data) < HEAD_NBYTES:
            raise StreamError(f"rANS data of {len(data)} bytes is cut: its states take {HEAD_NBYTES}")
        self._data = np.frombuffer(data, np.uint8)
        self._states = np.frombuffer(data, "<u4", LANES).astype(np.uint32)
        if (self._states < LOW).any():
            raise StreamError(f"rANS state of lane {int((self._states < LOW).argmax())} is below 2^16")
        self._at, self._count = HEAD_NBYTES, 0

    def take(self, index: Index, tables: Tables, count: int | None = None, dtype: Any = None) -> Symbols:
        """The next symbols, as a vector: as many as `index` has, or `count` where it is None. `dtype`: the smallest that holds them."""
        which = None if index is None else vector(index, "index")
        size = which.size if which is not None else count
        if size is None or (count is not None and count != size):
            raise InputError(f"asked for {count} symbols with an index of {None if which is None else which.size}")
        out = np.empty(size, dtype or (np.uint8 if tables.symbols <= 256 else np.uint16))
        at = tables.native.decode(self._data, self._at, which, self._count, self._states, out)
        if at < 0:
            raise StreamError(f"rANS data ends at byte {self._data.size}, within symbols {self._count} to {self._count + size}")
        self._at, self._count = at, self._count + size
        return out

    def done(self) -> None:
        """StreamError unless all words were taken and every state is back where the encoder began."""
        if self._at != self._data.size:
            raise StreamError(f"rANS words end at {self._at}, the data at {self._data.size}")
        if (self._states != LOW).any():
            raise StreamError(
                f"rANS lane {int((self._states != LOW).argmax())} does not end in its first state: wrong tables or damaged data"
            )


def encode(symbols: Symbols, tables: Tables, index: Index = None) -> bytes:
    """One put, finished."""
    encoder = Encoder()
    encoder.put(symbols, index, tables)
    return encoder.finish()


def decode(data: Buffer, tables: Tables, count: int | None = None, index: Index = None) -> Symbols:
    """One take, done."""
    decoder = Decoder(data)
    symbols = decoder.take(index, tables, count)
    decoder.done()
    return symbols
