"""Exact sizes of every codec on synthetic tensors, in benchmarks/sizes.csv: a difference of that file is a review item.

    make sizes                                                  writes the file anew
    python -m benchmarks.sizes --check [--codec ID …]           says where a size is another; exit status 1 if so

A codec is fitted to the tensor it codes, and its variants are those of the golden streams, so a new card enters by itself. Sizes are those of the
payload (type, shape, stripe table and stripes) and of what a decoder must hold besides. `depends` names what a row rests on beyond this project's own
integers: another library's version, or how this machine rounds floats (and its zlib) where a fit solves equations. Where the machine at hand has another, rows of a
library are not compared, and rows of a fit only to within 3 %.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from benchmarks.synthetic import tensors
from tests.golden.cases import OPTIONS

from tensorpress.core import registry
from tensorpress.core.atomic import write_atomically

FILE = Path(__file__).with_name("sizes.csv")
FIELDS = ("codec", "options", "tensor", "values", "payload_nbytes", "shared_nbytes", "depends")
LIBRARIES = {"zstd": "zstandard", "lz4": "lz4", "blosc2": "blosc2", "zfp": "zfpy"}  # codec: distribution
SOLVED = ("klt", "context")  # codecs whose fit solves equations
NEAR = 0.03  # share by which such a fit may differ on another machine

Row = dict[str, str]


def rounding() -> str:
    """A fingerprint of how numpy, BLAS and LAPACK round here, and of zlib, which packs models."""
    x = np.sin(np.arange(1, 64 * 200 + 1, dtype=np.float32)).reshape(64, 200)
    gram = x @ x.T
    parts = (gram, np.linalg.eigh(gram.astype(np.float64))[1], np.linalg.solve(gram[:9, :9], x[:9, :3]), x.sum(1), np.exp(x), np.log(2 + x))
    return "rounding " + hashlib.sha256(b"".join(part.tobytes() for part in parts) + zlib.ZLIB_RUNTIME_VERSION.encode()).hexdigest()[:8]


def depends(codec: str) -> str | None:
    """What sizes of this codec rest on here; None where its library is missing."""
    try:
        return f"{LIBRARIES[codec]} {version(LIBRARIES[codec])}" if codec in LIBRARIES else rounding() if codec in SOLVED else ""
    except PackageNotFoundError:
        return None


def codecs() -> list[str]:
    """Every card: integers alone first, then fits that solve equations, then other libraries."""
    ids = [card.id for card in registry.cards().values()]
    return sorted(ids, key=lambda codec: (codec in LIBRARIES, codec in SOLVED))


def measure(codec: str) -> list[Row]:
    """Its default and main variants on every tensor."""
    found = []
    for options in ({}, *OPTIONS.get(codec, {}).values()):
        for name, x in tensors().items():
            fitted = registry.build(codec, options).fit([x])
            facts = (codec, json.dumps(options) if options else "", name, x.size, len(fitted.encode_payload(x)), fitted.shared_nbytes, depends(codec))
            found.append({field: str(fact) for field, fact in zip(FIELDS, facts)})
    return found


def committed() -> list[Row]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compare(codec: str, rows: Iterable[Row]) -> tuple[list[str], str]:
    """(what differs from the committed `rows`, a line each; why this codec was not compared, or not to the byte: empty where it was)."""
    wanted = [row for row in rows if row["codec"] == codec]
    here, there = depends(codec), wanted[0]["depends"] if wanted else ""
    if wanted and here != there and codec in LIBRARIES:
        return [], f"{codec}: sizes are those of {there}; here is {here or 'no such library'}"
    note = f"{codec}: compared to within {NEAR:.0%}, since floats round otherwise here" if wanted and here != there else ""
    key = ("codec", "options", "tensor", "values")
    old, new = ({tuple(row[k] for k in key): row for row in some} for some in (wanted, measure(codec)))
    wrong = [f"{' '.join(k)}: stands in only one of file and project; run make sizes" for k in old.keys() ^ new.keys()]
    for k in old.keys() & new.keys():
        for field in ("payload_nbytes", "shared_nbytes"):
            was, now = int(old[k][field]), int(new[k][field])
            if now != was and not (note and abs(now - was) <= max(16, NEAR * was)):
                wrong.append(f"{' '.join(k)}: {field} is {now}, was {was}")
    return sorted(wrong), note


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--codec", action="append", choices=codecs(), help="of --check: these alone")
    arguments = parser.parse_args()
    if not arguments.check:
        missing = [codec for codec in codecs() if depends(codec) is None]
        if missing:
            print(f"sizes: libraries of {', '.join(missing)} are missing: the file would lose their rows", file=sys.stderr)
            return 1
        rows = [row for codec in codecs() for row in measure(codec)]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(FILE, table.getvalue().encode())
        print(f"{FILE}: {len(committed())} rows")
        return 0
    failed = False
    for codec in arguments.codec or codecs():
        wrong, note = compare(codec, committed())
        failed |= bool(wrong)
        print("\n".join([*wrong, *([note] if note else [])]) or f"{codec}: the same")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
