"""Before and after tuning: where each site starts, and the plan of what was learned, for any codec with a step.

Before, steps are spread by sensitivity and the split between transform and bitmaps is set: by real cost (a site takes
the DCT where most of its cells would), or, as the paper's abstract reads, the DCT in the early half of the network.
After, every learned step and mask goes into a codec that is fitted to the tuned network's maps; bytes are then real.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress import _native
from tensorpress.blocks.cells import DCTM
from tensorpress.blocks.levels import scale_and_zero
from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader
from tensorpress.planning.plan import Entry
from tensorpress.pytorch.attach import fingerprint
from tensorpress.pytorch.calibration import Calibration, Progress, counted
from tensorpress.pytorch.loop import COARSEST, FINEST, MapLoop, Start
from tensorpress.pytorch.plan import FAMILY, FeaturePlan
from tensorpress.pytorch.statistics import observe
from tensorpress.pytorch.tune import State

SPLITS = ("cost", "early", "none")
EARLY_LENGTH = 8  # of the DCT where it is set and not chosen
SAMPLE_IMAGES = 6


def starts(calibration: Calibration, quality: float, split: str = "cost") -> list[Start]:
    """One `Start` a site, its step `quality` times what its sensitivity asks for. `calibration` is that of 'dct_cm'."""
    if split not in SPLITS:
        raise InputError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
    found = []
    for index, (low, high) in enumerate(calibration.ranges):
        scale, _, zero = scale_and_zero(low, high)
        step = float(np.clip(quality * calibration.weights[index], FINEST, COARSEST))
        length = 0
        if split == "early" and index < len(calibration.sites) / 2:
            length = EARLY_LENGTH if calibration.observed[index].shape[0] >= EARLY_LENGTH else 0
        elif split == "cost":
            codec = calibration.codec_at(index, quality)
            length = codec.config.length if codec.config.length and share_of_dct(codec, calibration.observed[index].samples) > 0.5 else 0
        found.append(Start(scale, zero, step, length))
    return found


def share_of_dct(codec: Codec, samples: Sequence[NDArray[Any]]) -> float:
    """Of a 'dct_cm' codec's cells on `samples`, those that take the transform."""
    modes = np.zeros(4, np.int64)
    for x in samples:
        payload = codec.encode_payload(x)
        modes += _native.count_modes(np.frombuffer(payload, np.uint8), Reader(payload).index_nbytes)
    return float(modes[DCTM] / max(modes.sum(), 1))


def codec_of(codec: str, loop: MapLoop, samples: Sequence[NDArray[Any]], times: float, options: Mapping[str, Any]) -> Codec:
    """`codec` with what one site learned, its step multiplied by `times`, fitted to `samples` of its maps."""
    fields = {f.name for f in dataclasses.fields(registry.system(codec).Config)}
    step = float(np.clip(loop.step().item() * times, 1.0, COARSEST))
    params: dict[str, Any] = dict(options)
    if {"scale", "step"} <= fields:
        reciprocal = float(np.float32(1) / np.float32(loop.scale))
        params |= {"step": step, "scale": float(np.float32(loop.scale)), "reciprocal": reciprocal, "zero_point": loop.zero}
    elif {"levels", "step"} <= fields:  # one quantiser, whose step is a value
        value = np.float32(loop.scale * step)
        below, above = round(loop.zero / step), round((255 - loop.zero) / step)
        params |= {"levels": below + above + 1, "step": float(value), "reciprocal": float(np.float32(1) / value), "zero_point": below}
    else:
        raise InputError(f"codec {codec!r} has no step: what was learned cannot be told to it")
    if codec == "dct_cm":
        params["profile"] = "paper" if loop.rate == "paper" else "extended"
        if loop.length:
            params |= {"transform": "dct", "length": loop.length, "keep": loop.keep()}
    return registry.build(codec, params).fit(samples)


def plan_of(
    state: State,
    images: Sequence[Tensor],
    codec: str = "dct_cm",
    *,
    times: float = 1.0,
    options: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> FeaturePlan:
    """The plan of a tuned state; `images` (each float32 (1, C, H, W)) are what centroids and tables are fitted to."""
    kept = min(SAMPLE_IMAGES, len(images))
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, kept).round().astype(int)]
    model: nn.Module = state.model
    seen = observe(model, state.sites, ["output"] * len(state.sites), counted(chosen, "reading maps", progress), kept, kept)
    entries = []
    for site, loop, found in zip(state.sites, state.loops, seen):
        assert isinstance(loop, MapLoop)
        entries.append(Entry(site, codec_of(codec, loop, found.samples, times, options or {}), found.shape))
    learned = {"codec": codec, "scale": "tuned", "quality": times, "tune": dataclasses.asdict(state.options), "epochs": state.epoch}
    return FeaturePlan(FAMILY, fingerprint(model), tuple(entries), {**learned, **(meta or {})})
