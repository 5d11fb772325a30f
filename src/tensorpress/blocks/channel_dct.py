"""The channel DCT at the speed of memory: groups of channels, 64 pixels at a time, in 16-bit integers and packed planes. FORMAT.md, section 6.

    [N, 64] levels -> integer DCT over N -> quantiser -> planes of 64 symbols -> codes, bitmaps, values of a width for each plane

No cell chooses a mode: the fit has chosen for the layer. A plane is a coefficient of a group, or a channel where there is no DCT.
This file is the specification and the slow twin of native/src/channel_dct_body.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks import bits, dct
from tensorpress.blocks.cells import make_rules
from tensorpress.blocks.levels import TOP, LevelMap
from tensorpress.core.errors import StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

PLANE, UNTRANSFORMED = 64, 8  # values of a plane; planes of a group without a DCT
DENSE = 10  # plane codes: 0 empty, 1 + w bitmap and w-bit values (w 0 to 8), DENSE + w - 3 all symbols in w bits (w 3 to 8)
FRACTION = 4  # bits behind the point of what the inverse adds up, at most
HALF_WORD = (1 << 15) - 1

U8 = NDArray[np.uint8]
I16 = NDArray[np.int16]


@dataclass(frozen=True)
class Rules:
    """The integers that both sides work with; made from parameters once, in correctly rounded steps."""

    zero: int  # the level that stands for 0
    symbol_of: U8  # [256] level -> symbol, without a DCT
    level_of: U8  # [256] symbol -> level
    length: int  # of the DCT; 0: none
    keep: U8  # 1 where coefficient k of a group is kept, group by group in turn
    multiplier: NDArray[np.uint16]  # [length] 2^16 over the step of a coefficient
    offset: NDArray[np.uint16]  # [length] its rounding offset
    backward: I16  # [length] the value of one step at the decoder
    fraction: int  # bits behind the point of what the inverse adds up


def shift_of(length: int) -> int:
    """How far levels are shifted before the forward DCT: the sum of `length` of them fills 15 bits."""
    return 8 - length.bit_length()


def plain(rules: Rules) -> slice:
    """The coefficients without a sign: a sum of values >= 0 has none."""
    return slice(0, 1 if rules.zero == 0 else 0)


def coefficient_steps(length: int, zero: int, step: float, dead_zone: float) -> list[float]:
    """The step of each coefficient, in levels: `step`, or the least with which no map can have a symbol beyond 8 bits."""
    steps: list[float] = []
    for row, norm in zip(dct.matrix(length).tolist(), dct.norms(length), strict=True):
        up, down = sum(t for t in row if t > 0), -sum(t for t in row if t < 0)
        largest = max(up * (TOP - zero) + down * zero, up * zero + down * (TOP - zero)) / norm + length / 8  # of the coefficient, rounding included
        limit = TOP if zero == 0 and not steps else TOP // 2
        steps.append(max(step, largest / (limit + 0.75 - dead_zone)))
    return steps


def make(
    zero: int, *, step: float, dead_zone: float, centroid: Sequence[float] = (0.0, 0.0, 0.0), length: int = 0, keep: Sequence[int] = ()
) -> Rules:
    """`step` and `centroid` in levels; `dead_zone` is the rounding offset: 0.5 rounds to nearest, less widens the zero."""
    plainly = make_rules(zero, step=step, dead_zone=dead_zone, centroid=centroid, modes=("zvc",))
    norms = np.array(dct.norms(length)) if length else np.zeros(0)
    steps = np.array(coefficient_steps(length, zero, step, dead_zone)) if length else np.zeros(0)
    inner = steps * norms * (2.0 ** shift_of(length) / 128) if length else steps  # steps in units of the forward DCT
    outer = steps / norms * 128.0 * 128  # and of the inverse, without its fraction
    outer[: 1 if zero == 0 else 0] *= 2
    fraction = FRACTION
    while fraction and (outer * 2.0**fraction > HALF_WORD).any():
        fraction -= 1
    return Rules(
        zero=zero,
        symbol_of=plainly.symbol_of,
        level_of=plainly.level_of,
        length=length,
        keep=np.array(keep if len(keep) else [1] * max(length, 1), np.uint8),
        multiplier=np.rint(65536 / inner).astype(np.uint16),
        offset=np.rint(dead_zone * inner).astype(np.uint16),
        backward=np.minimum(np.rint(outer * 2.0**fraction), HALF_WORD).astype(np.int16),
        fraction=fraction,
    )


def native(rules: Rules) -> _native.ChannelDct:
    """The fused native twin of `ChannelDct`, behind levels of the rules' zero point."""
    r = rules
    return _native.ChannelDct(r.zero, r.symbol_of, r.level_of, r.keep, r.multiplier, r.offset, r.backward, r.fraction)


# --- the transform, in 16 bits ---------------------------------------------------------------------------------------


def scaled(a: I16, by: Any) -> I16:
    """a * by / 2^15, rounded."""
    product: I16 = ((a.astype(np.int32) * by + (1 << 14)) >> 15).astype(np.int16)
    return product


def forward(x: I16) -> I16:
    """[N, ...] -> [N, ...]: the DCT over 128. Even rows are the shorter DCT of the sums x[n] + x[N - 1 - n]."""
    length = len(x)
    if length == 1:
        return scaled(x, 64 << 8)
    top, mirrored = x[: length // 2], x[: length // 2 - 1 : -1]
    y = np.empty_like(x)
    y[::2] = forward(top + mirrored)
    for k in range(1, length, 2):
        y[k] = sum(scaled(top[n] - mirrored[n], int(dct_row(length, k)[n]) << 8) for n in range(length // 2))
    return y


def inverse(v: I16, bias: int) -> I16:
    """[N, ...] -> [N, ...]: bias + the inverse DCT over 128. Sums wrap; those of honest coefficients do not."""
    length = len(v)
    if length == 1:
        return scaled(v, 64 << 8) + np.int16(bias)
    even = inverse(v[::2], bias)
    odd = np.zeros_like(even)
    for n in range(length // 2):
        for k in range(1, length, 2):
            odd[n] += scaled(v[k], int(dct_row(length, k)[n]) << 8)
    return np.concatenate([even + odd, (even - odd)[::-1]])


def dct_row(length: int, k: int) -> NDArray[np.int32]:
    """Row k of the matrix; of length 2 it is that of 4, which it is part of."""
    row: NDArray[np.int32] = dct.matrix(max(length, 4))[k if length >= 4 else 2 * k]
    return row


def analyse(levels: U8, rules: Rules) -> U8:
    """[N, ...] levels -> symbols: 2a for the coefficient + a steps, 2a - 1 for - a steps; a itself where it has no sign."""
    y = forward((levels.astype(np.int16) - np.int16(rules.zero)) << np.int16(shift_of(rules.length)))
    shape = (-1,) + (1,) * (y.ndim - 1)
    a = (np.abs(y).astype(np.int32) + rules.offset.reshape(shape)) * rules.multiplier.reshape(shape).astype(np.int64) >> 16
    symbols = np.where(a > 0, 2 * a - (y < 0), 0)
    symbols[plain(rules)] = a[plain(rules)]
    found: U8 = symbols.astype(np.uint8)
    return found


def synthesise(symbols: U8, rules: Rules) -> U8:
    """[N, ...] symbols -> levels."""
    numbers = np.where(symbols & 1, ~(symbols >> 1), symbols >> 1).view(np.int8).astype(np.int16) << np.int16(8)
    numbers[plain(rules)] = symbols[plain(rules)].astype(np.int16) << np.int16(7)
    v = scaled(numbers, rules.backward.reshape((-1,) + (1,) * (symbols.ndim - 1)).astype(np.int32))
    x = inverse(v, (rules.zero << rules.fraction) + ((1 << rules.fraction) >> 1)) >> np.int16(rules.fraction)
    levels: U8 = np.clip(x, 0, TOP).astype(np.uint8)
    return levels


# --- planes ----------------------------------------------------------------------------------------------------------


def pack_planes(planes: U8) -> bytes:
    """[P, n] symbols -> codes, bitmaps, values: for each plane what is shortest."""
    codes, bitmaps, values = [], b"", b""
    for plane in planes:
        top = int(plane.max())
        nonzeros = plane[plane != 0]
        dense, sparse = top.bit_length(), max(top - 1, 0).bit_length()
        bitmap, packed = bits.to_bytes((plane != 0).astype(np.uint8)), bits.to_bytes(bits.pack(nonzeros - 1, sparse))
        if dense >= 3 and -(-plane.size * dense // 8) < len(bitmap) + len(packed):
            codes.append(DENSE + dense - 3)
            values += bits.to_bytes(bits.pack(plane, dense))
        elif top:
            codes.append(1 + sparse)
            bitmaps += bitmap
            values += packed
        else:
            codes.append(0)
    return bits.to_bytes(bits.pack(np.array(codes, np.int64), 4)) + bitmaps + values


def unpack_planes(data: memoryview, count: int, size: int) -> tuple[U8, int]:
    """([count, size] symbols, bytes read). StreamError where a section is cut or padded with ones."""
    at = 0

    def section(n: int, what: str) -> U8:
        nonlocal at
        nbytes = -(-n // 8)
        if nbytes > len(data) - at:
            raise StreamError(f"{what} of {nbytes} bytes end past their stripe, which has {len(data) - at} left")
        taken = bits.from_bytes(data[at : at + nbytes], n, what)
        at += nbytes
        return taken

    symbols = np.zeros((count, size), np.uint8)
    codes = bits.unpack(section(4 * count, "plane codes"), 4).tolist()
    taken = [section(size, "a bitmap") == 1 if 0 < code < DENSE else np.full(size, code >= DENSE) for code in codes]
    for plane, code, there in zip(symbols, codes, taken, strict=True):
        width = code - DENSE + 3 if code >= DENSE else max(code, 1) - 1
        packed = section(int(there.sum()) * width, "values")
        values = bits.unpack(packed, width) if width else np.zeros(int(there.sum()), np.uint32)
        plane[there] = (values + (code < DENSE)).astype(np.uint8)
    return symbols, at


# --- a stripe --------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Up to 64 values of each of `planes` channels; where a stripe has few pixels, of several groups side by side."""

    channel: int
    planes: int
    groups: int
    pixels: slice
    transformed: bool


def places(channels: int, pixels: int, length: int) -> Iterator[Place]:
    """A stripe of (channels, pixels) values: group by group, in them 64 pixels at a time; last the channels that fill no group, as they are."""
    size = length or UNTRANSFORMED
    whole, abreast = channels // size, max(PLANE // pixels, 1)
    for g in range(0, whole, abreast):
        for p in range(0, pixels, PLANE):
            yield Place(g * size, size, min(abreast, whole - g), slice(p, min(p + PLANE, pixels)), length > 0)
    if channels % size:
        for p in range(0, pixels, PLANE):
            yield Place(whole * size, channels % size, 1, slice(p, min(p + PLANE, pixels)), False)


def max_places_nbytes(channels: int, pixels: int, length: int) -> int:
    """The most bytes that the places of a stripe take: a plane is never longer than its values as they are, or two bytes."""
    size = length or UNTRANSFORMED
    (whole, rest), (full, tail) = divmod(channels, size), divmod(pixels, PLANE)
    plain = full * PLANE + (max(tail, 2) if tail else 0)  # of a channel
    codes = -(-pixels // PLANE) * (-(-rest // 2))
    if full:
        return channels * plain + -(-pixels // PLANE) * whole * -(-size // 2) + codes
    abreast = PLANE // pixels
    groups = [abreast] * (whole // abreast) + [whole % abreast] * (whole % abreast > 0)
    return sum(size * max(n * pixels, 2) + -(-size // 2) for n in groups) + rest * plain + codes


def seen(stripe: U8, place: Place) -> U8:
    """The (channels, pixels) stripe's values of a place, (groups, planes, pixels)."""
    part = stripe[place.channel : place.channel + place.groups * place.planes, place.pixels]
    return part.reshape(place.groups, place.planes, -1)


class ChannelDct(Stage[LevelMap, None]):
    """Levels -> stripes of packed planes. `rules_for[zero point]`: the integers to work with; `zero_of(dtype)`: which of them."""

    def __init__(self, rules_for: dict[int, Rules], zero_of: Callable[[np.dtype[Any]], int]) -> None:
        self.rules_for, self.zero_of = rules_for, zero_of

    def kept(self, place: Place, rules: Rules) -> NDArray[np.bool_]:
        """[planes] whether a plane is stored."""
        if not place.transformed:
            return np.ones(place.planes, bool)
        kept: NDArray[np.bool_] = rules.keep[(place.channel + np.arange(place.planes)) % rules.keep.size] != 0
        return kept

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return max_places_nbytes(view[0], rows * view[2], self.rules_for[self.zero_of(dtype)].length)

    def encode(self, x: LevelMap, out: Writer) -> None:
        rules = self.rules_for[x.zero]
        channels = x.levels.shape[0]
        for s in range(stripe_count(out.shape)):
            stripe = x.levels[:, s * STRIPE_ROWS : (s + 1) * STRIPE_ROWS].reshape(channels, -1)
            data = b""
            for place in places(channels, stripe.shape[1], rules.length):
                levels = seen(stripe, place).transpose(1, 0, 2).reshape(place.planes, -1)
                symbols = analyse(levels, rules) if place.transformed else rules.symbol_of[levels]
                data += pack_planes(symbols[self.kept(place, rules)])
            out.stripe(data)

    def decode(self, y: None, src: Reader) -> LevelMap:
        channels, rows, columns = chw(src.shape)
        zero = self.zero_of(src.dtype)
        rules = self.rules_for[zero]
        levels = np.empty((channels, rows, columns), np.uint8)
        for s in range(stripe_count(src.shape)):
            data = src.stripe()
            part = levels[:, s * STRIPE_ROWS : (s + 1) * STRIPE_ROWS]
            stripe = np.empty((channels, part.shape[1] * columns), np.uint8)
            for place in places(channels, stripe.shape[1], rules.length):
                view = seen(stripe, place)
                kept = self.kept(place, rules)
                symbols = np.zeros((place.planes, view.shape[0] * view.shape[2]), np.uint8)
                symbols[kept], used = unpack_planes(data, int(kept.sum()), symbols.shape[1])
                data = data[used:]
                found = synthesise(symbols, rules) if place.transformed else rules.level_of[symbols]
                view[...] = found.reshape(place.planes, view.shape[0], -1).transpose(1, 0, 2)
            if len(data):
                raise StripeError(s, f"{len(data)} bytes after its last plane")
            part[...] = stripe.reshape(part.shape)
        return LevelMap(levels, zero)
