"""Runs every property of tests/properties on many random examples and writes one row each: `make properties`.

A property ends when it has had `--cases` examples or `--seconds` of processor time; its row says how many examples really ran, and in how many seconds of processor time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "results" / "reliability" / "properties.json"


def commit() -> str:
    """Of the code that is run; '-dirty' where it differs from it, 'unknown' where there is no checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="examples of each property, at most (20,000)")
    parser.add_argument("--seconds", type=float, default=60, help="processor time of each property, at most (60)")
    parser.add_argument("--minutes", type=float, default=90, help="of the clock after which each property left has 200 examples (90)")
    parser.add_argument("--seed", type=int, help="of the first round of examples; drawn, and written down, where it is not given")
    parser.add_argument("--only", default="", help="an expression as pytest's -k takes it")
    parser.add_argument("--out", type=Path, default=ROWS, help="file of the rows (results/reliability/properties.json)")
    options = parser.parse_args()
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"properties: {' and '.join(missing)} missing: pip install 'tensorpress[test]'", file=sys.stderr)
        return 2
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    code = commit()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counted = Path(folder) / "counts.json"
        asked = {"CASES": options.cases, "SECONDS": options.seconds, "UNTIL": time.time() + 60 * options.minutes, "SEED": seed, "ROWS": counted}
        env = {**os.environ, "OMP_NUM_THREADS": "1", **{f"TENSORPRESS_PROPERTY_{name}": str(value) for name, value in asked.items()}}
        command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "tests/properties"]
        ended = subprocess.run([*command, *(["-k", options.only] if options.only else [])], cwd=ROOT, env=env, check=False).returncode
        if not counted.exists():
            print("properties: pytest ended before it could count", file=sys.stderr)
            return 2
        counts = json.loads(counted.read_text())
    from tensorpress.evaluate.machine import machine

    rows = [
        {"property": name, "cases": row["cases"], "failures": row["failures"], "seconds": round(row["seconds"], 2), "seed": seed}
        for name, row in counts.items()
        if row["cases"] or row["failures"]
    ]
    again = f"python scripts/properties.py --cases {options.cases} --seconds {options.seconds:g} --minutes {options.minutes:g} --seed {seed}" + (f" --only '{options.only}'" if options.only else "")
    report = {"command": again, "commit": code, "machine": machine(), "seconds": round(time.monotonic() - began, 1), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{sum(row['cases'] for row in rows)} cases of {len(rows)} properties, {sum(row['failures'] for row in rows)} failures: {options.out}")
    return ended


if __name__ == "__main__":
    sys.exit(main())
