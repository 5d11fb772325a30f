"""Interlayer feature maps by an 8x8 DCT in the plane: JPEG's idea on every channel.

    x (C,H,W) -> 8-bit levels - zero -> 8x8 blocks of a channel -> 2-D DCT -> / (step * Q[u,v]) -> zero bitmap + non-zeros

A reconstruction: the paper gives the transform, quantisation tables that grow with frequency, chosen by layer, and a
sparse code with a bitmap; its tables are not public. Ours is Q[u,v] = 1 + slope (u + v). The integer DCT is HEVC's, so
every machine decodes the same levels; edges are replicated into whole blocks, zeros below the zero point of ReLU maps are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks import dct
from tensorpress.blocks.levels import TOP, Array, LevelMap, Levels
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

CARD = Card(
    id="dct2d",
    family="features",
    title="8x8 DCT of each channel",
    paper="Shao et al.: Memory-Efficient CNN Accelerator Based on Interlayer Feature Map Compression, IEEE TCAS-I 2022 (arXiv 2110.06155)",
    claim="1.4x to 3.3x by network, small loss",
    measured="results/board",
    fidelity="reconstruction",
    portability="integer transform; float enters once, by one float32 multiply",
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)
N, SHIFT, ESCAPE = 8, 16, 255
OFFSET = 0.4  # of the quantiser: less than a half widens the zero
FEW = 1 << 10  # blocks that are worked on at a time: they are doubles meanwhile
Blocks = NDArray[Any]  # (n, 8, 8)


@dataclass(frozen=True)
class Config:
    step: float = 4.0  # of the lowest frequency, in 8-bit levels of an orthonormal transform
    slope: float = 0.15  # growth of the step with frequency: step (1 + slope (u + v))
    scale_rule: str = "max"  # range of the 8-bit levels where scale is fitted: 'max' or 'p99.99'
    scale: float | None = None  # value of one level; fitted where None
    reciprocal: float | None = None  # float32 1 / scale
    zero_point: int = 0  # level of 0.0


class Planes(Stage[LevelMap, None]):
    """LevelMap of uint8 -> for each stripe: bitmap and bytes of folded coefficients, then the large ones as int16."""

    def __init__(self, config: Config, levels: Levels) -> None:
        self.levels = levels
        self.matrix = dct.matrix(N).astype(np.float64)  # integers in doubles: sums stay below 2^53, so they are exact in any order
        norms = np.array(dct.norms(N), np.float64)
        grown = config.step * (1 + config.slope * np.add.outer(np.arange(N), np.arange(N)))
        scale = np.outer(norms, norms)
        self.forward = 1 / (grown * scale)
        self.smallest_large = ((ESCAPE + 1) // 2 - OFFSET) * grown  # of a coefficient, in levels of an orthonormal transform
        self.backward = np.rint(grown / scale * 2.0 ** (SHIFT + 14))  # units of 2^-30

    def escapes(self, zero: int) -> int:
        """How many coefficients of a block can be large at once: the energy of a block, which the transform keeps but for its norm, does for no more."""
        norm = np.linalg.norm(self.matrix / np.sqrt(np.square(self.matrix).sum(1, keepdims=True)), 2) ** 4
        energy = N * N * max(zero, TOP - zero) ** 2 * norm * (1 + 1e-9)
        return int((np.cumsum(np.sort(self.smallest_large.reshape(-1) ** 2)) <= energy).sum())

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        blocks = view[0] * -(-view[2] // N)
        return 4 + blocks * (N * N // 8 + N * N + 2 * self.escapes(self.levels.zero_of(dtype)))

    def coded(self, blocks: Blocks) -> NDArray[np.int64]:
        c = self.matrix @ blocks.astype(np.float64) @ self.matrix.T
        q = np.sign(c) * np.floor(np.abs(c) * self.forward + OFFSET)
        return np.asarray(np.clip(q, -32767, 32767), np.int64)

    def values(self, q: NDArray[np.int64]) -> NDArray[np.int64]:
        # rounded to 2^-14 before the inverse, so that every product is a whole number below 2^53
        c = np.floor(q * self.backward / 2.0**SHIFT + 0.5)
        x = self.matrix.T @ c @ self.matrix
        return np.asarray(np.floor(x / 2.0**14 + 0.5), np.int64)

    def encode(self, x: LevelMap, out: Writer) -> None:
        channels, _rows, columns = x.levels.shape
        across = -(-columns // N)
        for number in range(stripe_count(out.shape)):
            stripe = x.levels[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            words, large = [], []
            for some, along in pieces(channels, across):
                part = stripe[some, :, along.start * N : along.stop * N].astype(np.int64) - x.zero
                part = np.pad(part, ((0, 0), (0, N - part.shape[1]), (0, -part.shape[2] % N)), mode="edge")
                flat = self.coded(part.reshape(len(part), N, -1, N).transpose(0, 2, 1, 3).reshape(-1, N, N)).reshape(-1)
                symbol = np.where(flat > 0, 2 * flat - 1, -2 * flat)
                words.append(np.minimum(symbol, ESCAPE).astype(np.uint8))
                large.append(flat[symbol >= ESCAPE].astype("<i2"))
            out.stripe(self.packed(np.concatenate(words), np.concatenate(large)))

    def decode(self, y: None, src: Reader) -> LevelMap:
        channels, rows, columns = chw(src.shape)
        if src.dtype.kind != "f" and src.dtype.itemsize > 1:
            raise StreamError(f"payload declares {src.dtype}; this codec writes floats and 8-bit integers only")
        zero = self.levels.zero_of(src.dtype)
        levels = np.empty((channels, rows, columns), np.uint8)
        across = -(-columns // N)
        for number in range(stripe_count(src.shape)):
            stripe = levels[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            found = self.unpacked(src.stripe(), channels * across, number)
            for some, along in pieces(channels, across):
                here = stripe[some, :, along.start * N : along.stop * N]
                q = found(len(here) * (along.stop - along.start))
                part = self.values(q).reshape(len(here), -1, N, N).transpose(0, 2, 1, 3).reshape(len(here), N, -1)
                here[...] = np.clip(part[:, : here.shape[1], : here.shape[2]] + zero, 0, TOP)
        return LevelMap(levels, zero)

    @staticmethod
    def packed(words: NDArray[np.uint8], large: NDArray[np.int16]) -> bytes:
        out = np.empty(-(-words.size // 8) + words.size + 1, np.uint8)
        nbytes = _native.zero_bitmap_encode(words, 1, out)
        return nbytes.to_bytes(4, "little") + out[:nbytes].tobytes() + large.tobytes()

    @staticmethod
    def unpacked(data: memoryview, blocks: int, stripe: int) -> Callable[[int], NDArray[np.int64]]:
        """A function that gives the next so many of a stripe's blocks."""
        nbytes, count = int.from_bytes(data[:4], "little"), blocks * N * N
        words = np.empty(count if count <= 8 * len(data) else 0, np.uint8)  # its bitmap is there before anything is allocated
        if len(data) < 4 or nbytes > len(data) - 4 or words.size < count or not _native.zero_bitmap_decode(np.frombuffer(data[4 : 4 + nbytes], np.uint8), 1, words):
            raise StripeError(stripe, f"its bytes are not a zero bitmap of {count} coefficients and their non-zeros")
        size = FEW * N * N
        rest, large = data[4 + nbytes :], sum(int(np.count_nonzero(words[at : at + size] == ESCAPE)) for at in range(0, count, size))
        if len(rest) != 2 * large:
            raise StripeError(stripe, f"{len(rest)} bytes of large coefficients, {2 * large} are needed")
        at, escaped = 0, np.frombuffer(rest, "<i2")

        def take(blocks: int) -> NDArray[np.int64]:
            nonlocal at, escaped
            some = words[at : at + blocks * N * N].astype(np.int64)
            at += some.size
            where = some == ESCAPE
            q = np.where(some & 1, (some + 1) >> 1, -(some >> 1))
            q[where], escaped = escaped[: int(where.sum())], escaped[int(where.sum()) :]
            return q.reshape(-1, N, N)

        return take


def pieces(channels: int, across: int) -> Iterator[tuple[slice, slice]]:
    """Channels and blocks side by side, in the order of a stripe's blocks, a thousand blocks at a time: what is computed with stays small."""
    if across >= FEW:
        yield from ((slice(c, c + 1), slice(a, min(a + FEW, across))) for c in range(channels) for a in range(0, across, FEW))
    elif across:
        several = FEW // across
        yield from ((slice(c, c + several), slice(0, across)) for c in range(0, channels, several))


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """State: none."""
    if not 0.5 <= config.step <= 128 or not 0 <= config.slope <= 10:
        raise InputError(f"dct2d: step is 0.5 to 128 levels and slope 0 to 10, not {config.step} and {config.slope}")
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule)

    def fit(samples: Sequence[Array]) -> Codec:
        found = levels.fit(samples) if config.scale is None else levels
        return build(replace(config, scale=found.scale, reciprocal=found.reciprocal, zero_point=found.zero_point), {})

    return Codec(CARD.id, config, levels >> Planes(config, levels), {}, fit)
