"""The same bits on this machine, however a process runs: instruction sets, threads, twins, float states of the caller, older processors, as rows.

    make same-bits        results/reliability/same-bits.json

A parcel (tests/contract/parcel.py) holds streams of every card and variant: of a map large enough for 8 threads, and of small ones of every type. Each
row is a process that fits nothing, decodes them all and encodes them again. Older processors are qemu's, where qemu-x86_64 is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tensorpress.evaluate.machine import checkout_commit, machine

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "reliability" / "same-bits.json"
PROCESSORS = {"Nehalem": "SSE4.2, no AVX", "SandyBridge": "AVX, no AVX2", "Haswell": "AVX2"}
IN_STATE = "import sys; from tests.contract import parcel, test_same_bits; test_same_bits.set_float_state(sys.argv.pop(1)); parcel.main()"
CHECK = ["-m", "tests.contract.parcel", "check"]


def instruction_sets() -> list[str]:
    """Those that TENSORPRESS_ISA may pin here: what scripts/sanitize.py goes through."""
    spec = importlib.util.spec_from_file_location("sanitize", ROOT / "scripts" / "sanitize.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[str] = module.instruction_sets()
    return found


def runs(quick: bool) -> Iterator[tuple[dict[str, object], list[str], list[str], dict[str, str]]]:
    """(what a row says of itself, what starts Python, its arguments before the folder, environment)."""
    python = [sys.executable]
    sets = instruction_sets()
    for isa in sets:
        for threads in ("1", "2", "8"):
            yield {"instruction set": isa, "threads": int(threads)}, python, CHECK, {"TENSORPRESS_ISA": isa, "TENSORPRESS_THREADS": threads}
    yield {"by": "twins"}, python, CHECK, {}
    if platform.machine() in ("x86_64", "aarch64"):
        for state in ("flush", "upward", "downward", "toward zero"):
            yield {"float state of the caller": state, "threads": 8}, python, ["-c", IN_STATE, state, "check"], {"TENSORPRESS_THREADS": "8"}
    emulator = shutil.which("qemu-x86_64")
    if emulator and platform.machine() == "x86_64" and not quick:
        for name, what in PROCESSORS.items():
            yield {"emulated processor": name, "has": what}, [emulator, "-cpu", name, sys.executable], CHECK, {"TENSORPRESS_THREADS": "2"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="no emulated processors, and nothing is recorded")
    arguments = parser.parse_args()
    began = time.monotonic()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size, more in (("large", ["--large"]), ("small", [])):
            subprocess.run([sys.executable, "-m", "tests.contract.parcel", "pack", f"{folder}/{size}", *more], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for what, start, before, environment in runs(arguments.quick):
            row = dict(what)
            for size in ("large", "small"):
                ran = subprocess.run([*start, *before, f"{folder}/{size}", *["--twin"] * (what.get("by") == "twins")], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
                if ran.returncode:
                    print(f"same_bits: {what}: {size}: ended with {ran.returncode}: {ran.stderr.strip()[-1500:]}", file=sys.stderr)
                    return 1
                found = json.loads(ran.stdout.splitlines()[-1])
                row |= {f"{size}: streams": found["streams"], f"{size}: values": found["values"], f"{size}: bytes": found["bytes"]}
            rows.append(row)
            print(f"same_bits: {', '.join(f'{k} {v}' for k, v in what.items())}: values {str(row['large: values'])[:12]}, bytes {str(row['large: bytes'])[:12]}", flush=True)
            if not arguments.quick:
                keep(rows, began)
    print(f"same_bits: {len(rows)} processes, {'the same bits' if equal(rows) else 'OTHER BITS'}")
    return int(not equal(rows))


def equal(rows: list[dict[str, object]]) -> bool:
    return len({tuple(v for k, v in row.items() if ": " in k) for row in rows}) == 1


def keep(rows: list[dict[str, object]], began: float) -> None:
    """Writes the record with the rows that there are."""
    record = {
        "command": "make same-bits",
        "commit": checkout_commit(ROOT / "src" / "tensorpress"),
        "machine": machine(),
        "seconds": round(time.monotonic() - began),
        "all equal": equal(rows),
        "rows": rows,
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
