"""ZFP: blocks of 4x4x4 floats through a lifted transform and bit planes, to a tolerance.

    x (C,H,W) float32 -> stripes of 8 rows -> zfp, fixed accuracy (tolerance = step / 2, in values)

Lindstrom: Fixed-Rate Compressed Floating-Point Arrays, TVCG 2014. It knows nothing of zeros, so ReLU maps cost it what dense ones do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorpress.blocks.levels import Array, clip_range, scale_and_zero
from tensorpress.blocks.library import library
from tensorpress.blocks.uniform import as_float32, check_decodable, restore
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

CARD = Card(
    id="zfp",
    family="features",
    title="ZFP, fixed accuracy",
    paper="Lindstrom: Fixed-Rate Compressed Floating-Point Arrays, IEEE TVCG 20(12), 2014",
    claim="none for feature maps",
    measured="results/board",
    fidelity="baseline",
    portability="the library's floats; any version of it decodes the same bytes",
    stable=False,
    quality="step",
    quality_fine=0.5,
    quality_coarse=64.0,
)


HEAD_BITS = 148  # of a stream, whose blocks begin behind it at worst
BLOCK_BITS = 1 + 8 + 63 + 64 * 32  # of 64 floats: a flag, an exponent, tests of groups, planes


@dataclass(frozen=True)
class Config:
    step: float = 1.0  # twice the error that no value exceeds, in 8-bit levels
    scale_rule: str = "max"  # range of the 8-bit levels where scale is fitted: 'max' or 'p99.99'
    scale: float | None = None  # value of one level; fitted where None
    reciprocal: float | None = None  # float32 1 / scale; for plans that set all three
    zero_point: int = 0  # level of 0.0; likewise


def blocks_of(shape: Sequence[int]) -> int:
    return math.prod(-(-n // 4) for n in shape)


class Zfp(Stage[Array, None]):
    def __init__(self, tolerance: float) -> None:
        self.zfpy, self.tolerance = library("zfpy", CARD.id), tolerance

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return (HEAD_BITS + blocks_of((view[0], rows, view[2])) * BLOCK_BITS + 63) // 64 * 8  # zfp_stream_maximum_size of zfp.c

    def encode(self, x: Array, out: Writer) -> None:
        values = as_float32(x, CARD.id).reshape(chw(x.shape))
        for number in range(stripe_count(x.shape)):
            part = np.ascontiguousarray(values[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS])
            out.stripe(self.zfpy.compress_numpy(part, tolerance=self.tolerance, write_header=False))

    def decode(self, y: None, src: Reader) -> Array:
        check_decodable(src.dtype)
        shape = chw(src.shape)
        out = np.zeros(shape, np.float32)
        for number in range(stripe_count(src.shape)):
            rows = slice(number * STRIPE_ROWS, (number + 1) * STRIPE_ROWS)
            part, data = out[:, rows], src.stripe()
            blocks = blocks_of(part.shape)
            if len(data) > 8 + blocks * 300:
                raise StripeError(number, f"{len(data)} bytes, more than zfp writes for {blocks} blocks")
            try:
                padded = np.zeros(8 + blocks * 300, np.uint8)  # the library reads on where data ends; zeros that nobody writes to take no memory
                padded[: len(data)] = np.frombuffer(data, np.uint8)
                out[:, rows] = self.zfpy._decompress(padded.data, self.zfpy.dtype_to_ztype(np.float32), part.shape, tolerance=self.tolerance)
            except Exception as error:  # whatever the library raises on bad data
                raise StripeError(number, str(error)) from None
        if not np.isfinite(out).all():
            raise StreamError("the stream holds values that are not finite")
        return restore(out, src.dtype).reshape(src.shape)


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """InputError where the library is missing. State: none."""
    if not 0.01 <= config.step <= 128:
        raise InputError(f"zfp: step is 0.01 to 128 levels, not {config.step}")
    if config.scale is not None and not 1e-37 < config.scale < 1e37:
        raise InputError(f"zfp: scale is {config.scale!r}: a number between 1e-37 and 1e37 is needed")

    def fit(samples: Sequence[Array]) -> Codec:
        if config.scale is not None:
            return build(config, {})
        low, high = clip_range([as_float32(x, CARD.id) for x in samples], config.scale_rule)
        scale, reciprocal, zero = scale_and_zero(low, high)
        return build(replace(config, scale=scale, reciprocal=reciprocal, zero_point=zero), {})

    stage: Any = Zfp(config.step * (config.scale or 1.0) / 2)
    return Codec(CARD.id, config, stage, {}, fit)
