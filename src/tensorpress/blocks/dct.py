"""Integer DCT-II matrices of length 4, 8, 16 and 32, as in HEVC (ITU-T H.265, 8.6.4.2): exact, so the same everywhere."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

LENGTHS = (4, 8, 16, 32)

# round-ish 64 * sqrt(2) * cos(j * pi / 64) as the standard fixes them, j = 0 … 32; row 0 is the constant 64
_COSINES = (64, 90, 90, 90, 89, 88, 87, 85, 83, 82, 80, 78, 75, 73, 70, 67, 64, 61, 57, 54, 50, 46, 43, 38, 36, 31, 25, 22, 18, 13, 9, 4, 0)


@cache
def matrix(length: int) -> NDArray[np.int32]:
    """(length, length) int32; row k is the k-th basis vector, of norm close to 64 * sqrt(length)."""
    rows = np.empty((length, length), np.int32)
    for k in range(length):
        for n in range(length):
            j = (2 * n + 1) * k * (32 // length) % 128  # the angle is j * pi / 64
            j = min(j, 128 - j)  # cos is even about pi
            rows[k, n] = 64 if k == 0 else _COSINES[j] if j <= 32 else -_COSINES[64 - j]
    rows.setflags(write=False)
    return rows


@cache
def norms(length: int) -> tuple[float, ...]:
    """The Euclidean norm of each row. sqrt is correctly rounded, so these are the same on every machine."""
    return tuple(float(np.sqrt(np.float64(int((row.astype(np.int64) ** 2).sum())))) for row in matrix(length))
