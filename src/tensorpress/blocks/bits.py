"""Bit strings, least significant bit first, the way the cell format packs them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.binary import Buffer
from tensorpress.core.errors import StreamError


def pack(values: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    """`width` bits of each value, as one array of bits."""
    return (values.reshape(-1, 1).astype(np.uint32) >> np.arange(width, dtype=np.uint32) & 1).astype(np.uint8).reshape(-1)


def unpack(bits: NDArray[np.uint8], width: int) -> NDArray[np.uint32]:
    return (bits.reshape(-1, width).astype(np.uint32) << np.arange(width, dtype=np.uint32)).sum(1, dtype=np.uint32)


def to_bytes(bits: NDArray[np.uint8]) -> bytes:
    """Padded with zero bits to a whole byte."""
    return np.packbits(bits, bitorder="little").tobytes()


def from_bytes(data: Buffer, count: int, what: str) -> NDArray[np.uint8]:
    """`count` bits; StreamError where padding bits are not zero or the data has not exactly the bytes for them."""
    if len(data) != -(-count // 8):
        raise StreamError(f"{what} has {len(data)} bytes, {-(-count // 8)} were expected")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[count:].any():
        raise StreamError(f"padding bits of {what} are not zero")
    return bits[:count]
