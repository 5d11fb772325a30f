"""The native code under valgrind's memcheck: the tests of every kernel, and what memcheck has to say of it, as rows of results/reliability/memcheck.json.

    make memcheck            every part, about two hours of one core
    make memcheck QUICK=1    the golden streams alone

Memcheck sees what AddressSanitizer does not: values that were never written and yet decide. Errors with a frame in the native module are counted, and
those that arise elsewhere (Python's small integers, the loader's strings) beside them. Golden streams run with origins: a byte that a
kernel left unwritten and Python looks at later is then found by where it was made.
Children that tests start run without memcheck. Where there is no valgrind this says so and is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tensorpress._native
from tensorpress.evaluate.machine import checkout_commit, machine

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "reliability" / "memcheck.json"
LEFT_OUT = "torch onnx onnxruntime scipy sklearn PIL"  # their code is not ours and takes minutes to load here
MODULE = str(Path(tensorpress._native.__file__).resolve())
# a byte beyond a block and a byte never written, both read by a kernel of ours: memcheck must see them
ARMED = """
import ctypes
from tensorpress._native import crc32c
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def block(there, told):
    at = libc.malloc(ctypes.c_size_t(there))
    return at, (ctypes.c_char * told).from_address(at)
at, beyond = block(16, 17)
ctypes.memset(at, 1, 16)
crc32c(beyond)
print(crc32c(block(16, 16)[1]) == 1)
"""


@dataclass(frozen=True)
class Part:
    """What one process runs."""

    command: tuple[str, ...]
    isa: str = "scalar"
    origins: bool = False
    left_out: str = ""  # of tests: an expression of pytest's -k
    reason: str = ""

    @property
    def name(self) -> str:
        return " ".join(self.command)

    @property
    def tests(self) -> bool:
        return self.command[0].startswith("tests/")


GOLDEN = ("-m", "tests.contract.parcel", "golden")
PARCEL = ("-m", "tests.contract.parcel", "check", "PARCEL")
DAMAGED = ("native/fuzz/payloads.py", "--cases", "400")
PARTS = (
    Part(GOLDEN, origins=True),
    Part(PARCEL),
    Part(DAMAGED),
    Part(GOLDEN, isa="avx2"),
    Part(PARCEL, isa="avx2"),
    Part(DAMAGED, isa="avx2"),
    Part(("tests/golden",)),
    Part(("tests/coding",)),
    Part(("tests/blocks",)),
    Part(("tests/format",)),
    Part(("tests/core",)),
    Part(("tests/systems",)),
    Part(("tests/contract",), left_out="same_bits", reason="they compare processes that memcheck does not follow"),
    Part(("tests/native",), left_out="test_large or test_interrupt or test_fuzz", reason="they need gigabytes, calls of a known length in time, or are parts above"),
)
QUICK = (1, 4)


def valgrind(xml: Path, *, origins: bool = False) -> list[str]:
    command = ["valgrind", "--tool=memcheck", "--error-limit=no", "--num-callers=40", "--child-silent-after-fork=yes"]
    suppressions = Path("/usr/lib/valgrind/python3.supp")
    command += [f"--suppressions={suppressions}"] * suppressions.exists() + ["--track-origins=yes"] * origins
    return [*command, "--xml=yes", f"--xml-file={xml}", sys.executable]


def environment(isa: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "scripts"), os.environ.get("PYTHONPATH")]))
    return {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"} | {
        "TENSORPRESS_ISA": isa,
        "TENSORPRESS_LEFT_OUT": LEFT_OUT,
        "PYTHONMALLOC": "malloc",  # every object a block of its own
        "PYTHONPATH": path,
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
    }


def frames(stack: ET.Element) -> list[tuple[str, str]]:
    """(function, object) from the innermost call outwards."""
    return [(f.findtext("fn") or "?", f.findtext("obj") or "?") for f in stack.iter("frame")]


def errors(xml: Path) -> tuple[Counter[str], list[str], Counter[str]]:
    """(errors in the native module by kind, one line about each, errors elsewhere by kind). 'Origin' where only the value was made there."""
    inside, told, elsewhere = Counter[str](), [], Counter[str]()
    for error in ET.parse(xml).getroot().iter("error"):
        kind = error.findtext("kind") or "?"
        if kind.startswith("Leak_"):  # XML brings them unasked; Python keeps much to its end
            continue
        first, *others = [frames(stack) for stack in error.iter("stack")]
        where = next((f"{kind} in {function}" for function, file in first if file == MODULE), None)
        # an origin: the block was made by a kernel, or for one by the binding that fills it
        where = where or next((f"{kind}, made in {function}" for stack in others for function, file in stack if file == MODULE), None)
        if where:
            inside[kind] += 1
            told.append(where)
        else:
            elsewhere[kind] += 1
    return inside, told, elsewhere


def armed() -> str:
    """'' where memcheck sees both faults in the native module, else what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "armed.xml"
        run = subprocess.run([*valgrind(xml), "-c", ARMED], env=environment("scalar"), cwd=ROOT, capture_output=True, text=True)
        if run.returncode or not xml.exists():
            return run.stderr.strip()[-500:] or "valgrind wrote nothing"
        found = errors(xml)[0]
        return "" if found["InvalidRead"] and found["UninitValue"] + found["UninitCondition"] else f"it saw only {dict(found)}"


def measured(part: Part, number: int, folder: Path) -> dict:
    """The row of a part."""
    xml = folder / f"{number}.xml"
    command = [str(folder / "parcel") if word == "PARCEL" else word for word in part.command]
    if part.tests:
        command = ["-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider", "-p", "left_out", *command]
        command += ["-k", f"not ({part.left_out})"] if part.left_out else []
    began = time.monotonic()
    run = subprocess.run([*valgrind(xml, origins=part.origins), *command], env=environment(part.isa), cwd=ROOT, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if not xml.exists() or not xml.read_text().rstrip().endswith("</valgrindoutput>"):
        raise SystemExit(f"memcheck: {part.name}: valgrind did not end: {(run.stdout + run.stderr).strip()[-2000:]}")
    said = (run.stdout.strip().splitlines() or [""])[-1]
    inside, told, elsewhere = errors(xml)
    for line in [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))] + told + ([run.stderr.strip()[-1500:]] if run.returncode else []):
        print(f"memcheck: {line}", flush=True)
    row = {
        "runs": part.name,
        "instruction set": part.isa,
        "origins tracked": part.origins,
        **outcome(part, said),
        "ended well": run.returncode == 0,
        "errors in the native module": sum(inside.values()),
        "errors elsewhere": sum(elsewhere.values()),
        "kinds elsewhere": dict(sorted(elsewhere.items())),
        "seconds": round(seconds),
    }
    return row | ({"left out": part.left_out, "because": part.reason} if part.left_out else {})


def outcome(part: Part, said: str) -> dict:
    """What the last line of a part's output says of it, as counts."""
    if part.tests:
        return {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?)", said)}
    if said.startswith("{"):
        return {"streams decoded and encoded": json.loads(said)["streams"]}
    return {f"cases {word}": int(n) for n, word in re.findall(r"(\d+) (decoded|refused|state refused)", said)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the golden streams by scalar kernels and AVX2; nothing is recorded")
    parser.add_argument("--only", metavar="NUMBERS", help="these parts, such as 1,3; their rows take the place of the recorded ones")
    arguments = parser.parse_args()
    if not shutil.which("valgrind"):
        print("memcheck: skipped: there is no valgrind here (Debian and Ubuntu: apt-get install valgrind)")
        return 0
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    fault = armed()
    if fault:
        print(f"memcheck: {version} does not see what it should: {fault}", file=sys.stderr)
        return 1
    chosen = QUICK if arguments.quick else [int(n) for n in arguments.only.split(",")] if arguments.only else range(1, len(PARTS) + 1)
    commit = checkout_commit(ROOT / "src" / "tensorpress")
    rows: dict[int, dict] = {}
    if arguments.only and RECORD.exists():
        rows = {row["part"]: row for row in json.loads(RECORD.read_text())["rows"]}
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "tests.contract.parcel", "pack", f"{folder}/parcel"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for number in chosen:
            part = PARTS[number - 1]
            print(f"memcheck: part {number} of {len(PARTS)}: {part.name}, {part.isa}{', origins' if part.origins else ''} …", flush=True)
            row = {"part": number, **measured(part, number, Path(folder)), "commit": commit}
            print(f"memcheck: {row['errors in the native module']} errors in the native module, {row['seconds']} s; ended {'well' if row['ended well'] else 'BADLY'}", flush=True)
            bad += row["errors in the native module"] + (not row["ended well"])
            rows[number] = row
            if not arguments.quick:
                keep([rows[n] for n in sorted(rows)], commit, version)
    return int(bad > 0)


def keep(rows: list[dict], commit: str, version: str) -> None:
    """Writes the record; parts that were not run are named in it."""
    record = {
        "command": "make memcheck",
        "commit": commit,
        "machine": machine(),
        "valgrind": version,
        "not instrumented": f"children that tests start; tests that import {', '.join(LEFT_OUT.split())} are skipped",
        "not run": [PARTS[n].name for n in range(len(PARTS)) if n + 1 not in {row["part"] for row in rows}],
        "seconds": sum(row["seconds"] for row in rows),
        "rows": rows,
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
