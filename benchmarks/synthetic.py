"""Tensors made by integer arithmetic from a seed: the same bytes on every machine, so that what codecs make of them can be committed.

Values are integers times a power of two. The hash is SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, int, int]


def noise(shape: Shape, seed: int) -> NDArray[np.uint64]:
    """64 random bits a value."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).reshape(shape)


def bell(shape: Shape, seed: int) -> NDArray[np.int64]:
    """Sums of four uniform values, in -8192 … 8188: nearly normal, with a deviation of 2,365."""
    bits = noise(shape, seed)
    return sum(((bits >> np.uint64(shift)) & np.uint64(0xFFF)).astype(np.int64) for shift in (0, 16, 32, 48)) - 8192  # type: ignore[return-value]


def correlated(shape: Shape, seed: int) -> NDArray[np.int64]:
    """Like a convolution's output: neighbours alike, a pattern that all channels share, gains and means by channel. Within ±2^17."""
    channels, rows, columns = shape
    x = bell(shape, seed) + bell((1, rows, columns), seed + 1)
    x = x + np.roll(x, 1, 1) + np.roll(x, 1, 2)
    gain, mean = (noise((channels, 1, 1), seed + k) for k in (2, 3))
    return (x * (1 + (gain % np.uint64(16)).astype(np.int64)) >> 3) - (mean % np.uint64(8192)).astype(np.int64) + 3072


def relu(shape: Shape, seed: int = 1) -> NDArray[np.float32]:
    return (np.maximum(correlated(shape, seed), 0) * 2.0**-12).astype(np.float32)


def signed(shape: Shape, seed: int = 2) -> NDArray[np.float32]:
    return (correlated(shape, seed) * 2.0**-12).astype(np.float32)


def smooth(shape: Shape) -> NDArray[np.float32]:
    """Parabolas whose place moves with the channel."""
    c, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return ((4096 - 3 * (y - c % shape[1]) ** 2 - 5 * (x - 2 * c % shape[2]) ** 2) * 2.0**-8).astype(np.float32)


def levels(x: Array) -> NDArray[np.uint8]:
    """A rectified map in 8 bits, as a quantised network holds it: its largest value is 255 or less."""
    whole = np.rint(x * 2.0**12).astype(np.int64)
    return (whole * 255 // max(int(whole.max()), 255)).astype(np.uint8)


def tensors() -> dict[str, Array]:
    """By name, what sizes are told of: what networks make, and the ends of what there can be."""
    made: dict[str, Array] = {
        "relu": relu((64, 28, 28)),
        "relu-u8": levels(relu((64, 28, 28))),
        "relu-f16": relu((96, 14, 14), 5).astype(np.float16),
        "relu-small": relu((512, 7, 7), 6),
        "signed": signed((32, 28, 28)),
        "signed-i8": (signed((33, 13, 9), 7) * 4).clip(-128, 127).astype(np.int8),
        "smooth": smooth((16, 32, 32)),
        "noise-u8": (noise((16, 24, 24), 8) & np.uint64(255)).astype(np.uint8),
        "zero": np.zeros((64, 14, 14), np.float32),
        "pixel": relu((1000, 1, 1), 9),
        "value": np.full((1, 1, 1), 0.5, np.float32),
    }
    return made
