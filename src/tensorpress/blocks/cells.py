"""Cells: boxes of up to 2,048 levels, each coded alone in the mode that costs least. FORMAT.md, section 6.

A cell covers 8 rows x 8 columns x 32 channels (more channels where a map has fewer than 64 pixels). Its values are seen
as planes, one a channel (ZVC) or one a DCT coefficient of a channel group (DCTM), of at most 64 values. A value is
stored as a symbol: 0 for zero, then the magnitudes in folded order. For each plane either a bitmap and the packed
non-zero symbols stand, or all symbols (dense), or nothing.

    header(3): mode 2 bits, zero map 1, plane codes 1, width - 1 3, reserved 1, payload bytes 16
    payload:   [plane codes, 4 bits each] [zero map] bitmaps, values     each padded to a byte with zero bits

This file is the specification and the slow twin of native/src/cells.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks import bits, dct
from tensorpress.blocks.levels import TOP, LevelMap, Levels
from tensorpress.core.codec import DeviceKernel
from tensorpress.core.errors import StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

CELL_COLUMNS, CELL_CHANNELS, PLANE = 8, 32, 64
ZERO, RAW, ZVC, DCTM = range(4)
MODES = ("zero", "raw", "zvc", "dct")
ZERO_MAP, PLANE_CODES = 4, 8  # flag bits of the header's first byte
HEADER_NBYTES = 3
DENSE = 10  # plane codes: 0 empty, 1 + w bitmap with w-bit values (w 0 to 8), DENSE + w - 3 all symbols of w bits (w 3 to 8)
DCT_SHIFT, DEQUANT_SHIFT, MAX_COEFFICIENT = 20, 14, 1 << 19

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]


def fold(q: I32, short: int) -> I32:
    """Signed -> symbol: 0, then magnitudes with alternating signs up to `short`, then the longer side alone."""
    magnitude = np.abs(q)
    both = 2 * magnitude - 1 + (q < 0)
    return np.where(q == 0, 0, np.where(magnitude <= short, both, magnitude + short)).astype(np.int32)


def unfold(symbol: I32, short: int, sign: int) -> I32:
    """The inverse of `fold`; `sign` is that of the longer side."""
    both = np.where(symbol & 1, (symbol + 1) >> 1, -(symbol >> 1))
    return np.where(symbol <= 2 * short, both, sign * (symbol - short)).astype(np.int32)


@dataclass(frozen=True)
class CellRules:
    """The integers that both sides of the cell codec work with; made from parameters once, in correctly rounded steps."""

    zero: int  # the level that stands for 0
    symbol_of: U8  # [256] level -> symbol (ZVC)
    level_of: U8  # [256] symbol -> level (ZVC)
    magnitude: I32  # [256] level -> quantised magnitude (ZVC), what centroids are fitted to
    length: int  # of the DCT; 0: none
    keep: U8  # [length] 1 where coefficient k is kept; [groups * length] for a mask a group
    forward: NDArray[np.uint32]  # [length] multiplier of |coefficient|, with DCT_SHIFT fractional bits
    offset: int  # rounding offset of the forward DCT quantiser, likewise
    backward: I32  # [length] value of one step, in units of 2^-DEQUANT_SHIFT / matrix row
    shift: I32  # [3, length] what is added to the value of levels 1, 2 and >= 3 (centroids), likewise
    lagrangian: float  # squared error, in levels, that one bit is worth
    modes: int  # bit m set: mode m may be chosen
    zero_map: bool  # a DCT cell may carry the map of its exact zeros
    plane_codes: bool  # widths may be chosen by plane
    width: int  # fixed width of non-zeros, 0: chosen by cell


def make_rules(
    zero: int,
    *,
    step: float,
    dead_zone: float,
    centroid: Sequence[float],
    modes: Sequence[str],
    length: int = 0,
    dct_centroid: Sequence[float] = (0.0, 0.0, 0.0),
    keep: Sequence[int] = (),
    lagrangian: float = 0.0,
    zero_map: bool = False,
    plane_codes: bool = False,
    width: int = 0,
    dct_step: float | None = None,
) -> CellRules:
    """`step` and centroids in levels; `dead_zone` is the rounding offset: 0.5 rounds to nearest, less widens the zero."""
    dct_step = dct_step or step
    d = np.arange(TOP + 1) - zero
    recip, offset = round(65536 / step), round(65536 * dead_zone)
    q = np.sign(d) * ((np.abs(d) * recip + offset) >> 16)
    short = int(min(-q.min(), q.max()))
    sign = 1 if q.max() >= -q.min() else -1
    symbols = unfold(np.arange(256, dtype=np.int32), short, sign)
    magnitude = np.abs(symbols)
    shift = np.array([0.0, *centroid])[np.minimum(magnitude, 3)]
    level = np.clip(zero + np.sign(symbols) * np.maximum(np.rint(magnitude * step + shift), 0), 0, TOP)
    scale = [float(1 << DEQUANT_SHIFT) / n for n in dct.norms(length)] if length else []
    return CellRules(
        zero=zero,
        symbol_of=fold(q.astype(np.int32), short).astype(np.uint8),
        level_of=level.astype(np.uint8),
        magnitude=np.abs(q).astype(np.int32),
        length=length,
        keep=np.array(keep if len(keep) else [1] * length, np.uint8),
        forward=np.array([round((1 << DCT_SHIFT) / (n * dct_step)) for n in (dct.norms(length) if length else ())], np.uint32),
        offset=round((1 << DCT_SHIFT) * dead_zone),
        backward=np.array([round(dct_step * s) for s in scale], np.int32),
        shift=np.array([[round(c * s) for s in scale] for c in dct_centroid], np.int32).reshape(3, length),
        lagrangian=float(lagrangian),
        modes=sum(1 << MODES.index(m) for m in modes) | 1 << RAW,  # RAW is the bound of every cell
        zero_map=zero_map,
        plane_codes=plane_codes,
        width=width,
    )


def native_cells(rules: CellRules) -> _native.Cells:
    """The fused native twin of `Cells`, behind levels of the rules' zero point."""
    return _native.Cells(
        rules.zero,
        rules.symbol_of,
        rules.level_of,
        np.ascontiguousarray(dct.matrix(rules.length) if rules.length else np.zeros((0, 0), np.int32)),
        rules.keep,
        rules.forward,
        rules.offset,
        rules.backward,
        np.ascontiguousarray(rules.shift),
        rules.lagrangian,
        rules.modes,
        rules.zero_map,
        rules.plane_codes,
        rules.width,
    )


# --- geometry ------------------------------------------------------------------------------------------------------


class Box(NamedTuple):
    channels: slice
    rows: slice
    columns: slice


def cell_channels(rows: int, columns: int) -> int:
    """Channels of a cell in a map of this size: 32, or more where the map has too few pixels to fill 2,048 values."""
    return CELL_CHANNELS * (PLANE // (min(rows, STRIPE_ROWS) * min(columns, CELL_COLUMNS)))


def boxes(shape: tuple[int, int, int], stripe: int) -> Iterator[Box]:
    """The cells of a stripe, channels outermost. Cells at an edge hold only the values that exist."""
    channels, height, width = shape
    depth = cell_channels(height, width)
    rows = slice(stripe * STRIPE_ROWS, min((stripe + 1) * STRIPE_ROWS, height))
    for c in range(0, channels, depth):
        for x in range(0, width, CELL_COLUMNS):
            yield Box(slice(c, min(c + depth, channels)), rows, slice(x, min(x + CELL_COLUMNS, width)))


# --- the channel DCT of a cell -------------------------------------------------------------------------------------


def kept(rules: CellRules, first: int, planes: int) -> U8:
    """[planes] 1 where plane p (channel first + p) is stored in a DCT cell. Channels past the last whole group are kept."""
    whole = planes - planes % rules.length
    channel = first + np.arange(planes)
    mask: U8 = rules.keep[channel % rules.keep.size].copy()
    mask[whole:] = 1
    return mask


def dct_coefficients(d: I32, length: int) -> I32:
    """[P, A] levels less the zero point -> [groups, length, A] coefficients of the whole groups."""
    whole = d.shape[0] - d.shape[0] % length
    return np.einsum("kn,gna->gka", dct.matrix(length), d[:whole].reshape(-1, length, d.shape[1])).astype(np.int32)


def dct_symbols(d: I32, rules: CellRules, mask: U8) -> I32 | None:
    """[P, A] levels less the zero point -> symbols; None where one does not fit 8 bits (the cell takes another mode)."""
    n = rules.length
    whole = d.shape[0] - d.shape[0] % n
    c = dct_coefficients(d, n)
    q = np.sign(c) * ((np.abs(c).astype(np.uint64) * rules.forward[:, None] + np.uint64(rules.offset)) >> np.uint64(DCT_SHIFT)).astype(np.int32)
    symbols = fold(q, 1 << 20)
    if rules.zero == 0:
        symbols[:, 0] = q[:, 0]  # the sum of values >= 0 has no sign
    symbols = symbols.reshape(whole, -1) * mask[:whole, None]
    if symbols.max(initial=0) > 255:
        return None
    rest = rules.symbol_of[d[whole:] + rules.zero]  # channels that fill no group stay untransformed
    return np.concatenate([symbols, rest]).astype(np.int32)


def dct_levels(symbols: I32, rules: CellRules) -> I32:
    """[P, A] symbols -> levels, in integers of 32 bits."""
    n = rules.length
    whole = symbols.shape[0] - symbols.shape[0] % n
    s = symbols[:whole].reshape(-1, n, symbols.shape[1])
    q = unfold(s, 1 << 20, 1)
    if rules.zero == 0:
        q[:, 0] = s[:, 0]
    magnitude = np.abs(q)
    shift = np.concatenate([np.zeros((1, n), np.int32), rules.shift])[np.minimum(magnitude, 3), np.arange(n)[:, None]]
    value = np.sign(q) * np.clip(magnitude * rules.backward[:, None] + shift, 0, MAX_COEFFICIENT)
    total = np.einsum("kn,gka->gna", dct.matrix(n), value) + (1 << (DEQUANT_SHIFT - 1))
    levels = np.clip((total >> DEQUANT_SHIFT) + rules.zero, 0, TOP).reshape(whole, -1)
    return np.concatenate([levels, rules.level_of[symbols[whole:]]]).astype(np.int32)


# --- one cell ------------------------------------------------------------------------------------------------------


def bit_length(n: int) -> int:
    return int(n).bit_length()


def pack_planes(symbols: I32, rules: CellRules, zero_map: U8 | None) -> tuple[int, bytes] | None:
    """[P, A] symbols of the stored planes -> (flags and width of the header, payload); the shorter of both layouts."""
    area = symbols.shape[1]
    zeros = bits.to_bytes(zero_map.reshape(-1)) if zero_map is not None else b""
    nonzero = symbols != 0
    flat = max(bit_length(int(symbols.max(initial=0)) - 1 if nonzero.any() else 0), 1)
    if rules.width:
        if flat > rules.width:
            return None
        flat = rules.width
    flat_payload = zeros + bits.to_bytes(nonzero.astype(np.uint8).reshape(-1)) + bits.to_bytes(bits.pack(symbols[nonzero] - 1, flat))
    flat_flags = (ZERO_MAP if zeros else 0) | (flat - 1) << 4
    if not rules.plane_codes:
        return flat_flags, flat_payload
    codes, bitmaps, values = [], [], []
    for plane in symbols:
        nonzeros = plane[plane != 0]
        top = int(plane.max(initial=0))
        width, dense = bit_length(top - 1) if top else 0, bit_length(top)
        if top == 0:
            codes.append(0)
        elif 3 <= dense <= 8 and area * dense < area + nonzeros.size * width:
            codes.append(DENSE + dense - 3)
            values.append(bits.pack(plane, dense))
        else:
            codes.append(1 + width)
            bitmaps.append((plane != 0).astype(np.uint8))
            values.append(bits.pack(nonzeros - 1, width))
    empty = [np.zeros(0, np.uint8)]
    payload = (
        bits.to_bytes(bits.pack(np.array(codes), 4)) + zeros + bits.to_bytes(np.concatenate(bitmaps or empty)) + bits.to_bytes(np.concatenate(values or empty))
    )
    if len(payload) < len(flat_payload):
        return (ZERO_MAP if zeros else 0) | PLANE_CODES, payload
    return flat_flags, flat_payload


def unpack_planes(payload: memoryview, flags: int, mode: int, planes: int, cell_planes: int, area: int) -> tuple[I32, U8 | None]:
    """The inverse: ([planes, area] symbols, zero map [cell_planes, area] or None). StreamError where lengths disagree."""
    at = 0

    def section(count: int, what: str) -> U8:
        nonlocal at
        nbytes = -(-count // 8)
        taken = bits.from_bytes(payload[at : at + nbytes], count, what)
        at += nbytes
        return taken

    codes = bits.unpack(section(4 * planes, "plane codes"), 4) if flags & PLANE_CODES else np.full(planes, 2 + (flags >> 4 & 7))
    zero_map = section(cell_planes * area, "zero map").reshape(cell_planes, area) if flags & ZERO_MAP else None
    symbols = np.zeros((planes, area), np.int32)
    with_bitmap = (codes > 0) & (codes < DENSE)
    nonzero = np.zeros((planes, area), bool)
    nonzero[with_bitmap] = section(int(with_bitmap.sum()) * area, "bitmaps").reshape(-1, area)
    nonzero[codes >= DENSE] = True
    widths = np.where(codes >= DENSE, codes - DENSE + 3, np.maximum(codes, 1) - 1)
    counts = nonzero.sum(1)
    values = section(int((counts * widths).sum()), "values")
    done = 0
    for p in range(planes):
        used = int(counts[p] * widths[p])
        if counts[p]:
            taken = bits.unpack(values[done : done + used], int(widths[p])) if widths[p] else np.zeros(counts[p], np.uint32)
            symbols[p, nonzero[p]] = taken + (1 if codes[p] < DENSE else 0) & 255  # 8 bits that hold 255 wrap, as they do in a byte
        done += used
    if at != len(payload):
        raise StreamError(f"cell of mode {MODES[mode]} has {len(payload)} payload bytes, its sections fill {at}")
    return symbols, zero_map


class Candidate(NamedTuple):
    """One way to store a cell."""

    cost: float  # squared error + lagrangian * bits
    mode: int
    flags: int
    payload: bytes
    error: int  # squared, in levels


def candidates(levels: U8, first_channel: int, rules: CellRules) -> list[Candidate]:
    """Every way in which the rules allow to store [P, A] levels, raw last."""
    x = levels.astype(np.int32)
    d = x - rules.zero
    found: list[Candidate] = []

    def offer(mode: int, flags: int, payload: bytes, decoded: I32) -> None:
        if mode != RAW and len(payload) >= x.size:
            return  # a cell never takes more than its raw levels
        error = int(((decoded - x) ** 2).sum())
        found.append(Candidate(error + rules.lagrangian * (8 * (HEADER_NBYTES + len(payload))), mode, flags, payload, error))

    if rules.modes >> ZERO & 1 or not d.any():
        offer(ZERO, 0, b"", np.full_like(x, rules.zero))
    if rules.modes >> ZVC & 1:
        symbols = rules.symbol_of[levels].astype(np.int32)
        packed = pack_planes(symbols, rules, None)
        if packed:
            offer(ZVC, *packed, rules.level_of[symbols].astype(np.int32))
    if rules.modes >> DCTM & 1 and rules.length and x.shape[0] >= rules.length:
        mask = kept(rules, first_channel, x.shape[0])
        coefficients = dct_symbols(d, rules, mask)
        if coefficients is not None:
            decoded = dct_levels(coefficients, rules)
            stored = coefficients[mask == 1]
            packed = pack_planes(stored, rules, None)
            if packed:
                offer(DCTM, *packed, decoded)
            if rules.zero_map:
                packed = pack_planes(stored, rules, (d == 0).astype(np.uint8))
                if packed:
                    offer(DCTM, *packed, np.where(d == 0, rules.zero, decoded))
    offer(RAW, 0, levels.tobytes(), x)
    return found


def encode_cell(levels: U8, first_channel: int, rules: CellRules) -> bytes:
    """[P, A] levels -> header and payload, in the mode with the least (squared error + lagrangian * bits); of equals, the shortest."""
    best = min(candidates(levels, first_channel, rules), key=lambda candidate: (candidate.cost, len(candidate.payload)))
    return bytes([best.mode | best.flags]) + len(best.payload).to_bytes(2, "little") + best.payload


def decode_cell(data: memoryview, planes: int, area: int, first_channel: int, rules: CellRules) -> tuple[U8, int, int]:
    """([P, A] levels, bytes used, mode). StreamError on any header or payload that no encoder writes."""
    if len(data) < HEADER_NBYTES:
        raise StreamError(f"cell header is cut: {len(data)} bytes are left in the stripe")
    flags, nbytes = data[0], data[1] | data[2] << 8
    mode = flags & 3
    if flags & 0x80 or (mode != DCTM and flags & ZERO_MAP) or (mode in (ZERO, RAW) and flags >> 2) or (flags & PLANE_CODES and flags >> 4):
        raise StreamError(f"cell header has flags 0x{flags:02x}, which no encoder writes")
    if nbytes > len(data) - HEADER_NBYTES:
        raise StreamError(f"cell payload of {nbytes} bytes ends past its stripe, which has {len(data) - HEADER_NBYTES} left")
    payload = data[HEADER_NBYTES : HEADER_NBYTES + nbytes]
    used = HEADER_NBYTES + nbytes
    if mode in (ZERO, RAW):
        expected = planes * area if mode == RAW else 0
        if nbytes != expected:
            raise StreamError(f"cell of mode {MODES[mode]} has {nbytes} payload bytes, not {expected}")
        if mode == ZERO:
            return np.full((planes, area), rules.zero, np.uint8), used, mode
        return np.frombuffer(payload, np.uint8).reshape(planes, area), used, mode
    if mode == ZVC:
        symbols, _ = unpack_planes(payload, flags, mode, planes, planes, area)
        return rules.level_of[symbols], used, mode
    if not rules.length or planes < rules.length:
        raise StreamError("cell of mode dct where the codec has no DCT of that length")
    mask = kept(rules, first_channel, planes)
    stored, zero_map = unpack_planes(payload, flags, mode, int(mask.sum()), planes, area)
    symbols = np.zeros((planes, area), np.int32)
    symbols[mask == 1] = stored
    levels = dct_levels(symbols, rules)
    if zero_map is not None:
        levels[zero_map == 1] = rules.zero
    return levels.astype(np.uint8), used, mode


class Cells(Stage[LevelMap, None]):
    """Levels -> stripes of cells. `rules_for[zero point]`: the integers to work with; `zero_of(dtype)`: which of them."""

    def __init__(self, rules_for: dict[int, CellRules], zero_of: Callable[[np.dtype[Any]], int]) -> None:
        self.rules_for, self.zero_of = rules_for, zero_of

    def on_device(self, levels: Levels) -> DeviceKernel:
        from tensorpress.blocks.gpu.cells import CellsOnDevice

        return CellsOnDevice(levels, self.rules_for)

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        cells = -(-view[0] // cell_channels(view[1], view[2])) * -(-view[2] // CELL_COLUMNS)
        return HEADER_NBYTES * cells + view[0] * rows * view[2]  # no cell takes more than its raw levels

    def encode(self, x: LevelMap, out: Writer) -> None:
        shape, rules = chw(out.shape), self.rules_for[x.zero]
        for stripe in range(stripe_count(out.shape)):
            cells = []
            for box in boxes(shape, stripe):
                levels = x.levels[box]
                cells.append(encode_cell(levels.reshape(levels.shape[0], -1), box.channels.start, rules))
            out.stripe(b"".join(cells))

    def decode(self, y: None, src: Reader) -> LevelMap:
        shape = chw(src.shape)
        zero = self.zero_of(src.dtype)
        levels = np.empty(shape, np.uint8)
        for stripe in range(stripe_count(src.shape)):
            data = src.stripe()
            for box in boxes(shape, stripe):
                view = levels[box]
                cell, used, _ = decode_cell(data, view.shape[0], view.shape[1] * view.shape[2], box.channels.start, self.rules_for[zero])
                view[...] = cell.reshape(view.shape)
                data = data[used:]
            if len(data):
                raise StripeError(stripe, f"{len(data)} bytes after its last cell")
        return LevelMap(levels, zero)
