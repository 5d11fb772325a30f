"""Rate-distortion rows of our weight files, the row against NNCodec, and the README's figure.

    python scripts/weight_curves.py curves [--networks resnet20 …]               results/weights/curves.json
    python scripts/weight_curves.py against [--networks resnet20 resnet56]       results/weights/against.json, from anchors.json, curves.json and some more files
    python scripts/weight_curves.py figure                                       docs/weights-resnet20.svg, from committed rows alone

Needs TENSORPRESS_DATA but for `figure`. Networks, inputs and the keys of a row are those of benchmarks/weight_anchors.py; rows of other weight systems than the default are
scripts/weight_systems.py's. A point is one pass at a target of bits for each weight; its bytes are those of the whole file, decoded again and judged. `budget` rows are
what `weights.compress` makes, as users call it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import weight_judge  # noqa: E402
import weight_picture  # noqa: E402
from weight_judge import ROWS, Judge, clock, folder  # noqa: E402
from weight_subjects import SUBJECTS  # noqa: E402

from tensorpress import weights  # noqa: E402
from tensorpress.core.atomic import write_atomically  # noqa: E402
from tensorpress.core.errors import InputError  # noqa: E402
from tensorpress.pytorch.weight_problem import Problem  # noqa: E402

Row = dict[str, Any]
FINE = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0, 5.0, 6.5)  # coded bits for each weight
BITS: Mapping[str, Sequence[float]] = {
    "resnet20": FINE, "resnet56": (1.0, 1.2, 1.4, 1.7, 2.2, 3.0, 6.5), "squeezenet1_1": (2.0, 3.0, 4.0, 6.5),
    "mobilenet_v2": (3.0, 4.0, 5.0, 6.5), "characters": (1.5, 2.0, 2.5, 3.0, 4.0, 6.5),
}  # fmt: skip
CALIBRATION = {"resnet20": 1024, "resnet56": 256, "squeezenet1_1": 64, "mobilenet_v2": 64, "characters": 128}  # inputs
BUDGETS: Mapping[str, Sequence[str]] = {"resnet20": ("62kB", "50kB")}
SHARES = (0.55, 0.45)  # of NNCodec's bytes on ResNet-56, at these settings: wanted, hoped for
PUBLISHED = ("qp -20", "qp -24")
REFINED = {"resnet20": ("qp -22",), "resnet56": PUBLISHED}  # points of NNCodec without tools that goals speak of
FIGURE = ROOT / "docs" / "weights-resnet20.svg"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, what in (("curves", "rows of our files"), ("against", "our smallest file for each NNCodec point"), ("figure", "bytes against KL on ResNet-20, as SVG")):
        part = parts.add_parser(name, help=what)
        if name == "figure":
            part.add_argument("--out", type=Path, default=FIGURE, help="(docs/weights-resnet20.svg)")
            continue
        part.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS) if name == "curves" else ["resnet20", "resnet56"], metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
        part.add_argument("--characters", type=Path, help="weights that scripts/train_characters.py wrote")
        part.add_argument("--bits", nargs="+", type=float, metavar="B", help="targets, in coded bits for each weight")
        part.add_argument("--calibration", type=int, metavar="N", help="inputs to calibrate on (by network: " + ", ".join(f"{k} {v}" for k, v in CALIBRATION.items()) + ")")
        part.add_argument("--seed", type=int, default=0)
        if name == "against":
            part.add_argument("--tries", type=int, default=2, help="files tried between two points of the curve, for each point of NNCodec that goals speak of (2)")
        if name == "curves":
            part.add_argument("--no-budgets", action="store_true", help="leave out what weights.compress makes of budgets")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    try:
        if options.part == "figure":
            write_atomically(options.out, weight_picture.picture("resnet20", SUBJECTS["resnet20"].title, everyone("resnet20")).encode())
            print(f"{options.out} is written")
            return
        data = folder(os.environ.get("TENSORPRESS_DATA"))
        for name in options.networks:
            if SUBJECTS[name].weights is None and options.characters is None:
                say(f"{name}: left out, its weights are trained by scripts/train_characters.py: give --characters")
                continue
            Ours(name, data, options).run()
    except InputError as error:
        sys.exit(f"weight_curves: {error}")


class Ours:
    """One network: the float answers, and files of ours that were tried."""

    def __init__(self, name: str, data: Path, options: argparse.Namespace) -> None:
        say(f"{name}: reading inputs, running the float network")
        self.name, self.options = name, options
        self.judge = Judge(name, data, options.characters)
        self.network = self.judge.network()
        count = options.calibration or CALIBRATION[name]
        self.inputs, self.labels = self.judge.inputs.calibration[:count], self.judge.inputs.calibration_labels[:count]

    def run(self) -> None:
        if self.options.part == "against":
            self.against()
            return
        wanted = [partial(self.point, target) for target in self.options.bits or BITS[self.name]]
        if not self.options.no_budgets:
            wanted += [partial(self.budget, text) for text in BUDGETS.get(self.name, ())]
        rows, left_out = [], []
        for make in wanted:
            try:
                rows.append(make())
            except InputError as error:
                left_out.append({"network": self.name, "method": weights.DEFAULT, "setting": str(make.args[-1]), "error": str(error)})
                say(f"  {make.args[-1]}: {error}")
            weight_judge.write(ROWS / "curves.json", command("curves"), rows, left_out, lambda r: r["network"] == self.name)

    def point(self, target: float) -> Row:
        """One pass at a target; the bytes are the file's."""
        seconds = clock()
        problem = Problem(self.network, self.inputs, None, self.options.seed)
        forms = weights.build().represent(problem, target)
        file = weights.assemble(self.network, forms, {"recipe": weights.DEFAULT})
        made = weights.Compressed(file.to_bytes(), self.network)
        return self.row(made, f"{target:g} bits", seconds(), bits=target)

    def budget(self, text: str) -> Row:
        seconds = clock()
        made = weights.compress(self.network, calib=self.inputs, budget=text, seed=self.options.seed)
        return self.row(made, f"budget {text}", seconds(), passes=len(made.tried))

    def row(self, made: weights.Compressed, setting: str, compress_seconds: float, **facts: Any) -> Row:
        seconds = clock()
        network: nn.Module = made.model()
        decode_seconds = seconds()
        facts |= {"method": weights.DEFAULT, "setting": setting, "data": f"{len(self.inputs)} calibration inputs without labels", "retrained": False}
        row = self.judge.row(network, made.nbytes, **facts, compress_seconds=compress_seconds, decode_seconds=decode_seconds)
        row["seconds"] = round(compress_seconds + seconds(), 2)
        bits = f"  {row['bits_per_character']:.4f} bits per character" if "bits_per_character" in row else ""
        say(f"  {setting:14s} {made.nbytes:>9,} B  {row['percent_of_fp32']:5.2f} %  agreement {row['agreement']:.4f}  KL {row['kl_unlabelled']:.5f}  {compress_seconds:.0f} s{bits}")
        return row

    # --- the row against NNCodec -------------------------------------------------------------------------------------------

    def against(self) -> None:
        """For each NNCodec point our smallest file with no less agreement on the test inputs and no more KL on the others."""
        theirs = [row for row in weight_judge.read(ROWS / "anchors.json")["rows"] if row["network"] == self.name and row["method"].startswith("nncodec")]
        if not theirs:
            raise InputError("results/weights/anchors.json holds no NNCodec rows of this network: run benchmarks/weight_anchors.py first")
        mine = [row for row in weight_judge.read(ROWS / "curves.json")["rows"] if row["network"] == self.name and row["method"] == weights.DEFAULT]
        if not mine:
            raise InputError("results/weights/curves.json holds no rows of this network: run the part `curves` first")
        rows = []
        for other in sorted(theirs, key=lambda row: row["nbytes"]):
            seconds = clock()
            if other["method"] == "nncodec" and other["setting"] in REFINED.get(self.name, ()):
                self.refine(mine, other)
            best = smallest(mine, other)
            rows.append({**beside(self.name, other, best), "seconds": seconds()})
            say(f"  {other['method']} {other['setting']}: {other['nbytes']:,} B; ours " + (f"{best['nbytes']:,} B, {100 * best['nbytes'] / other['nbytes']:.1f} %" if best else "none"))
        path = ROWS / "against.json"
        before = weight_judge.read(path)
        weight_judge.write(path, command("against"), rows, [], lambda r: r["network"] == self.name)
        document = weight_judge.read(path)
        tried = {row["nbytes"]: row for row in mine}
        document["goals"] = [goal for goal in before.get("goals", []) if goal["network"] != self.name] + goals(self.name, list(tried.values()), rows)
        document["files_tried"] = {**before.get("files_tried", {}), self.name: len(tried)}
        write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())
        for goal in document["goals"]:
            say(f"  {goal['network']}: {goal['goal']}: {goal['measured']}: {'met' if goal['met'] else 'not met'}")

    def refine(self, mine: list[Row], other: Row) -> None:
        """Files between the smallest that is good enough and the largest smaller one that is not: where its KL would be theirs, or half way where agreement fails."""
        for _ in range(self.options.tries):
            best = smallest(mine, other)
            below = max((row for row in mine if best is not None and not better(row, other) and row["nbytes"] < best["nbytes"]), key=lambda row: row["nbytes"], default=None)
            if best is None or below is None or best["nbytes"] / below["nbytes"] < 1.003:
                return
            mine.append(self.point(target_of(mine, between(below, best, other["kl_unlabelled"]))))


def between(below: Row, best: Row, kl: float) -> float:
    """Bytes at which the KL would be 3 % under `kl`, both on logarithmic axes; half way where it is agreement that `below` lacks."""
    share = 0.5
    if below["kl_unlabelled"] > kl and below["kl_unlabelled"] > best["kl_unlabelled"] > 0:
        share = min(max(math.log(below["kl_unlabelled"] / (0.97 * kl)) / math.log(below["kl_unlabelled"] / best["kl_unlabelled"]), 0.02), 0.98)
    return float(below["nbytes"] * (best["nbytes"] / below["nbytes"]) ** share)


def target_of(mine: Sequence[Row], nbytes: float) -> float:
    """The target of bits at which a file would have about so many bytes, between those that were tried."""
    known = sorted((row["nbytes"], row["bits"]) for row in mine if "bits" in row)
    return round(float(np.interp(nbytes, [n for n, _ in known], [b for _, b in known])), 4)


def better(row: Row, other: Row) -> bool:
    return row["agreement"] >= other["agreement"] and row["kl_unlabelled"] <= other["kl_unlabelled"]


def smallest(mine: Sequence[Row], other: Row) -> Row | None:
    return min((row for row in mine if better(row, other)), key=lambda row: row["nbytes"], default=None)


SHOWN = ("nbytes", "top1", "drop_points", "drop_low", "drop_high", "agreement", "agreement_low", "agreement_high", "kl_unlabelled", "kl_low_unlabelled", "kl_high_unlabelled")


def beside(name: str, other: Row, best: Row | None) -> Row:
    row = {"network": name, "method": other["method"], "setting": other["setting"], "data": other["data"], **{key: other[key] for key in SHOWN}}
    ours = {} if best is None else {f"ours_{key}": best[key] for key in (*SHOWN, "setting", "data")}
    return {**row, **ours, "percent_of_nncodec": None if best is None else 100 * best["nbytes"] / other["nbytes"]}


def goals(name: str, mine: Sequence[Row], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What was wanted beside what is, met or not."""
    found = []
    plain = {row["setting"]: row for row in rows if row["method"] == "nncodec"}
    if name == "resnet20" and "qp -22" in plain:
        theirs = plain["qp -22"]
        for limit, wanted, whose in ((62_000, 0.95, ""), (62_000, theirs["agreement"], f", NNCodec's at {theirs['nbytes']:,} B (qp -22, no data)"), (50_000, 0.95, "")):
            good = min((row for row in mine if row["agreement"] >= wanted), key=lambda row: row["nbytes"], default=None)
            text = f"{good['nbytes']:,} B is the smallest file that reaches it, at {good['agreement']:.3f} and KL {good['kl_unlabelled']:.4f}" if good else "no file reaches it"
            goal = f"at most {limit:,} B at an agreement of {wanted:g} or more on the test images{whose}"
            found.append({"network": name, "goal": goal, "measured": text, "met": good is not None and good["nbytes"] <= limit})
    for setting in PUBLISHED if name == "resnet56" else ():
        for share in SHARES:
            percent = plain[setting]["percent_of_nncodec"] if setting in plain else None
            goal = f"at most {100 * share:g} % of NNCodec's {plain[setting]['nbytes']:,} B ({setting}, no data) at no less agreement and no more KL" if setting in plain else f"NNCodec at {setting}"
            found.append({"network": name, "goal": goal, "measured": "none found" if percent is None else f"{percent:.2f} %", "met": percent is not None and percent <= 100 * share})
    return found


def command(part: str) -> str:
    return f"python scripts/weight_curves.py {part}" + (" --characters build/characters.safetensors" if part == "curves" else "")


def everyone(name: str) -> list[Row]:
    """Committed rows of a network. Of the default system those of its curve alone: systems.json has it at fewer calibration images."""
    rows = [row for file in ("anchors", "systems", "curves") for row in weight_judge.read(ROWS / f"{file}.json")["rows"] if (file, row["method"]) != ("systems", weights.DEFAULT)]
    found = [row for row in rows if row["network"] == name]
    if not found:
        raise InputError(f"no rows of {name} in results/weights: run the parts before")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
