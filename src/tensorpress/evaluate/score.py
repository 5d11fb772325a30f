"""What every option of every site costs in bytes, and costs the task: the table that the allocator chooses from.

An option is the site's codec at one quality. Bytes are those of the real coder on sample maps. Distortion, in nats of
the output's KL where it can be, is one of

fisher     half of E[g^2] by channel times the squared error: one backward pass served all options
mse        the squared error alone: what is left where no gradient can be had
measured   the KL of the output with this one site compressed, on unlabelled images: dear, and nearest the truth
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from tensorpress.blocks.levels import scale_and_zero
from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.core.stream import frame_nbytes
from tensorpress.evaluate import measure as measured
from tensorpress.planning.plan import Entry
from tensorpress.planning.table import Table
from tensorpress.pytorch.calibration import Calibration, Progress, counted, silent
from tensorpress.pytorch.plan import FAMILY, FeaturePlan
from tensorpress.pytorch.statistics import fisher

HOW = ("fisher", "mse", "measured")
OPTIONS = 6  # qualities between a codec's finest and eight times that
SPAN = 8.0
SAMPLES = 3  # maps that an option is coded on
MEASURED_IMAGES = 16


@dataclass(frozen=True)
class Scored:
    """`table[site, option]`, and the entry that each option is. `qualities`: of each option of a site."""

    calibration: Calibration
    qualities: tuple[float, ...]
    entries: tuple[tuple[Entry, ...], ...]
    table: Table

    def plan(self, choice: Sequence[int], meta: Mapping[str, Any] | None = None) -> FeaturePlan:
        """The plan in which site i has option choice[i]."""
        chosen = tuple(options[k] for options, k in zip(self.entries, choice, strict=True))
        found = {"codec": self.calibration.codec, "scale": self.calibration.scale, "quality": None, **(meta or {})}
        return FeaturePlan(FAMILY, self.calibration.model, chosen, found)


def score(
    calibration: Calibration,
    model: nn.Module,
    images: Sequence[Tensor],
    how: str = "fisher",
    *,
    qualities: Sequence[float] | None = None,
    progress: Progress = silent,
) -> Scored:
    """Every option of every site, by `how`; costs are bytes an image, framing included. InputError for codecs without a quality."""
    card = registry.card(calibration.codec)
    if how not in HOW:
        raise InputError(f"score is one of {', '.join(HOW)}, not {how!r}")
    if not card.quality or card.quality in calibration.options:
        raise InputError(f"codec {calibration.codec!r} has no quality to choose: there is nothing to allocate")
    if how == "fisher" and not any(g.size for g in calibration.sensitivity):
        g2 = fisher(model, calibration.sites, ["output"] * len(calibration.sites), counted(images, "reading sensitivities", progress))
        calibration = replace(calibration, sensitivity=tuple(g2))
    if qualities is None:
        far = card.quality_fine * (SPAN if card.quality_coarse > card.quality_fine else 1 / SPAN)
        qualities = np.geomspace(card.quality_fine, far, OPTIONS).tolist()
    wanted = tuple(float(round(q)) if card.quality_integer else float(q) for q in qualities)
    few = [images[i] for i in range(min(MEASURED_IMAGES, len(images)))]
    before = measured.outputs(model, few, "uncompressed network", progress) if how == "measured" else None
    count = len(calibration.sites)

    def options(index: int) -> list[tuple[Entry, float, float]]:
        found = []
        for quality in wanted:
            entry = calibration.entry_at(index, quality)
            error, nbytes = coded(calibration, index, entry)
            weight = calibration.sensitivity[index] / 2 if how == "fisher" and calibration.sensitivity[index].size else np.ones(len(error))
            found.append((entry, float((weight * error).sum()), nbytes))
        return found

    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # fits and kernels release the interpreter for most of their time
        for index, row in enumerate(pool.map(options, range(count))):
            progress("scoring options", index + 1, count)
            rows.append(row)
    if before is not None:
        for index, row in enumerate(rows):
            progress("measuring sites one by one", index, count)
            rows[index] = [(e, alone(calibration, index, e, model, few, before), nbytes) for e, _, nbytes in row]
    table = Table(
        tuple(tuple(d for _, d, _ in row) for row in rows),
        tuple(tuple(c for *_, c in row) for row in rows),
        tuple(tuple((calibration.codec, q) for q in wanted) for _ in rows),
        tuple(s.name for s in calibration.sites),
    )
    return Scored(calibration, wanted, tuple(tuple(e for e, *_ in row) for row in rows), table)


def merged(first: Scored, *others: Scored) -> Scored:
    """All options of all: of several codecs, say, so that each site may have another. The first gives the plan its name.

    InputError where they are not of one network. Distortions must be of one kind and at one tap to be compared; a codec that
    works before the activation (`klt`) is judged there, so its error counts in full where the activation would forgive it.
    """
    for one in others:
        if one.calibration.sites != first.calibration.sites or one.calibration.model != first.calibration.model:
            raise InputError("the tables to merge are of different networks")
    every = (first, *others)

    def joined(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(sum((tuple(part) for part in site), ()) for site in zip(*rows, strict=True))

    table = Table(joined([o.table.distortion for o in every]), joined([o.table.cost for o in every]), joined([o.table.options for o in every]), first.table.sites)
    return Scored(first.calibration, sum((o.qualities for o in every), ()), joined([o.entries for o in every]), table)


def coded(calibration: Calibration, index: int, entry: Entry) -> tuple[Any, float]:
    """([channels] squared error an image, bytes an image) of one option on the site's sample maps."""
    samples = calibration.observed[index].samples
    references = [None] * len(samples) if entry.reference is None else calibration.observed[entry.reference].samples
    some = np.unique(np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).round().astype(int))
    error, nbytes = 0.0, 0.0
    for k in some:
        values, payload = entry.codec.simulate(samples[k], references[k])
        difference = (values - samples[k]).astype(np.float64)
        error = error + np.square(difference).reshape(len(difference), -1).sum(1)
        nbytes += frame_nbytes(payload, index)
    return error / len(some), nbytes / len(some)


def alone(calibration: Calibration, index: int, entry: Entry, model: nn.Module, images: Sequence[Tensor], before: Tensor) -> float:
    """KL of the output with one site compressed. A reference is the uncompressed map: its own site stands aside, lossless."""
    entries = [entry] if entry.reference is None else [lossless(calibration, entry.reference), Entry(entry.site, entry.codec, entry.shape, 0)]
    plan = FeaturePlan(FAMILY, calibration.model, tuple(entries), {})
    return max(measured.quick(model, plan, images, before)["kl"], 0.0)


def lossless(calibration: Calibration, index: int) -> Entry:
    """A site as plain 8-bit levels: what stands for a reference while another site is looked at."""
    scale, reciprocal, zero = scale_and_zero(*calibration.ranges[index])
    codec = registry.build("raw", {"scale": scale, "reciprocal": reciprocal, "zero_point": zero})
    return Entry(calibration.sites[index], codec, calibration.observed[index].shape)
