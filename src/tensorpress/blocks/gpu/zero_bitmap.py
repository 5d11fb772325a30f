"""`zvc` on a GPU: count the non-zero words of every block, sum up the counts, then write each block where it belongs.

    x -> words -> counts of blocks -> prefix sum -> words again -> bitmap bytes, and non-zero words side by side
    payload -> popcounts of blocks -> prefix sum -> word of each set bit -> values

Two passes with a sum between them, not one with decoupled look-back: the second reads `x` again (from the cache, where the map
is small), but no block ever waits for another one, no buffer of the worst case is needed, and the exact size is known before
anything is written. The host waits once: for that size when it encodes, for the verdict when it decodes.
A block is a run of 2,048 words of one stripe, so no two blocks share a byte of the bitmap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from tensorpress.blocks.cells import CellRules
from tensorpress.blocks.gpu.quantise import BLOCK, EXACT, FLOAT, WIDE, kind_of, levels_of, plain
from tensorpress.blocks.gpu.tables import sums_before, table, values_of
from tensorpress.blocks.levels import Levels
from tensorpress.core.device import dtype_of
from tensorpress.core.errors import InputError
from tensorpress.core.payload import STRIPE_ROWS, Reader, Shape, chw, head_bytes, stripe_count

REACH = 1 << 31  # offsets in a block are 32 bits wide


class Layout(NamedTuple):
    """How the words of a map lie in stripes, and these in blocks."""

    channels: int
    plane: int  # values of a channel
    run: int  # values of a channel in a whole stripe, side by side in memory
    stripes: int
    blocks: int  # of a whole stripe
    align: int  # every aligned group of so many words is side by side in memory

    @classmethod
    def of(cls, shape: Shape) -> Layout:
        channels, rows, columns = chw(shape)
        run = min(rows, STRIPE_ROWS) * columns
        align = 16 if run % 16 == 0 and rows * columns % 16 == 0 else 1
        return cls(channels, rows * columns, run, stripe_count(shape), triton.cdiv(channels * run, BLOCK), align)

    def bitmap_nbytes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(stripes,) bytes of each stripe's bitmap."""
        runs = np.minimum(self.run, self.plane - self.run * np.arange(self.stripes))
        return -(-self.channels * runs // 8)


@triton.jit
def places(block, channels, plane, run, blocks, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    """Where the words of a block lie: (first channel's offset, offsets from there, which words exist, bytes of the stripe's bitmap, its words)."""
    stripe = block // blocks
    first = tl.cast(stripe, tl.int64) * run
    here = tl.cast(tl.minimum(run, plane - first), tl.int32)  # of the last stripe perhaps fewer
    start = tl.cast(block % blocks, tl.int64) * BLOCK
    channel = start // here
    j = (start - channel * here).to(tl.int32) + tl.arange(0, BLOCK)
    c = j // here
    offsets = tl.max_contiguous(tl.multiple_of(c * plane + j % here, ALIGN), ALIGN)
    words = tl.cast(here, tl.int64) * channels
    return channel * plane + first, offsets, c < channels - channel, (words + 7) // 8, words


@triton.jit
def words_at(x, table, offsets, there, reciprocal, zero, KIND: tl.constexpr):
    values = tl.load(x + offsets, mask=there, other=0)
    if KIND == WIDE:
        return values, tl.zeros_like(offsets)
    else:
        levels, wild = levels_of(values, reciprocal, zero, KIND)
        return tl.load(table + levels, mask=there, other=0), wild


@triton.jit
def _count(x, table, counts, fault, reciprocal, zero, channels, plane, run, blocks, KIND: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    block = tl.program_id(0)
    base, offsets, there, _, _ = places(block, channels, plane, run, blocks, BLOCK, ALIGN)
    words, wild = words_at(x + base, table, offsets, there, reciprocal, zero, KIND)
    tl.store(counts + block, tl.sum((words != 0).to(tl.int32), 0))
    if KIND == FLOAT:  # noqa: SIM102 -- decided when the kernel is compiled, the inner one when it runs
        if tl.max(wild, 0) > 0:
            tl.store(fault, 1)


@triton.jit
def _write(
    x, table, sums, out, reciprocal, zero, channels, plane, run, blocks, front, KIND: tl.constexpr, NBYTES: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr
):
    """`sums`: non-zero words before each block, and of all; `front`: bytes of the head."""
    block = tl.program_id(0)
    stripe = block // blocks
    stripes = (plane + run - 1) // run
    base, offsets, there, bitmap, _ = places(block, channels, plane, run, blocks, BLOCK, ALIGN)
    words, _ = words_at(x + base, table, offsets, there, reciprocal, zero, KIND)
    before = tl.load(sums + block)
    stripe_before = tl.load(sums + stripe * blocks)
    whole = (tl.cast(run, tl.int64) * channels + 7) // 8  # bytes of the bitmap of every stripe but the last
    at = out + front + 8 * tl.cast(stripes, tl.int64) + tl.cast(stripe, tl.int64) * whole + stripe_before * NBYTES
    nonzero = (words != 0).to(tl.int32)
    weights = (1 << tl.arange(0, 8))[None, :]
    packed = tl.sum(tl.reshape(nonzero, (BLOCK // 8, 8)) * weights, 1)
    i = tl.cast(block % blocks, tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    tl.store(at + i, packed.to(tl.uint8), mask=i < bitmap)
    words_start = at + bitmap + (before - stripe_before) * NBYTES
    target = (tl.cumsum(nonzero, 0) - nonzero) * NBYTES
    for k in tl.static_range(NBYTES):
        tl.store(words_start + target + k, ((words >> (8 * k)) & 255).to(tl.uint8), mask=nonzero != 0)
    if block % blocks == 0:  # the stripe's entry in the table; its check stays 0
        length = bitmap + (tl.load(sums + (stripe + 1) * blocks) - stripe_before) * NBYTES
        byte = tl.arange(0, 8)
        tl.store(out + front + 8 * tl.cast(stripe, tl.int64) + byte, tl.where(byte < 4, (length >> (8 * byte)) & 255, 0).to(tl.uint8))


@triton.jit
def _popcount(payload, starts, counts, fault, channels, plane, run, blocks, BLOCK: tl.constexpr):
    """Set bits of each block of the bitmaps; padding bits that are set are a fault. `starts`: where each stripe begins."""
    block = tl.program_id(0)
    _, _, _, bitmap, words = places(block, channels, plane, run, blocks, BLOCK, 1)
    i = tl.cast(block % blocks, tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    bits = tl.load(payload + tl.load(starts + block // blocks) + i, mask=i < bitmap, other=0).to(tl.int32)
    valid = tl.minimum(tl.maximum(words - 8 * i, 0), 8).to(tl.int32)
    if tl.max(bits >> valid, 0) > 0:
        tl.store(fault, 1)
    bits = bits - ((bits >> 1) & 0x55)
    bits = (bits & 0x33) + ((bits >> 2) & 0x33)
    tl.store(counts + block, tl.sum((bits + (bits >> 4)) & 15, 0))


@triton.jit
def _read(
    payload, starts, sums, table, out, channels, plane, run, blocks, KIND: tl.constexpr, NBYTES: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr
):
    block = tl.program_id(0)
    stripe = block // blocks
    base, offsets, there, bitmap, _ = places(block, channels, plane, run, blocks, BLOCK, ALIGN)
    start = tl.load(starts + stripe)
    end = tl.load(starts + stripe + 1)
    byte = tl.arange(0, BLOCK // 8)
    packed = tl.cast(block % blocks, tl.int64) * (BLOCK // 8)
    eight = tl.load(payload + start + packed + byte, mask=byte < bitmap - packed, other=0).to(tl.int32)
    bits = tl.reshape((eight[:, None] >> tl.arange(0, 8)[None, :]) & 1, (BLOCK,))
    first = start + bitmap + (tl.load(sums + block) - tl.load(sums + stripe * blocks)) * NBYTES
    source = (tl.cumsum(bits, 0) - bits) * NBYTES
    room = tl.minimum(end - first, BLOCK * NBYTES).to(tl.int32)
    readable = (bits != 0) & there & (source + NBYTES <= room)  # a stripe that lies is found out by its length; here it reads nothing
    payload += first
    out += base
    if KIND == WIDE:
        word = tl.zeros((BLOCK,), out.dtype.element_ty)
        for k in tl.static_range(NBYTES):
            word |= tl.load(payload + source + k, mask=readable, other=0).to(out.dtype.element_ty) << (8 * k)
        tl.store(out + offsets, word, mask=there)
    else:
        word = tl.load(payload + source, mask=readable, other=0).to(tl.int32)
        tl.store(out + offsets, tl.load(table + word), mask=there)


class ZeroBitmapOnDevice:
    """Byte-equal twin of `Levels >> Stepped >> ZeroBitmap`. `rules`: by zero point, as `Stepped` has them."""

    def __init__(self, levels: Levels, rules: Mapping[int, CellRules]) -> None:
        self.levels, self.rules = levels, rules

    def accepts(self, x: Tensor) -> bool:
        if x.is_complex() or x.is_quantized or x.dtype.itemsize > 8:
            return False
        lay = Layout.of(tuple(x.shape))
        return x.numel() == 0 or (BLOCK // lay.run + 2) * lay.plane + BLOCK < REACH

    def encode(self, x: Tensor) -> Tensor | None:
        """The payload as a uint8 tensor, checks 0; None where `x` holds what is no finite float32, or is too large for the format."""
        dtype = dtype_of(x)
        shape, zero = tuple(x.shape), self.levels.zero_of(dtype)
        if dtype.kind == "f" and self.levels.reciprocal is None:
            raise InputError("the codec is not fitted: it has no scale; call fit(samples)")
        head = torch.frombuffer(bytearray(head_bytes(dtype, shape)), dtype=torch.uint8).to(x.device)
        lay = Layout.of(shape)
        if not lay.stripes:
            return head
        kind, nbytes = kind_of(x.dtype), 1 if dtype.kind == "f" else dtype.itemsize
        x, word_of = plain(x), table(self.rules[zero].symbol_of, x.device)
        grid = (lay.stripes * lay.blocks,)
        counts = torch.empty(grid[0] + 1, dtype=torch.int32, device=x.device)
        counts[-1] = 0  # not finite
        map_of: tuple[Any, ...] = (self.levels.reciprocal or 1.0, zero, lay.channels, lay.plane, lay.run, lay.blocks)
        _count[grid](x, word_of, counts, counts[-1:], *map_of, KIND=kind, BLOCK=BLOCK, ALIGN=lay.align, **EXACT)
        sums = sums_before(counts[:-1])
        total, wild = torch.stack([sums[-1], counts[-1].long()]).tolist()  # the one wait
        if wild or lay.channels * lay.run * (1 + 8 * nbytes) >= 1 << 35:
            return None
        bitmaps = int(lay.bitmap_nbytes().sum())
        out = torch.empty(head.numel() + 8 * lay.stripes + bitmaps + total * nbytes, dtype=torch.uint8, device=x.device)
        out[: head.numel()] = head
        _write[grid](x, word_of, sums, out, *map_of, head.numel(), KIND=kind, NBYTES=nbytes, BLOCK=BLOCK, ALIGN=lay.align, **EXACT)
        return out

    def decode(self, payload: Tensor, src: Reader, out: Tensor) -> bool:
        """Fill `out` from a payload whose head and stripe table are `src`; False where its stripes do not hold what they should."""
        lay = Layout.of(src.shape)
        if not lay.stripes:
            return True
        nbytes = 1 if src.dtype.kind == "f" else src.dtype.itemsize
        bitmaps = lay.bitmap_nbytes()
        if (src.lengths < bitmaps).any():
            return False
        starts = src.index_nbytes + np.concatenate([[0], np.cumsum(src.lengths)])
        device = out.device
        known = torch.from_numpy(np.stack([starts, np.append((src.lengths - bitmaps) // nbytes, 0), np.append((src.lengths - bitmaps) % nbytes, 0)])).to(device)
        grid = (lay.stripes * lay.blocks,)
        counts = torch.empty(grid[0] + 1, dtype=torch.int32, device=device)
        counts[-1] = 0  # padding bits that are set
        map_of = (lay.channels, lay.plane, lay.run, lay.blocks)
        _popcount[grid](payload, known[0], counts, counts[-1:], *map_of, BLOCK=BLOCK, **EXACT)
        sums = sums_before(counts[:-1])
        direct = plain(out) if out.is_contiguous() else torch.empty(src.shape, dtype=plain(out).dtype, device=device)
        kind = kind_of(out.dtype)
        value_of = values_of(self.levels, self.rules[self.levels.zero_of(src.dtype)].level_of, src.dtype, out.dtype, device)
        _read[grid](payload, known[0], sums, value_of, direct, *map_of, KIND=kind, NBYTES=nbytes, BLOCK=BLOCK, ALIGN=lay.align, **EXACT)
        found = sums[:: lay.blocks].diff()
        wrong = (found != known[1, :-1]).any() | (known[2] != 0).any() | (counts[-1] != 0)
        if direct.data_ptr() != out.data_ptr():
            out.copy_(direct.view(out.dtype))
        return not wrong.item()  # the one wait
