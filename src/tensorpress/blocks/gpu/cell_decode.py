"""Cells on a GPU, decoding: find where each begins, spread its symbols out in a row, turn the row into values.

Cells follow one another by their lengths. So that a long stripe is not walked by one program, it is cut into segments: each is walked
from every place where its first cell may begin, side by side; then the true places are chained, and the segments walked for good. All else is one program a cell. What
no encoder of this form writes (other widths, plane codes, zero maps, damage) is a fault: the host then decodes it, or says what is wrong.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tensorpress.blocks.gpu.cell_encode import (
    CELL,
    HEADER,
    MODE_DCT,
    MODE_RAW,
    MODE_ZERO,
    MODE_ZVC,
    WIDTH_8,
    box,
    decoded_levels,
    stored_before,
    tile,
)

LANES = tl.constexpr(3072)  # where the first cell of a segment may begin: the last one of the segment before has 2,051 bytes at most
LEAPERS = tl.constexpr(1024)  # of them a program
COUNT_SHIFT, BEYOND = tl.constexpr(12), tl.constexpr((1 << 12) - 1)  # a leap: bytes beyond in 12 bits, then the cells


@triton.jit
def step(payload, at, end, there):
    """The header at `at`: (where the next one is, the cell's mode and bytes, 1 where it is one that an encoder of this form writes)."""
    whole = there & (at + HEADER <= end)
    flags = tl.load(payload + at, mask=whole, other=0x80).to(tl.int32)
    low = tl.load(payload + at + 1, mask=whole, other=0).to(tl.int32)
    nbytes = low + tl.load(payload + at + 2, mask=whole, other=0).to(tl.int32) * 256
    mode = flags & 3
    good = (flags == (mode | tl.where(mode >= MODE_ZVC, WIDTH_8, 0))) & (nbytes <= CELL) & (at + HEADER + nbytes <= end)
    return at + HEADER + nbytes, mode, nbytes, good.to(tl.int32)


@triton.jit
def _leap(payload, segments, leaps, LANES_HERE: tl.constexpr):
    """For every place where a segment's first cell may begin: how far beyond its end the walk from there comes out, and past how many cells; -1: nowhere.

    `segments`: of each (begin, end, end of its stripe).
    """
    segment = tl.program_id(0)
    begin = tl.load(segments + 3 * segment)
    limit = tl.load(segments + 3 * segment + 1)
    end = tl.load(segments + 3 * segment + 2)
    lane = tl.program_id(1) * LANES_HERE + tl.arange(0, LANES_HERE)
    at = begin + lane
    count = tl.zeros((LANES_HERE,), tl.int32)
    while tl.min(at, 0) < limit:
        walking = at < limit
        after, _, _, good = step(payload, at, end, walking)
        count += tl.where(walking & (good == 0), -(1 << 24), walking.to(tl.int32))
        at = tl.where(walking, tl.where(good != 0, after, end), at)
    beyond = tl.minimum(at - limit, BEYOND).to(tl.int32)
    tl.store(leaps + tl.cast(segment, tl.int64) * LANES + lane, tl.where(count < 0, -1, beyond | (count << COUNT_SHIFT)))


@triton.jit
def _chain(leaps, firsts, entries, fault, cells):
    """`entries` of each segment: where in it its first cell begins, and that cell's number in the stripe. `firsts`: segment of each stripe."""
    stripe = tl.program_id(0)
    lane = tl.cast(0, tl.int64)
    cell = tl.cast(0, tl.int64)
    for segment in range(tl.load(firsts + stripe), tl.load(firsts + stripe + 1)):
        tl.store(entries + 2 * segment, lane)
        tl.store(entries + 2 * segment + 1, cell)
        leap = tl.load(leaps + segment * LANES + tl.minimum(lane, LANES - 1)).to(tl.int64)
        lost = (leap < 0) | (lane >= LANES)
        if lost:
            tl.store(fault, 1)
        lane = tl.where(lost, LANES, leap & BEYOND)
        cell += tl.where(lost, 0, leap >> COUNT_SHIFT)
    if (lane != 0) | (cell != cells):
        tl.store(fault, 1)


@triton.jit
def _walk(payload, segments, entries, stripes_of, info, fault, cells):
    """`info` of each cell: where its bytes begin (relative to `payload`), how many they are, its mode. One that is not reached keeps zeros."""
    segment = tl.program_id(0)
    limit = tl.load(segments + 3 * segment + 1)
    end = tl.load(segments + 3 * segment + 2)
    at = tl.load(segments + 3 * segment) + tl.load(entries + 2 * segment)
    cell = tl.load(entries + 2 * segment + 1)
    first = tl.load(stripes_of + segment) * cells
    while at < limit:
        after, mode, nbytes, good = step(payload, at, end, at < limit)
        if (good != 0) & (cell < cells):
            tl.store(info + 3 * (first + cell), at + HEADER)
            tl.store(info + 3 * (first + cell) + 1, nbytes.to(tl.int64))
            tl.store(info + 3 * (first + cell) + 2, mode.to(tl.int64))
        else:
            tl.store(fault, 1)
        at = tl.where((good != 0) & (cell < cells), after, limit)
        cell += 1
    if (at == end) & (cell != cells):
        tl.store(fault, 1)


@triton.jit
def _spread(payload, info, row, fault, kept, length, channels, rows, columns, depth, across, cells, DCT: tl.constexpr, BLOCK: tl.constexpr):
    """The symbols of each cell side by side, zeros among them. Nothing outside of the cell's own bytes is read."""
    cell = tl.program_id(0)
    info += 3 * tl.cast(cell, tl.int64)
    at = payload + tl.load(info)
    nbytes = tl.load(info + 1).to(tl.int32)
    mode = tl.load(info + 2).to(tl.int32)
    first, planes, area, _, _ = box(cell, channels, rows, columns, depth, across, cells)
    count = planes * area
    if DCT:
        stored = stored_before(kept, first, planes, planes // length * length)
        count = tl.where(mode == MODE_DCT, stored * area, count)
        if (mode == MODE_DCT) & (planes < length):
            tl.store(fault, 1)
    else:
        if mode == MODE_DCT:
            tl.store(fault, 1)
    bitmap = (count + 7) // 8
    i = tl.arange(0, BLOCK)
    if mode == MODE_RAW:
        if nbytes != count:
            tl.store(fault, 1)
        value = tl.load(at + i, mask=i < tl.minimum(count, nbytes), other=0)
    else:
        count = tl.where(mode == MODE_ZERO, 0, count)
        bitmap = tl.where(mode == MODE_ZERO, 0, bitmap)
        byte = tl.arange(0, BLOCK // 8)
        eight = tl.load(at + byte, mask=byte < tl.minimum(bitmap, nbytes), other=0).to(tl.int32)
        bit = tl.reshape((eight[:, None] >> tl.arange(0, 8)[None, :]) & 1, (BLOCK,))
        source = bitmap + tl.cumsum(bit, 0) - bit
        value = tl.load(at + source, mask=(bit != 0) & (source < nbytes), other=0)
        # a padding bit that is set, another length than the bits tell, a symbol of 256
        padding = tl.max(tl.where(i >= count, bit, 0), 0)
        largest = tl.max(tl.where(bit != 0, value, 0).to(tl.int32), 0)
        wrong = (padding > 0) | (bitmap + tl.sum(bit, 0) != nbytes) | (largest == 255)
        if wrong:
            tl.store(fault, 1)
        value = tl.where(bit != 0, value + 1, 0).to(tl.uint8)
    tl.store(row + tl.cast(cell, tl.int64) * BLOCK + i, value, mask=i < count)


@triton.jit
def _values(
    row, info, out, value_of, level_of, matrix, kept, backward, shift, zero, length, channels, rows, columns, depth, across, cells, DCT: tl.constexpr
):
    cell = tl.program_id(0)
    mode = tl.load(info + 3 * tl.cast(cell, tl.int64) + 2).to(tl.int32)
    first, planes, area, wide, start = box(cell, channels, rows, columns, depth, across, cells)
    r, j, p, a, pixel = tile(area, wide, rows, columns)
    place = p
    inside = p < tl.where(mode == MODE_ZERO, 0, planes)
    if DCT:
        whole = planes // length * length
        grouped = p < tl.where(mode == MODE_DCT, whole, 0)
        stored = tl.where(grouped, tl.load(kept + first + p + 1, mask=grouped, other=0) - tl.load(kept + first + p, mask=grouped, other=0), 1)
        place = tl.where(mode == MODE_DCT, stored_before(kept, first, tl.minimum(p, planes), whole), place)
        inside = inside & (stored != 0)
    symbol = tl.load(row + tl.cast(cell, tl.int64) * CELL + (place * area + a), mask=inside, other=0).to(tl.int32)
    level = tl.where(mode == MODE_RAW, symbol, tl.load(level_of + symbol).to(tl.int32))
    level = tl.where(mode == MODE_ZERO, zero, level)
    if DCT:
        q = tl.where((symbol & 1) != 0, (symbol + 1) >> 1, -(symbol >> 1))
        q = tl.where(grouped, tl.where((r % length == 0) & (zero == 0), symbol, q), 0)
        level = tl.where(grouped, decoded_levels(q, r, j, matrix, backward, shift, zero), level)
    tl.store(out + start + pixel, tl.load(value_of + level), mask=p < planes)
