"""Words: levels after a step and dead zone, with 0 for zero. The lossy front that codecs of zeros and bytes share.

    x -> 8-bit levels -> step, dead zone -> words (0: zero, then magnitudes in folded order) -> the codec's own stage

At step 1 nothing is lost. Integers of 16 to 64 bits pass as they are to stages that take them (`wide`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tensorpress import _native
from tensorpress.blocks.cell_fit import fit_centroid
from tensorpress.blocks.cells import CellRules, check_centroid, make_rules
from tensorpress.blocks.levels import Array, LevelMap, Levels
from tensorpress.blocks.map_kernel import MapKernel
from tensorpress.blocks.stepped_kernel import SteppedKernel
from tensorpress.blocks.words import ZeroBitmap
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader, Writer
from tensorpress.core.stage import Stage

Words = Stage[LevelMap, None]  # words (C, H, W) to stripes and back; `fit` and `shared` where it has tables


@dataclass(frozen=True)
class SteppedConfig:
    """The parameters of every stepped codec; a system adds its own by inheriting."""

    step: float = 1.0  # quantiser step, in 8-bit levels; 1 keeps every level
    scale_rule: str = "max"  # range of the 8-bit levels where scale is fitted: 'max' or 'p99.99'
    scale: float | None = None  # value of one level; fitted where None
    reciprocal: float | None = None  # float32 1 / scale
    zero_point: int = 0  # level of 0.0
    centroid: tuple[float, ...] | None = None  # added to magnitudes 1, 2, >= 3 at the decoder, in levels; fitted


def rules(config: SteppedConfig, zero: int) -> CellRules:
    dead_zone = 0.5 if config.step == 1 else 0.36
    return make_rules(zero, step=config.step, dead_zone=dead_zone, centroid=config.centroid or (0.0, 0.0, 0.0), modes=("zvc",))


def word_count(config: SteppedConfig) -> int:
    """How many words there can be, zero included, whatever type of array comes."""
    return 1 + max(int(rules(config, zero).symbol_of.max()) for zero in (config.zero_point, 0, 128))


class Stepped(Stage[LevelMap, LevelMap]):
    """LevelMap of uint8 -> LevelMap of words; wider integers stand as they are."""

    def __init__(self, config: SteppedConfig) -> None:
        self.rules = {zero: rules(config, zero) for zero in (config.zero_point, 0, 128)}

    def encode(self, x: LevelMap, out: Writer) -> LevelMap:
        return LevelMap(self.rules[x.zero].symbol_of[x.levels], x.zero) if x.levels.dtype == np.uint8 else x

    def decode(self, y: LevelMap, src: Reader) -> LevelMap:
        return LevelMap(self.rules[y.zero].level_of[y.levels], y.zero) if y.levels.dtype == np.uint8 else y


def stepped_codec(
    codec: str,
    config: Any,
    state: Mapping[str, bytes],
    stage: Callable[[Any, Levels, Mapping[str, bytes]], Words],
    *,
    wide: bool = False,
    native: Callable[[CellRules], _native.MapKernel] | None = None,
) -> Codec:
    """The codec `levels >> Stepped >> stage(config, levels, state)`.

    `stage` with an empty state makes one whose `fit(list of word LevelMaps)` trains it, and whose `shared()` is then the state.
    `native` makes the fused kernel of the whole chain, where there is one; else the front is fused alone.
    """
    if not 1 <= config.step <= 128:
        raise InputError(f"{codec}: step is 1 to 128 levels, not {config.step}")
    check_centroid(codec, "centroid", config.centroid)
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule, wide)

    def fit(samples: Sequence[Array]) -> Codec:
        fitted = levels.fit(samples) if config.scale is None else levels
        found = replace(config, scale=fitted.scale, reciprocal=fitted.reciprocal, zero_point=fitted.zero_point, centroid=None)
        maps = [fitted.encode(s, Writer(s.dtype, s.shape)) for s in samples if s.size]
        if found.step > 1 and all(m.levels.dtype == np.uint8 for m in maps) and maps:
            found = replace(found, centroid=fit_centroid(maps, rules(found, maps[0].zero), found.step))
        stepped, nowhere = Stepped(found), Writer(np.dtype(np.uint8), ())
        trained = stage(found, fitted, {}).fit([stepped.encode(m, nowhere) for m in maps])
        return stepped_codec(codec, found, dict(trained.shared()), stage, wide=wide, native=native)

    front, words = Stepped(config), stage(config, levels, state)
    kernel = SteppedKernel(levels, front.rules, words) if native is None else MapKernel(levels, {z: native(r) for z, r in front.rules.items()})
    device = partial(words.on_device, front.rules) if isinstance(words, ZeroBitmap) else None
    return Codec(codec, config, levels >> front >> words, dict(state), fit, kernel, device)
