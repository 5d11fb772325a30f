"""Calibration: what a network's sites look like on a few images, and the plan that any quality then gives.

One global quality parameter (the codec's `Card.quality`) is turned until a target is met on the calibration images. A
quantiser step is spread over the sites by their sensitivity: step^2 ~ 1 / E[g^2], so that each site loses as much of
the task for its last bit. Labels are not needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.blocks.levels import scale_and_zero
from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.site import Site
from tensorpress.planning.plan import Entry
from tensorpress.pytorch.attach import fingerprint
from tensorpress.pytorch.plan import FAMILY, FeaturePlan
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.statistics import Observed, fisher, observe

Progress = Callable[[str, int, int], None]  # what is done, how many are, of how many
SAMPLE_IMAGES = 6  # whose maps are kept to fit codecs to
STEPS = ("fisher", "equal")
SCALES = ("p99.99", "max")


def silent(what: str, done: int, total: int) -> None:
    """The progress of those who do not ask."""


def counted(images: Sequence[Tensor], what: str, progress: Progress) -> Any:
    for number, x in enumerate(images):
        progress(what, number, len(images))
        yield x
    progress(what, len(images), len(images))


@dataclass(frozen=True)
class Calibration:
    """What was measured, for one codec; `plan_at` turns it into plans."""

    codec: str
    options: Mapping[str, Any]
    scale: str  # rule of the 8-bit levels: 'p99.99' or 'max'
    model: str  # fingerprint
    sites: tuple[Site, ...]
    observed: tuple[Observed, ...]  # at the codec's tap
    ranges: tuple[tuple[float, float], ...]  # of the sites' outputs, by the scale rule
    weights: NDArray[np.float64]  # [sites] step of each, relative to the global one; 1 without a step
    images: int

    @classmethod
    def measure(
        cls,
        model: nn.Module,
        images: Sequence[Tensor],
        codec: str,
        *,
        options: Mapping[str, Any] | None = None,
        scale: str = "p99.99",
        steps: str = "fisher",
        progress: Progress = silent,
    ) -> Calibration:
        """Run `model` over `images` (each a batch of one, float32 (1, C, H, W)), forward, and backward for 'fisher'."""
        if not len(images):
            raise InputError("calibration needs at least one image")
        if scale not in SCALES:
            raise InputError(f"scale is one of {', '.join(SCALES)}, not {scale!r}")
        if steps not in STEPS:
            raise InputError(f"steps is one of {', '.join(STEPS)}, not {steps!r}")
        card = registry.card(codec)
        if card.family != FAMILY:
            raise InputError(f"codec {codec!r} is of family {card.family!r}, not {FAMILY!r}")
        tap = registry.build(codec, options).tap
        with torch.inference_mode():
            sites = find_sites(model, images[0])
        outputs = ["output"] * len(sites)
        kept = min(SAMPLE_IMAGES, len(images))
        at_output = observe(model, sites, outputs, counted(images, "reading ranges", progress), 0 if tap == "input" else kept, len(images))
        observed = at_output
        if tap == "input":
            observed = observe(model, sites, [tap] * len(sites), counted(images, "reading maps", progress), kept, len(images))
        weights = np.ones(len(sites))
        if steps == "fisher" and card.quality == "step":
            g2 = fisher(model, sites, outputs, counted(images, "reading sensitivities", progress))
            weights = relative_steps(g2, [o.range(scale) for o in at_output], [o.count for o in at_output])
        ranges = tuple(o.range(scale) for o in at_output)
        return cls(codec, dict(options or {}), scale, fingerprint(model), sites, tuple(observed), ranges, weights, len(images))

    def codec_at(self, index: int, quality: float | None) -> Codec:
        """The codec fitted to one site."""
        card = registry.card(self.codec)
        fields = {f.name for f in dataclasses.fields(registry.system(self.codec).Config)}
        params = dict(self.options)
        if quality is not None and card.quality:
            value = quality * self.weights[index] if card.quality == "step" else quality
            params[card.quality] = round(value) if card.quality_integer else float(np.clip(value, *sorted((card.quality_fine, card.quality_coarse))))
        if {"scale", "reciprocal", "zero_point"} <= fields and "scale_rule" in fields:
            params["scale"], params["reciprocal"], params["zero_point"] = scale_and_zero(*self.ranges[index])
            params["scale_rule"] = self.scale
        return registry.build(self.codec, params).fit(self.observed[index].samples)

    def plan_at(self, quality: float | None, meta: Mapping[str, Any] | None = None) -> FeaturePlan:
        """The plan with the global parameter at `quality` (None: the codec's own default)."""
        entries = []
        for index, site in enumerate(self.sites):
            try:
                entries.append(Entry(site, self.codec_at(index, quality), self.observed[index].shape))
            except InputError as error:
                raise InputError(f"site {site.name}: {error}") from None
        return FeaturePlan(FAMILY, self.model, tuple(entries), {"codec": self.codec, "scale": self.scale, "quality": quality, **(meta or {})})

    def reference(self) -> FeaturePlan:
        """The plan of the network with plain 8-bit maps, by the same scale rule."""
        return reference_plan(self.model, self.sites, self.ranges, [o.shape for o in self.observed])


def reference_plan(model: str, sites: Sequence[Site], ranges: Sequence[tuple[float, float]], shapes: Sequence[tuple[int, ...]]) -> FeaturePlan:
    entries = []
    for site, (low, high), shape in zip(sites, ranges, shapes, strict=True):
        scale, reciprocal, zero = scale_and_zero(low, high)
        entries.append(Entry(site, registry.build("raw", {"scale": scale, "reciprocal": reciprocal, "zero_point": zero}), tuple(shape)))
    return FeaturePlan(FAMILY, model, tuple(entries), {"codec": "raw"})


def relative_steps(g2: NDArray[np.float64], ranges: Sequence[tuple[float, float]], counts: Sequence[int]) -> NDArray[np.float64]:
    """[sites] steps in levels, up to a common factor, that give every site the same E[g^2] * step^2; mean of 1 by size.

    Sites of which nothing is known (no gradient reached them) take the common step.
    """
    levels = np.array([(max(high, 0.0) - min(low, 0.0)) / 255 for low, high in ranges])
    sensitivity = np.sqrt(g2) * levels
    known = sensitivity > 0
    if not known.any():
        return np.ones(len(g2))
    log_step = np.where(known, -np.log(np.where(known, sensitivity, 1)), 0.0)
    share = np.array(counts, np.float64)
    log_step -= (log_step * share)[known].sum() / max(share[known].sum(), 1)
    return np.where(known, np.exp(log_step), 1.0)
