"""A plan on images: one row of results, from real bytes and paired outputs. The keys are those of every result row."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress import _native
from tensorpress.blocks.cells import MODES
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader
from tensorpress.evaluate.fidelity import expected_drop, fidelity, kl_mean_plus_se
from tensorpress.evaluate.machine import machine
from tensorpress.pytorch.calibration import Progress, counted, silent
from tensorpress.pytorch.plan import FeaturePlan

CELL_CODECS = ("dct_cm",)  # whose payloads say which mode each cell took


@dataclass
class SiteSums:
    """Sums over images at one site."""

    shape: tuple[int, ...] = ()
    values: int = 0
    nonzero: int = 0
    squared_error: float = 0.0
    nbytes: int = 0
    modes: np.ndarray = field(default_factory=lambda: np.zeros(4, np.int64))


@dataclass
class Watch:
    """Gathers per-site sums while a plan is attached."""

    plan: FeaturePlan
    sites: list[SiteSums]

    @classmethod
    def over(cls, plan: FeaturePlan) -> Watch:
        return cls(plan, [SiteSums() for _ in plan.entries])

    def __call__(self, index: int, before: Any, after: Any, payload: bytes | None, nbytes: int) -> None:
        sums = self.sites[index]
        sums.shape = before.shape
        sums.values += before.size
        sums.nonzero += int(np.count_nonzero(before))
        difference = np.subtract(before, after, dtype=np.float32).reshape(-1)
        sums.squared_error += float(np.dot(difference, difference))
        sums.nbytes += nbytes
        if payload is not None and self.plan.entries[index].codec.id in CELL_CODECS:
            sums.modes += _native.count_modes(np.frombuffer(payload, np.uint8), Reader(payload).index_nbytes)


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    if not isinstance(out, Tensor) or out.ndim < 2:
        raise InputError(f"the network returns {type(out).__name__}, not a tensor of logits (N, classes)")
    return out.reshape(out.shape[0], -1).detach().float().cpu()


def outputs(model: nn.Module, images: Sequence[Tensor], what: str, progress: Progress) -> Tensor:
    """[images, classes] logits, one image at a time, without gradients."""
    with torch.inference_mode():
        return torch.cat([logits_of(model, x) for x in counted(images, what, progress)])


def quick(model: nn.Module, plan: FeaturePlan, images: Sequence[Tensor], before: Tensor, progress: Progress = silent) -> dict[str, float]:
    """kl (mean), kl_bound (mean + 1 standard error), expected drop in points, ratio: what calibration turns quality by."""
    with plan.attach(model, exact=False) as run:
        after = outputs(model, images, "trying a quality", progress)
    return {
        "kl": float(fidelity(before, None, after, None).kl),
        "kl_bound": kl_mean_plus_se(before, after) if len(images) > 1 else float(fidelity(before, None, after, None).kl),
        "expected_drop": expected_drop(before, after),
        "ratio": run.raw_nbytes / run.nbytes,
    }


def measure(
    model: nn.Module,
    plan: FeaturePlan,
    reference: FeaturePlan | None,
    images: Sequence[Tensor],
    labels: Sequence[int] | None,
    *,
    label_offset: int = 0,
    against: nn.Module | None = None,
    context: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Encode and decode every site of every image for real; `reference` is the plan of plain 8-bit maps.

    Outputs are judged against those of `against`, uncompressed: `model` itself, or what it was before it was tuned. `context` gives what the caller knows: arch, calib_images, command. Unknown values are None, never absent.
    """
    started = time.perf_counter()
    before = outputs(against or model, images, "uncompressed network", progress)
    as_reference = None
    if reference is not None:
        with reference.attach(model, exact=False):
            as_reference = outputs(model, images, "network with 8-bit maps", progress)
    watch = Watch.over(plan)
    with plan.attach(model, watch=watch) as run:
        after = outputs(model, images, f"network with {plan.meta.get('codec')} maps", progress)
    truth = None
    if labels is not None:
        truth = np.asarray(labels) + label_offset
    judged = fidelity(before, as_reference, after, truth).to_json()
    layers = [layer_row(entry, sums) for entry, sums in zip(plan.entries, watch.sites, strict=True)]
    raw, nbytes, shared = run.raw_nbytes, run.nbytes, plan.shared_nbytes
    ratios = [layer["ratio"] for layer in layers if layer["ratio"] is not None]
    context = context or {}
    return {
        "codec": plan.meta.get("codec"),
        "arch": context.get("arch"),
        "images": len(images),
        "calib_images": context.get("calib_images"),
        "sites": len(plan.entries),
        "raw_nbytes": raw,
        "nbytes": nbytes,
        "shared_nbytes": shared,
        "ratio": raw / nbytes,
        "ratio_with_shared": raw / (nbytes + shared),
        "ratio_mean_of_layers": float(np.mean(ratios)) if ratios else None,
        "ratio_worst_layer": min(ratios) if ratios else None,
        "bits_per_value": 8 * nbytes / raw,
        "scale": plan.meta.get("scale"),
        "quality": plan.meta.get("quality"),
        "target": plan.meta.get("target"),
        "target_met": plan.meta.get("target_met"),
        **judged,
        "cells": cell_shares(watch.sites),
        "seconds": time.perf_counter() - started,
        "layers": layers,
        "command": context.get("command"),
        "machine": machine(),
    }


def shares(modes: np.ndarray) -> dict[str, float] | None:
    total = int(modes.sum())
    return {name: float(count / total) for name, count in zip(MODES, modes, strict=True)} if total else None


def cell_shares(sites: Sequence[SiteSums]) -> dict[str, float] | None:
    """Share of cells that took each mode, over all sites; None for codecs without cells."""
    return shares(np.sum([s.modes for s in sites], 0)) if sites else None


def layer_row(entry: Any, sums: SiteSums) -> dict[str, Any]:
    seen = sums.values > 0
    return {
        "site": entry.site.name,
        "shape": list(sums.shape or entry.shape),
        "density": sums.nonzero / sums.values if seen else None,
        "mode": shares(sums.modes) or entry.codec.id,
        "nbytes": sums.nbytes,
        "raw_nbytes": sums.values,
        "ratio": sums.values / sums.nbytes if seen else None,
        "mse": sums.squared_error / sums.values if seen else None,
        "reads": entry.site.reads,
    }
