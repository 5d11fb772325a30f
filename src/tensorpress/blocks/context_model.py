"""The context codec's model: what a decoder holds for one layer. FORMAT.md, section on `context`.

Each quantised value is predicted from neighbours, from channels coded before it and, where there is one, from a
reference of the same shape (the previous block's output): a sum of weights times roots. The sum's class says which
integer model codes the value. `max` mixes three adaptive models of every binary decision; `fast` has one static table a class.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.core.errors import InputError

SPATIAL, POSITIONS = 6, 5  # W N NW NE WW NN; same, E, S, W, N
BINS, COARSE, NEAR = 1024, 5, 6
FAST_BINS = 128  # edges of the fast coder lie below: its table fits into two registers
TABLE_BITS = 11
FAST_LIMIT = 32767  # of a fast prediction, whatever the values: it is added up in 16 bits
MAX_MODEL_NBYTES = 1 << 26  # of an unpacked model
STEPS_PER_OCTAVE = 8
FRACTIONS = tuple(math.isqrt(math.isqrt(math.isqrt(1 << 240 + e))) / (1 << 30) for e in range(8))  # 2^(e / 8) to 30 bits: integers only
COUNT = 60  # observations that a first state stands for

Array = NDArray[Any]


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

    def of(self, p: NDArray[np.int32]) -> NDArray[np.int64]:
        """The class of each prediction."""
        lut: NDArray[np.int64] = self.table[2:].astype(np.int64)
        return lut[np.clip((p.astype(np.int64) - self.low) >> self.shift, 0, BINS - 1)]


def tree_of(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """(children [nodes, 2], paths [tokens, longest + 1]) of the canonical prefix code with these lengths. InputError where there is none.

    A child is a node, always of a higher number, or ~token. A path is a list of node << 1 | bit that 0xFFFF ends.
    """
    tokens = len(lengths)
    if tokens == 1:
        return np.zeros((0, 2), np.int16), np.full((1, 1), 0xFFFF, np.uint16)
    if lengths.min() < 1 or lengths.max() > 48 or sum(1 << 48 - int(n) for n in lengths) != 1 << 48:
        raise InputError("context model: its code lengths are no complete prefix code")
    children = [[None, None]]
    paths: list[list[int]] = [[] for _ in range(tokens)]
    code, before = 0, 0
    for token in sorted(range(tokens), key=lambda t: (lengths[t], t)):
        code <<= int(lengths[token]) - before
        before = int(lengths[token])
        node = 0
        for i in range(before - 1, -1, -1):
            bit = code >> i & 1
            paths[token].append(node << 1 | bit)
            if i == 0:
                children[node][bit] = ~token  # type: ignore[call-overload]
            elif children[node][bit] is None:
                children.append([None, None])
                children[node][bit] = len(children) - 1  # type: ignore[call-overload]
                node = len(children) - 1
            else:
                node = children[node][bit]  # type: ignore[assignment]
        code += 1
    path = np.full((tokens, max(map(len, paths)) + 1), 0xFFFF, np.uint16)
    for token, steps in enumerate(paths):
        path[token, : len(steps)] = steps
    return np.array(children, np.int16), path


def steps_of(base: float, exponents: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(step, reciprocal) of each channel, float32: base * 2^(exponent / 8)."""
    fraction = np.array(FRACTIONS, np.float32)[exponents.astype(np.int64) % STEPS_PER_OCTAVE]
    step = np.ldexp(np.float32(base) * fraction, exponents.astype(np.int64) // STEPS_PER_OCTAVE).astype(np.float32)
    return step, np.float32(1) / step


@dataclass(frozen=True, eq=False)
class ContextModel:
    """One layer's model. Arrays by channel unless said otherwise."""

    cells: bool  # the fast coder
    linear: bool  # predictions see values, not their roots
    reference: bool
    low: int
    high: int
    base: float  # step of exponent 0
    exponents: NDArray[np.int8]
    channel: NDArray[np.int16]  # [channels, earlier]
    weights: NDArray[np.int8]  # [channels, features], 1/64
    bias: NDArray[np.int16]
    group: NDArray[np.uint8]  # max
    bins: tuple[Bins, ...]  # of the prediction; max: also of its spatial and cross parts, and coarse
    lengths: NDArray[np.uint8]  # max: code length of each token
    start: NDArray[np.int8]  # max: [contexts, nodes] log odds of a 1, 1/16
    frequencies: NDArray[np.uint16]  # fast: [classes, tokens], less one, of 2^11
    centroid: NDArray[np.int8]  # [classes, 4], 1/128 of a step: added to magnitudes 0, 1, 2 and above

    @property
    def channels(self) -> int:
        return len(self.exponents)

    @property
    def earlier(self) -> int:
        return int(self.channel.shape[1])

    @property
    def features(self) -> int:
        return features(self.earlier, self.reference)

    @cached_property
    def alphabet(self) -> Alphabet:
        return Alphabet(self.low, self.high)

    @cached_property
    def steps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return steps_of(self.base, self.exponents)

    @property
    def classes(self) -> int:
        return self.bins[0].classes

    @cached_property
    def tree(self) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
        return tree_of(self.lengths)

    @cached_property
    def states(self) -> NDArray[np.uint32]:
        """max: [contexts, nodes] first states of the adaptive models."""
        return first_states(self.start)

    @cached_property
    def cdf(self) -> NDArray[np.uint32]:
        """fast: [classes, tokens + 1] of 2^11."""
        rows = np.cumsum(self.frequencies.astype(np.int64) + 1, axis=1)
        return np.pad(rows, ((0, 0), (1, 0))).astype(np.uint32)

    @cached_property
    def prices(self) -> NDArray[np.int32]:
        """[classes, values] 1/256 bit that each value costs before adaptation: the encoder's choice goes by them."""
        tokens = self.alphabet.tokens
        if self.cells:
            p = np.diff(self.cdf.astype(np.int64), axis=1) / (1 << TABLE_BITS)
        else:
            p = np.ones((self.classes, tokens))
            one = (self.states[: self.classes] >> 10) / float(1 << 22)
            for token, steps in enumerate(self.tree[1]):
                for step in steps[steps != 0xFFFF]:
                    p[:, token] *= one[:, step >> 1] if step & 1 else 1 - one[:, step >> 1]
        a = self.alphabet.arrays
        return np.rint(-256 * np.log2(np.maximum(p, 1e-12))[:, a["token"]] + 256.0 * a["extra_bits"]).astype(np.int32)

    @cached_property
    def native(self) -> Any:
        """The kernel's form of this model, made once."""
        names = ("bins", "spatial_bins", "cross_bins", "coarse_bins")
        step, reciprocal = self.steps
        tokens = self.alphabet.tokens
        d: dict[str, Any] = {
            "channels": self.channels, "low": self.low, "high": self.high, "earlier": self.earlier, "reference": int(self.reference),
            "cells": int(self.cells), "classes": self.classes, "tokens": tokens, "nodes": tokens - 1, "groups": groups(self.group),
            "spatial_classes": 1 if self.cells else self.bins[1].classes, "cross_classes": 1 if self.cells else self.bins[2].classes,
            "path_length": 1, "weights": self.weights.reshape(-1), "bias": self.bias.astype(np.int32), "step128": step / np.float32(128),
            "channel": self.channel.astype(np.int32).reshape(-1), "reciprocal": reciprocal, "root": self.alphabet.roots(self.linear, self.cells),
            "centroid": self.centroid.reshape(-1), "price": self.prices.reshape(-1), "group": self.group, **self.alphabet.arrays,
            **{name: b.table for name, b in zip(names, self.bins)},
        }  # fmt: skip
        if self.cells:
            d["cdf"] = self.cdf.reshape(-1)
        else:
            tree, path = self.tree
            d |= {"tree": tree.reshape(-1), "path": path.reshape(-1), "path_length": path.shape[1], "start": self.states.reshape(-1)}
        return _native.ContextModel({k: np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v for k, v in d.items()})

    def to_bytes(self) -> bytes:
        """Packed: what the plan holds and `shared_nbytes` counts."""
        head = struct.pack(
            "<BBBIBBBf", self.cells | self.linear << 1 | self.reference << 2, self.low, self.high, self.channels, self.earlier,
            len(self.bins), self.alphabet.tokens, self.base,
        )  # fmt: skip
        for b in self.bins:
            head += struct.pack("<iBB", b.low, b.shift, len(b.edges)) + np.array(b.edges, "<u2").tobytes()
        planes = [self.exponents, self.bias.astype("<i2"), self.channel.astype("<i2").T, self.weights.T, self.group, self.centroid.T]
        planes += [self.frequencies.astype("<u2").T] if self.cells else [self.lengths, np.diff(self.start.astype(np.int16), axis=0, prepend=0).astype(np.int8).T]
        return zlib.compress(head + b"".join(np.ascontiguousarray(p).tobytes() for p in planes), 9)

    @classmethod
    def from_bytes(cls, data: Any) -> ContextModel:
        """InputError on anything but what `to_bytes` writes."""
        try:
            return cls._parsed(_inflated(bytes(data)))
        except (struct.error, zlib.error, ValueError, OverflowError, TypeError) as error:
            raise InputError(f"context model is damaged: {error}") from None

    @classmethod
    def _parsed(cls, data: bytes) -> ContextModel:
        flags, low, high, channels, earlier, bin_count, tokens, base = struct.unpack_from("<BBBIBBBf", data)
        at = struct.calcsize("<BBBIBBBf")
        cells, linear, reference = bool(flags & 1), bool(flags & 2), bool(flags & 4)
        if flags > 7 or low + high > 255 or not 1e-37 < base < 1e37 or bin_count != (1 if cells else 4) or earlier > 16:
            raise InputError(f"context model: flags {flags}, values -{low} to {high}, step {base}, {bin_count} class tables do not go together")
        if tokens != Alphabet(low, high).tokens:
            raise InputError(f"context model: {tokens} tokens; values from -{low} to {high} have {Alphabet(low, high).tokens}")
        found: list[Bins] = []
        for _ in range(bin_count):
            b_low, shift, count = struct.unpack_from("<iBB", data, at)
            edges = np.frombuffer(data, "<u2", count, at + 6).tolist()
            at += 6 + 2 * count
            if shift > 30 or count > 63 or edges != sorted(edges) or (edges and edges[-1] >= (FAST_BINS if cells else BINS)):
                raise InputError("context model: the edges of its classes do not rise, or leave their grid")
            found.append(Bins(b_low, shift, tuple(edges)))
        if not cells and (found[3].classes != COARSE or max(found[1].classes, found[2].classes) > 32):
            raise InputError("context model: its class tables have another number of classes than the format")

        def take(dtype: str, *shape: int) -> Array:
            nonlocal at
            n = math.prod(shape)
            array = np.frombuffer(data, dtype, n, at).reshape(shape)
            at += array.nbytes
            return array

        exponents, bias = take("i1", channels), take("<i2", channels)
        channel, weights = take("<i2", earlier, channels).T, take("i1", features(earlier, reference), channels).T
        group, centroid = take("u1", channels), take("i1", 4, found[0].classes).T
        lengths, start = np.zeros(0, np.uint8), np.zeros((0, 0), np.int8)
        frequencies = np.zeros((0, 0), np.uint16)
        if cells:
            frequencies = take("<u2", tokens, found[0].classes).T
            if (frequencies.sum(axis=1, dtype=np.int64) + tokens != 1 << TABLE_BITS).any():
                raise InputError("context model: the frequencies of a class do not sum to 2^11")
        else:
            lengths = take("u1", tokens)
            contexts = found[0].classes + found[1].classes * found[2].classes + COARSE * groups(group) * NEAR
            start = np.cumsum(take("i1", tokens - 1, contexts).T, axis=0, dtype=np.int8)
        if at != len(data):
            raise InputError(f"context model ends at byte {at} of {len(data)}")
        if groups(group) > 32 or (channel >= np.arange(channels)[:, None]).any() or (channel < -1).any():
            raise InputError("context model: a channel is predicted from one that is not coded before it")
        if cells and earlier and (np.where(channel < 0, np.arange(channels)[:, None], channel) // 32 != np.arange(channels)[:, None] // 32).any():
            raise InputError("context model: a channel is predicted from one outside its cell")
        model = cls(cells, linear, reference, low, high, base, exponents, channel, weights, bias, group, tuple(found), lengths, start, frequencies, centroid)
        step, reciprocal = model.steps
        if channels and not (np.isfinite(reciprocal).all() and step.min() > 1e-38):
            raise InputError("context model: a channel's step is out of range")
        if not cells:
            _ = model.tree
        return model


def features(earlier: int, reference: bool) -> int:
    """How many weights a channel has."""
    return SPATIAL + (POSITIONS + earlier - 1 if earlier else 0) + (POSITIONS if reference else 0)


def groups(group: NDArray[np.uint8]) -> int:
    return int(group.max()) + 1 if group.size else 1


def first_states(start: NDArray[np.int8]) -> NDArray[np.uint32]:
    """Log odds, 1/16, as states: a probability of 22 bits over a count of 10."""
    squash = np.array(_native.context_tables()[0], np.int64)
    return (squash[start.astype(np.int64) * 16 + 2048] << 16 | COUNT).astype(np.uint32)


def _inflated(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    out = unpacker.decompress(data, MAX_MODEL_NBYTES)
    if not unpacker.eof or unpacker.unused_data:
        raise InputError("context model is cut, is followed by other bytes, or is over 64 MiB")
    return out
