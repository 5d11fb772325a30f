"""Every weight system at a few budgets on ResNet-20, as a user calls it: one row a system and budget in results/weights/systems.json.

    python scripts/weight_systems.py [ID …] [--budgets 12% 9% 6% 4.5%] [--train 8000 --epochs 2]

Systems that retrain see the first training images with labels, each as it is and once mirrored by a coin and shifted by up to 4 pixels. Needs TENSORPRESS_DATA. Rows of systems that are not run are kept. Calibration: the first training images; judged: 500 test images and the last 2,000 training
images without labels, `kl` and `agreement` of the latter with the suffix `_unlabelled`. A budget that a system cannot meet is under `left_out`, with the reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from weight_judge import ROWS, Judge, clock, folder, write  # noqa: E402
from weight_subjects import cifar_training  # noqa: E402

from tensorpress import weights  # noqa: E402
from tensorpress.core import registry  # noqa: E402
from tensorpress.core.errors import InputError  # noqa: E402
from tensorpress.pytorch.fit import flips_and_shifts  # noqa: E402

BUDGETS = ("12%", "9%", "6%", "4.5%")  # of fp32
CALIBRATION = 256  # images
TRAINING, EPOCHS = 2000, 2.0
NETWORK = "resnet20"
PATH = ROWS / "systems.json"


def main() -> None:
    known = registry.cards("method")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", choices=[*known, []], metavar="ID", help=f"of {', '.join(known)}; all where none is given")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, metavar="B", help=f"of the whole file ({' '.join(BUDGETS)})".replace("%", "%%"))
    parser.add_argument("--calibration", type=int, default=CALIBRATION, metavar="N", help=f"images ({CALIBRATION})")
    parser.add_argument("--train", type=int, default=TRAINING, metavar="N", help=f"images that systems that retrain see, each twice: as it is and moved ({TRAINING})")
    parser.add_argument("--epochs", type=float, default=EPOCHS, metavar="E", help=f"of systems that retrain ({EPOCHS})")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    try:
        judge = Judge(NETWORK, folder(os.environ.get("TENSORPRESS_DATA")))
        for name in wanted.systems or list(known):
            measure(judge, name, wanted)
    except InputError as error:
        sys.exit(f"weight_systems: {error}")


def measure(judge: Judge, name: str, wanted: argparse.Namespace) -> None:
    card, rows, left_out = registry.card(name, "method"), [], []
    images, labels = judge.inputs.calibration[: wanted.calibration], judge.inputs.calibration_labels[: wanted.calibration]
    network, options, seen = judge.network(), {}, ""
    if card.retrains:
        images, labels = moved(*cifar_training(NETWORK, folder(os.environ.get("TENSORPRESS_DATA")), wanted.train), wanted.seed)
        options = {"epochs": wanted.epochs} if "epochs" in {f.name for f in dataclasses.fields(registry.system(name, "method").Config)} else {}
        seen = f", half of them flipped and shifted copies, {wanted.epochs:g} epochs" if options else ", half of them flipped and shifted copies"
    for budget in wanted.budgets:
        torch.manual_seed(wanted.seed)
        seconds = clock()
        try:
            made = weights.compress(network, images, budget=budget, recipe=name, options=options, labels=labels if card.needs == "labels" else None, seed=wanted.seed)
        except InputError as error:
            left_out.append({"network": NETWORK, "method": name, "setting": f"budget {budget}", "error": str(error)})
            print(f"  {name} {budget}: {error}", file=sys.stderr, flush=True)
            continue
        took = seconds()
        data = {"": "none", "inputs": "calibration inputs without labels", "labels": "labelled calibration inputs"}[card.needs]
        data = f"{len(images)} {data}{seen}" if card.needs else data
        row = judge.row(made.model(), made.nbytes, method=name, setting=f"budget {budget}", data=data, retrained=card.retrains, passes=len(made.tried))
        rows.append({**row, "compress_seconds": took, "seconds": seconds()})
        shown = f"{made.nbytes:>8,} B  top-1 {row['top1']:.1f}  agreement {row['agreement']:.3f}  KL {row['kl_unlabelled']:.4f}  {took:.0f} s"
        print(f"  {name:14s} {budget:>5s} {shown}", file=sys.stderr, flush=True)
    write(PATH, "python scripts/weight_systems.py", rows, left_out, lambda r: r["method"] == name and r["setting"] in {f"budget {b}" for b in wanted.budgets})


def moved(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The images, and a mirrored or shifted copy of each."""
    copies = flips_and_shifts()(images, torch.Generator().manual_seed(seed))
    return torch.cat([images, copies]), torch.cat([labels, labels])


if __name__ == "__main__":
    main()
