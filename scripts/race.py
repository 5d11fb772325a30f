"""The native code under ThreadSanitizer: 16 threads on shared codec objects and one plan, native threads, stops and forks.

    make race            every instruction set of this machine: results/reliability/race.json
    make race QUICK=1    one of them, fewer rounds; no file is written

A copy of the package is built with every kernel and binding instrumented; Python and other libraries are not, so native/race/suppressions.txt keeps
silent on what they do among themselves. First a race made on purpose must be seen. Where the compiler has no ThreadSanitizer this says so and is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sanitize import build, instruction_sets, runtime

from tensorpress.core.atomic import write_atomically
from tensorpress.evaluate.machine import checkout_commit, cpu_model

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/core/test_threads.py", "tests/native/test_interrupt.py"]
RACE = """
extern "C" int counter, guard;
int counter, guard;
extern "C" void count(int times) { for (int i = 0; i < times; ++i) ++*const_cast<volatile int*>(&counter); }
"""
# the copy is what is tested, and two threads in one instrumented function are seen although Python's lock hands them on
ARMED = """
import ctypes, pathlib, sys, threading, tensorpress._native as native
file = pathlib.Path(native.__file__)
if not file.is_relative_to(sys.argv[1]) or b"__tsan_read" not in file.read_bytes():
    sys.exit(f"not the instrumented copy, but {file}: a tensorpress in editable mode comes first; use an environment without it")
count, together = ctypes.CDLL(sys.argv[2]).count, threading.Barrier(2)
def raced():  # one that ended before the other began would be in order, by Python's lock
    together.wait()
    count(10**7)
threads = [threading.Thread(target=raced) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def reports(folder: Path) -> list[str]:
    """What ThreadSanitizer wrote, one text a finding."""
    text = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("report.*")))
    return re.findall(r"WARNING: ThreadSanitizer: .*?(?:SUMMARY: [^\n]*|\Z)", text, re.S)


def run(command: list[str], env: dict[str, str], folder: Path) -> tuple[int, list[str]]:
    """(exit code, findings) of one program."""
    for old in folder.glob("report.*"):
        old.unlink()
    code = subprocess.run(command, env=env, cwd=ROOT).returncode
    return code, reports(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, help="of every codec (default: 4; with --quick 1)")
    parser.add_argument("--json", type=Path, help="where rows go (default: results/reliability/race.json; none with --quick)")
    arguments = parser.parse_args()
    found = runtime("libtsan.so")
    if found is None:
        print("race: skipped: no compiler here has libtsan.so (GCC with its sanitizers is needed)")
        return 0
    compiler, libraries = found
    work = ROOT / "build" / "race"
    package, began, commit = work / "package", time.monotonic(), checkout_commit(ROOT / "src" / "tensorpress")
    build(package, compiler, "TENSORPRESS_RACE")
    (work / "armed.cpp").write_text(RACE)
    subprocess.run([*compiler.split(), "-O1", "-g1", "-fsanitize=thread", "-fPIC", "-shared", "-o", work / "armed.so", work / "armed.cpp"], check=True)
    options = ["halt_on_error=0", "exitcode=0", "die_after_fork=0", f"log_path={work / 'report'}", f"suppressions={ROOT / 'native' / 'race' / 'suppressions.txt'}"]
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"} | {
        "PYTHONPATH": str(package), "LD_PRELOAD": " ".join(libraries), "TSAN_OPTIONS": " ".join(options),
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TENSORPRESS_THREADS": "4",
    }  # fmt: skip
    code, seen = run([sys.executable, "-c", ARMED, str(package), str(work / "armed.so")], env, work)
    if code or not any("data race" in report and "count" in report for report in seen):
        print("race: ThreadSanitizer does not work here: it let a race that was made on purpose pass", file=sys.stderr)
        return 1
    print(f"race: built and armed in {time.monotonic() - began:.0f} s", flush=True)
    rows: list[dict[str, Any]] = []
    rounds = str(arguments.rounds or (1 if arguments.quick else 4))
    isas = instruction_sets()
    for isa in isas[-1:] if arguments.quick else isas:
        at = {**env, "TENSORPRESS_ISA": isa}
        shared = [sys.executable, str(ROOT / "native" / "race" / "shared.py"), "--rounds", rounds, "--turn", "0.002", "--json", str(work / "rows.json")]
        pytest = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider", *TESTS]
        for name, command in [("shared objects", shared), *[("tests of native threads, stops and forks", pytest)] * (isa == isas[-1])]:
            started = time.monotonic()
            code, seen = run(command, at, work)
            row = {"what": name, "instruction set": isa, "seconds": round(time.monotonic() - started, 1), "races": len(seen)}
            if code or seen:
                print("\n".join(seen), file=sys.stderr)
                print(f"race: {isa}: {name}: exit code {code}, {len(seen)} findings", file=sys.stderr)
                return 1
            if command is shared:
                told = json.loads((work / "rows.json").read_text())
                row |= {"threads": 16, "native threads a call": 4, "encodes": sum(r.get("encodes", 0) for r in told), "decodes": sum(r.get("decodes", 0) for r in told), "codecs": told}
            rows.append(row)
            print("race: " + ", ".join(f"{k} {v}" for k, v in row.items() if k != "codecs"), flush=True)
    file = arguments.json or (None if arguments.quick else ROOT / "results" / "reliability" / "race.json")
    if file is not None:
        version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True).stdout.splitlines()[0]
        result = {
            "command": f"make race ROUNDS={rounds}", "commit": commit, "machine": f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores, {version}",
            "seconds": round(time.monotonic() - began), "rows": rows,
        }  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(result, indent=1) + "\n").encode())
        print(f"race: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
