"""Cells on a GPU, encoding: one program a cell. First each chooses its mode and leaves its symbols in a row; then each packs that row.

A cell is a tile of 32 channels by 64: column j is pixel j mod A of channels 32 (j div A) and on, for cells that are deeper because
their map is small. So the DCT of any length is one product with a 32 x 32 matrix that holds it along its diagonal, on the tensor
cores and yet exact: the operands are whole numbers that float16 holds, the sums stay below 2^24. Costs are doubles that are multiplied and
added as on the host, with no fused product, so the choices are the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tensorpress.blocks.cells import DCT_SHIFT, DCTM, DEQUANT_SHIFT, HEADER_NBYTES, MAX_COEFFICIENT, RAW, ZERO, ZVC
from tensorpress.blocks.gpu.quantise import levels_of

CELL = tl.constexpr(2048)  # bytes of a cell's row of symbols
DEEP, WIDE = tl.constexpr(32), tl.constexpr(64)  # of a tile
HEADER = tl.constexpr(HEADER_NBYTES)
MODE_ZERO, MODE_RAW, MODE_ZVC, MODE_DCT = tl.constexpr(ZERO), tl.constexpr(RAW), tl.constexpr(ZVC), tl.constexpr(DCTM)
FORWARD_SHIFT, BACKWARD_SHIFT, LARGEST = tl.constexpr(DCT_SHIFT), tl.constexpr(DEQUANT_SHIFT), tl.constexpr(MAX_COEFFICIENT)
HALF = tl.constexpr(1 << (DEQUANT_SHIFT - 1))
LOW_BITS = tl.constexpr(10)  # a value of 20 bits is multiplied in two parts, each exact in float16
LOW = tl.constexpr((1 << 10) - 1)
WIDTH_8 = tl.constexpr(7 << 4)  # the header's first byte beside the mode: every non-zero symbol in 8 bits


@triton.jit
def box(cell, channels, rows, columns, depth, across, cells):
    """A cell's (first channel, planes, values of a plane, columns, offset of its first value)."""
    stripe = cell // cells
    first = (cell % cells) // across * depth
    left = (cell % across) * 8
    wide = tl.minimum(columns - left, 8)
    planes = tl.minimum(channels - first, depth)
    area = tl.minimum(rows - 8 * stripe, 8) * wide
    start = tl.cast(first, tl.int64) * rows * columns + tl.cast(8 * stripe, tl.int64) * columns + left
    return first, planes, area, wide, start


@triton.jit
def tile(area, wide, rows, columns):
    """(row of the tile, column, plane of each place, its value in the plane, its offset from the cell's first value)."""
    r = tl.arange(0, DEEP)[:, None]
    j = tl.arange(0, WIDE)[None, :]
    p = j // area * DEEP + r
    a = j % area
    return r, j, p, a, p * (rows * columns) + a // wide * columns + a % wide


@triton.jit
def stored_before(kept, first, p, whole):
    """How many planes before plane p a DCT cell stores. `kept`: kept coefficients before each channel; `whole`: planes in whole groups."""
    inside = tl.minimum(p, whole)
    return tl.load(kept + first + inside) - tl.load(kept + first) + (p - inside)


@triton.jit
def decoded_levels(q, r, j, matrix, backward, shift, zero):
    """(32, 64) quantised coefficients -> levels."""
    magnitude = tl.abs(q)
    value = magnitude * tl.load(backward + r) + tl.load(shift + tl.minimum(magnitude, 3) * DEEP + r)
    value = tl.minimum(tl.maximum(value, 0), LARGEST)
    value = tl.where(q < 0, -value, value)
    k = tl.arange(0, DEEP)[None, :]
    transposed = tl.load(matrix + k * DEEP + r)
    low = tl.dot(transposed, (value & LOW).to(tl.float16)).to(tl.int32)
    high = tl.dot(transposed, (value >> LOW_BITS).to(tl.float16)).to(tl.int32)
    levels = ((low + (high << LOW_BITS) + HALF) >> BACKWARD_SHIFT) + zero
    return tl.minimum(tl.maximum(levels, 0), 255)


@triton.jit
def _choose(
    x, row, info, fault, symbol_of, level_of, matrix, kept, forward, backward, shift, price, reciprocal, zero, allowed, offset, length,
    channels, rows, columns, depth, across, cells, KIND: tl.constexpr, DCT: tl.constexpr,
):  # fmt: skip
    """Symbols of each cell in a row of bytes, and `info`: bytes of the cell, its mode, symbols in the row. `price`: of a bit, a double."""
    cell = tl.program_id(0)
    first, planes, area, wide, start = box(cell, channels, rows, columns, depth, across, cells)
    r, j, p, a, pixel = tile(area, wide, rows, columns)
    there = p < planes
    levels, wild = levels_of(tl.load(x + start + pixel, mask=there, other=0), reciprocal, zero, KIND)
    if tl.max(wild) > 0:
        tl.store(fault, 1)
    size = planes * area
    bit = tl.load(price)

    d = levels - zero  # 0 where nothing is
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
        k = tl.arange(0, DEEP)[None, :]
        whole = planes // length * length
        grouped = p < whole
        stored = tl.where(grouped, tl.load(kept + first + p + 1, mask=grouped, other=0) - tl.load(kept + first + p, mask=grouped, other=0), 1)
        total = tl.dot(tl.load(matrix + r * DEEP + k), d.to(tl.float16)).to(tl.int32)
        q = (tl.abs(total) * tl.load(forward + r) + offset) >> FORWARD_SHIFT  # below 2^31: the largest sum is 255 * 64 * 32
        q = tl.where(grouped & (stored != 0), tl.where(total < 0, -q, q), 0)
        folded = tl.where(q == 0, 0, 2 * tl.abs(q) - 1 + (q < 0).to(tl.int32))
        folded = tl.where((r % length == 0) & (zero == 0), q, folded)  # the sum of values >= 0 has no sign
        coded = tl.where(grouped, folded, symbols)
        there_count = stored_before(kept, first, planes, whole) * area
        there_nbytes = (there_count + 7) // 8 + tl.sum((coded != 0).to(tl.int32))
        e = tl.where(grouped, decoded_levels(q, r, j, matrix, backward, shift, zero) - levels, error)
        there_cost = tl.cast(tl.sum(e * e), tl.float64) + bit * tl.cast(8 * (there_nbytes + HEADER), tl.float64)
        fits = ((allowed >> MODE_DCT) & 1 == 1) & (planes >= length) & (tl.max(folded) <= 255) & (there_nbytes < size)
        better = fits & ((there_cost < cost) | ((there_cost == cost) & (there_nbytes < nbytes)))
        mode = tl.where(better, MODE_DCT, mode)
        nbytes = tl.where(better, there_nbytes, nbytes)
        cost = tl.where(better, there_cost, cost)
        place = tl.where(better, stored_before(kept, first, tl.minimum(p, planes), whole), place)
        value = tl.where(better, coded, value)
        count = tl.where(better, there_count, count)

    raw_cost = bit * tl.cast(8 * (size + HEADER), tl.float64)
    better = (raw_cost < cost) | ((raw_cost == cost) & (size < nbytes))
    mode = tl.where(better, MODE_RAW, mode)
    nbytes = tl.where(better, size, nbytes)
    place = tl.where(better, p, place)
    value = tl.where(better, levels, value)
    count = tl.where(better, size, count)
    written = p < tl.where(mode == MODE_ZERO, 0, planes)
    if DCT:
        written = written & (stored + tl.where(mode == MODE_DCT, 0, 1) > 0)
    tl.store(row + tl.cast(cell, tl.int64) * CELL + (place * area + a), value.to(tl.uint8), mask=written)
    info += 3 * tl.cast(cell, tl.int64)
    tl.store(info, nbytes + HEADER)
    tl.store(info + 1, mode)
    tl.store(info + 2, count)


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
