"""Cells on a GPU, encoding: one program a cell. First each chooses its mode and leaves its symbols in a row; then each packs that row.

A program holds its cell as a tile (groups of channels, channels of a group, pixels). The DCT is a sum over the channels of a
group, each read again as a tile of one channel (from L1): every length is then one loop, and no table of products is spread out.
Costs are doubles that are multiplied and added as on the host, with no fused product, so the choices are the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tensorpress.blocks.cells import DCT_SHIFT, DCTM, DEQUANT_SHIFT, HEADER_NBYTES, MAX_COEFFICIENT, RAW, ZERO, ZVC
from tensorpress.blocks.gpu.quantise import levels_of

CELL = tl.constexpr(2048)  # bytes of a cell's row of symbols
HEADER = tl.constexpr(HEADER_NBYTES)
MODE_ZERO, MODE_RAW, MODE_ZVC, MODE_DCT = tl.constexpr(ZERO), tl.constexpr(RAW), tl.constexpr(ZVC), tl.constexpr(DCTM)
FORWARD_SHIFT, BACKWARD_SHIFT, LARGEST = tl.constexpr(DCT_SHIFT), tl.constexpr(DEQUANT_SHIFT), tl.constexpr(MAX_COEFFICIENT)
HALF = tl.constexpr(1 << (DEQUANT_SHIFT - 1))
WIDTH_8 = tl.constexpr(7 << 4)  # the header's first byte beside the mode: every non-zero symbol in 8 bits


@triton.jit
def box(cell, channels, rows, columns, depth, across, cells, a):
    """A cell's (first channel, planes, values of a plane, offset of its first value, offsets of values `a` in a plane)."""
    stripe = cell // cells
    first = (cell % cells) // across * depth
    left = (cell % across) * 8
    wide = tl.minimum(columns - left, 8)
    planes = tl.minimum(channels - first, depth)
    area = tl.minimum(rows - 8 * stripe, 8) * wide
    start = tl.cast(first, tl.int64) * rows * columns + tl.cast(8 * stripe, tl.int64) * columns + left
    return first, planes, area, start, tl.cast(a // wide, tl.int64) * columns + a % wide


@triton.jit
def stored_planes(keep, keep_size, first, planes, g, k, N: tl.constexpr):
    """1 where plane g * N + k of a DCT cell is stored: a kept coefficient, or a channel of no whole group."""
    p = g * N + k
    kept = tl.load(keep + (first + p) % keep_size).to(tl.int32)
    return tl.where((g + 1) * N <= planes, kept, 1) * (p < planes).to(tl.int32)


@triton.jit
def rank_of(stored):
    """(groups, N) 0 or 1 -> how many ones stand before each, row after row."""
    rows = tl.sum(stored, 1)
    return tl.cumsum(stored, 1) - stored + (tl.cumsum(rows, 0) - rows)[:, None]


@triton.jit
def decoded(q, k, backward, shift, N: tl.constexpr):
    """Quantised coefficients -> the values that the inverse transform sums."""
    magnitude = tl.abs(q)
    value = magnitude * tl.load(backward + k) + tl.load(shift + tl.minimum(magnitude, 3) * N + k)
    value = tl.minimum(tl.maximum(value, 0), LARGEST)
    return tl.where(q < 0, -value, value)


@triton.jit
def channel_levels(value, n, k, matrix, zero, N: tl.constexpr):
    """(groups, N, pixels) values -> (groups, pixels) levels of channel n of each group."""
    total = tl.sum(value * tl.load(matrix + k * N + n), 1) + HALF
    return tl.minimum(tl.maximum((total >> BACKWARD_SHIFT) + zero, 0), 255)


@triton.jit
def _choose(
    x, row, info, fault, symbol_of, level_of, matrix, keep, forward, backward, shift, price, reciprocal, zero, allowed, offset, keep_size,
    channels, rows, columns, depth, across, cells, KIND: tl.constexpr, N: tl.constexpr, DCT: tl.constexpr, GROUPS: tl.constexpr, AREA: tl.constexpr,
):  # fmt: skip
    """Symbols of each cell in a row of bytes, and `info`: bytes of the cell, its mode, symbols in the row. `price`: of a bit, a double."""
    cell = tl.program_id(0)
    g = tl.arange(0, GROUPS)[:, None, None]
    k = tl.arange(0, N)[None, :, None]
    a = tl.arange(0, AREA)[None, None, :]
    first, planes, area, start, pixel = box(cell, channels, rows, columns, depth, across, cells, a)
    plane = tl.cast(rows, tl.int64) * columns
    p = g * N + k
    there = (p < planes) & (a < area)
    levels, wild = levels_of(tl.load(x + start + p * plane + pixel, mask=there, other=0), reciprocal, zero, KIND)
    tl.store(fault, 1, mask=tl.max(wild) > 0)
    size = planes * area
    bit = tl.load(price)

    d = levels - zero
    symbols = tl.load(symbol_of + levels).to(tl.int32)
    error = tl.load(level_of + symbols).to(tl.int32) - levels
    mode = MODE_ZERO
    nbytes = 0
    cost = tl.cast(tl.sum(d * d), tl.float64) + bit * (8 * HEADER)
    if ((allowed >> MODE_ZERO) & 1 == 0) & (tl.max(tl.abs(d)) > 0):
        cost = tl.cast(float("inf"), tl.float64)
        nbytes = size

    there_nbytes = (size + 7) // 8 + tl.sum((symbols != 0).to(tl.int32))
    there_cost = tl.cast(tl.sum(error * error), tl.float64) + bit * tl.cast(8 * (there_nbytes + HEADER), tl.float64)
    better = ((allowed >> MODE_ZVC) & 1 == 1) & (there_nbytes < size) & ((there_cost < cost) | ((there_cost == cost) & (there_nbytes < nbytes)))
    mode = tl.where(better, MODE_ZVC, mode)
    nbytes = tl.where(better, there_nbytes, nbytes)
    cost = tl.where(better, there_cost, cost)

    place = p
    value = symbols
    count = size
    if DCT:
        total = tl.zeros((GROUPS, N, AREA), tl.int32)
        for n in tl.static_range(N):
            pn = g * N + n
            one, _ = levels_of(tl.load(x + start + pn * plane + pixel, mask=(pn < planes) & (a < area), other=0), reciprocal, zero, KIND)
            total += tl.load(matrix + k * N + n) * (one - zero)
        whole = (g + 1) * N <= planes
        stored = stored_planes(keep, keep_size, first, planes, g, k, N)
        q = (tl.abs(total) * tl.load(forward + k) + offset) >> FORWARD_SHIFT  # at most 1,443 * 2^20: the largest sum is 255 * 64 * N
        q = tl.where(whole & (stored != 0) & there, tl.where(total < 0, -q, q), 0)
        folded = tl.where(q == 0, 0, 2 * tl.abs(q) - 1 + (q < 0).to(tl.int32))
        folded = tl.where((k == 0) & (zero == 0), q, folded)  # the sum of values >= 0 has no sign
        coded = tl.where(whole, folded, symbols)
        there_count = tl.sum(stored) * area
        there_nbytes = (there_count + 7) // 8 + tl.sum((coded != 0).to(tl.int32))
        lost = tl.sum(tl.where(whole, 0, error * error))  # of channels that fill no group
        back = decoded(q, k, backward, shift, N)
        for n in tl.static_range(N):
            pn = g * N + n
            inside = (pn < planes) & (a < area) & whole
            one, _ = levels_of(tl.load(x + start + pn * plane + pixel, mask=inside, other=0), reciprocal, zero, KIND)
            e = tl.where(inside, channel_levels(back, n, k, matrix, zero, N)[:, None, :] - one, 0)
            lost += tl.sum(e * e)
        there_cost = tl.cast(lost, tl.float64) + bit * tl.cast(8 * (there_nbytes + HEADER), tl.float64)
        fits = ((allowed >> MODE_DCT) & 1 == 1) & (planes >= N) & (tl.max(folded) <= 255) & (there_nbytes < size)
        better = fits & ((there_cost < cost) | ((there_cost == cost) & (there_nbytes < nbytes)))
        mode = tl.where(better, MODE_DCT, mode)
        nbytes = tl.where(better, there_nbytes, nbytes)
        cost = tl.where(better, there_cost, cost)

    raw_cost = bit * tl.cast(8 * (size + HEADER), tl.float64)
    better = (raw_cost < cost) | ((raw_cost == cost) & (size < nbytes))
    mode = tl.where(better, MODE_RAW, mode)
    nbytes = tl.where(better, size, nbytes)
    value = tl.where(mode == MODE_RAW, levels, value)
    written = (p < planes) & (a < tl.where(mode == MODE_ZERO, 0, area))
    if DCT:
        ranks = rank_of(stored_planes(keep, keep_size, first, planes, tl.arange(0, GROUPS)[:, None], tl.arange(0, N)[None, :], N))
        transformed = mode == MODE_DCT
        place = tl.where(transformed, ranks[:, :, None], place)
        value = tl.where(transformed, coded, value)
        count = tl.where(transformed, there_count, count)
        written = written & (stored + tl.where(transformed, 0, 1) > 0)
    tl.store(row + tl.cast(cell, tl.int64) * CELL + place * area + a, value.to(tl.uint8), mask=written)
    tl.store(info + 3 * tl.cast(cell, tl.int64), nbytes + HEADER)
    tl.store(info + 3 * tl.cast(cell, tl.int64) + 1, mode)
    tl.store(info + 3 * tl.cast(cell, tl.int64) + 2, count)


@triton.jit
def _pack(row, info, sums, out, front, stripes, cells, BLOCK: tl.constexpr):
    """`sums`: bytes before each cell, and of all; `front`: bytes of the head."""
    cell = tl.cast(tl.program_id(0), tl.int64)
    nbytes = tl.load(info + 3 * cell) - HEADER
    mode = tl.load(info + 3 * cell + 1)
    count = tl.where(mode == MODE_ZERO, 0, tl.load(info + 3 * cell + 2))
    before = tl.load(sums + cell)
    at = out + front + 8 * tl.cast(stripes, tl.int64) + before
    tl.store(at, (mode | tl.where(mode >= MODE_ZVC, WIDTH_8, 0)).to(tl.uint8))
    tl.store(at + 1, (nbytes & 255).to(tl.uint8))
    tl.store(at + 2, (nbytes >> 8).to(tl.uint8))
    at += HEADER
    i = tl.arange(0, BLOCK)
    value = tl.load(row + cell * BLOCK + i, mask=i < count, other=0).to(tl.int32)
    if mode == MODE_RAW:
        tl.store(at + i, value.to(tl.uint8), mask=i < count)
    else:
        nonzero = (value != 0).to(tl.int32)
        packed = tl.sum(tl.reshape(nonzero, (BLOCK // 8, 8)) * (1 << tl.arange(0, 8))[None, :], 1)
        byte = tl.arange(0, BLOCK // 8)
        bitmap = (count + 7) // 8
        tl.store(at + byte, packed.to(tl.uint8), mask=byte < bitmap)
        tl.store(at + bitmap + tl.cumsum(nonzero, 0) - nonzero, (value - 1).to(tl.uint8), mask=nonzero != 0)
    if cell % cells == 0:  # the stripe's entry in the table; its check stays 0
        length = tl.load(sums + cell + cells) - before
        byte = tl.arange(0, 8)
        tl.store(out + front + cell // cells * 8 + byte, tl.where(byte < 4, (length >> (8 * byte)) & 255, 0).to(tl.uint8))
