"""Raw 8-bit levels: what every ratio is counted against.

    x (C,H,W) -> 8-bit levels -> bytes

Error: a float within the fitted range is off by half a level at most, and becomes the range's end beyond it; integers come back bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tensorpress.blocks.levels import Levels
from tensorpress.blocks.words import WordStage
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec

CARD = Card(
    id="raw",
    family="features",
    title="8-bit levels as they are",
    paper="none: the reference",
    claim="1.0x by definition, less framing",
    measured="results/board",
    fidelity="baseline",
    portability="float enters once, by one float32 multiply",
    lossless=True,
    quality="",
)


@dataclass(frozen=True)
class Config:
    scale_rule: str = "max"  # range of the 8-bit levels where scale is fitted: 'max' or 'p99.99'
    scale: float | None = None  # value of one level; fitted where None
    reciprocal: float | None = None  # float32 1 / scale
    zero_point: int = 0  # level of 0.0


def build(config: Config, state: dict[str, bytes]) -> Codec:
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule, wide=True)

    def fit(samples: list) -> Codec:  # type: ignore[type-arg]
        fitted = levels.fit(samples) if config.scale is None else levels
        return build(replace(config, scale=fitted.scale, reciprocal=fitted.reciprocal, zero_point=fitted.zero_point), {})

    return Codec("raw", config, levels >> WordStage(levels), {}, fit)  # type: ignore[arg-type]
