"""What each part of DCT-CM brings: rate-distortion curves with the DCT only, masks only, and both, on one network.

    python scripts/measure_curves.py resnet50 --out results/curves-resnet50.json

Needs TENSORPRESS_DATA. Every point is real bytes over all maps at once; calibration pictures are not evaluated on.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tensorpress.cli_parts import Prepared, write_json
from tensorpress.core.errors import InputError
from tensorpress.evaluate.machine import machine
from tensorpress.evaluate.measure import outputs, quick
from tensorpress.pytorch.calibration import Calibration
from tensorpress.pytorch.pictures import open_pictures, split
from tensorpress.pytorch.weights import load_network, preprocessing

VARIANTS = {
    "masks only": {"transform": "none"},  # bitmaps: the identity in every cell
    "DCT only": {"transform": "dct", "masks": False},  # every cell transformed, all coefficients kept
    "DCT and keep-masks": {"transform": "dct", "masks": True},
    "both, by cell": {"transform": "auto", "masks": True},
    "paper profile, DCT and keep-masks": {"profile": "paper", "transform": "dct"},
    "paper profile, both by cell": {"profile": "paper", "transform": "auto"},
}
STEPS = (2.0, 4.0, 6.0, 9.0, 13.0, 19.0)  # of the quantiser, in levels, before they are spread over the sites


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch", choices=("resnet18", "resnet50"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calib-limit", type=int, default=16)
    parser.add_argument("--limit", type=int, default=48)
    wanted = parser.parse_args()
    data = os.environ.get("TENSORPRESS_DATA")
    if not data:
        raise InputError("set TENSORPRESS_DATA to the folder of networks and pictures")
    network = load_network(arch=wanted.arch, weights=f"{data}/imagenet/{wanted.arch}_pqf.npz")
    few, test = (Prepared(p, preprocessing(network)) for p in split(open_pictures(f"{data}/imagenet/images"), wanted.calib_limit))
    test.pictures = test.pictures[: wanted.limit]
    images = [test[i] for i in range(len(test))]
    calibration = Calibration.measure(network, few, "dct_cm")
    before = outputs(network, images, "", lambda *_: None)
    curves = []
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("curves", total=len(VARIANTS) * len(STEPS))
        for name, options in VARIANTS.items():
            points = []
            for step in STEPS:
                plan = dataclasses.replace(calibration, options=options).plan_at(step)
                points.append({"quality": step, **quick(network, plan, images, before)})
                bar.advance(task)
            curves.append({"name": name, "options": options, "points": points})
    row = {"arch": wanted.arch, "images": len(images), "calib_images": len(few), "scale": calibration.scale, "curves": curves}
    command = shlex.join(["python", "scripts/measure_curves.py", wanted.arch, "--out", f"results/{wanted.out.name}"])
    write_json(wanted.out, {**row, "command": command, "machine": machine()})


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"measure_curves: {error}")
