"""How steps are shared out over layers: the second-order method with each allocation, on networks whose layers have like and unlike scales.

    python scripts/weight_allocations.py [resnet20 squeezenet1_1 mobilenet_v2 characters] [--allocations common sensitive …] [--characters FILE]

Needs TENSORPRESS_DATA. One pass a row, at a target of bits for each weight: bytes differ by some per cent, and `kl_at_equal_bytes` takes each bit a weight for a factor of four,
counted from the first allocation of the run. Rows go to results/weights/allocations.json; those of other networks and allocations are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import weight_subjects  # noqa: E402
from weight_judge import ROWS, clock, folder, write  # noqa: E402

from tensorpress import weights  # noqa: E402
from tensorpress.core.errors import InputError  # noqa: E402
from tensorpress.evaluate.weights import judge, outputs  # noqa: E402
from tensorpress.pytorch.steps import ALLOCATIONS  # noqa: E402
from tensorpress.pytorch.weight_problem import Problem  # noqa: E402

SETTINGS = {"resnet20": (256, 1.5, 500), "squeezenet1_1": (32, 3.0, 100), "mobilenet_v2": (32, 4.0, 100), "characters": (64, 3.0, 400)}  # calibration inputs, bits, judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*SETTINGS, []], metavar="NETWORK", help=f"of {', '.join(SETTINGS)}; all but characters where none is given")
    parser.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=["common", "relative", "sensitive"], metavar="A", help=f"of {', '.join(ALLOCATIONS)}")
    parser.add_argument("--bits", type=float, help="for each weight (by network)")
    parser.add_argument("--characters", type=Path, help="weights that scripts/train_characters.py wrote")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    try:
        data = folder(os.environ.get("TENSORPRESS_DATA"))
        for name in wanted.networks or [n for n in SETTINGS if n != "characters"]:
            measure(name, data, wanted)
    except InputError as error:
        sys.exit(f"weight_allocations: {error}")


def measure(name: str, data: Path, wanted: argparse.Namespace) -> None:
    count, bits, judged = SETTINGS[name]
    bits = wanted.bits or bits
    network, inputs = weight_subjects.build(name, data, wanted.characters), weight_subjects.inputs_of(name, data)
    problem, before, rows = Problem(network, inputs.calibration[:count], seed=wanted.seed), outputs(network, inputs.test[:judged]), []
    values = sum(w.numel() for w in problem.matrices.values())
    for allocation in wanted.allocations:
        torch.manual_seed(wanted.seed)
        seconds = clock()
        forms = weights.build("second_order", allocation=allocation).represent(problem, bits)
        made = weights.Compressed(weights.assemble(network, forms, {}).to_bytes(), network)
        found = judge(before, outputs(made.model(), inputs.test[:judged]), inputs.test_labels[:judged])
        row = {"network": name, "method": "second_order", "setting": f"{bits:g} bits", "allocation": allocation, "calibration": count, "nbytes": made.nbytes, **found}
        first = rows[0]["nbytes"] if rows else made.nbytes
        rows.append({**row, "kl_at_equal_bytes": found["kl"] * 4.0 ** (8 * (made.nbytes - first) / values), "seconds": seconds()})
        print(f"  {name:14s} {allocation:10s} {made.nbytes:>9,} B  agreement {found['agreement']:.3f}  KL {found['kl']:.5f}", file=sys.stderr, flush=True)
    shown = {(row["network"], row["setting"], row["allocation"]) for row in rows}
    write(ROWS / "allocations.json", "python scripts/weight_allocations.py", rows, [], lambda r: (r["network"], r["setting"], r.get("allocation")) in shown)


if __name__ == "__main__":
    main()
