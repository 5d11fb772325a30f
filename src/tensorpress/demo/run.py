"""The demo: feature maps of a small digits network through six codecs at one target, and its weights in one file, judged on held-out digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tensorpress import features
from tensorpress.demo import digits, network
from tensorpress.evaluate.weights import compare
from tensorpress.pytorch.calibration import Calibration, Progress, silent
from tensorpress.pytorch.networks.pixels import preprocessing
from tensorpress.pytorch.pictures import prepare
from tensorpress.report.page import write_page
from tensorpress.weights import compress

CODECS = ("context", "dct_cm", "uniform_rans", "klt", "zvc", "raw")
MAX_KL = 0.01  # nats, mean + 1 standard error on the calibration digits
CALIBRATION, TEST, CURVE = 40, 250, 24  # images: a minute on two cores
WEIGHTS = "6%"  # of 32 bits a value
ROUNDS = 6  # qualities that are tried for a codec


def weights(progress: Progress = silent) -> dict[str, Any]:
    """The same network's weights in a file of `WEIGHTS` of their bytes, judged on the same digits."""
    net = network.load()
    wanted = preprocessing(net)
    (few, _), (images, labels) = digits.load("calibration"), digits.load("test")
    calibration = torch.cat([prepare(x, wanted) for x in few[:CALIBRATION]])
    small = compress(net, calibration, budget=WEIGHTS, progress=progress)
    test = torch.cat([prepare(x, wanted) for x in images[:TEST]])
    return {**small.row(), **compare(net, small.model(), test, [int(n) for n in labels[:TEST]], progress=progress)}


def run(page: Path, command: str, progress: Progress = silent) -> list[dict[str, Any]]:
    """Result rows, one a codec; the page is written to `page`."""
    net = network.load()
    wanted = preprocessing(net)
    (few, _), (images, labels) = digits.load("calibration"), digits.load("test")
    calibration_images = [prepare(x, wanted) for x in few[:CALIBRATION]]
    test_images = [prepare(x, wanted) for x in images[:TEST]]
    rows, curves, drawn = [], [], []
    for codec in CODECS:
        calibration = Calibration.measure(net, calibration_images, codec, scale="max", steps="channel" if codec == "context" else "fisher", progress=progress)
        plan = features.settle(net, calibration_images, calibration, max_kl=MAX_KL, rounds=ROUNDS, progress=progress)
        context = {"arch": "digits_resnet", "command": command}
        rows.append(features.evaluate(net, plan, test_images, [int(n) for n in labels[:TEST]], context=context, progress=progress))
        curves += features.curves(net, calibration, test_images, 4, progress, CURVE)
        if not drawn:
            drawn = features.pictures(net, plan, test_images[0])
    write_page(page, rows, curves, drawn)
    return rows
