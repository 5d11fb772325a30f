"""Code lengths in integers: what a choice between tables may rest on, the same on every machine."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINT = 16  # lengths are in 2^-16 bits
LARGEST = 1 << 16  # counts up to this


@cache
def logarithms() -> NDArray[np.int64]:
    """(LARGEST + 1,) the logarithm of each number to base 2, rounded down to 2^-16; of 0, 0."""
    n = np.arange(1, LARGEST + 1, dtype=np.int64)
    whole = np.zeros_like(n)
    for k in range(1, POINT + 1):
        whole += n >> k > 0
    found, x = whole << POINT, n << 30 - whole  # x lies in [2^30, 2^31); squaring doubles its logarithm
    for bit in reversed(range(POINT)):
        x = x * x >> 30
        over = x >> 31
        found |= over << bit
        x >>= over
    out = np.concatenate([[0], found])
    out.setflags(write=False)
    return out


def entropy_nbytes(counts: NDArray[Any]) -> NDArray[np.int64]:
    """(…,) bytes of the shortest code for each row of counts (…, symbols) of at most LARGEST in all, its table not counted."""
    logs = logarithms()
    total = counts.sum(axis=-1)
    return np.asarray((total * logs[total] - (counts * logs[counts]).sum(axis=-1)) >> POINT + 3)


def table_nbytes(counts: NDArray[Any], frequencies: NDArray[Any], escape: int, bits: int) -> NDArray[np.int64]:
    """(…,) bytes of rows of counts (…, symbols) in a table of rANS; where a frequency is 0 the escape and a byte stand for it."""
    logs = logarithms()
    length = np.where(frequencies > 0, (bits << POINT) - logs[frequencies], (bits + 8 << POINT) - logs[escape])
    return np.asarray((counts * length).sum(axis=-1) >> POINT + 3)
