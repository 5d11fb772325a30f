"""Shows both decoders the same damaged streams, and counts where they part: `make decoders`.

Ours and the second one, written from FORMAT.md in Python's standard library, see streams that a few changes were made to before their checks were
made again: in the payload, in the shared state, in the parameters, in type and shape. Either both refuse, or both give the same values. Of the
codecs whose strings are a library's, only values are compared: what of other people's formats a library lets pass is its own matter.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "results" / "reliability" / "decoders.json"


def compare(codec: str, streams: int, seconds: float, seed: int) -> dict[str, object]:
    """A row: `streams` of the codec, of all its options, many shapes and types, or as many as `seconds` of processor time allow."""
    from compare import FOREIGN, options_of, seen_by_both, types_of
    from damage import SHAPES

    row: dict[str, object] = {"codec": codec, "streams": 0, "same values": 0, "refused by both": 0, "refused by one": 0, "other values": 0}
    rng = random.Random(f"{seed} {codec}")
    began, apart = time.process_time(), []
    library = codec in FOREIGN
    while row["streams"] < streams and time.process_time() - began < seconds:  # type: ignore[operator]
        options, shape, dtype = rng.choice(options_of(codec)), rng.choice(SHAPES), rng.choice(types_of(codec))
        for left, right, what in seen_by_both(codec, options, shape, dtype, 24, rng):
            kind = "refused by both" if left is None and right is None else "same values" if left == right else "refused by one" if None in (left, right) else "other values"
            row["streams"] += 1  # type: ignore[operator]
            row[kind] += 1  # type: ignore[operator]
            if kind == "other values" or (kind == "refused by one" and not library):
                apart.append(what)
    return {**row, "seconds": round(time.process_time() - began, 1), **({"apart": apart[:20]} if apart else {})}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000, help="of each codec (10,000)")
    parser.add_argument("--seconds", type=float, default=120, help="processor time of each codec, at most (120); a codec that reaches it has fewer streams")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="one codec; no file is written")
    parser.add_argument("--out", type=Path, default=ROWS, help="file of the rows (results/reliability/decoders.json)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "format")]
    import minimal
    from compare import FOREIGN

    from tensorpress.core import registry
    from tensorpress.evaluate.machine import machine

    if options.only and options.only not in registry.cards():
        print(f"decoders: unknown codec {options.only!r}; known: {', '.join(registry.cards())}", file=sys.stderr)
        return 2
    commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], capture_output=True, text=True, check=False)
    began, rows, here = time.monotonic(), [], machine()
    for codec in [options.only] if options.only else registry.cards():
        if codec in FOREIGN and importlib.util.find_spec(FOREIGN[codec].split(".")[0]) is None:
            print(f"{codec}: skipped, the library {FOREIGN[codec]} is not installed", flush=True)
            continue
        if codec not in minimal.DECODERS:
            print(f"{codec}: skipped, the second decoder learns it when it is released", flush=True)
            continue
        rows.append(compare(codec, options.streams, options.seconds, options.seed))
        print(" ".join(f"{key} {value};" for key, value in rows[-1].items()), flush=True)
    apart = sum("apart" in row for row in rows)
    if not options.only:
        again = f"python scripts/decoders.py --streams {options.streams} --seconds {options.seconds:g} --seed {options.seed}"
        report = {"command": again, "commit": commit.stdout.strip() or "unknown", "machine": here, "seconds": round(time.monotonic() - began, 1), "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print(f"{sum(row['streams'] for row in rows)} streams of {len(rows)} codecs, decoders apart on {apart} codecs: {options.out}")  # type: ignore[misc]
    return int(apart > 0)


if __name__ == "__main__":
    sys.exit(main())
