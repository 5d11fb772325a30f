"""Zero-value compression: one bit for every value, then the non-zero ones (Rhu et al., HPCA 2018).

    x (C,H,W) -> 8-bit levels -> step, dead zone -> bitmap + non-zero bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tensorpress.blocks.cell_fit import fit_centroid
from tensorpress.blocks.cells import CellRules, make_rules
from tensorpress.blocks.levels import Array, Levels
from tensorpress.blocks.words import Tables, ZeroBitmap
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Writer

CARD = Card(
    id="zvc",
    family="features",
    title="zero bitmap and non-zero bytes",
    paper="Rhu, O'Connor, Chatterjee, Pool, Kwon, Keckler: Compressing DMA Engine, HPCA 2018 (arXiv 1705.01626)",
    claim="2.6x average (at most 13.8x) on training activations of 32 bits",
    measured="results/features.json",
    fidelity="published",
    portability="integers only; float enters once, by one float32 multiply",
    lossless=True,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)


@dataclass(frozen=True)
class Config:
    step: float = 1.0  # quantiser step, in 8-bit levels; 1 keeps every level
    scale_rule: str = "max"  # range of the 8-bit levels where scale is fitted: 'max' or 'p99.99'
    scale: float | None = None  # value of one level; fitted where None
    reciprocal: float | None = None  # float32 1 / scale
    zero_point: int = 0  # level of 0.0
    centroid: tuple[float, ...] | None = None  # added to magnitudes 1, 2, >= 3 at the decoder, in levels; fitted


def rules(config: Config, zero: int) -> CellRules:
    return make_rules(
        zero,
        step=config.step,
        dead_zone=0.5 if config.step == 1 else 0.36,
        centroid=config.centroid or (0.0, 0.0, 0.0),
        modes=("zvc",),
    )


def build(config: Config, state: dict[str, bytes]) -> Codec:
    if not 1 <= config.step <= 128:
        raise InputError(f"zvc: step is 1 to 128 levels, not {config.step}")
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule, wide=True)
    by_zero = {zero: rules(config, zero) for zero in (config.zero_point, 0, 128)}
    tables = {zero: Tables(r.symbol_of, r.level_of) for zero, r in by_zero.items()}
    return Codec("zvc", config, levels >> ZeroBitmap(levels, tables), {}, lambda samples: fit(config, samples))


def fit(config: Config, samples: Sequence[Array]) -> Codec:
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule, wide=True)
    if config.scale is None:
        levels = levels.fit(samples)
    config = replace(config, scale=levels.scale, reciprocal=levels.reciprocal, zero_point=levels.zero_point, centroid=None)
    maps = [levels.encode(s, Writer(s.dtype, s.shape)) for s in samples if s.size]
    if config.step > 1 and all(m.levels.dtype == np.uint8 for m in maps) and maps:
        config = replace(config, centroid=fit_centroid(maps, rules(config, maps[0].zero), config.step))
    return build(config, {})
