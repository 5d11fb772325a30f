"""Karhunen-Loeve transform over channels in exact integers: one basis a block of channels, one step for all components.

Forward: (x - mean) as 16-bit fixed point, times an integer basis, one scale, round half even, clamp. Inverse: basis
transposed times the integer coefficients, one scale, plus mean. Products and sums of integers are held in float64 and
stay under 2^53, so any order of summation, any library and any number of threads gives the same value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.uniform import LARGEST, SMALLEST, as_float32, check_decodable, quantise, restore
from tensorpress.core.errors import InputError
from tensorpress.core.payload import STRIPE_ROWS, Reader, Writer, chw
from tensorpress.core.stage import Stage

Array = NDArray[Any]
PEAK = 2047  # of a basis value: 12 bits, signed
FIXED = 32767  # of a fixed-point sample: 16 bits, signed
MAX_CHANNELS = 1 << 16  # 2^11 * 2^15 * 2^16 < 2^53
FEW_VALUES = 1 << 18  # that are decoded at a time: they are doubles on the way
FIT_VALUES = 1 << 22  # about how many values of the samples the fit sees


def block_sizes(channels: int, block: int) -> list[int]:
    """Sizes of consecutive blocks of channels; the last may be smaller. `block` 0: one block of all."""
    block = block or channels
    return [min(block, channels - at) for at in range(0, channels, block)]


def pack12(values: NDArray[np.int16]) -> bytes:
    """12-bit two's complement, two values in three bytes, low bits first."""
    flat = (np.append(values.reshape(-1), np.zeros(values.size % 2, np.int16)).astype(np.uint16) & 0xFFF).reshape(-1, 2)
    word = flat[:, 0].astype("<u4") | flat[:, 1].astype("<u4") << 12
    return word.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def unpack12(data: bytes, count: int) -> NDArray[np.int16]:
    """The inverse. InputError unless `data` has just the bytes that `count` values take."""
    if len(data) != (count + 1) // 2 * 3:
        raise InputError(f"basis of {len(data)} bytes: {count} values take {(count + 1) // 2 * 3}")
    b = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int16)
    flat = np.stack([b[:, 0] | (b[:, 1] & 15) << 8, b[:, 1] >> 4 | b[:, 2] << 4], axis=1).reshape(-1)[:count]
    if b.size and count % 2 and (b[-1, 1] >> 4 or b[-1, 2]):
        raise InputError(f"the last 12 bits of a basis of {count} values fill it up and must be zero")
    return (flat ^ 0x800) - np.int16(0x800)


@dataclass(frozen=True)
class Basis:
    """Integer bases and what belongs to them. `blocks`: one int16 matrix (n, n) each, rows are components."""

    blocks: tuple[NDArray[np.int16], ...]
    means: NDArray[np.float32]  # (C,)
    fixed: float  # value of one unit of the fixed-point samples, a float32
    step: float  # of every component

    def __post_init__(self) -> None:
        for what, value in (("fixed-point unit", self.fixed), ("step", self.step)):
            if not (isinstance(value, int | float) and SMALLEST <= value <= LARGEST):
                raise InputError(f"{what} {value!r} lies outside {SMALLEST:g} to {LARGEST:g}")
        if len(self.means) != sum(map(len, self.blocks)) or not np.isfinite(self.means).all():
            raise InputError(f"{len(self.means)} means for {sum(map(len, self.blocks))} channels, or one that is not finite")
        if any(block.min() < -PEAK or block.max() > PEAK or not block.any() for block in self.blocks):
            raise InputError(f"a block of the basis is zero or passes {PEAK}")

    @property
    def gains(self) -> list[float]:
        """By how much a block's integers exceed an orthonormal basis: the root mean square of its rows' lengths."""
        return [math.sqrt(sum(int(np.square(row, dtype=np.int64).sum()) for row in block) / len(block)) for block in self.blocks]

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(C, positions) -> whole numbers of steps, unclamped."""
        with np.errstate(over="ignore", under="ignore"):
            u = quantise(x - self.means[:, None], np.float32(1) / np.float32(self.fixed), -FIXED, FIXED)
        out = np.empty(x.shape)
        at = 0
        for block, gain in zip(self.blocks, self.gains):
            rows = slice(at, at := at + len(block))
            np.matmul(block.astype(np.float64), u[rows].astype(np.float64), out=out[rows])
            out[rows] *= self.fixed / (gain * self.step)
        return np.rint(out, out=out)

    def inverse(self, q: NDArray[np.float64]) -> NDArray[np.float32]:
        """(C, positions) whole numbers of steps -> values."""
        out = np.empty(q.shape)
        at = 0
        for block, gain in zip(self.blocks, self.gains):
            rows = slice(at, at := at + len(block))
            np.matmul(block.astype(np.float64).T, q[rows], out=out[rows])
            out[rows] *= self.step / gain
        out += self.means[:, None]
        limit = float(np.finfo(np.float32).max)
        return np.clip(out, -limit, limit, out=out).astype(np.float32)


class Klt(Stage[Array, Array]):
    """Array of any view -> symbols (C, H, W): coefficient - `low` of its component, clamped to [0, `high` - `low`]."""

    def __init__(self, codec: str, basis: Basis, low: NDArray[np.int32], high: NDArray[np.int32]) -> None:
        self.codec, self.basis = codec, basis
        self.low, self.high = low[:, None].astype(np.float64), high[:, None].astype(np.float64)
        self.dtype = np.uint8 if int((high - low).max()) < 256 else np.uint16

    def encode(self, x: Array, out: Writer) -> Array:
        values = as_float32(x, self.codec).reshape(chw(x.shape))
        symbols = np.empty(values.shape, self.dtype)
        if x.size and len(values) != len(self.low):
            raise InputError(f"codec {self.codec!r} was fitted to {len(self.low)} channels, the array of shape {x.shape} has {len(values)}")
        for top in range(0, values.shape[1] if x.size else 0, STRIPE_ROWS):
            rows = np.s_[:, top : top + STRIPE_ROWS]
            q = self.basis.forward(values[rows].reshape(len(values), -1))
            q = np.clip(q, self.low, self.high, out=q) - self.low
            symbols[rows] = q.reshape(symbols[rows].shape)
        return symbols

    def decode(self, y: Array, src: Reader) -> Array:
        check_decodable(src.dtype)
        out = np.empty(y.shape, src.dtype)
        columns = max(FEW_VALUES // (STRIPE_ROWS * max(len(y), 1)), 1)
        for top in range(0, y.shape[1] if y.size else 0, STRIPE_ROWS):
            for left in range(0, y.shape[2], columns):  # products are exact, however many stand side by side
                some = np.s_[:, top : top + STRIPE_ROWS, left : left + columns]
                q = y[some].reshape(len(y), -1) + self.low
                out[some] = restore(self.basis.inverse(q), src.dtype).reshape(out[some].shape)
        return out.reshape(src.shape)


def vectors(samples: Sequence[Array], codec: str) -> NDArray[np.float32]:
    """The samples' pixels as columns, (C, positions), thinned evenly to about 2^22 values. InputError where their channels differ."""
    views = [as_float32(x, codec).reshape(chw(x.shape)) for x in samples if x.size]
    if not views:
        raise InputError("nothing to fit: the samples hold no values")
    channels = len(views[0])
    if channels > MAX_CHANNELS or any(len(v) != channels for v in views):
        raise InputError(
            f"codec {codec!r} needs samples of one channel count, at most {MAX_CHANNELS}: {sorted({len(v) for v in views})} found"
        )
    stride = -(-sum(v.size for v in views) // FIT_VALUES) | 1  # odd, so that it does not stay on the same columns
    return np.concatenate([v.reshape(channels, -1)[:, ::stride] for v in views], axis=1)


def fit_basis(x: NDArray[np.float32], block: int, bits: float) -> tuple[Basis, NDArray[np.float64]]:
    """Basis and step for the columns of `x` (C, positions), and their coefficients in whole steps.

    The step is the range of the widest component over 2^bits - 2, the paper's rule, and serves all components.
    """
    with np.errstate(over="ignore", under="ignore"):
        means = x.mean(axis=1, dtype=np.float64).astype(np.float32)
        peak = float(np.abs(x - means[:, None]).max())
    fixed = float(np.float32(min(max(2 * peak / FIXED, SMALLEST), LARGEST)))  # twice the samples' peak: others may pass it
    blocks, at = [], 0
    for size in block_sizes(len(x), block):
        rows = slice(at, at := at + size)
        centred = (x[rows].astype(np.float64) - means[rows, None]) / fixed
        _, columns = np.linalg.eigh(centred @ centred.T / x.shape[1])
        components = columns.T[::-1]
        sign = np.sign(components[np.arange(size), np.abs(components).argmax(axis=1)])
        components = components * sign[:, None]  # an eigenvector has no sign of its own
        blocks.append(np.rint(components * (PEAK / np.abs(components).max())).astype(np.int16))
    fine = Basis(tuple(blocks), means, fixed, fixed)
    coefficients = fine.forward(x)
    widest = float((coefficients.max(axis=1) - coefficients.min(axis=1)).max()) * fixed
    basis = Basis(fine.blocks, means, fixed, float(min(max(widest / (2.0**bits - 2), SMALLEST), LARGEST)))
    return basis, basis.forward(x)


@dataclass(frozen=True)
class Spread:
    """Components that share a table: symbols are coefficients from `low` to `high`; `counts` of them, smoothed."""

    low: int
    high: int
    counts: NDArray[np.int64]


def fit_classes(q: NDArray[np.float64], limit: int, reach: int) -> tuple[NDArray[np.uint8], list[Spread]]:
    """Class of each row of `q` (C, positions) by its root mean square, in at most `limit` equal parts of octaves.

    A class's alphabet is what the samples showed and half as much again, and never less than a quarter of the widest: with
    few samples the last components look stiller than they are, and a clamped coefficient costs far more than a rare symbol.
    """
    octave = np.log2(np.maximum(np.sqrt(np.square(q).mean(axis=1)), 1 / 16))
    span = float(octave.max() - octave.min())
    part = np.floor((octave - octave.min()) / span * limit).clip(0, limit - 1) if span > 0 else np.zeros(len(q))
    _, classes = np.unique(part, return_inverse=True)
    widest = float(np.abs(q).max())
    spreads = []
    for number in range(int(classes.max()) + 1):
        rows = q[classes == number]
        margin = 2 + int(max(np.abs(rows).max() / 2, widest / 4))
        low, high = max(min(int(rows.min()), 0) - margin, -reach), min(max(int(rows.max()), 0) + margin, reach)
        counts = np.bincount((np.clip(rows, low, high) - low).astype(np.int64).reshape(-1), minlength=high - low + 1)
        radius = int(np.sqrt(np.square(rows).mean()) / 4)  # a wide class was seen too seldom for its single values
        total = np.cumsum(np.pad(counts, (radius + 1, radius)))
        spreads.append(Spread(low, high, (2 * radius + 1) * counts + total[2 * radius + 1 :] - total[: -2 * radius - 1]))
    return classes.reshape(-1).astype(np.uint8), spreads
