"""The model of the context codec's back-end `fast`: what a decoder holds for one layer. FORMAT.md, section on `context`.

Each quantised value is predicted from neighbours, from channels coded before it and, where there is one, from a
reference of the same shape (the previous block's output): a sum of weights times roots. The sum's class says which
static table codes the value.
"""

from __future__ import annotations

import math
import struct
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.core.errors import InputError

SPATIAL, POSITIONS = 6, 5  # W N NW NE WW NN; same, E, S, W, N
BINS = 1024
FAST_BINS = 128  # edges of the fast coder lie below: its table fits into two registers
TABLE_BITS = 11
FAST_LIMIT = 32767  # of a fast prediction, whatever the values: it is added up in 16 bits
MAX_MODEL_NBYTES = 1 << 24  # of an unpacked model, which zlib may have packed into a thousandth
STEPS_PER_OCTAVE = 8
FRACTIONS = tuple(math.isqrt(math.isqrt(math.isqrt(1 << 240 + e))) / (1 << 30) for e in range(8))  # 2^(e / 8) to 30 bits: integers only

Array = NDArray[Any]
Model = TypeVar("Model", bound="LayerModel")


def magnitude_token(m: int) -> tuple[int, int, int]:
    """(token, extra bits, their value) of a magnitude: itself below 16, then eight tokens an octave."""
    if m < 16:
        return m, 0, 0
    e = m.bit_length() - 1
    return 16 + (e - 4) * 8 + (m >> e - 3 & 7), e - 3, m & (1 << e - 3) - 1


@dataclass(frozen=True)
class Alphabet:
    """Quantised values in [-low, high] as tokens with extra bits; signs alternate while both exist."""

    low: int
    high: int

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """token, extra_bits, extra of each value; token_bits, token_first, token_sign of each token."""
        token, extra_bits, extra = [], [], []
        for value in range(-self.low, self.high + 1):
            t, bits, rest = magnitude_token(abs(value))
            token.append(t if self.low == 0 or value == 0 else 2 * t - (value > 0))
            extra_bits.append(bits)
            extra.append(rest)
        count = max(token) + 1
        token_bits, first, sign = np.zeros(count, np.uint8), np.zeros(count, np.int16), np.ones(count, np.int8)
        for value, t, bits, rest in zip(range(-self.low, self.high + 1), token, extra_bits, extra, strict=True):
            token_bits[t], sign[t] = bits, -1 if value < 0 else 1
            first[t] = value - int(sign[t]) * rest
        return {
            "token": np.array(token, np.uint8),
            "extra_bits": np.array(extra_bits, np.uint8),
            "extra": np.array(extra, np.uint16),
            "token_bits": token_bits,
            "token_first": first,
            "token_sign": sign,
        }

    @property
    def tokens(self) -> int:
        return len(self.arrays["token_bits"])

    def roots(self, linear: bool, cells: bool) -> NDArray[np.int16]:
        """What predictions see of each value: 16 sqrt(|q|) with its sign, or 2 q; the fast coder sees half of that, or less: 8 bits."""
        values = np.arange(-self.low, self.high + 1)
        if linear:
            return (values >> (max(self.low, self.high) > 127) if cells else 2 * values).astype(np.int16)
        square = 64 if cells else 256
        return np.array([math.copysign(math.isqrt(square * abs(q)), q) for q in values.tolist()], np.int16)


@dataclass(frozen=True, eq=False)
class Bins:
    """Classes of a prediction: `edges` on a grid of 1,024 steps of 2^shift from `low`."""

    low: int
    shift: int
    edges: tuple[int, ...]  # rising, 0 to 1,023: class k begins at edges[k - 1]

    @property
    def classes(self) -> int:
        return len(self.edges) + 1

    @cached_property
    def table(self) -> NDArray[np.int32]:
        """low, shift, then the class of each grid step: what the kernel takes."""
        lut = np.searchsorted(np.array(self.edges, np.int64), np.arange(BINS), side="right")
        return np.concatenate([[self.low, self.shift], lut]).astype(np.int32)

    def to_bytes(self) -> bytes:
        return struct.pack("<iBB", self.low, self.shift, len(self.edges)) + np.array(self.edges, "<u2").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, at: int, grid: int = BINS) -> tuple[Bins, int]:
        """(the classes that stand at `at`, where they end). InputError where edges do not rise below `grid`."""
        low, shift, count = struct.unpack_from("<iBB", data, at)
        edges = np.frombuffer(data, "<u2", count, at + 6).tolist()
        if shift > 30 or count > 63 or abs(low) >= 1 << 30 or edges != sorted(edges) or (edges and edges[-1] >= grid):
            raise InputError("context model: the edges of its classes do not rise, or leave their grid")
        return cls(low, shift, tuple(edges)), at + 6 + 2 * count

    def of(self, p: NDArray[np.int32]) -> NDArray[np.int64]:
        """The class of each prediction."""
        lut: NDArray[np.int64] = self.table[2:].astype(np.int64)
        return lut[np.clip((p.astype(np.int64) - self.low) >> self.shift, 0, BINS - 1)]


def steps_of(base: float, exponents: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(step, reciprocal) of each channel, float32: base * 2^(exponent / 8)."""
    fraction = np.array(FRACTIONS, np.float32)[exponents.astype(np.int64) % STEPS_PER_OCTAVE]
    step = np.ldexp(np.float32(base) * fraction, exponents.astype(np.int64) // STEPS_PER_OCTAVE).astype(np.float32)
    return step, np.float32(1) / step


class Planes:
    """Arrays out of an unpacked model, one after another."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, dtype: str, *shape: int) -> Array:
        array = np.frombuffer(self.data, dtype, math.prod(shape), self.at).reshape(shape)
        self.at += array.nbytes
        return array

    def end(self) -> None:
        """InputError where bytes are left."""
        if self.at != len(self.data):
            raise InputError(f"context model ends at byte {self.at} of {len(self.data)}")


class LayerModel(ABC):
    """What the models of both back-ends are: predictors with a step a channel, and classes of predictions."""

    base: float
    exponents: NDArray[np.int8]
    channel: NDArray[np.int16]
    bins: Bins

    @property
    def channels(self) -> int:
        return len(self.exponents)

    @property
    def earlier(self) -> int:
        return int(self.channel.shape[1])

    @property
    def classes(self) -> int:
        return self.bins.classes

    @cached_property
    def steps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return steps_of(self.base, self.exponents)

    def check_steps(self) -> None:
        step, reciprocal = self.steps
        if self.channels and not (np.isfinite(reciprocal).all() and step.min() > 1e-38):
            raise InputError("context model: a channel's step is out of range")

    @classmethod
    def from_bytes(cls: type[Model], data: Any) -> Model:
        """InputError on anything but what `to_bytes` writes."""
        try:
            return cls._parsed(inflated(bytes(data)))
        except (struct.error, zlib.error, ValueError, OverflowError, TypeError) as error:
            raise InputError(f"context model is damaged: {error}") from None

    @classmethod
    @abstractmethod
    def _parsed(cls: type[Model], data: bytes) -> Model:
        """What `to_bytes` packed."""


@dataclass(frozen=True, eq=False)
class ContextModel(LayerModel):
    """One layer's model. Arrays by channel unless said otherwise."""

    linear: bool  # predictions see values, not their roots
    reference: bool
    low: int
    high: int
    base: float  # step of exponent 0
    exponents: NDArray[np.int8]
    channel: NDArray[np.int16]  # [channels, earlier]
    weights: NDArray[np.int8]  # [channels, features], 1/64
    bias: NDArray[np.int16]
    bins: Bins  # of the prediction
    frequencies: NDArray[np.uint16]  # [classes, tokens], less one, of 2^11
    centroid: NDArray[np.int8]  # [classes, 4], 1/128 of a step: added to magnitudes 0, 1, 2 and above

    @property
    def features(self) -> int:
        return features(self.earlier, self.reference)

    @cached_property
    def alphabet(self) -> Alphabet:
        return Alphabet(self.low, self.high)

    @cached_property
    def cdf(self) -> NDArray[np.uint32]:
        """[classes, tokens + 1] of 2^11."""
        rows = np.cumsum(self.frequencies.astype(np.int64) + 1, axis=1)
        return np.pad(rows, ((0, 0), (1, 0))).astype(np.uint32)

    @cached_property
    def prices(self) -> NDArray[np.int32]:
        """[classes, values] 1/256 bit that each value costs before adaptation: the encoder's choice goes by them."""
        p = np.diff(self.cdf.astype(np.int64), axis=1) / (1 << TABLE_BITS)
        a = self.alphabet.arrays
        return np.rint(-256 * np.log2(np.maximum(p, 1e-12))[:, a["token"]] + 256.0 * a["extra_bits"]).astype(np.int32)

    @cached_property
    def native(self) -> Any:
        """The kernel's form of this model, made once."""
        step, reciprocal = self.steps
        d: dict[str, Any] = {
            "channels": self.channels, "low": self.low, "high": self.high, "earlier": self.earlier, "reference": int(self.reference),
            "classes": self.classes, "tokens": self.alphabet.tokens, "weights": self.weights.reshape(-1), "bias": self.bias.astype(np.int32),
            "channel": self.channel.astype(np.int32).reshape(-1), "step128": step / np.float32(128), "reciprocal": reciprocal,
            "root": self.alphabet.roots(self.linear, True), "centroid": self.centroid.reshape(-1), "price": self.prices.reshape(-1),
            "bins": self.bins.table, "cdf": self.cdf.reshape(-1), **self.alphabet.arrays,
        }  # fmt: skip
        return _native.ContextModel({k: np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v for k, v in d.items()})

    def to_bytes(self) -> bytes:
        """Packed: what the plan holds and `shared_nbytes` counts."""
        head = struct.pack(
            "<BBBIBBBf", 1 | self.linear << 1 | self.reference << 2, self.low, self.high, self.channels, self.earlier, 1,
            self.alphabet.tokens, self.base,
        )  # fmt: skip
        head += self.bins.to_bytes()
        no_group = np.zeros(self.channels, np.uint8)
        planes = [self.exponents, self.bias.astype("<i2"), self.channel.astype("<i2").T, self.weights.T, no_group, self.centroid.T]
        planes += [self.frequencies.astype("<u2").T]
        return zlib.compress(head + b"".join(np.ascontiguousarray(p).tobytes() for p in planes), 9)

    @classmethod
    def _parsed(cls, data: bytes) -> ContextModel:
        flags, low, high, channels, earlier, bin_count, tokens, base = struct.unpack_from("<BBBIBBBf", data)
        at = struct.calcsize("<BBBIBBBf")
        linear, reference = bool(flags & 2), bool(flags & 4)
        if not flags & 1:
            raise InputError("context model: it is not of the back-end 'fast'")
        if flags > 7 or low + high > 255 or not 1e-37 < base < 1e37 or bin_count != 1 or earlier > 16:
            raise InputError(f"context model: flags {flags}, values -{low} to {high}, step {base}, {bin_count} class tables do not go together")
        if tokens != Alphabet(low, high).tokens:
            raise InputError(f"context model: {tokens} tokens; values from -{low} to {high} have {Alphabet(low, high).tokens}")
        bins, at = Bins.from_bytes(data, at, FAST_BINS)
        planes = Planes(data, at)
        take = planes.take
        exponents, bias = take("i1", channels), take("<i2", channels)
        channel, weights = take("<i2", earlier, channels).T, take("i1", features(earlier, reference), channels).T
        group, centroid = take("u1", channels), take("i1", 4, bins.classes).T
        frequencies = take("<u2", tokens, bins.classes).T
        if (frequencies.sum(axis=1, dtype=np.int64) + tokens != 1 << TABLE_BITS).any():
            raise InputError("context model: the frequencies of a class do not sum to 2^11")
        planes.end()
        if group.any() or (channel >= np.arange(channels)[:, None]).any() or (channel < -1).any():
            raise InputError("context model: a channel is predicted from one that is not coded before it, or has a group")
        if earlier and (np.where(channel < 0, np.arange(channels)[:, None], channel) // 32 != np.arange(channels)[:, None] // 32).any():
            raise InputError("context model: a channel is predicted from one outside its cell")
        model = cls(linear, reference, low, high, base, exponents, channel, weights, bias, bins, frequencies, centroid)
        model.check_steps()
        return model


def features(earlier: int, reference: bool) -> int:
    """How many weights a channel has."""
    return SPATIAL + (POSITIONS + earlier - 1 if earlier else 0) + (POSITIONS if reference else 0)


def inflated(data: bytes) -> bytes:
    """A packed model's bytes. InputError where they are cut, followed by others, or too many."""
    unpacker = zlib.decompressobj()
    out = unpacker.decompress(data, MAX_MODEL_NBYTES)
    if not unpacker.eof or unpacker.unused_data:
        raise InputError(f"context model is cut, is followed by other bytes, or is over {MAX_MODEL_NBYTES >> 20} MiB")
    return out
