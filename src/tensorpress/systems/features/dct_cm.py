"""DCT-CM: 1-D DCT over channels, keep-masks, and a zero-bitmap coding format, chosen cell by cell.

    x (C,H,W) -> 8-bit levels -> cell 8x8x32 -+-> identity: dead zone, step ------> bitmap + non-zeros -+-> least
                                              +-> DCT-II of 4..32 channels, mask -> bitmap + non-zeros -+   D + lambda R
                                              +-> raw, or nothing (all zero) ---------------------------+

A reconstruction: the paper gives the parts ("intelligently combines DCT, masks, and a coding format"), not its
constants. Integer transform after HEVC, so every machine decodes the same levels. Three profiles:

paper     8-bit non-zeros, lossless bitmap cells, one step for the DCT, one keep-mask a layer.
extended  every mode has a step, dead zone and centroids; the width of non-zeros is chosen by cell and by plane.
fixed     the fit chooses the DCT, or none, for the layer: no cell has a mode, and maps pass at the speed of memory.

Error: none at step 1, unless `fixed` is made to transform. Else the root mean square of a cell is at most sqrt(8 lagrangian) levels, 0.97 step by default, for its raw levels
are always on offer; of a group in `fixed` without masks it is 0.64 of that of its coefficients' steps and 2.5 levels for rounding; with masks only the range bounds it.
Floats within the fitted range: half a level more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tensorpress import _native
from tensorpress.blocks import channel_dct
from tensorpress.blocks.cell_fit import fit_centroid, fit_transform
from tensorpress.blocks.cells import MODES, CellRules, Cells, check_centroid, make_rules, native_cells
from tensorpress.blocks.dct import LENGTHS
from tensorpress.blocks.levels import Array, Levels
from tensorpress.blocks.map_kernel import MapKernel
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Writer

CARD = Card(
    id="dct_cm",
    family="features",
    title="channel DCT with masks and zero bitmaps, by cell",
    paper="Shi, Wang, Chen, Wei, Wang: Transform-Based Feature Map Compression for CNN Inference, ISCAS 2021; patent CN112906874A",
    claim="2.9x average on ResNet-50 with 8-bit quantisation; accuracy drop, DCT length and layer split not stated",
    measured="results/board",
    fidelity="reconstruction",
    portability="integer transform and tables; float enters once, by one float32 multiply",
    lossless=True,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)


@dataclass(frozen=True)
class Config:
    profile: str = "extended"  # 'paper', 'extended' or 'fixed'
    step: float = 1.0  # quantiser step, in 8-bit levels
    scale_rule: str = "max"  # range of the 8-bit levels where scale is fitted: 'max' or 'p99.99'
    transform: str = "auto"  # 'auto': each cell chooses, or the fit for the layer where fixed; 'none'; 'dct': the DCT wherever it fits
    lengths: tuple[int, ...] = LENGTHS  # of the channel DCT, to choose from; channels
    masks: bool = True  # fit keep-masks over coefficients; False keeps all
    # fitted, where None
    scale: float | None = None  # value of one level
    reciprocal: float | None = None  # float32 1 / scale, stored so that every encoder multiplies by the same number
    zero_point: int = 0  # level of 0.0
    length: int | None = None  # of this layer's DCT, channels; 0: none
    keep: tuple[int, ...] = ()  # 1 for each kept coefficient of a group (or of each group in turn); empty: all
    centroid: tuple[float, ...] | None = None  # added to magnitudes 1, 2, >= 3 at the decoder, in levels
    dct_centroid: tuple[float, ...] | None = None  # the same for DCT coefficients
    lagrangian: float | None = None  # squared error, in levels^2, that one bit is worth


def dead_zone(config: Config) -> float:
    """Rounding offset: to nearest where that keeps levels exact, else a widened zero (dead zone of 1.28 steps)."""
    return 0.5 if config.profile == "paper" or config.step == 1 else 0.36


def rules(config: Config, zero: int) -> CellRules:
    extended = config.profile != "paper"
    modes = {"none": ("zero", "raw", "zvc"), "auto": MODES, "dct": ("zero", "raw", "dct")}[config.transform]
    length = config.length or 0
    if config.transform == "dct" and not length:
        modes = (*modes, "zvc")  # fewer channels than the shortest DCT
    return make_rules(
        zero,
        step=config.step if extended else 1.0,
        dead_zone=dead_zone(config),
        centroid=config.centroid or (0.0, 0.0, 0.0),
        length=length,
        dct_step=config.step,
        dct_centroid=config.dct_centroid or (0.0, 0.0, 0.0),
        keep=config.keep,
        lagrangian=config.lagrangian or 0.0,
        modes=modes,
        zero_map=extended,
        plane_codes=extended,
        width=0 if extended else 8,
    )


def fixed_rules(config: Config, zero: int) -> channel_dct.Rules:
    return channel_dct.make(
        zero, step=config.step, dead_zone=dead_zone(config), centroid=config.centroid or (0.0, 0.0, 0.0), length=config.length or 0, keep=config.keep
    )


def native(config: Config, zero: int) -> _native.MapKernel:
    return channel_dct.native(fixed_rules(config, zero)) if config.profile == "fixed" else native_cells(rules(config, zero))


def check(config: Config) -> None:
    if config.profile not in ("paper", "extended", "fixed"):
        raise InputError(f"dct_cm: profile is 'paper', 'extended' or 'fixed', not {config.profile!r}")
    if config.transform not in ("auto", "none", "dct"):
        raise InputError(f"dct_cm: transform is 'auto', 'none' or 'dct', not {config.transform!r}")
    if not 1 <= config.step <= 128:
        raise InputError(f"dct_cm: step is 1 to 128 levels, not {config.step}")
    bad = [n for n in (*config.lengths, config.length or 4) if n not in LENGTHS]
    if bad:
        raise InputError(f"dct_cm: DCT lengths are {LENGTHS}, not {bad[0]}")
    if any(k not in (0, 1) for k in config.keep):
        raise InputError(f"dct_cm: keep holds {next(k for k in config.keep if k not in (0, 1))!r}, not 0 and 1 alone")
    for name in ("centroid", "dct_centroid"):
        check_centroid("dct_cm", name, getattr(config, name))


def build(config: Config, state: dict[str, bytes]) -> Codec:
    """The codec of a config; `state` is empty: all parameters are numbers."""
    check(config)
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule)
    zeros = (config.zero_point, 0, 128)
    kernel = MapKernel(levels, {zero: native(config, zero) for zero in zeros})
    if config.profile == "fixed":
        stage = channel_dct.ChannelDct({zero: fixed_rules(config, zero) for zero in zeros}, levels.zero_of)
        return Codec("dct_cm", config, levels >> stage, {}, lambda samples: fit(config, samples), kernel)
    cells = Cells({zero: rules(config, zero) for zero in zeros}, levels.zero_of)
    return Codec("dct_cm", config, levels >> cells, {}, lambda samples: fit(config, samples), kernel, partial(cells.on_device, levels))


def fit(config: Config, samples: Sequence[Array]) -> Codec:
    """Scale, DCT length and keep-mask (where they are not given), and centroids, by measured rate and distortion on `samples`."""
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule)
    if config.scale is None or any(s.dtype.kind != "f" for s in samples):
        levels = levels.fit(samples)
    integers = any(s.dtype.kind != "f" for s in samples)
    config = replace(config, scale=levels.scale, reciprocal=levels.reciprocal, zero_point=levels.zero_point)
    # dD/dR of a uniform quantiser on the integer grid: D = (step^2 - 1) / 12, so exact levels buy no rate with error
    lagrangian = 2 * np.log(2) / 12 * (config.step**2 - 1) if config.lagrangian is None else config.lagrangian
    keep = () if config.length is None else config.keep
    config = replace(config, lagrangian=float(lagrangian), keep=keep, centroid=(0.0, 0.0, 0.0), dct_centroid=(0.0, 0.0, 0.0))
    maps = [levels.encode(s, Writer(s.dtype, s.shape)) for s in samples if s.size]
    if integers and config.step == 1:
        return build(replace(config, length=0, keep=()), {})  # integers come back bit for bit
    if config.profile != "paper" and config.step > 1 and maps:
        config = replace(config, centroid=fit_centroid(maps, rules(config, maps[0].zero), config.step))
    if config.transform != "none" and maps:
        config = replace(config, **fit_transform(maps, config, rules, native))
    return build(replace(config, length=config.length or 0), {})
