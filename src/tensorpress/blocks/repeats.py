"""Short vectors that stand again and again, as in the dense form of a vector-quantised or tiled tensor: each once, and which one stands where."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[Any]

WIDTHS = (4, 8, 9, 16, 25, 49, 64)  # words of a vector: parts of rows, and kernels of 3 x 3, 5 x 5 and 7 x 7
LEAST = 1 << 17  # words that are worth a look
SAMPLE = 512  # vectors of a look
FEW = SAMPLE // 16  # that stand again
WORD_BITS = 12  # of one in a vector that is new, about
ODD = np.array([(0x9E3779B97F4A7C15 * (2 * i + 1)) & 0xFFFFFFFFFFFFFFFF for i in range(max(WIDTHS))], np.uint64)


class Repeats(NamedTuple):
    """`words[: index.size * width]` is `book[index]`, `book` (vectors, width), the most frequent first; `rest` follows."""

    book: Words
    index: NDArray[Any]  # unsigned, as narrow as it can be
    rest: Words


def index_dtype(vectors: int) -> np.dtype[Any]:
    return np.min_scalar_type(max(vectors - 1, 0))


def _keys(rows: Words) -> NDArray[np.uint64]:
    """Of equal rows equal, of others hardly ever."""
    mixed = rows.astype(np.uint64)
    mixed ^= mixed >> np.uint64(17)
    return np.asarray((mixed * ODD[: rows.shape[1]]).sum(axis=1, dtype=np.uint64))


def width_of(words: Words) -> int:
    """That of vectors with repeats, which would take the fewest bits a word; 0: none are seen. Those with a zero do not count: zeros are cheap anyway."""
    best, found = (1, 0), 0  # bits of so many words
    for width in WIDTHS if words.size >= LEAST else ():
        rows = words[: SAMPLE * width].reshape(-1, width)
        rows = rows[(rows << words.dtype.type(1)).all(axis=1)]
        seen = np.unique(_keys(rows)).size
        bits = len(rows) * seen.bit_length() + seen * width * WORD_BITS
        if seen + FEW <= len(rows) and (best[1] == 0 or bits * best[1] < best[0] * len(rows) * width):
            best, found = (bits, len(rows) * width), width
    return found


def repeats_of(words: Words) -> Repeats | None:
    """None where no vectors repeat, or not often."""
    width = width_of(words)
    if not width:
        return None
    rows = words[: words.size // width * width].reshape(-1, width)
    _, first, inverse, counts = np.unique(_keys(rows), return_index=True, return_inverse=True, return_counts=True)
    if 2 * first.size > len(rows):
        return None
    order = np.lexsort((first, -counts))
    rank = np.empty(order.size, index_dtype(order.size))
    rank[order] = np.arange(order.size)
    book, index = rows[first[order]], rank[inverse.reshape(-1)]
    return Repeats(book, index, words[rows.size :]) if np.array_equal(book[index], rows) else None  # two vectors of one key
