"""Clipped uniform levels and static rANS: the plain baseline that any other claim must be judged against.

    x -> * 1/step, round, clamp to [-zero point, levels - 1 - zero point] -> symbols -> rANS, one table a layer
         (clip of least squared error on the fit samples)                               (order 0, up to 64 lanes, 8 rows a string)

Any number of levels from 2 to 256, the same for all layers of a network: `levels` is the one quality parameter.
Clip search after Banner, Nahshan, Soudry: Post training 4-bit quantization (ACIQ), NeurIPS 2019, by search instead of
a formula; rANS after Duda, arXiv 1311.2540. 8-bit integers with 256 levels keep the step 1: lossless.

Error: within the clip half a step at most, what lies beyond becomes its end; 8-bit integers half a unit more, where the step is not 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tensorpress.blocks.laned_stage import LanedKernel, LanedStage
from tensorpress.blocks.unfitted import Unfitted
from tensorpress.blocks.uniform import LARGEST, SMALLEST, Array, Uniform, as_float32, fit_uniform, quantise, thin
from tensorpress.coding.lanes import LaneTables
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError

CARD = Card(
    id="uniform_rans",
    family="features",
    title="clipped uniform quantiser with static rANS",
    paper="ours; clip after Banner et al., NeurIPS 2019, arXiv 1810.05723; rANS after Duda, arXiv 1311.2540",
    claim="none: a baseline",
    measured="results/board",
    fidelity="baseline",
    portability="one float32 multiply and rounding, then integers; decoded values are float32 products",
    lossless=True,
    quality="levels",
    quality_fine=256.0,
    quality_coarse=2.0,
    quality_integer=True,
)


@dataclass(frozen=True)
class Config:
    levels: int = 256  # of the quantiser, 2 to 256
    table_bits: int = 12  # frequencies sum to 2^table_bits, 11 or 12
    # fitted, where None
    step: float | None = None  # value of one level, a float32
    reciprocal: float | None = None  # float32 1 / step, stored so that every encoder multiplies by the same number
    zero_point: int | None = None  # the level of 0.0


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """A codec; unfitted where `config` has no step or `state` is empty. State: 'tables'."""
    if not isinstance(config.levels, int) or not 2 <= config.levels <= 256:
        raise InputError(f"levels = {config.levels!r}: 2 to 256 are allowed")
    if not isinstance(config.table_bits, int) or not 11 <= config.table_bits <= 12:
        raise InputError(f"table_bits = {config.table_bits!r}: 11 or 12 are allowed")
    if not state or config.step is None or config.reciprocal is None or config.zero_point is None:
        return Codec(CARD.id, config, Unfitted(CARD.id), refit=lambda samples: fit(config, samples))
    for name, value, low, high in (
        ("step", config.step, SMALLEST, LARGEST),
        ("reciprocal", config.reciprocal, 0.5 / LARGEST, 2 / SMALLEST),
    ):
        if not low <= value <= high:
            raise InputError(f"{name} = {value!r} lies outside {low:g} to {high:g}")
    if not isinstance(config.zero_point, int) or not 0 <= config.zero_point < config.levels:
        raise InputError(f"zero_point = {config.zero_point!r}: 0 to {config.levels - 1} are allowed")
    if set(state) != {"tables"}:
        raise InputError(f"state of codec {CARD.id!r} holds {sorted(state)}, not 'tables'")
    tables = LaneTables.from_bytes(state["tables"], config.levels)
    if tables.bits != config.table_bits:
        raise InputError(f"tables of {tables.bits} bits do not suit {config}")
    levels = Uniform(CARD.id, config.levels, config.step, config.reciprocal, config.zero_point)
    return Codec(CARD.id, config, levels >> LanedStage(tables), dict(state), refit=lambda samples: fit(config, samples), kernel=LanedKernel(levels, tables))


def fit(config: Config, samples: Sequence[Array]) -> Codec:
    """Step and zero point (where they are not given) and table for `samples`. InputError where they hold no values, or NaN or infinity."""
    values = thin([as_float32(x, CARD.id) for x in samples])
    whole = {x.dtype.name for x in samples if x.dtype.kind in "iu"} if all(x.dtype.kind in "iu" for x in samples) else set()
    if config.levels == 256 and len(whole) == 1:  # 8-bit integers: lossless
        step, reciprocal, zero = 1.0, 1.0, 128 if whole == {"int8"} else 0
    elif config.step is not None and config.reciprocal is not None and config.zero_point is not None:
        step, reciprocal, zero = config.step, config.reciprocal, config.zero_point  # given, or learned
    else:
        step, reciprocal, zero = fit_uniform(values, config.levels)
    symbols = quantise(values, np.float32(reciprocal), -zero, config.levels - 1 - zero) + np.int16(zero)
    tables = LaneTables.from_counts(np.bincount(symbols, minlength=config.levels), config.table_bits)
    return build(replace(config, step=step, reciprocal=reciprocal, zero_point=zero), {"tables": tables.to_bytes()})
