"""The leaderboard: every codec on one network, the same images and one counting rule.

Work is cut into small files in one folder, so that it can stop and go on, and run side by side: a plan for each entry
and quality; for each plan and chunk of images the network's outputs and every site's bytes; then one JSON an entry.
What a codec reaches "at KL x" is read off its measured curve, log ratio over log KL, never beyond its ends; the
interval comes from resampling the images (bootstrap, 95 %).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.core import registry
from tensorpress.core.atomic import alone_in, make_folder, write_atomically
from tensorpress.core.errors import InputError, TensorPressError
from tensorpress.evaluate.curves import bd_rate, ratio_at_kl
from tensorpress.evaluate.energy import MEMORIES, with_logic
from tensorpress.evaluate.fidelity import fidelity, kl_per_image
from tensorpress.evaluate.machine import machine
from tensorpress.evaluate.measure import logits_of
from tensorpress.pytorch.calibration import Calibration, Progress, silent
from tensorpress.pytorch.plan import FAMILY, FeaturePlan

KLS = (0.0125, 0.025, 0.05)  # nats
DROPS = (0.1, 0.5, 1.0)  # percentage points
CHUNK = 20  # images
LOSSLESS_CHUNKS = 3
TYPICAL_KL = 0.025  # the point nearest to it stands for an entry's energy and speed
RESAMPLES = 400
# qualities of a curve, the most telling first: the KLs that are read off lie between the first four on most networks
LADDERS = {
    "step": (1.7, 2.4, 3.4, 4.8, 1.0, 7.0),
    "levels": (128.0, 64.0, 40.0, 28.0, 20.0, 256.0),
    "bits": (8.0, 7.0, 6.5, 6.0, 5.5),
}
ANCHOR = "uniform_rans"  # what savings are counted against


@dataclass(frozen=True)
class Variant:
    """One entry: a codec with options and the way its steps are spread."""

    name: str
    codec: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: str = "fisher"
    references: bool = True

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.name).strip("-")


NAMED = (
    Variant("context max", "context", steps="channel"),
    Variant("context fast", "context", {"backend": "fast"}, "channel"),
    Variant("context max, no references", "context", steps="channel", references=False),
    Variant("context fast, no references", "context", {"backend": "fast"}, "channel", references=False),
    Variant("dct_cm extended", "dct_cm"),
    Variant("dct_cm paper", "dct_cm", {"profile": "paper"}),
)
# what each part of `context` brings, from one static table a layer to the whole; 'fast' until the last but one
_NOTHING = {"backend": "fast", "classes": 1, "earlier": 0, "neighbours": False, "lagrangian": 0.0, "centroids": False}


def _less(*names: str) -> dict[str, Any]:
    return {k: v for k, v in _NOTHING.items() if k not in names}


ABLATIONS = (
    Variant("order 0: one table a layer, equal steps", "context", _NOTHING, "equal", False),
    Variant("+ steps by layer", "context", _NOTHING, "fisher", False),
    Variant("+ steps by channel", "context", _NOTHING, "channel", False),
    Variant("+ classes by channel", "context", _less("classes"), "channel", False),
    Variant("+ neighbours", "context", _less("classes", "neighbours"), "channel", False),
    Variant("+ earlier channels", "context", _less("classes", "neighbours", "earlier"), "channel", False),
    Variant("+ reference", "context", _less("classes", "neighbours", "earlier"), "channel"),
    Variant("+ centroids", "context", _less("classes", "neighbours", "earlier", "centroids"), "channel"),
    Variant("+ rate-distortion optimised levels (context fast)", "context", {"backend": "fast"}, "channel"),
    Variant("+ whole stripes, adaptive and mixed models (context max)", "context", {}, "channel"),
)


def variants(names: Sequence[str] | None = None) -> list[Variant]:
    """All entries, or those asked for: by name, by codec id, or 'ablations'. InputError for an unknown one."""
    plain = [Variant(c.id, c.id) for c in registry.cards().values() if c.family == FAMILY and c.id != "raw" and c.id not in {v.codec for v in NAMED}]
    every = [*NAMED, *plain]
    if names is None:
        return every
    found: list[Variant] = []
    for name in names:
        some = list(ABLATIONS) if name == "ablations" else [v for v in (*every, *ABLATIONS) if name == v.name] or [v for v in every if name == v.codec]
        if not some:
            raise InputError(f"no entry {name!r}; known are ablations, {', '.join(v.name for v in every)}")
        found += [v for v in some if v not in found]
    return found


@dataclass(frozen=True)
class Job:
    """One plan: an entry at a quality, by a scale rule; `lossless`: every site's plain 8-bit levels, on fewer images."""

    variant: Variant
    quality: float | None
    scale: str = "max"
    lossless: bool = False

    @property
    def slug(self) -> str:
        return f"{self.variant.slug}-{'fixed' if self.quality is None else f'{self.quality:g}'}-{self.scale.replace('.', '')}{'-lossless' if self.lossless else ''}"


def jobs_of(variant: Variant, points: int) -> list[Job]:
    card = registry.card(variant.codec)
    if not card.quality or card.quality in variant.options:
        return [Job(variant, None)]
    ladder = LADDERS.get(card.quality) or tuple(np.geomspace(card.quality_fine, card.quality_coarse, 9)[:6].tolist())
    found = [Job(variant, q) for q in ladder[:points]]
    if variant in ABLATIONS:
        return found
    return [*found, *(Job(variant, card.quality_fine, scale, True) for scale in ("max", "p99.99"))] if keeps_levels(variant) else found


def keeps_levels(variant: Variant) -> bool:
    """Whether the first of its ladder gives plain 8-bit levels back, by either scale rule."""
    fields = {f.name for f in dataclasses.fields(registry.system(variant.codec).Config)}
    return registry.card(variant.codec).lossless and "scale_rule" in fields


class Board:
    """Measurements of one network in `folder`. Every step skips what is there already."""

    def __init__(self, folder: Path, model: nn.Module, calibration: Sequence[Tensor], images: Sequence[Tensor], labels: Sequence[int] | None) -> None:
        self.folder, self.model, self.calibration, self.images, self.labels = folder, model, calibration, images, labels
        make_folder(folder)
        self._measured: dict[str, Calibration] = {}

    def plan_path(self, job: Job) -> Path:
        return self.folder / f"{job.slug}.tpp"

    def chunk_path(self, slug: str, start: int) -> Path:
        return self.folder / f"{slug}@{start}.npz"

    def chunks(self, lossless: bool = False) -> list[int]:
        """First images of what is measured at once; a lossless ratio needs fewer than a KL."""
        return list(range(0, len(self.images), CHUNK))[: LOSSLESS_CHUNKS if lossless else None]

    # --- plans -----------------------------------------------------------------------------------------------------

    def measure(self, jobs: Sequence[Job], progress: Progress = silent) -> None:
        """Read ranges, maps and sensitivities once for each tap; plans are made from them."""
        for job in jobs:
            try:
                tap = registry.build(job.variant.codec, job.variant.options).tap
            except TensorPressError:
                continue  # told when its plan is made
            if tap not in self._measured and not self.plan_path(job).exists():
                codec, steps = ("context", "channel") if tap == "output" else (job.variant.codec, "equal")
                self._measured[tap] = Calibration.measure(self.model, self.calibration, codec, scale="max", steps=steps, progress=progress)

    def calibrated(self, job: Job) -> Calibration:
        """The shared measurements as this job's codec and options see them."""
        v = job.variant
        found = self._measured[registry.build(v.codec, v.options).tap]
        by_channel = v.steps == "channel"
        return replace(
            found,
            codec=v.codec,
            options=dict(v.options),
            scale=job.scale,
            ranges=tuple(o.range(job.scale) for o in found.ranged),
            weights=found.weights if v.steps != "equal" and not job.lossless and registry.card(v.codec).quality == "step" else np.ones(len(found.sites)),
            exponents=found.exponents if by_channel else (),
            references=found.references if v.references and registry.build(v.codec, v.options).takes_reference else (),
        )

    def make_plan(self, job: Job) -> str | None:
        """Fit and save one plan; what went wrong, or None."""
        if self.plan_path(job).exists():
            return None
        started = time.perf_counter()
        try:
            plan = self.calibrated(job).plan_at(job.quality)
        except (TensorPressError, ImportError) as error:
            return f"{job.variant.name} at {job.quality}: {error}"
        replace(plan, meta={**plan.meta, "seconds": time.perf_counter() - started}).save(self.plan_path(job))
        return None

    # --- outputs ---------------------------------------------------------------------------------------------------

    def run_chunk(self, slug: str, start: int) -> None:
        """Outputs, bytes and squared errors of `CHUNK` images under the plan `slug` ('float': none)."""
        path = self.chunk_path(slug, start)
        if path.exists():
            return
        some = [self.images[i] for i in range(start, min(start + CHUNK, len(self.images)))]
        with torch.inference_mode():
            if slug == "float":
                logits = torch.cat([logits_of(self.model, x) for x in some]).numpy()
                arrays: dict[str, Any] = {"logits": logits}
            else:
                plan = FeaturePlan.load(self.folder / f"{slug}.tpp")
                nbytes, raw = np.zeros((len(some), len(plan.entries)), np.int64), np.zeros((len(some), len(plan.entries)), np.int64)
                rows, seconds = [], 0.0
                for number, x in enumerate(some):
                    started = time.perf_counter()
                    with plan.attach(self.model, exact=False) as run:
                        rows.append(logits_of(self.model, x).numpy())
                    seconds += time.perf_counter() - started
                    for call in run.calls:
                        nbytes[number, call.site] += call.nbytes
                        raw[number, call.site] += call.raw_nbytes
                arrays = {"logits": np.concatenate(rows), "nbytes": nbytes, "raw": raw, "seconds": np.array(seconds)}
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        write_atomically(path, packed.getbuffer())

    def time(self, job: Job) -> dict[str, float]:
        """{encode, decode} MB of 8-bit levels a second: one image's maps, one thread, framing and checks included; the best of three."""
        path = self.folder / f"{job.slug}.speed.json"
        if path.exists():
            return dict(json.loads(path.read_text()))
        plan = FeaturePlan.load(self.plan_path(job))
        maps: dict[int, Any] = {}

        def keep(index: int, x: Any, decoded: Any, payload: Any, nbytes: int) -> None:
            maps[index] = (x.copy(), decoded.copy(), bytes(payload))

        with plan.attach(self.model, watch=keep), torch.inference_mode():
            logits_of(self.model, self.images[0])
        spent = {"encode": 0.0, "decode": 0.0}
        for index, (x, _, payload) in maps.items():
            entry = plan.entries[index]
            before = None if entry.reference is None else maps[entry.reference][1]
            runs = {
                "encode": lambda codec=entry.codec, x=x, before=before: codec.encode_payload(x, reference=before),
                "decode": lambda codec=entry.codec, payload=payload, before=before: codec.decode_payload(payload, reference=before),
            }
            for what, call in runs.items():
                best = math.inf
                for _ in range(3):
                    started = time.perf_counter()
                    call()
                    best = min(best, time.perf_counter() - started)
                spent[what] += best
        total = sum(x.size for x, *_ in maps.values()) / 1e6
        found = {what: total / seconds for what, seconds in spent.items()}
        write_atomically(path, json.dumps(found).encode())
        return found

    def gathered(self, slug: str, lossless: bool = False) -> dict[str, NDArray[Any]] | None:
        """All chunks of a plan as one, or None where one is missing."""
        parts = []
        for start in self.chunks(lossless):
            if not self.chunk_path(slug, start).exists():
                return None
            with np.load(self.chunk_path(slug, start), allow_pickle=False) as z:
                parts.append({k: z[k] for k in z.files})
        keys = [k for k in parts[0] if k != "seconds"]
        found = {k: np.concatenate([p[k] for p in parts]) for k in keys}
        return {**found, "seconds": sum((p["seconds"] for p in parts if "seconds" in p), np.array(0.0))}

    # --- entries ---------------------------------------------------------------------------------------------------

    def point(self, job: Job, before: NDArray[Any]) -> dict[str, Any] | None:
        found = self.gathered(job.slug, job.lossless)
        if found is None:
            return None
        plan = FeaturePlan.load(self.plan_path(job))
        count = len(found["logits"])
        judged = fidelity(before[:count], None, found["logits"], None if self.labels is None else self.labels[:count]).to_json()
        nbytes, raw = found["nbytes"].sum(0), found["raw"].sum(0)
        ratios = raw / np.maximum(nbytes, 1)
        return {
            "quality": job.quality, "scale": job.scale, "ratio": float(raw.sum() / nbytes.sum()), "bits_per_value": float(8 * nbytes.sum() / raw.sum()),
            "ratio_mean_of_layers": float(ratios.mean()), "ratio_worst_layer": float(ratios.min()), "shared_nbytes": plan.shared_nbytes,
            "nbytes": int(nbytes.sum()), "raw_nbytes": int(raw.sum()), "fit_seconds": plan.meta.get("seconds"),
            "images": count, "images_per_second": float(count / found["seconds"]) if found["seconds"] else None,
            **{k: judged[k] for k in ("kl", "kl_ci95", "agreement", "expected_drop", "drop_points", "drop_ci95", "drop_smoothed", "drop_smoothed_ci95")},
        }  # fmt: skip

    def entry(self, variant: Variant, points: int, context: Mapping[str, Any]) -> dict[str, Any] | None:
        """The JSON of one entry from what has been measured; None where nothing has."""
        before = self.gathered("float")
        if before is None:
            return None
        jobs = jobs_of(variant, points)
        measured = [(job, self.point(job, before["logits"])) for job in jobs]
        curve = [(job, p) for job, p in measured if p is not None and not job.lossless]
        if not curve:
            return None
        lossless = {job.scale: p for job, p in measured if p is not None and job.lossless}
        row = {
            "name": variant.name, "codec": variant.codec, "options": dict(variant.options), "steps": variant.steps, "references": variant.references,
            "images": len(self.images), "calib_images": len(self.calibration), "points": [p for _, p in curve],
            "lossless": {s: {k: p[k] for k in ("images", "ratio", "ratio_mean_of_layers", "ratio_worst_layer", "kl", "shared_nbytes")} for s, p in lossless.items()},
            "machine": machine(), **context,
        }  # fmt: skip
        kls, sizes, drops = self._by_image([job for job, _ in curve], before["logits"])
        typical = min(curve, key=lambda one: abs(math.log(max(one[1]["kl"], 1e-9) / TYPICAL_KL)))[0]
        row["energy"], row["mb_per_second"] = self.energy(typical), self.time(typical)
        row["at_kl"] = {f"{kl:g}": at_limit(kls, sizes, kl) for kl in KLS}
        row["at_drop"] = {f"{d:g}": at_limit(drops, sizes, d) for d in DROPS}
        return row

    def energy(self, job: Job) -> dict[str, Any]:
        """Joules an image by kind of memory, DRAM and the codec's own work, of one plan."""
        found, plan = self.gathered(job.slug), FeaturePlan.load(self.plan_path(job))
        assert found is not None
        nbytes, raw = found["nbytes"].mean(0), found["raw"].mean(0)
        layers = [
            {
                "site": e.site.name, "codec": e.codec.id, "params": e.codec.params, "reads": e.site.reads, "raw_nbytes": float(raw[i]), "nbytes": float(nbytes[i]),
                "reference_nbytes": 0.0 if e.reference is None else float(nbytes[e.reference]),
            }
            for i, e in enumerate(plan.entries)
        ]  # fmt: skip
        return {name: {k: with_logic(layers, name)[k] for k in ("joules_raw", "joules", "joules_logic", "saved_percent")} for name in MEMORIES}

    def _by_image(self, jobs: Sequence[Job], before: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """[points, images] KL; [points, images, 2] bytes and raw bytes; [points, images] expected drop, percentage points."""
        kls, sizes, drops = [], [], []
        from scipy.special import softmax

        p = softmax(before.astype(np.float64), axis=1)
        for job in jobs:
            found = self.gathered(job.slug)
            assert found is not None
            kls.append(kl_per_image(before, found["logits"]))
            sizes.append(np.stack([found["nbytes"].sum(1), found["raw"].sum(1)], -1))
            drops.append(100 * (p.max(1) - np.take_along_axis(p, found["logits"].argmax(1)[:, None], 1)[:, 0]))
        return np.array(kls), np.array(sizes), np.array(drops)


def at_limit(losses: NDArray[Any], sizes: NDArray[Any], limit: float) -> dict[str, Any]:
    """Where a curve crosses `limit`: ratio and its 95 % interval over resampled images; `reached` says why there is none.

    `losses`: [points, images]; `sizes`: [points, images, (bytes, raw bytes)].
    """

    def read(images: Any) -> tuple[float | None, str]:
        total = sizes[:, images].sum(1)
        ratios = total[:, 1] / total[:, 0]
        order = np.argsort(ratios)
        loss = np.maximum.accumulate(losses[:, images].mean(1)[order])  # a smaller stream that loses less by chance proves nothing
        ratios = ratios[order]
        if loss[0] > limit:
            return None, "its finest point loses more"
        if loss[-1] <= limit:
            return float(ratios[-1]), "its coarsest point loses less"
        above = int(np.argmax(loss > limit))
        if loss[above - 1] <= 0:
            return float(ratios[above - 1]), "yes"
        return ratio_at_kl([{"kl": float(k), "ratio": float(r)} for k, r in zip(loss, ratios) if k > 0], limit), "yes"

    value, reached = read(slice(None))
    random = np.random.default_rng(0)
    n = losses.shape[1]
    again = [read(random.integers(0, n, n))[0] for _ in range(RESAMPLES)] if value is not None and n > 1 else []
    known = [v for v in again if v is not None]
    interval = [float(v) for v in np.quantile(known, (0.025, 0.975))] if len(known) > RESAMPLES // 2 else None
    return {"ratio": value, "ci95": interval, "reached": reached}


def against(anchor: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes that an entry saves against another, percent: by mean over both curves (`bd_rate`), and at each KL."""
    found: dict[str, Any] = {"bd_rate": None}
    with contextlib.suppress(InputError):  # curves that share no range of KL
        found["bd_rate"] = bd_rate([p for p in anchor["points"] if p["kl"] > 0], [p for p in row["points"] if p["kl"] > 0])
    for kl in row["at_kl"]:
        ours, theirs = row["at_kl"][kl], anchor["at_kl"][kl]
        both = ours["reached"] == theirs["reached"] == "yes"
        found[kl] = 100 * (1 - theirs["ratio"] / ours["ratio"]) if both else None
    return found


# --- side by side ----------------------------------------------------------------------------------------------------

_board: Board | None = None  # in a worker: what the parent measured, shared by fork


def _work(task: tuple[str, Any]) -> tuple[str, str | None]:
    kind, what = task
    torch.set_num_threads(1)
    assert _board is not None
    if kind == "plan":
        return kind, _board.make_plan(what)
    _board.run_chunk(*what)
    return kind, None


def run(
    board: Board, entries: Sequence[Variant], points: int, workers: int, context: Mapping[str, Any], progress: Progress = silent, seconds: float = math.inf
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows of what is complete, what went wrong). Stops handing out work after `seconds`; call again to go on."""
    global _board
    stop = time.monotonic() + seconds
    jobs = [job for v in entries for job in jobs_of(v, points)]
    board.measure(jobs, progress)
    _board = board
    troubles: list[str] = []
    threads = os.environ.get("TENSORPRESS_THREADS")
    os.environ["TENSORPRESS_THREADS"] = "1" if workers > 1 else threads or ""
    try:
        todo: list[tuple[str, Any]] = [("plan", j) for j in jobs if not board.plan_path(j).exists()]
        _each(todo, workers, stop, "fitting plans", progress, troubles)
        slugs = [("float", False), *((j.slug, j.lossless) for j in jobs if board.plan_path(j).exists())]
        chunks = [
            ("chunk", (slug, start))
            for start in board.chunks()
            for slug, lossless in slugs
            if start in board.chunks(lossless) and not board.chunk_path(slug, start).exists()
        ]
        _each(chunks, workers, stop, "measuring", progress, troubles)
    finally:
        os.environ["TENSORPRESS_THREADS"] = threads or ""
        _board = None
    rows: list[dict[str, Any]] = []
    os.environ["TENSORPRESS_THREADS"] = "1"  # speeds are those of one core
    for number, variant in enumerate(entries):
        progress("timing and reading curves", number, len(entries))
        if (row := board.entry(variant, points, context)) is not None:
            rows.append(row)
    os.environ["TENSORPRESS_THREADS"] = threads or ""
    return compared(rows), troubles


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what each saves against the anchor's, if that is among them."""
    anchor = next((r for r in rows if r["name"] == ANCHOR), None)
    return [{**row, "saved_percent": against(anchor, row) if anchor is not None else row.get("saved_percent")} for row in rows]


def _each(tasks: Sequence[tuple[str, Any]], workers: int, stop: float, what: str, progress: Progress, troubles: list[str]) -> None:
    def waiting() -> Any:
        for task in tasks:
            if time.monotonic() > stop:
                return
            yield task

    results: Callable[..., Any] = map
    if workers > 1 and tasks:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            _collect(pool.imap_unordered(_work, waiting()), len(tasks), what, progress, troubles)
        return
    _collect(results(_work, waiting()), len(tasks), what, progress, troubles)


def _collect(results: Any, total: int, what: str, progress: Progress, troubles: list[str]) -> None:
    for number, (_, trouble) in enumerate(results):
        progress(what, number + 1, total)
        if trouble is not None:
            troubles.append(trouble)


def save(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows over those of the same name in `path`, and keep the others, also those that another process writes at the same time."""
    with alone_in(path.parent):
        kept: list[Any] = []
        if path.exists():
            names = {row["name"] for row in rows}
            try:
                kept = [row for row in json.loads(path.read_text()) if row["name"] not in names]
            except (ValueError, TypeError, KeyError):
                raise InputError(f"{path} is there and is no leaderboard: nothing was written over it") from None
        write_atomically(path, (json.dumps(compared([*kept, *rows]), indent=1, allow_nan=False) + "\n").encode())
