"""Instructions a value of every native kernel, counted by callgrind, in benchmarks/instructions.csv: a difference of that file is a review item.

    make instructions                                                  writes the file anew (a few minutes)
    python -m benchmarks.instructions --check [--codec ID …]           says where a count is another; exit status 1 if so

Counted is what runs inside `tensorpress_kernel`, the one function through which the module calls every kernel: quantiser, kernel, checks and copies, but no Python
and none of the work that a codec leaves to numpy. A codec is fitted to one synthetic map (float32, 64 x 28 x 28, 46 % non-zero), outside of valgrind; variants are
those of the golden streams, so a new kernel enters with its codec. Valgrind knows no AVX-512, so TENSORPRESS_ISA is pinned to scalar and avx2. Counts repeat to
0.1 %; another compiler makes others, so each row names its own, and is compared where the module at hand was made by the same.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.synthetic import relu
from tests.golden.cases import OPTIONS

from tensorpress import _native
from tensorpress.core import registry
from tensorpress.core.atomic import write_atomically

FILE = Path(__file__).with_name("instructions.csv")
ISAS = ("scalar", "avx2")
FIELDS = ("codec", "options", *(f"{op}_{isa}" for isa in ISAS for op in ("encode", "decode")), "compiler")
NEAR = 0.01  # share by which a count may differ
# getppid marks where counts begin and end: nobody else calls it
CHILD = """
import os, sys
import numpy as np
from tensorpress.core import registry
from tensorpress.core.stream import Stream

x = np.load(sys.argv[1])
out = np.empty_like(x)
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        stream = Stream.from_bytes(file.read())
    codec = registry.build(stream.codec, stream.params, stream.state)
    payload = bytes(stream.payload)
    for count in (False, True):  # once before: what is made at the first call is not counted
        mark = os.getppid if count else int
        mark()
        codec.encode_payload(x)
        mark()
        codec.decode_payload(payload, out=out)
        mark()
"""

Row = dict[str, str]


def missing() -> str:
    """Why nothing can be counted here; empty where it can."""
    return "" if shutil.which("valgrind") else "valgrind is not installed"


def compiler() -> str:
    """What made the native module at hand, as it says itself."""
    found = re.search(rb"GCC: \([^)]*\) ([\d.]+)|(clang version [\d.]+)", Path(_native.__file__).read_bytes())
    return "unknown" if not found else f"GCC {found[1].decode()}" if found[1] else found[2].decode()


def codecs() -> list[str]:
    """Cards with kernels of this project."""
    return [card.id for card in registry.cards().values() if card.stable]


def variants(codec: str) -> list[dict[str, object]]:
    return [{}, *OPTIONS.get(codec, {}).values()]


def count(folder: Path, isa: str, paths: Sequence[Path]) -> list[int]:
    """Instructions of an encode and a decode of each stream in turn, inside kernels."""
    profile = folder / f"profile-{isa}"
    env = {**os.environ, "TENSORPRESS_ISA": isa, "TENSORPRESS_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    options = [f"--callgrind-out-file={profile}", "--toggle-collect=tensorpress_kernel", "--dump-before=getppid"]
    command = ["valgrind", "--tool=callgrind", *options, sys.executable, "-c", CHILD, folder / "x.npy", *paths]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"callgrind ended with {run.returncode}: {run.stderr[-2000:]}")
    found = []
    for number in range(1, 3 * len(paths) + 1):
        totals = re.search(r"^totals: (\d+)", Path(f"{profile}.{number}").read_text(), re.M)
        assert totals, f"profile {number} has no totals"
        if number % 3 != 1:  # the first of three is what went before the count
            found.append(int(totals[1]))
    return found


def measure(names: Sequence[str], isas: Sequence[str] = ISAS) -> list[Row]:
    """A row for each variant of the codecs, with the columns of `isas`."""
    x = relu((64, 28, 28))
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        np.save(folder / "x.npy", x)
        rows, paths = [], []
        for codec in names:
            for options in variants(codec):
                paths.append(folder / f"{len(paths)}.tp")
                paths[-1].write_bytes(registry.build(codec, options).fit([x]).encode(x).to_bytes())
                rows.append({"codec": codec, "options": json.dumps(options) if options else "", "compiler": compiler()})
        for isa in isas:
            found = count(folder, isa, paths)
            for row, encode, decode in zip(rows, found[::2], found[1::2]):
                if not encode or not decode:
                    raise RuntimeError(f"{row['codec']}: no instruction was counted: its kernels are not called through tensorpress_kernel")
                row[f"encode_{isa}"], row[f"decode_{isa}"] = f"{encode / x.size:.4g}", f"{decode / x.size:.4g}"
    return rows


def committed() -> list[Row]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compare(names: Sequence[str], rows: Sequence[Row], isas: Sequence[str] = ISAS) -> tuple[list[str], str]:
    """(what differs from the committed `rows`, a line each; why nothing was compared: empty where it was)."""
    if missing():
        return [], missing()
    others = {row["compiler"] for row in rows} - {compiler()}
    if others:
        return [], f"counts are those of {', '.join(sorted(others))}; the module here was made by {compiler()}"
    old, new = ({(row["codec"], row["options"]): row for row in some if row["codec"] in names} for some in (rows, measure(names, isas)))
    wrong = [f"{' '.join(key)}: stands in only one of file and project; run make instructions" for key in old.keys() ^ new.keys()]
    for key in old.keys() & new.keys():
        for field in (f"{op}_{isa}" for isa in isas for op in ("encode", "decode")):
            was, now = float(old[key][field]), float(new[key][field])
            if abs(now - was) > NEAR * was:
                wrong.append(f"{' '.join(key)}: {field} is {now} instructions a value, was {was}")
    return sorted(wrong), ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--codec", action="append", choices=codecs(), help="of --check: these alone")
    arguments = parser.parse_args()
    if missing():
        print(f"instructions: {missing()}", file=sys.stderr)
        return 1
    if arguments.check:
        wrong, note = compare(arguments.codec or codecs(), committed())
        print("\n".join([*wrong, *([note] if note else [])]) or "the same")
        return int(bool(wrong))
    rows = measure(codecs())
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(FILE, table.getvalue().encode())
    print(f"{FILE}: {len(committed())} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
