"""The model of the context codec's back-end `max`: what a decoder holds for one layer. FORMAT.md, section on `context`.

Each quantised value is predicted as in `fast`, and the prediction has a class. The class cuts the values into 16 intervals, and
two adaptive rows of 16 symbols, picked by the class and by what lies around, are averaged to code the one that the value falls in.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.context_model import Alphabet, Bins, LayerModel, Planes, features
from tensorpress.core.errors import InputError

SYMBOLS, NEAR, OTHER, GRID = 16, 8, 4, 64
ROWS = NEAR * OTHER  # of a class, of either kind
EDGES = NEAR - 1 + 2 * (OTHER - 1)  # of a class: where W's, the texture's and N's rows begin
MAX_PARTS, PART_COLUMNS = 16, 12  # of a stripe; of a part: a narrower map has one part
HEAD = "<BBBIBBf"

Array = NDArray[Any]


def weight_of(code: Array) -> NDArray[np.int64]:
    """What a code, 0 to 127, stands for in a row: eight an octave."""
    code = code.astype(np.int64)
    return 8 + code % 8 << code // 8


def cumulative(codes: Array) -> NDArray[np.uint16]:
    """[..., symbols] P(symbol < s), of 2^16, of rows of codes."""
    weights = weight_of(codes)
    begin = np.cumsum(weights, axis=-1) - weights
    return np.minimum((begin << 16) // weights.sum(-1, keepdims=True), 65535).astype(np.uint16)


def whole_stripes(count: int) -> int:
    """How many of so many stripes are coded whole: all but two, so that two threads share an odd number evenly."""
    return max(count - 2, 0)


@dataclass(frozen=True)
class Grid:
    """Where roots from `low` up are looked up, 0 to 63."""

    low: int
    shift: int

    @classmethod
    def of(cls, roots: NDArray[np.int16]) -> Grid:
        """The finest that holds all of them."""
        low = int(roots.min())
        return cls(low, max((int(roots.max()) - low).bit_length() - GRID.bit_length() + 1, 0))

    def place(self, roots: Array) -> Array:
        return (roots - self.low) >> self.shift

    def texture(self, texture: Array) -> Array:
        return np.minimum(texture >> self.shift + 1, GRID - 1)


@dataclass(frozen=True, eq=False)
class MaxModel(LayerModel):
    """One layer's model. Arrays by channel unless said otherwise."""

    linear: bool  # predictions see values, not their roots
    reference: bool
    low: int
    high: int
    parts: int  # the columns of a map's last two stripes are coded in so many parts, each alone
    base: float  # step of exponent 0
    exponents: NDArray[np.int8]
    channel: NDArray[np.int16]  # [channels, earlier]
    weights: NDArray[np.int8]  # [channels, features], 1/64
    bias: NDArray[np.int16]
    group: NDArray[np.uint8]  # 0 to 7: how busy the channel is on average
    bins: Bins  # of the prediction
    edges: NDArray[np.uint8]  # [classes, 7 + 3 + 3], rising within each of the three, on a grid of 64
    bits: NDArray[np.uint8]  # [classes, symbols]: a symbol is 2^bits values
    codes: NDArray[np.uint8]  # [classes, 1 + 2 rows, symbols]: of the class, then of its rows of either kind
    centroid: NDArray[np.int8]  # [classes, 4], 1/128 of a step: added to magnitudes 0, 1, 2 and above

    @cached_property
    def roots(self) -> NDArray[np.int16]:
        return Alphabet(self.low, self.high).roots(self.linear, False)

    @cached_property
    def grid(self) -> Grid:
        return Grid.of(self.roots)

    @cached_property
    def first(self) -> NDArray[np.int16]:
        """[classes, symbols] the first value of each symbol, at most 255."""
        size = 1 << self.bits.astype(np.int64)
        return np.minimum(np.cumsum(size, axis=1) - size - self.low, 255).astype(np.int16)

    @cached_property
    def symbol(self) -> NDArray[np.uint8]:
        """[classes, 256] the symbol of each value + low."""
        begin = self.first.astype(np.int64) + self.low
        return np.array([np.searchsorted(b, np.arange(256), side="right") - 1 for b in begin], np.uint8)

    @cached_property
    def lookups(self) -> tuple[Array, Array, Array]:
        """[classes, 64] three times: which row W, the texture and N ask for."""
        cuts = (0, NEAR - 1, NEAR + OTHER - 2, EDGES)
        steps = np.arange(GRID)
        return tuple(np.array([np.searchsorted(e[a:b], steps, side="right") for e in self.edges], np.uint8) for a, b in pairwise(cuts))  # type: ignore[return-value]

    @cached_property
    def start(self) -> NDArray[np.uint16]:
        """[2, classes, rows, symbols] both kinds' first rows."""
        rows = cumulative(self.codes[:, 1:]).reshape(self.classes, 2, ROWS, SYMBOLS)
        return np.ascontiguousarray(rows.transpose(1, 0, 2, 3))

    @cached_property
    def prices(self) -> NDArray[np.float32]:
        """[classes, values] bits, in 1/256, that each value costs before adaptation: the encoder's choice goes by them."""
        weights = weight_of(self.codes[:, 0])
        bits = np.log2(weights.sum(1, keepdims=True) / weights) + self.bits
        symbols = self.symbol[:, : self.low + self.high + 1].astype(np.int64)
        return (np.rint(256 * np.take_along_axis(bits, symbols, 1)) / 256).astype(np.float32)

    @cached_property
    def decoded(self) -> NDArray[np.float32]:
        """[classes, values] what each value decodes to, in steps."""
        values = np.arange(-self.low, self.high + 1)
        shift = self.centroid[:, np.minimum(np.abs(values), 3)].astype(np.float32)
        return (values + np.where(values < 0, -shift, shift) / 128).astype(np.float32)

    def columns_of(self, columns: int, whole: bool) -> list[slice]:
        """The parts of a stripe of so many columns: one, if it is to be coded whole or is narrow."""
        parts = 1 if whole or columns < PART_COLUMNS * self.parts else self.parts
        return [slice(columns * p // parts, columns * (p + 1) // parts) for p in range(parts)]

    @cached_property
    def native(self) -> Any:
        """The kernel's form of this model, made once."""
        step, reciprocal = self.steps
        w_of, t_of, n_of = self.lookups
        table = self.bins.table
        d: dict[str, Any] = {
            "channels": self.channels, "low": self.low, "high": self.high, "earlier": self.earlier, "parts": self.parts, "classes": self.classes,
            "reference": int(self.reference), "grid_low": self.grid.low, "grid_shift": self.grid.shift, "bins_low": int(table[0]), "bins_shift": int(table[1]),
            "class_of": table[2:].astype(np.uint8), "weights": self.weights, "bias": self.bias.astype(np.int32), "channel": self.channel.astype(np.int32),
            "group": self.group, "root": self.roots, "w_of": w_of, "t_of": t_of, "n_of": n_of, "first": self.first, "extra_bits": self.bits,
            "symbol": self.symbol, "start": self.start, "centroid": self.centroid, "decoded": self.decoded, "bits": self.prices, "step128": step / np.float32(128),
            "reciprocal": reciprocal,
        }  # fmt: skip
        return _native.ContextMaxModel({k: np.ascontiguousarray(v).reshape(-1) if isinstance(v, np.ndarray) else v for k, v in d.items()})

    def to_bytes(self) -> bytes:
        """Packed: what the plan holds and `shared_nbytes` counts."""
        flags = self.linear << 1 | self.reference << 2
        head = struct.pack(HEAD, flags, self.low, self.high, self.channels, self.earlier, self.parts, self.base) + self.bins.to_bytes()
        codes = self.codes.copy()
        codes[:, 1:] -= codes[:, :1]
        planes = [self.exponents, self.bias.astype("<i2"), self.channel.astype("<i2").T, self.weights.T, self.group, self.centroid.T, self.edges.T]
        planes += [self.bits.T, codes.transpose(2, 1, 0)]
        return zlib.compress(head + b"".join(np.ascontiguousarray(p).tobytes() for p in planes), 9)

    @classmethod
    def _parsed(cls, data: bytes) -> MaxModel:
        flags, low, high, channels, earlier, parts, base = struct.unpack_from(HEAD, data)
        at = struct.calcsize(HEAD)
        if flags & 1:
            raise InputError("context model: it is not of the back-end 'max'")
        if flags & ~6 or low + high > 255 or not 1e-37 < base < 1e37 or earlier > 16 or not 1 <= parts <= MAX_PARTS:
            raise InputError(f"context model: flags {flags}, values -{low} to {high}, step {base}, {earlier} channels, {parts} parts do not go together")
        bins, at = Bins.from_bytes(data, at)
        reference, classes = bool(flags & 4), bins.classes
        planes = Planes(data, at)
        take = planes.take
        exponents, bias = take("i1", channels), take("<i2", channels)
        channel, weights = take("<i2", earlier, channels).T, take("i1", features(earlier, reference), channels).T
        group, centroid, edges = take("u1", channels), take("i1", 4, classes).T, take("u1", EDGES, classes).T
        bits, codes = take("u1", SYMBOLS, classes).T, take("u1", SYMBOLS, 1 + 2 * ROWS, classes).T.copy()
        planes.end()
        codes[:, 1:] += codes[:, :1]
        if (group.size and group.max() >= NEAR) or codes.max() > 127:
            raise InputError("context model: a group or a code is out of range")
        if bits.max() > 8 or ((1 << bits.astype(np.int64)).sum(1) < low + high + 1).any():
            raise InputError(f"context model: the symbols of a class do not reach the values from -{low} to {high}")
        falls = np.diff(edges.astype(np.int64), axis=1) < 0
        falls[:, [NEAR - 2, NEAR + OTHER - 3]] = False
        if falls.any() or edges.max() > GRID:
            raise InputError("context model: the edges of its rows do not rise, or leave their grid")
        model = cls(bool(flags & 2), reference, low, high, parts, base, exponents, channel, weights, bias, group, bins, edges, bits, codes, centroid)
        if (channel >= np.arange(channels)[:, None]).any() or (channel < -1).any():
            raise InputError("context model: a channel is predicted from one that is not coded before it")
        model.check_steps()
        return model
