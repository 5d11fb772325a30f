"""Context coding: every value predicted from neighbours, earlier channels and the previous block's output, then coded by its class.

    x (C,H,W) -> * 1/step[c], least D + lambda R -> q -> symbol + extra bits -+-> max:  two adaptive rows, averaged; rANS, stripe by stripe
                         ^                                                   +-> fast: one static table a class; rANS, cell by cell
    W N NW NE WW NN, channels coded before, reference -> sum of w * root(q) -> class

Two back-ends. `max`: 8-row stripes, each alone. `fast`: cells of 8x8x32 values, each alone, never
over one byte a value and two; contexts from the same cell (and the same place of the reference) only.
The idea of contexts from neighbours is CALIC's (Wu, Memon, IEEE Trans. Commun. 1997), adaptive rows of 16 symbols are AV1's, the
choice of levels rate-distortion optimised quantisation (Karczewicz et al. 2008); predicting a block's output from
the one before it, which the skip connection reads anyway, is ours.

Error: none beyond that of 8-bit levels at step 1; else at most sqrt(9/4 + b lagrangian) steps of its channel within the model's values, b <= 28 being the bits of the
dearest (2.3 steps by default); a rate cap has no bound but the range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tensorpress.blocks.context_fit import Wanted, fit_model
from tensorpress.blocks.context_kernel import ContextKernel
from tensorpress.blocks.context_max_fit import fit_max_model
from tensorpress.blocks.context_max_model import MaxModel
from tensorpress.blocks.context_max_stage import MaxStage
from tensorpress.blocks.context_model import ContextModel
from tensorpress.blocks.context_stage import ContextStage, plane
from tensorpress.blocks.levels import Array, clip_range, scale_and_zero
from tensorpress.blocks.unfitted import Unfitted
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import chw

CARD = Card(
    id="context",
    family="features",
    title="prediction, contexts and rate-distortion optimised quantisation",
    paper="ours; contexts after Wu and Memon, IEEE Trans. Commun. 1997; adaptive 16-symbol rows after the AV1 specification, 2019; rANS after Duda, arXiv 1311.2540",
    claim="ours: no retraining, calibration on 64 unlabelled images",
    measured="results/board",
    fidelity="ours",
    portability="integers only after one float32 multiply",
    lossless=True,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
    fit_values=4_000_000,
    draft={"backend": "fast", "earlier": 0},
)
BACKENDS = ("max", "fast")


@dataclass(frozen=True)
class Config:
    backend: str = "max"  # 'max': adaptive rows, averaged; 'fast': static tables, every cell alone
    step: float = 1.0  # mean quantiser step, in 8-bit levels; 1 keeps every level
    lagrangian: float = 0.1  # squared error, in steps^2, that the encoder takes for a bit (none where step is 1)
    cap: float = 0.0  # rate cap: every stripe's least ratio, whatever it costs in error; 0: none
    earlier: int = 6  # channels coded before that a prediction reads, 0 to 16
    neighbours: bool = True  # whether predictions read the six pixels around
    classes: int = 0  # of predictions; 0: 24 (max) or 32 (fast); 1: no contexts (fast)
    centroids: bool = True  # decode to the mean of each class's values rather than to multiples of the step
    exponents: tuple[int, ...] = ()  # 1/8 octaves of each channel's step over the layer's; taken into the model by a fit
    scale_rule: str = "max"  # range of the 8-bit levels where scale is fitted: 'max' or 'p99.99'
    scale: float | None = None  # value of one level; fitted where None
    reciprocal: float | None = None  # float32 1 / scale
    zero_point: int = 0  # level of 0.0


def check(config: Config) -> None:
    if config.backend not in BACKENDS:
        raise InputError(f"context: backend is 'max' or 'fast', not {config.backend!r}")
    for name, value, low, high in (("step", config.step, 1, 128), ("lagrangian", config.lagrangian, 0, 1e6), ("cap", config.cap, 0, 1000)):
        if not low <= value <= high:
            raise InputError(f"context: {name} is {low} to {high:g}, not {value}")
    for name, count, low, high in (("earlier", config.earlier, 0, 16), ("classes", config.classes, 0, 64), ("zero_point", config.zero_point, 0, 255)):
        if type(count) is not int or not low <= count <= high:
            raise InputError(f"context: {name} is {low} to {high}, not {count!r}")


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """A codec; unfitted where `state` is empty. State: 'model'."""
    check(config)

    def refit(samples: Sequence[Array], references: Sequence[Array] | None = None) -> Codec:
        return fit(config, samples, references)

    if not state:
        return Codec(CARD.id, config, Unfitted(CARD.id), refit=refit, takes_reference=True)
    if set(state) != {"model"}:
        raise InputError(f"state of codec {CARD.id!r} holds {sorted(state)}, not 'model'")
    lagrangian = 0.0 if config.step == 1 else config.lagrangian
    if config.backend == "max":
        mixed = MaxModel.from_bytes(state["model"])
        return Codec(
            CARD.id, config, MaxStage(CARD.id, mixed, lagrangian, 0.5, config.cap), dict(state), refit, takes_reference=True, reference=mixed.reference
        )  # fmt: skip
    model = ContextModel.from_bytes(state["model"])
    stage = ContextStage(CARD.id, model, lagrangian, 0.5, config.cap)
    return Codec(CARD.id, config, stage, dict(state), refit, ContextKernel(stage), takes_reference=True, reference=model.reference)


def fit(config: Config, samples: Sequence[Array], references: Sequence[Array] | None = None) -> Codec:
    """Steps, predictors, classes and tables for `samples`; with `references`, predictions read those as well."""
    maps = [plane(x, CARD.id) for x in samples if x.size]
    before = None if references is None else [plane(r, CARD.id) for x, r in zip(samples, references, strict=True) if x.size]
    if not maps:
        raise InputError("nothing to fit: the samples hold no values")
    channels = chw(samples[0].shape)[0]
    if any(m.shape[0] != channels for m in maps):  # type: ignore[union-attr]
        raise InputError("the samples differ in their channels")
    lossless = config.step == 1
    if config.scale is None:
        whole = all(x.dtype.kind in "iu" for x in samples)
        low, high = clip_range([m for m in maps if m is not None], config.scale_rule)
        scale, reciprocal, zero = (1.0, 1.0, 128 if any(x.dtype == np.int8 for x in samples) else 0) if whole else scale_and_zero(low, high)
        config = replace(config, scale=scale, reciprocal=reciprocal, zero_point=zero)
    assert config.scale is not None
    exponents = np.zeros(channels, np.int8)
    if config.exponents and not lossless:
        if len(config.exponents) != channels:
            raise InputError(f"context: {len(config.exponents)} exponents for {channels} channels")
        exponents = affordable(maps, float(np.float32(config.scale * config.step)), np.array(config.exponents))  # type: ignore[arg-type]
    base = float(np.float32(config.scale * config.step))
    low, high = (config.zero_point, 255 - config.zero_point) if lossless else needed(maps, base, exponents)  # type: ignore[arg-type]
    largest = base * 2.0 ** (float(exponents.max(initial=0)) / 8) * (max(low, high) + (not lossless))  # a decoded value, its centroid included
    if not 1e-37 < base < 1e37 or largest > float(np.finfo(np.float32).max):
        raise InputError(f"context: steps of {base:g} and values up to {largest:g} are beyond what its models hold: scale the tensor")
    wanted = Wanted(
        cells=config.backend == "fast", lossless=lossless, earlier=config.earlier, low=low, high=high, base=base, exponents=exponents,
        lagrangian=0.0 if lossless else config.lagrangian, rounding=0.5, centroids=config.centroids, neighbours=config.neighbours,
        classes=config.classes,
    )  # fmt: skip
    model = (fit_model if wanted.cells else fit_max_model)(maps, before, wanted)  # type: ignore[arg-type]
    return build(replace(config, exponents=()), {"model": model.to_bytes()})


def affordable(maps: Sequence[Array], base: float, exponents: Array) -> Array:
    """int8 exponents, raised where a channel's values would not fit into the 256 that there are."""
    reach = np.max([np.abs(m).max((1, 2)) for m in maps], axis=0)
    room = 200.0 if all(m.min() >= 0 for m in maps) else 100.0
    finest = np.ceil(8 * np.log2(np.maximum(reach, 1e-30) / (room * base)))
    return np.clip(np.maximum(exponents, finest), -64, 64).astype(np.int8)


def needed(maps: Sequence[Array], base: float, exponents: Array) -> tuple[int, int]:
    """(low, high) that hold every quantised value of the samples and a quarter more; at most 256 values."""
    factor = 1 / (base * 2.0 ** (exponents / 8.0))
    low = max(float((-m.min((1, 2)) * factor).max()) for m in maps)
    high = max(float((m.max((1, 2)) * factor).max()) for m in maps)
    low, high = (0 if low <= 0.5 else math.ceil(1.25 * low) + 1), (0 if high <= 0.5 else math.ceil(1.25 * high) + 1)
    if low + high > 255:
        low, high = (low * 255 // (low + high), 255 - low * 255 // (low + high))
    return low, max(high, 1 - low)
