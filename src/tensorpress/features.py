"""Feature maps: `calibrate` a plan for a network, `evaluate` it, `load` it again.

    plan = features.calibrate(model, images, "dct_cm", max_kl=0.04)
    with plan.attach(model) as run:
        model(x)
    print(run.raw_nbytes / run.nbytes)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tensorpress.core import registry
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import InputError
from tensorpress.evaluate import measure as _measure
from tensorpress.evaluate import score as scoring
from tensorpress.planning import allocate as _allocate
from tensorpress.planning.correct import correct
from tensorpress.planning.quality import Found, coarsest_within
from tensorpress.pytorch.calibration import Calibration, Progress, reference_plan, silent
from tensorpress.pytorch.plan import FeaturePlan

Plan = FeaturePlan
TARGETS = ("max_drop", "max_kl", "ratio", "bits")
DEFAULT_TARGET = {"max_drop": 0.5}
CONFIRMATIONS = (1.0, 0.92, 0.84, 0.6, 0.0)  # of the way from the finest quality to the one that a draft found, in its logarithm
CURVE_SPAN = (0.15, 0.75)  # of the log range of a quality: beyond it nothing is lost, or all


def calibrate(
    model: nn.Module,
    images: Sequence[Tensor],
    codec: str = "dct_cm",
    *,
    max_drop: float | None = None,
    max_kl: float | None = None,
    ratio: float | None = None,
    bits: float | None = None,
    quality: float | None = None,
    options: Mapping[str, Any] | None = None,
    scale: str = "p99.99",
    steps: str = "fisher",
    references: bool = True,
    score: str | None = None,
    also: Sequence[str] = (),
    progress: Progress = silent,
) -> FeaturePlan:
    """The coarsest plan that keeps a target on `images` (each float32 (1, C, H, W); no labels needed).

    At most one target: `max_drop` (expected top-1 drop, percentage points), `max_kl` (mean + 1 standard error, nats),
    `ratio` (total, against 8 bits; the finest that reaches it), `bits` (a value); or `quality`, the codec's own
    parameter as it stands. None of them: max_drop = 0.5. `score` ('fisher', 'mse', 'measured'): every site's quality is
    chosen by the allocator from a table of bytes and distortions, then put right by measurement with all sites on. `also` names further codecs
    that a site may have, with their default options. `plan.meta` records the target, whether it was met, and every
    quality that was tried. InputError for options, networks and images that cannot be used.
    """
    calibration = Calibration.measure(model, images, codec, options=options, scale=scale, steps=steps, references=references, progress=progress)
    if also and score is None:
        raise InputError("further codecs are chosen from by a score: give score as well")
    if score is not None:
        if quality is not None:
            raise InputError("a quality leaves nothing to allocate: give a target with score")
        scored = scoring.score(calibration, model, images, score, progress=progress)
        for other in also:
            measured = Calibration.measure(model, images, other, scale=scale, steps="fisher" if steps == "channel" else steps, progress=progress)
            measured = replace(measured, sensitivity=measured.sensitivity or scored.calibration.sensitivity)
            scored = scoring.merged(scored, scoring.score(measured, model, images, score, progress=progress))
        return allocate(model, images, scored, max_drop=max_drop, max_kl=max_kl, ratio=ratio, bits=bits, progress=progress)
    return settle(model, images, calibration, max_drop=max_drop, max_kl=max_kl, ratio=ratio, bits=bits, quality=quality, progress=progress)


def settle(
    model: nn.Module,
    images: Sequence[Tensor],
    calibration: Calibration,
    *,
    max_drop: float | None = None,
    max_kl: float | None = None,
    ratio: float | None = None,
    bits: float | None = None,
    quality: float | None = None,
    rounds: int = 9,
    progress: Progress = silent,
) -> FeaturePlan:
    """Turn the global parameter until the target is met, in at most `rounds` measurements; `calibrate` without the measuring."""
    card = registry.card(calibration.codec)
    target = _target(max_drop, max_kl, ratio, bits)
    if quality is not None and any(v is not None for v in (max_drop, max_kl, ratio, bits)):
        raise InputError(f"give one target, not {' and '.join(target)} and quality")
    meta: dict[str, Any] = {"calib_images": calibration.images, "ranges": [list(r) for r in calibration.ranges]}
    if not card.quality or quality is not None or card.quality in calibration.options:
        return calibration.plan_at(quality, {**meta, "target": {"quality": quality}, "target_met": None, "tried": []})
    before = _measure.outputs(model, images, "uncompressed network", progress)
    tried: list[dict[str, float]] = []

    made: dict[float, FeaturePlan] = {}  # the last plan of the real codec: the one that is kept, most of the time

    def at(value: float, by: Calibration = calibration) -> dict[str, float]:
        plan = by.plan_at(value)
        if by is calibration:
            made.clear()
            made[value] = plan
        found = _measure.quick(model, plan, images, before, progress)
        tried.append({"quality": value, **found, **({"draft": True} if by is not calibration else {})})
        return found

    fine, coarse = card.quality_fine, card.quality_coarse
    if "max_kl" in target or "max_drop" in target:
        key, limit = ("kl_bound", target["max_kl"]) if "max_kl" in target else ("expected_drop", target["max_drop"])
        quick = replace(calibration, options={**calibration.options, **card.draft}) if card.draft else calibration
        result = coarsest_within(lambda q: at(q, quick)[key], limit, fine=fine, coarse=coarse, integer=card.quality_integer, rounds=rounds)
        if quick is not calibration:
            result = _confirmed(lambda q: at(q)[key], result, limit, fine)
    else:
        wanted = target["ratio"] if "ratio" in target else 8 / target["bits"]
        # the finest that reaches a ratio is the coarsest of the other direction: 1 / ratio falls where the ratio rises
        result = coarsest_within(lambda q: 1 / at(q)["ratio"], 1 / wanted, fine=coarse, coarse=fine, integer=card.quality_integer, rounds=rounds)
    plan = made.get(result.quality) or calibration.plan_at(result.quality)
    return replace(plan, meta={**plan.meta, **meta, "target": dict(target), "target_met": result.met, "tried": tried})


def allocate(
    model: nn.Module,
    images: Sequence[Tensor],
    scored: scoring.Scored,
    *,
    max_drop: float | None = None,
    max_kl: float | None = None,
    ratio: float | None = None,
    bits: float | None = None,
    progress: Progress = silent,
) -> FeaturePlan:
    """An option for every site: the cheapest whose measured loss keeps `max_kl` or `max_drop`, or the least loss at a `ratio` or `bits`.

    `plan.meta` records the rounds of measurement, and the gap between the loss that the table predicted and the true one.
    """
    target = _target(max_drop, max_kl, ratio, bits)
    calibration = scored.calibration
    meta: dict[str, Any] = {"calib_images": calibration.images, "ranges": [list(r) for r in calibration.ranges], "target": dict(target)}
    if "ratio" in target or "bits" in target:
        wanted = target.get("ratio") or 8 / target["bits"]
        raw = sum(int(np.prod(o.shape)) for o in calibration.observed)
        found = _allocate.allocate(scored.table, max_cost=raw / wanted)
        return scored.plan(found.choice, {**meta, "target_met": found.met, "predicted": found.distortion, "tried": []})
    key, limit = ("kl_bound", target["max_kl"]) if "max_kl" in target else ("expected_drop", target["max_drop"])
    before = _measure.outputs(model, images, "uncompressed network", progress)
    tried: list[dict[str, float]] = []

    def at(choice: tuple[int, ...]) -> float:
        measured = _measure.quick(model, scored.plan(choice), images, before, progress)
        tried.append({"quality": float(np.mean([scored.qualities[k] for k in choice])), **measured})
        return measured[key]

    result = correct(scored.table, at, limit)
    codecs = Counter(scored.entries[i][k].codec.id for i, k in enumerate(result.allocation.choice))
    gap = {"codecs": dict(codecs), "predicted": result.allocation.distortion, "measured": result.measured, "gap": result.gap}
    return scored.plan(result.allocation.choice, {**meta, **gap, "target_met": result.allocation.met, "tried": tried})


def _confirmed(measure: Callable[[float], float], draft: Found, limit: float, fine: float) -> Found:
    """What a stand-in found, with the real codec: finer each time that it does not hold, the finest at last."""
    for share in CONFIRMATIONS:
        quality = fine * (draft.quality / fine) ** share
        value = measure(quality)
        if value <= limit:
            break
    return Found(quality, value, value <= limit, draft.tried)


def _target(max_drop: float | None, max_kl: float | None, ratio: float | None, bits: float | None) -> dict[str, float]:
    given = {k: v for k, v in {"max_drop": max_drop, "max_kl": max_kl, "ratio": ratio, "bits": bits}.items() if v is not None}
    if len(given) > 1:
        raise InputError(f"give one target, not {' and '.join(given)}")
    for name, value in given.items():
        if not value > 0:
            raise InputError(f"{name} is {value}: it must be above 0")
    return given or dict(DEFAULT_TARGET)


def evaluate(
    model: nn.Module,
    plan: FeaturePlan,
    images: Sequence[Tensor],
    labels: Sequence[int] | None = None,
    *,
    label_offset: int = 0,
    against: nn.Module | None = None,
    context: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """One row of results of `plan` on `images` (each float32 (1, C, H, W)), every map encoded and decoded for real.

    The uncompressed network is `against`: `model` itself where it is None; for a tuned `model`, what it was before. `labels` are class indices; class i stands in logits column i + `label_offset`. The row's keys are in docs/rows.md.
    """
    ranges = plan.meta.get("ranges")
    reference = None
    if ranges is not None:
        reference = reference_plan(plan.model, [e.site for e in plan.entries], [tuple(r) for r in ranges], [e.shape for e in plan.entries])
    context = {"calib_images": plan.meta.get("calib_images"), **(context or {})}
    return _measure.measure(
        model, plan, reference, images, labels, label_offset=label_offset, against=against, context=context, progress=progress
    )


def curves(
    model: nn.Module, calibration: Calibration, images: Sequence[Tensor], points: int = 5, progress: Progress = silent, limit: int = 32
) -> list[dict[str, Any]]:
    """The codec's rate-distortion curve on the first `limit` images: [{name, points: [{quality, ratio, kl, expected_drop}]}]."""
    card = registry.card(calibration.codec)
    if not card.quality or card.quality in calibration.options:
        return []
    few = [images[i] for i in range(min(limit, len(images)))]
    before = _measure.outputs(model, few, "uncompressed network", progress)
    span = np.geomspace(card.quality_fine, card.quality_coarse, 41)[[round(40 * p) for p in np.linspace(*CURVE_SPAN, points)]]
    found = []
    for quality in sorted({float(round(q)) if card.quality_integer else float(q) for q in span}):
        found.append({"quality": quality, **_measure.quick(model, calibration.plan_at(quality), few, before, progress)})
    return [{"name": calibration.codec, "images": len(few), "points": found}]


def pictures(model: nn.Module, plan: FeaturePlan, image: Tensor, channels: int = 8) -> list[dict[str, Any]]:
    """Channels of an early, a middle and a late site before and after, as uint8 (n, h, w) on the scale of the former."""
    spatial = [i for i, e in enumerate(plan.entries) if len(e.shape) == 3 and min(e.shape[1:]) >= 4]
    wanted = {spatial[round(p * (len(spatial) - 1))] for p in (0.0, 0.4, 0.9)} if spatial else set()
    found: dict[int, dict[str, Any]] = {}

    def watch(index: int, before: Any, after: Any, payload: Any, nbytes: int) -> None:
        if index in wanted and index not in found:
            busiest = np.sort(np.argsort(-before.reshape(before.shape[0], -1).std(1), kind="stable")[:channels])
            low, high = min(float(before.min()), 0.0), max(float(before.max()), 1e-12)
            as_bytes = [np.clip((x[busiest] - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8) for x in (before, after)]
            found[index] = {"site": plan.entries[index].site.name, "before": as_bytes[0], "after": as_bytes[1]}

    with plan.attach(model, watch=watch):
        _measure.outputs(model, [image], "drawing channels", silent)
    return [found[i] for i in sorted(found)]


def load(path: str | Path, *, max_nbytes: int = MAX_NBYTES) -> FeaturePlan:
    """A saved plan. InputError where the file cannot be read, StreamError where it is damaged, of another version or over `max_nbytes` (1 GiB by default)."""
    return FeaturePlan.load(path, max_nbytes=max_nbytes)
