"""Calibration: what a network's sites look like on a few images, and the plan that any quality then gives.

One global quality parameter (the codec's `Card.quality`) is turned until a target is met on the calibration images. A
quantiser step is spread over the sites by their sensitivity: step^2 ~ 1 / E[g^2], so that each site loses as much of
the task for its last bit. Labels are not needed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
STEPS = ("fisher", "channel", "equal")
LIKENESS = 0.25  # mean correlation from which an earlier map of the same shape is worth predicting from
EXPONENT_LIMIT = 16  # eighths of an octave that a channel's step may lie from its layer's
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
    exponents: tuple[tuple[int, ...], ...] = ()  # [sites][channels] of steps by channel, where the codec has them
    references: tuple[int | None, ...] = ()  # [sites] the earlier site that each is predicted from
    ranged: tuple[Observed, ...] = ()  # of the sites' outputs: what `ranges` come from
    sensitivity: tuple[NDArray[np.float64], ...] = ()  # [sites][channels] E[g^2], where it was read

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
        references: bool = True,
        progress: Progress = silent,
    ) -> Calibration:
        """Run `model` over `images` (each a batch of one, float32 (1, C, H, W)), forward, and backward for 'fisher' and 'channel'."""
        if not len(images):
            raise InputError("calibration needs at least one image")
        if scale not in SCALES:
            raise InputError(f"scale is one of {', '.join(SCALES)}, not {scale!r}")
        if steps not in STEPS:
            raise InputError(f"steps is one of {', '.join(STEPS)}, not {steps!r}")
        card = registry.card(codec)
        if card.family != FAMILY:
            raise InputError(f"codec {codec!r} is of family {card.family!r}, not {FAMILY!r}")
        unfitted = registry.build(codec, options)
        tap = unfitted.tap
        with torch.inference_mode():
            sites = find_sites(model, images[0])
        outputs = ["output"] * len(sites)
        kept = min(SAMPLE_IMAGES, len(images))
        at_output = observe(model, sites, outputs, counted(images, "reading ranges", progress), 0 if tap == "input" else kept, len(images), card.fit_values)
        observed = at_output
        if tap == "input":
            observed = observe(model, sites, [tap] * len(sites), counted(images, "reading maps", progress), kept, len(images), card.fit_values)
        weights = np.ones(len(sites))
        exponents: tuple[tuple[int, ...], ...] = ()
        g2: list[NDArray[np.float64]] = []
        if steps != "equal" and card.quality == "step":
            g2 = fisher(model, sites, outputs, counted(images, "reading sensitivities", progress))
            mean = np.array([g.mean() if g.size else 0.0 for g in g2])
            weights = relative_steps(mean, [o.range(scale) for o in at_output], [o.count for o in at_output])
            if steps == "channel":
                if "exponents" not in {f.name for f in dataclasses.fields(registry.system(codec).Config)}:
                    raise InputError(f"codec {codec!r} has no steps by channel: use steps 'fisher' or 'equal'")
                exponents = tuple(channel_exponents(g) for g in g2)
        ranges = tuple(o.range(scale) for o in at_output)
        found: tuple[int | None, ...] = ()
        if references and unfitted.takes_reference:
            found = tuple(reference_of(i, sites, observed) for i in range(len(sites)))
        return cls(codec, dict(options or {}), scale, fingerprint(model), sites, tuple(observed), ranges, weights, len(images), exponents, found, tuple(at_output), tuple(g2))

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
        if self.exponents:
            params["exponents"] = self.exponents[index]
        reference = self.references[index] if self.references else None
        return registry.build(self.codec, params).fit(
            self.observed[index].samples, None if reference is None else self.observed[reference].samples
        )

    def plan_at(self, quality: float | None, meta: Mapping[str, Any] | None = None) -> FeaturePlan:
        """The plan with the global parameter at `quality` (None: the codec's own default)."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # fits release the interpreter for most of their time
            entries = list(pool.map(lambda index: self.entry_at(index, quality), range(len(self.sites))))
        return FeaturePlan(FAMILY, self.model, tuple(entries), {"codec": self.codec, "scale": self.scale, "quality": quality, **(meta or {})})

    def entry_at(self, index: int, quality: float | None) -> Entry:
        """The plan's entry of one site. InputError names the site."""
        reference = self.references[index] if self.references else None
        try:
            return Entry(self.sites[index], self.codec_at(index, quality), self.observed[index].shape, reference)
        except InputError as error:
            raise InputError(f"site {self.sites[index].name}: {error}") from None

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


def channel_exponents(g2: NDArray[np.float64]) -> tuple[int, ...]:
    """[channels] eighths of an octave by which each channel's step differs from its layer's, so that all weigh alike."""
    if not g2.size or not g2.mean() > 0:
        return (0,) * g2.size
    octaves = 0.5 * np.log2(g2.mean() / np.maximum(g2, g2.mean() * 1e-9))
    return tuple(np.clip(np.rint(8 * octaves), -EXPONENT_LIMIT, EXPONENT_LIMIT).astype(int).tolist())


def reference_of(index: int, sites: Sequence[Site], observed: Sequence[Observed]) -> int | None:
    """The earlier site of the same shape whose maps are most like this one's, channel by channel; None where none is like enough."""
    best, most = None, LIKENESS
    for other in range(max(index - 12, 0), index):
        if sites[other].view != sites[index].view or observed[other].shape != observed[index].shape or not observed[index].samples:
            continue
        pairs = list(zip(observed[index].samples, observed[other].samples))[:4]
        a, b = (np.concatenate([p[k].reshape(len(p[k]), -1)[:, ::3] for p in pairs], axis=1) for k in (0, 1))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
        likeness = float(np.mean(np.where(scale > 0, np.abs((a * b).sum(1)) / np.maximum(scale, 1e-30), 0)))
        if likeness > most:
            best, most = other, likeness
    return best
