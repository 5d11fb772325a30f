"""Rows of results/tune-*.json: what channel order, learned steps and fine-tuning with the codec in the loop bring.

    python scripts/measure_tune.py tune NAME …       make the tuned weights (minutes to an hour each; never committed)
    python scripts/measure_tune.py measure NAME …    real bytes on pictures left out of tuning -> results/tune-NAME.json
    python scripts/measure_tune.py table             the table of docs/tune.md

Needs TENSORPRESS_DATA; tuned states lie in TENSORPRESS_TUNED (default: build/tuned). Names are those of RECIPES.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tensorpress import features
from tensorpress.cli_parts import Prepared
from tensorpress.cli_tune import resized
from tensorpress.core.atomic import write_atomically
from tensorpress.evaluate.machine import machine
from tensorpress.pytorch.calibration import Calibration
from tensorpress.pytorch.pictures import open_pictures
from tensorpress.pytorch.reorder import fold, reordering
from tensorpress.pytorch.tune import Options, Pixels, State, begin, from_file, to_bytes, train
from tensorpress.pytorch.tuned import EARLY_LENGTH, plan_of, starts
from tensorpress.pytorch.weights import load_network, preprocessing

DATA = Path(os.environ.get("TENSORPRESS_DATA", "data"))
TUNED = Path(os.environ.get("TENSORPRESS_TUNED", "build/tuned"))
ROWS = Path(__file__).resolve().parents[1] / "results"
CROP = 160  # side of the training crops of 224 x 224 networks: half the time of the full size
EARLY = ("relu", "layer1")  # what 'early' means: the first stage


@dataclass(frozen=True)
class Recipe:
    """One row. `options` None: nothing is trained, and the codec is calibrated as ever."""

    arch: str
    quality: float  # step to start from, in levels, spread by sensitivity
    options: Options | None = None
    count: int = 300  # pictures tuned on
    order: bool = True
    early: bool = False  # DCT over channels in the first stage, learned with its mask; bitmaps elsewhere
    codec: str = "dct_cm"
    codec_options: tuple[tuple[str, Any], ...] = ()
    times: tuple[float, ...] = (0.8, 1.0, 1.25)  # of the learned steps, or of the calibrated quality


CIFAR = Options(lagrangian=0.05, epochs=1, batch=64, learning_rate=5e-5, rate_share=0.25)
FAST = dataclasses.replace(CIFAR, learning_rate=3e-4)
ENTROPY = dataclasses.replace(CIFAR, lagrangian=0.2, epochs=2, learning_rate=1e-4, rate="entropy")
IMAGENET = Options(lagrangian=0.05, epochs=2, batch=8, learning_rate=3e-5, rate_share=0.25)
LONG = dataclasses.replace(ENTROPY, epochs=3, batch=32, learning_rate=1e-3)
SCALES = dataclasses.replace(IMAGENET, lagrangian=0.15, learning_rate=5e-4, mixed=False, learn="scales")

RECIPES = {
    "resnet50-plain": Recipe("resnet50", 3.5, order=False, times=(0.7, 0.9, 1.1)),
    "resnet50-tuned": Recipe("resnet50", 3.5, IMAGENET, times=(0.85, 1.0, 1.25)),
    "resnet50-steps": Recipe("resnet50", 3.2, dataclasses.replace(SCALES, epochs=1, learn="codec"), count=200, times=(0.8, 1.0)),
    "resnet50-scales": Recipe("resnet50", 3.2, dataclasses.replace(SCALES, epochs=1), times=(1.0, 1.2)),
    "resnet18-plain": Recipe("resnet18", 4.0, order=False),
    "resnet18-order": Recipe("resnet18", 4.0, times=(1.0,)),
    "resnet18-dct": Recipe("resnet18", 4.0, order=False, codec_options=(("transform", "dct"),), times=(1.0,)),
    "resnet18-dct-order": Recipe("resnet18", 4.0, codec_options=(("transform", "dct"),), times=(1.0,)),
    "resnet18-paper": Recipe("resnet18", 4.0, order=False, codec_options=(("profile", "paper"),), times=(1.0,)),
    "resnet18-paper-order": Recipe("resnet18", 4.0, codec_options=(("profile", "paper"),), times=(1.0,)),
    "resnet18-tuned": Recipe("resnet18", 4.0, dataclasses.replace(IMAGENET, epochs=3)),
    "resnet18-scales": Recipe("resnet18", 4.0, SCALES),
    "cifar_resnet56-plain": Recipe("cifar_resnet56", 9.0, order=False, times=(0.5, 0.7, 0.8, 1.0)),
    "cifar_resnet56-order": Recipe("cifar_resnet56", 9.0, times=(0.5, 0.7, 1.0)),
    "cifar_resnet56-tuned": Recipe("cifar_resnet56", 9.0, CIFAR, count=10000, times=(0.7, 0.85, 0.9, 1.0, 1.25)),
    "cifar_resnet56-fast": Recipe("cifar_resnet56", 9.0, FAST, count=10000, times=(0.7, 0.85, 1.0, 1.25)),
    "cifar_resnet20-plain": Recipe("cifar_resnet20", 9.0, order=False, times=(0.7, 1.0, 1.4)),
    "cifar_resnet20-order": Recipe("cifar_resnet20", 9.0, times=(0.7, 1.0, 1.4)),
    "cifar_resnet20-dct": Recipe("cifar_resnet20", 9.0, codec_options=(("transform", "dct"),), times=(0.7, 1.0, 1.4)),
    "cifar_resnet20-tuned": Recipe("cifar_resnet20", 9.0, FAST, count=4000, times=(0.7, 1.0, 1.4)),
    "cifar_resnet20-early": Recipe("cifar_resnet20", 9.0, FAST, count=4000, early=True, times=(0.7, 1.0, 1.4)),
    "cifar_resnet20-order0": Recipe("cifar_resnet20", 9.0, order=False, codec="uniform_rans", times=(0.5, 0.7, 1.0, 1.4)),
    "cifar_resnet20-entropy-long": Recipe("cifar_resnet20", 14.0, LONG, count=10000, order=False, codec="uniform_rans", times=(0.5, 0.7, 1.0, 1.4)),
    "cifar_resnet20-entropy": Recipe("cifar_resnet20", 12.0, ENTROPY, count=10000, order=False, codec="uniform_rans", times=(0.7, 1.0, 1.4, 2.0)),
}


def silent(what: str, done: int, total: int) -> None:
    pass


@dataclass
class Material:
    """A network and its pictures: `chosen` are tuned on, `left` are not."""

    network: Any
    wanted: Any
    pictures: Any
    chosen: list[int]
    left: Any  # pictures
    labels: list[int]


def material(arch: str, count: int) -> Material:
    if arch.startswith("cifar"):
        network = load_network(arch=arch, weights=DATA / "cifar10" / f"{arch.removeprefix('cifar_')}.safetensors")
        pictures, left = open_pictures(DATA / "cifar10/train_10k.npz"), open_pictures(DATA / "cifar10/test_500.npz")
        return Material(network, preprocessing(network), pictures, list(range(count)), left, [int(n) for n in left.labels])
    network = load_network(arch=arch, weights=DATA / "imagenet" / f"{arch}_pqf.npz")
    pictures = open_pictures(DATA / "imagenet/images", DATA / "imagenet/labels.csv")
    chosen = [i for i in range(len(pictures)) if i % 5 < 3][:count]  # files are sorted by class: every part of them has its share
    left = pictures.without([pictures.ids[i] for i in range(len(pictures)) if i % 5 < 3])
    left = left[::2]  # 100 of 200: a point of ResNet-50 takes two minutes
    return Material(network, preprocessing(network), pictures, chosen, left, [int(n) for n in left.labels])


def calibrating(m: Material, arch: str) -> list[torch.Tensor]:
    at = m.chosen[:64] if arch.startswith("cifar") else m.chosen[::10]
    return [m.pictures.tensor(i, m.wanted) for i in at]


def tune(name: str, recipe: Recipe) -> None:
    assert recipe.options is not None, f"{name} is not tuned"
    m = material(recipe.arch, recipe.count)
    original, images = copy.deepcopy(m.network), calibrating(m, recipe.arch)
    if recipe.order:
        fold(m.network, reordering(m.network, images[:12]))
    calibration = Calibration.measure(m.network, images[:16], "dct_cm", scale="max")
    begun = starts(calibration, recipe.quality, "none")
    if recipe.early:
        begun = [dataclasses.replace(s, length=EARLY_LENGTH) if c.path.startswith(EARLY) else s for s, c in zip(begun, calibration.sites)]
    sized = dataclasses.replace(m.wanted, crop=CROP) if m.wanted.crop else m.wanted
    pixels = Pixels([resized(m.pictures[i].pixels, sized.resize) for i in m.chosen], sized, torch.device("cpu"))
    state, started = begin(m.network, calibration.sites, begun, recipe.options), time.perf_counter()
    TUNED.mkdir(parents=True, exist_ok=True)

    def save(now: State) -> None:
        write_atomically(TUNED / f"{name}.safetensors", to_bytes(now))
        print(f"{name}: epoch {now.epoch}, {now.history[-1]}, {time.perf_counter() - started:.0f} s", flush=True)

    train(state, original, pixels, silent, save)


def measure(name: str, recipe: Recipe) -> None:
    m = material(recipe.arch, recipe.count)
    original, images, left = copy.deepcopy(m.network), calibrating(m, recipe.arch), Prepared(m.left, m.wanted)
    state, calibration = None, None
    if recipe.options is not None:
        state = from_file(TUNED / f"{name}.safetensors", m.network)
    else:
        if recipe.order:
            fold(m.network, reordering(m.network, images[:12]))
        calibration = Calibration.measure(m.network, images[:16], "dct_cm", options=dict(recipe.codec_options), scale="max")
        if recipe.codec != "dct_cm":
            state = begin(m.network, calibration.sites, starts(calibration, recipe.quality, "none"), Options(rate="entropy"))
    file = ROWS / f"tune-{name}.json"
    points = json.loads(file.read_text())["points"] if file.exists() else []  # points that are there are kept: remove the file to start anew
    for times in [t for t in recipe.times if t not in [p["times"] for p in points]]:
        plan = plan_of(state, images[:16], recipe.codec, times=times) if state is not None else calibration.plan_at(recipe.quality * times)
        with torch.inference_mode():
            row = features.evaluate(m.network, plan, left, m.labels, against=original)
        kept = ("ratio", "ratio_mean_of_layers", "ratio_worst_layer", "bits_per_value", "kl", "kl_ci95", "expected_drop", "agreement")
        kept += ("top1_float", "top1", "drop_points", "drop_ci95", "drop_smoothed", "drop_smoothed_ci95", "raw_nbytes", "nbytes", "shared_nbytes", "cells")
        points.append({"times": times, **{k: row[k] for k in kept}, "layers": {x["site"]: round(x["ratio"], 3) for x in row["layers"]}})
        print(f"{name} x{times:g}: {row['ratio']:.3f} total, {row['ratio_mean_of_layers']:.3f} mean of layers, KL {row['kl']:.4f}, "
              f"smoothed drop {row['drop_smoothed']:.2f}, {row['seconds']:.0f} s", flush=True)  # fmt: skip
    made = dataclasses.asdict(recipe) | {"history": state.history if state is not None else []}
    told = {"name": name, "command": f"python scripts/measure_tune.py measure {name}", "recipe": made, "images": len(m.left), "machine": machine(), "points": points}
    points.sort(key=lambda p: p["times"])
    write_atomically(file, (json.dumps(told, indent=1) + "\n").encode())


def at_kl(points: list[dict[str, Any]], limit: float, key: str = "ratio") -> float | None:
    """`key` where KL is `limit`, between the measured points, linear in log KL; None outside them."""
    ordered = sorted(points, key=lambda p: p["kl"])
    for low, high in itertools.pairwise(ordered):
        if low["kl"] <= limit <= high["kl"]:
            share = np.log(limit / low["kl"]) / np.log(high["kl"] / low["kl"])
            return float(low[key] + share * (high[key] - low[key]))
    return None


def table() -> None:
    print("| row | steps | total | mean of layers | KL (95 %) | smoothed drop, points (95 %) |")
    print("|---|---|---|---|---|---|")
    for name in RECIPES:
        file = ROWS / f"tune-{name}.json"
        for p in json.loads(file.read_text())["points"] if file.exists() else ():
            kl, drop = ("{:.4f} to {:.4f}".format(*p["kl_ci95"]), "{:+.2f} to {:+.2f}".format(*p["drop_smoothed_ci95"]))
            print(f"| {name} | x{p['times']:g} | {p['ratio']:.2f} | {p['ratio_mean_of_layers']:.2f} | {p['kl']:.4f} ({kl}) | {p['drop_smoothed']:+.2f} ({drop}) |")


if __name__ == "__main__":
    verb, names = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    unknown = [n for n in names if n not in RECIPES]
    if verb not in ("tune", "measure", "table") or unknown:
        sys.exit(f"{__doc__}\n{', '.join(unknown) + ' is none of them. ' if unknown else ''}Names: {', '.join(RECIPES)}")
    if verb == "table":
        table()
    for chosen in names:
        {"tune": tune, "measure": measure}[verb](chosen, RECIPES[chosen])
