"""Floats to 8-bit levels and back on a GPU: one float32 multiply, clamp, round half to even, add the zero point.

Every launch here and beside passes `enable_fp_fusion=False`: a product that a fused multiply-add leaves unrounded gives other levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from tensorpress.blocks.levels import Levels
from tensorpress.core.device import launching_beside
from tensorpress.core.errors import InputError

FLOAT, UNSIGNED, SIGNED, WIDE = (tl.constexpr(k) for k in range(4))  # what a tensor's values are
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WIDE_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # what integers of so many bytes are read as
EXACT: dict[str, Any] = {"enable_fp_fusion": False}
BLOCK = 2048
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: in that binade a float32 has no fraction, so adding it rounds, half to even


def kind_of(dtype: torch.dtype) -> tl.constexpr:
    if dtype in FLOATS:
        return FLOAT
    if dtype == torch.int8:
        return SIGNED
    return UNSIGNED if dtype.itemsize == 1 else WIDE


def plain(x: Tensor) -> Tensor:
    """`x` in one piece, in a type that Triton loads: bool and unsigned words as integers of their width."""
    x = x.contiguous()
    if x.dtype == torch.bool:
        return x.view(torch.uint8)
    return x.view(WIDE_TYPES[x.dtype.itemsize]) if kind_of(x.dtype) == WIDE else x


@triton.jit
def levels_of(values, reciprocal, zero, KIND: tl.constexpr):
    """(levels in 0 … 255 as int32, 1 where a value is no finite float32)."""
    if KIND == FLOAT:
        v = values.to(tl.float32)
        wild = ((v.to(tl.int32, bitcast=True) >> 23) & 255) == 255
        scaled = tl.where(wild, 0.0, v) * reciprocal
        low = tl.cast(0 - zero, tl.float32)
        high = tl.cast(255 - zero, tl.float32)
        clamped = tl.minimum(tl.maximum(scaled, low), high)  # between whole numbers: before or after rounding is the same
        whole = (clamped + ROUNDER) - ROUNDER
        return whole.to(tl.int32) + zero, wild.to(tl.int32)
    else:
        levels = values.to(tl.int32)
        if KIND == SIGNED:
            levels += 128
        return levels, tl.zeros_like(levels)


@triton.jit
def _quantise(x, out, fault, reciprocal, zero, size, flip, BLOCK: tl.constexpr):
    i = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + i, mask=i < size, other=0)
    levels, wild = levels_of(values, reciprocal, zero, FLOAT)
    if tl.max(wild, 0) > 0:
        tl.store(fault, 1)
    tl.store(out + i, (levels ^ flip).to(tl.uint8), mask=i < size)


@triton.jit
def _restore(levels, table, out, size, BLOCK: tl.constexpr):
    i = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    level = tl.load(levels + i, mask=i < size, other=0).to(tl.int32)
    tl.store(out + i, tl.load(table + level), mask=i < size)


def quantise(x: Tensor, levels: Levels, dtype: torch.dtype = torch.uint8) -> Tensor:
    """The levels of a float tensor (float32, float16, bfloat16, float64), in its shape: uint8, or int8 as level - 128.

    InputError where `levels` is not fitted or `x` holds NaN, infinity, or what float32 cannot hold; to know, the host waits.
    """
    if x.dtype not in FLOATS or dtype not in (torch.uint8, torch.int8):
        raise InputError(f"floats are quantised to uint8 or int8, not {x.dtype} to {dtype}")
    if levels.reciprocal is None:
        raise InputError("the levels are not fitted: they have no scale; call fit(samples)")
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    fault = torch.zeros(1, dtype=torch.int32, device=x.device)
    if x.numel():
        grid = (triton.cdiv(x.numel(), BLOCK),)
        flip = 128 if dtype == torch.int8 else 0
        with launching_beside(x):
            _quantise[grid](x, out, fault, levels.reciprocal, levels.zero_point, x.numel(), flip, BLOCK=BLOCK, **EXACT)
    if fault.item():
        raise InputError("the tensor holds NaN or infinity; only finite values can be quantised")
    return out.view(dtype)


def restore(coded: Tensor, levels: Levels, dtype: torch.dtype = torch.float32) -> Tensor:
    """The floats of levels as `quantise` wrote them, in any of its float types: one table of 256."""
    numbers = np.arange(256, dtype=np.int32) - levels.zero_point
    values = numbers.astype(np.float32) * np.float32(levels.scale_for(np.dtype(np.float32)))
    if dtype == torch.float16:
        values = np.clip(values, -65504, 65504)  # finite floats stay finite
    if coded.dtype == torch.int8:
        values = np.roll(values, 128)  # the byte of level - 128 is the level with its highest bit flipped
    table = torch.from_numpy(values).to(dtype).to(coded.device)
    coded = coded.contiguous()
    out = torch.empty(coded.shape, dtype=dtype, device=coded.device)
    if coded.numel():
        with launching_beside(coded):
            _restore[(triton.cdiv(coded.numel(), BLOCK),)](coded.view(torch.uint8), table, out, coded.numel(), BLOCK=BLOCK, **EXACT)
    return out
