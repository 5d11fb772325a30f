"""Cells on a GPU, decoding: find where each begins, spread its symbols out in a row, turn the row into values.

Cells follow one another by their lengths, so a stripe is walked by one program, header after header; all else is one program a cell. What
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


@triton.jit
def _walk(payload, starts, info, fault, cells):
    """`info` of each cell: where its payload begins (relative to `payload`), its bytes, its mode. `starts`: of each stripe."""
    stripe = tl.program_id(0)
    at = tl.load(starts + stripe)
    end = tl.load(starts + stripe + 1)
    for i in range(cells):
        whole = at + HEADER <= end
        flags = tl.load(payload + at, mask=whole, other=0x80).to(tl.int32)
        low = tl.load(payload + at + 1, mask=whole, other=0).to(tl.int64)
        high = tl.load(payload + at + 2, mask=whole, other=0).to(tl.int64)
        mode = flags & 3
        good = (flags == (mode | tl.where(mode >= MODE_ZVC, WIDTH_8, 0))) & (at + HEADER + low + high * 256 <= end)
        entry = info + 3 * (tl.cast(stripe, tl.int64) * cells + i)
        if good == 0:
            tl.store(fault, 1)
        tl.store(entry, at + HEADER)
        tl.store(entry + 1, tl.where(good, low + high * 256, 0))
        tl.store(entry + 2, tl.where(good, mode, MODE_ZERO).to(tl.int64))
        at = tl.where(good, at + HEADER + low + high * 256, at)
    if at != end:
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
