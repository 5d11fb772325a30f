"""Faults while output is written: killed writers, full disks, places that may only be read, many writers of one output.

    make faults                      200 kills of each kind of output, 50 of the slow ones and of the whole program: results/reliability/faults.json
    make faults KILLS=20 SEED=7      fewer, at other moments
    make faults QUICK=1              a few of the light kinds, as the tests do it; no file is written

Every child is a real process that writes over an old version; it gets SIGKILL, SIGINT or SIGTERM, a third of them at any moment of its life, the rest at
any moment of the writing. Then the path holds the old version or the new one, byte for byte, or this program ends with code 1 and says which kind was torn.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TENSORPRESS_THREADS="1")  # children are forked: nothing must run beside

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fault_kills import Wrong, kill_programs, kill_writers
from fault_kinds import KINDS, Kind
from fault_places import crowd, places

from tensorpress.core.atomic import write_atomically
from tensorpress.evaluate.machine import checkout_commit, cpu_model

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("plan", "stream", "vectors")


def tell(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rfaults: {what}: {done}/{total}   ", end="", file=sys.stderr, flush=True)


def measured(kinds: list[Kind], kills: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print("faults: " + ", ".join(f"{k} {v}" for k, v in row.items() if k != "written by"), flush=True)

    for kind in kinds:
        missing = kind.extra and importlib.util.find_spec(kind.extra) is None
        if missing:
            add({"kind": kind.name, "skipped": f"{kind.extra} is not installed"})
            continue
        add(kill_writers(kind, max(kills // 4, 1) if kind.slow and not quick else kills, random.Random(f"{seed} {kind.name}"), tell))
        with tempfile.TemporaryDirectory(prefix="faults-") as inputs:
            Path(inputs).chmod(0o755)  # children that are another user read them
            write = kind.ready(Path(inputs))
            for row in places(kind, write):
                add(row)
            for writers in (2,) if quick else (2, 8):
                add(crowd(kind, write, writers, 2 if quick or kind.slow else 10))
    if len(kinds) == len(KINDS):
        add(kill_programs(max(kills // 4, 1), random.Random(f"{seed} program"), tell))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="of each kind, of slow ones a fourth (default: 200; with --quick 15)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS], help="only this one; repeatable")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--json", type=Path, help="where rows go (default: results/reliability/faults.json, none where only some kinds are asked for)")
    arguments = parser.parse_args()
    if not hasattr(os, "fork"):
        print("faults: skipped: this system has no fork")
        return 0
    kinds = [kind for kind in KINDS if kind.name in (arguments.kind or (QUICK if arguments.quick else [k.name for k in KINDS]))]
    kills = arguments.kills if arguments.kills is not None else 15 if arguments.quick else 200
    if kills < 1:
        parser.error("--kills is at least 1")
    commit, began = checkout_commit(ROOT / "src" / "tensorpress"), time.monotonic()
    try:
        rows = measured(kinds, kills, arguments.seed, arguments.quick)
    except Wrong as wrong:
        print(f"faults: {wrong}", file=sys.stderr)
        return 1
    total = sum(row.get("kills", 0) for row in rows)
    print(f"faults: {total} kills, nothing torn, nothing lost; {time.monotonic() - began:.0f} s")
    file = arguments.json or (None if arguments.quick or arguments.kind else ROOT / "results" / "reliability" / "faults.json")
    if file is not None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        told = {
            "command": " ".join(["make faults", f"KILLS={kills}", f"SEED={arguments.seed}", *["QUICK=1"] * arguments.quick]), "commit": commit,
            "machine": f"{cpu_model()}, {cores} cores, Python {sys.version.split()[0]}", "seconds": round(time.monotonic() - began), "kills": total, "rows": rows,
        }  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(told, indent=1) + "\n").encode())
        print(f"faults: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
