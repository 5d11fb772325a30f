"""What the adaptive coder charges, for quantisers that weigh rate against error: figures for an encoder, which no decoder sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.coding.adaptive import whole


def bits_by_magnitude(values: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Bits that the small form spends on a value of magnitude 0, 1, … 15, on average over these tensors.

    Where none was seen, so much more than the one before as that one took more, and a bit at least.
    """
    bits, counts = _native.adaptive_costs([whole(one) for one in values])
    found: list[float] = []
    for m, (sum_, count) in enumerate(zip(bits, counts)):
        rise = max(1.0, found[-1] - found[-2]) if m > 1 else 1.0
        found.append(sum_ / count if count else found[-1] + rise if m else 1.0)
    return np.array(found)
