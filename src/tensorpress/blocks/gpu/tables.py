"""What kernels look up, on their device: tables of bytes and values, and sums of counts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tensorpress.blocks.levels import Levels
from tensorpress.blocks.uniform import restore


@lru_cache(maxsize=256)
def _kept(data: bytes, dtype: str, device: torch.device) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), dtype)).to(device)


def table(values: NDArray[Any], device: torch.device) -> Tensor:
    """`values` on `device`, flat; the same ones are sent once."""
    return _kept(values.tobytes(), values.dtype.str, device)


def values_of(levels: Levels, level_of: NDArray[np.uint8], dtype: np.dtype[Any], wanted: torch.dtype, device: torch.device) -> Tensor:
    """(len(level_of),) what each symbol of a payload of `dtype` stands for, as `wanted`; for integers their bytes."""
    if dtype.kind != "f":
        return table(level_of ^ np.uint8(128) if dtype == np.int8 else level_of, device)
    with np.errstate(over="ignore"):
        values = (level_of.astype(np.int32) - levels.zero_of(dtype)).astype(np.float32) * np.float32(levels.scale_for(dtype))
    return table(restore(values, dtype), device).to(wanted)


def sums_before(counts: Tensor) -> Tensor:
    """The sum before each count, and of all: one more than there are."""
    sums = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=sums[1:])
    return sums
