"""Lossless prediction: a coded zero map, and what a predictor leaves of the other values.

    x -> 8-bit levels -> step, dead zone -> words -+-> zero or not: adaptive binary, by zeros around and the channel before
                                                   +-> value - (median edge | channel before | both) -> adaptive Golomb-Rice

In the spirit of the paper, whose predictor and code are not public in full: the median edge detector and the adaptive
Golomb-Rice code are those of JPEG-LS (Weinberger, Seroussi, Sapiro, IEEE TIP 2000). The predictor is fitted by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.levels import LevelMap, Levels
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, stripe_count
from tensorpress.core.stage import Stage

CARD = Card(
    id="predictive",
    family="features",
    title="median edge prediction and Golomb-Rice",
    paper="Zhang et al.: lossless feature-map predictor, AICAS 2024, DOI 10.1109/AICAS59952.2024.10595980; JPEG-LS, IEEE TIP 9(8), 2000",
    claim="ResNet-18 2.78x, lossless; scale, tensors and averaging not stated",
    measured="results/board",
    fidelity="reconstruction",
    portability="integers only",
    lossless=True,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)
PREDICTORS = ("spatial", "channel", "both")
# What no map can exceed, in bits. A zero flag's chance returns to the middle faster than surprises cost: 1.04 a flag, whatever the flags (tests/core/test_bounds.py
# tries every state). A residual takes 29, or k + 1 and its high part, which is no more than 1 where k is 8 and else at most 63 times what log2(sum) gains, 1.4 times
# that with an escape; of a class's 8 sums, log2 gains 12 at most, and one for each 32 values, when it is halved.
FLAG_BITS, ESCAPED_BITS, RESIDUAL_BITS, LEARNING_BITS = 1.04, 29, 10 + 1.4 * 63 / 32, 8 * 12 * 1.4 * 63
# The coder's interval rounds: by a bit where a flag splits it; by half and half, for each byte that goes out, by the sum of log2(1 + 2^-j), which is below 1.26.
ROUNDING_BITS = 1.26


@dataclass(frozen=True)
class Config(SteppedConfig):
    predictor: str = "auto"  # 'spatial', 'channel', 'both', or 'auto': fitted by layer


class Residuals(Stage[LevelMap, None]):
    """State 'predictor': its name."""

    def __init__(self, levels: Levels, predictor: int | None) -> None:
        self.levels, self.predictor = levels, predictor

    def fit(self, samples: Sequence[LevelMap]) -> Residuals:
        if self.predictor is not None:
            return self
        costs = [sum(len(_native.predictive_encode(part, k)) for m in samples for part in stripes(m.levels)) for k in range(len(PREDICTORS))]
        return Residuals(self.levels, int(np.argmin(costs)))

    def shared(self) -> Mapping[str, bytes]:
        assert self.predictor is not None
        return {"predictor": PREDICTORS[self.predictor].encode()}

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        words = view[0] * rows * view[2]
        bits = min(ESCAPED_BITS * words, RESIDUAL_BITS * words + LEARNING_BITS) + (FLAG_BITS + 1) * words + ROUNDING_BITS
        return int(bits / (8 - ROUNDING_BITS) * (1 + 1e-12)) + 4  # bytes of the end

    def encode(self, x: LevelMap, out: Writer) -> None:
        if self.predictor is None:
            raise InputError("the codec is not fitted: it has no predictor; call fit(samples)")
        for part in stripes(x.levels)[: stripe_count(out.shape)]:
            out.stripe(_native.predictive_encode(part, self.predictor))

    def decode(self, y: None, src: Reader) -> LevelMap:
        if self.predictor is None or (src.dtype.kind != "f" and src.dtype.itemsize > 1):
            raise StreamError(f"payload declares {src.dtype}, or the state holds no predictor")
        words = np.zeros(chw(src.shape), np.uint8)
        for number in range(stripe_count(src.shape)):
            here = words[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            data, part = src.stripe(), np.zeros(here.shape, np.uint8)
            if not _native.predictive_decode(np.frombuffer(data, np.uint8), part, self.predictor):
                raise StripeError(number, f"its {len(data)} bytes are not the residuals of {part.size} words")
            here[...] = part
        return LevelMap(words, self.levels.zero_of(src.dtype))


def stripes(words: NDArray[Any]) -> list[NDArray[Any]]:
    return [np.ascontiguousarray(words[:, y : y + STRIPE_ROWS]) for y in range(0, words.shape[1], STRIPE_ROWS)]


def stage(config: Any, levels: Levels, state: Mapping[str, bytes]) -> Residuals:
    if config.predictor != "auto" and config.predictor not in PREDICTORS:
        raise InputError(f"predictive: predictor is 'auto' or one of {', '.join(PREDICTORS)}, not {config.predictor!r}")
    if not state:
        return Residuals(levels, None if config.predictor == "auto" else PREDICTORS.index(config.predictor))
    name = bytes(state.get("predictor", b"")).decode("ascii", "replace")
    if set(state) != {"predictor"} or name not in PREDICTORS:
        raise InputError(f"predictive: state holds {sorted(state)}, not 'predictor' with one of {', '.join(PREDICTORS)}")
    return Residuals(levels, PREDICTORS.index(name))


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """State: 'predictor'."""
    return stepped_codec(CARD.id, config, state, stage)
