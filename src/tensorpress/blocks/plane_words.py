"""Values as words whose bytes are worth parting: what is predictable first, exponents above the sign, small integers of either sign with high bytes of 0.

    float, bfloat16    sign | exponent | mantissa   ->   exponent | sign | mantissa
    signed integer     0, -1, 1, -2, 2 …            ->   0, 1, 2, 3, 4 …
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[Any]  # unsigned, as wide as the values

MANTISSA = {2: 10, 4: 23, 8: 52}  # bits, by the bytes of a float
BFLOAT_MANTISSA = 7


def words_of(x: NDArray[Any]) -> Words:
    """The bits of contiguous values, as they are."""
    return x.view(f"u{x.dtype.itemsize}")


class Layout:
    """One order of the bits within a word of `itemsize` bytes; `parted` and `joined` are inverse on every word."""

    def __init__(self, dtype: np.dtype[Any], bfloat16: bool = False) -> None:
        self.itemsize, self.dtype, self.name = dtype.itemsize, np.dtype(f"u{dtype.itemsize}"), dtype.name
        self.mantissa = BFLOAT_MANTISSA if bfloat16 and dtype == np.uint16 else MANTISSA[dtype.itemsize] if dtype.kind == "f" else 0
        self.signed = dtype.kind == "i"

    @property
    def floats(self) -> bool:
        return self.mantissa > 0

    @property
    def everything_but_sign(self) -> int:
        """Of a parted float."""
        return (1 << 8 * self.itemsize) - 1 - (1 << self.mantissa)

    @property
    def minus_zero(self) -> int:
        """Of a float that is not parted."""
        return 1 << 8 * self.itemsize - 1

    def of_steps(self) -> Layout:
        """That of differences of integers, which have a sign."""
        return Layout(np.dtype(f"i{self.itemsize}"))

    def _masks(self) -> tuple[Any, Any, Any]:
        """(mantissa, the bit above it, exponent as it lies in a float)."""
        word, top = self.dtype.type, 8 * self.itemsize - 1
        return word((1 << self.mantissa) - 1), word(1 << self.mantissa), word((1 << top) - (1 << self.mantissa))

    def parted(self, words: Words) -> Words:
        """A new vector of words, ready to be cut into bytes."""
        word, bits = self.dtype.type, 8 * self.itemsize
        if self.signed:  # shifted left, and turned over where it was negative
            return (words << word(1)) ^ (word(0) - (words >> word(bits - 1)))
        if not self.floats:
            return words.copy()
        mantissa, above, exponent = self._masks()
        out = words >> word(bits - 1 - self.mantissa)
        out &= above
        rest = words & exponent
        rest <<= word(1)
        out |= rest
        np.bitwise_and(words, mantissa, out=rest)
        out |= rest
        return out

    def joined(self, words: Words) -> Words:
        """What `parted` was given; `words` are written over."""
        word, bits = self.dtype.type, 8 * self.itemsize
        if self.signed:
            turned = word(0) - (words & word(1))
            words >>= word(1)
            words ^= turned
            return words
        if not self.floats:
            return words
        mantissa, above, exponent = self._masks()
        rest = words & above
        rest <<= word(bits - 1 - self.mantissa)
        moved = words >> word(1)
        moved &= exponent
        rest |= moved
        words &= mantissa
        words |= rest
        return words
