"""The cheap check of one weight system, or of all: whether the direction of its paper's claim shows here, and the figures either way.

    python scripts/weight_checks.py elt [adaquant …]      writes results/weights/checks/<id>.json

Needs TENSORPRESS_DATA. A check is scripts/weight_checks/<id>.py: CLAIM says what is looked for, run(bench) measures. What does not show is written as well.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "results" / "weights" / "checks"


def main() -> None:
    known = sorted(path.stem for path in (HERE / "weight_checks").glob("*.py") if path.stem not in ("__init__", "bench"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", choices=[*known, "all"], metavar="ID", help=f"of {', '.join(known)}, or all")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()

    from weight_checks.bench import Bench, InputError, say

    from tensorpress.evaluate.machine import PACKAGE, checkout_commit
    from tensorpress.evaluate.record import write_record

    try:
        for name in known if "all" in wanted.systems else wanted.systems:
            check = importlib.import_module(f"weight_checks.{name}")
            say(f"{name}: {check.CLAIM}")
            torch.manual_seed(wanted.seed)
            started, commit = time.perf_counter(), checkout_commit(PACKAGE)
            shown, rows = check.run(Bench(getattr(check, "NETWORK", "resnet20"), wanted.seed))
            seconds, command = time.perf_counter() - started, f"python scripts/weight_checks.py {name}" + (f" --seed {wanted.seed}" if wanted.seed else "")
            write_record(ROWS / f"{name}.json", command, seconds, rows, commit=commit, system=name, claim=check.CLAIM, direction_shown=bool(shown))
            say(f"{name}: direction {'shown' if shown else 'not shown'}, {seconds:.1f} s")
    except InputError as error:
        sys.exit(f"weight_checks: {error}")


if __name__ == "__main__":
    main()
