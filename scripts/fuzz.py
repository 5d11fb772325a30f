"""Every decoder under libFuzzer with AddressSanitizer and UBSan, and what Python reads under atheris: executions, coverage, and what was found.

    make fuzz                      a million executions a target; rows in results/reliability/fuzz.json
    make fuzz QUICK=1              three seconds a target, no rows: a smoke
    make fuzz ONLY=cells RUNS=5000000

Targets stand in native/fuzz; seeds are made from the golden streams. An input that breaks a promise is written to tests/corrupt/<target>/, where tests find it,
and where the next run begins with it. Without clang this says so and is no failure; without atheris Python's targets are left out.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorpress.evaluate.machine import machine

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "fuzz"
CORRUPT = ROOT / "tests" / "corrupt"
RESULTS = ROOT / "results" / "reliability" / "fuzz.json"
PYTHON_TARGETS = ("stream", "plan", "frames", "bundle", "weights")
QUICK_SECONDS = 3
TELL_SECONDS = 60
LOCK = threading.Lock()
# libFuzzer's: an execution ends within so many seconds, and never asks for so many MiB
LIMITS = ["-timeout=20", "-rss_limit_mb=3000", "-malloc_limit_mb=512", "-print_final_stats=1"]
# the sources whose coverage a target answers for
SOURCES = {
    "adaptive": ["adaptive.cpp", "adaptive_small.cpp", "adaptive_fast.cpp", "adaptive_fast_body.cpp"],
    "zero_bitmap": ["zero_bitmap.cpp", "zero_bitmap_body.cpp"],
    "cells": ["cells.cpp", "cells_body.cpp"],
    "cell_modes": ["cells.cpp"],
    "channel_dct": ["channel_dct.cpp", "channel_dct_body.cpp"],
    "rans": ["rans.cpp"],
    "laned_rans": ["rans_lanes.cpp", "rans_lanes_body.cpp"],
    "byte_planes": ["byte_planes.cpp", "byte_planes_body.cpp", "lane_model.cpp"],
    "huffman": ["huffman.cpp"],
    "zero_runs": ["words.cpp"],
    "columns": ["words.cpp"],
    "slots": ["words.cpp"],
    "ranges": ["words.cpp"],
    "ebpc": ["planes.cpp"],
    "predictive": ["planes.cpp"],
    "context_fast": ["context.cpp", "context_lanes.cpp", "context_lanes/cells.h", "context_lanes/decoder.h", "context_lanes/sums.h", "context_lanes/turn.h"],
    "context_max": ["context_max.cpp", "context_max_body.cpp"],
    "payload": ["payload.cpp", "frame.cpp", "crc32c.cpp"],
    "frame": ["frame.cpp", "payload.cpp"],
}


@dataclass(frozen=True)
class Tools:
    clang: str
    cmake: str

    def llvm(self, name: str) -> str | None:
        """llvm-cov and the like, of the compiler's version."""
        told = subprocess.run([self.clang, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"version (\d+)", told)
        major = found[1] if found else ""
        return shutil.which(f"{name}-{major}") or shutil.which(name) or shutil.which(name, path=f"/usr/lib/llvm-{major}/bin")


def find_tools() -> Tools | str:
    """The tools, or why there are none."""
    own = os.environ.get("CXX", "")
    names = ([own] if "clang" in own else []) + ["clang++", *(f"clang++-{v}" for v in range(21, 13, -1))]
    clang = next((name for name in names if shutil.which(name)), None)
    if clang is None:
        return "no clang++ is here (Debian: apt-get install clang-16 libclang-rt-16-dev)"
    probe = "#include <cstddef>\n#include <cstdint>\n#include <vector>\nextern \"C\" int LLVMFuzzerTestOneInput(const std::uint8_t*, std::size_t) { return 0; }\n"
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [clang, "-std=c++20", "-fsanitize=fuzzer,address,undefined", "-x", "c++", "-", "-o", str(BUILD / "probe")]
    if subprocess.run(command, input=probe, text=True, capture_output=True).returncode:
        return f"{clang} has no libFuzzer or no sanitizers (Debian: apt-get install libclang-rt-16-dev, or of its version)"
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    return Tools(clang, cmake) if cmake else "no cmake is here (pip install cmake, or apt-get install cmake)"


def build(tools: Tools, jobs: int, coverage: bool) -> Path:
    """The folder of the programs."""
    folder = BUILD / ("coverage" if coverage else "fuzzers")
    began = time.monotonic()
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    fresh = not (folder / "CMakeCache.txt").exists()
    setup = [tools.cmake, "-S", str(ROOT), "-B", str(folder), f"-DCMAKE_CXX_COMPILER={tools.clang}", "-DTENSORPRESS_FUZZ=ON"]
    setup += [f"-DTENSORPRESS_FUZZ_COVERAGE={'ON' if coverage else 'OFF'}"]
    setup += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja and fresh else []
    for command in (setup, [tools.cmake, "--build", str(folder), "--parallel", str(jobs)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"fuzz: {' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    print(f"fuzz: built the {'replay programs' if coverage else 'targets'} with {tools.clang} in {time.monotonic() - began:.0f} s", flush=True)
    return folder / "native" / "fuzz"


def native_targets() -> list[str]:
    return sorted(path.stem for path in (ROOT / "native" / "fuzz" / "targets").glob("*.cpp") if path.stem != "replay")


def make_seeds() -> None:
    for folder in ("seeds", "tables"):
        shutil.rmtree(BUILD / folder, ignore_errors=True)
    for script, words in (("seeds.py", [BUILD / "seeds", BUILD / "tables"]), ("python_targets.py", ["--seeds", BUILD / "seeds"])):
        subprocess.run([sys.executable, str(ROOT / "native" / "fuzz" / script), *words], check=True, stdout=subprocess.DEVNULL)


def program(target: str, programs: Path) -> list[str]:
    if target in PYTHON_TARGETS:
        return [sys.executable, str(ROOT / "native" / "fuzz" / "python_targets.py"), target]
    return [str(programs / f"fuzz_{target}")]


def commit() -> str:
    """Of the checkout; the targets of one run may be of another commit than those of the next."""
    return subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def corrupt_files(target: str) -> list[Path]:
    return sorted(p for p in (CORRUPT / target).glob("*") if p.is_file())


def folder_of(kind: str, target: str, *, fresh: bool = False) -> Path:
    folder = BUILD / kind / target
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment(target: str) -> dict[str, str]:
    own = {"TENSORPRESS_FUZZ_TABLES": str(BUILD / "tables" / target), "UBSAN_OPTIONS": "print_stacktrace=1", "OMP_NUM_THREADS": "1", "TENSORPRESS_THREADS": "1"}
    return {**os.environ, **own}


def watched(command: Sequence[str], log: Path, env: Mapping[str, str], name: str) -> int:
    """Runs a fuzzer; says now and then how far it is."""
    with log.open("w") as to:
        process = subprocess.Popen(command, stdout=to, stderr=subprocess.STDOUT, env=dict(env), cwd=BUILD)
        began = time.monotonic()
        while True:
            try:
                return process.wait(TELL_SECONDS)
            except subprocess.TimeoutExpired:
                last = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("#")]
                print(f"fuzz: {name}: {time.monotonic() - began:.0f} s, {last[-1] if last else 'starting'}", flush=True)


def fuzz(target: str, programs: Path, runs: int | None, seconds: int | None, seed: int) -> tuple[dict[str, Any], str]:
    """A row: what was run, how far it reached, what it found; and the end of its log where it broke. Files that it found stand under tests/corrupt already."""
    corpus, found = folder_of("corpus", target, fresh=True), folder_of("found", target, fresh=True)
    seeds = folder_of("seeds", target)
    for path in corrupt_files(target):
        shutil.copy(path, seeds / path.name)
    limit = [f"-runs={runs}"] * (runs is not None) + [f"-max_total_time={seconds}"] * (seconds is not None)
    entropic = ["-entropic_scale_per_exec_time=1"] * (target not in PYTHON_TARGETS)  # slow inputs, such as large maps, are tried less often
    command = [*program(target, programs), *LIMITS, *entropic, *limit, f"-seed={seed}", f"-artifact_prefix={found}/", str(corpus), str(seeds)]
    log = folder_of("logs", "") / f"{target}.log"
    began, of = time.monotonic(), commit()
    code = watched(command, log, environment(target), target)
    text = log.read_text(errors="replace")
    reached = re.findall(r"^#(\d+)\s+(?:INITED|NEW|REDUCE|pulse|DONE|RELOAD)\s+(?:cov: (\d+))?(?: ft: (\d+))?(?: corp: (\d+)/(\S+))?", text, re.M)
    executed = re.findall(r"stat::number_of_executed_units:\s+(\d+)", text)
    done = re.findall(r"^Done (\d+) runs", text, re.M)  # atheris prints no statistics
    broken = sorted(p for p in found.iterdir() if p.is_file())
    for path in broken:
        (CORRUPT / target).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, CORRUPT / target / path.name)
    row = {
        "target": target,
        "commit": of,
        "under": "atheris" if target in PYTHON_TARGETS else "libFuzzer, AddressSanitizer, UndefinedBehaviorSanitizer",
        "executions": int((executed or done or [reached[-1][0] if reached else "0"])[-1]),
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
        "seed inputs": sum(1 for _ in seeds.iterdir()),
        "corpus inputs": int(reached[-1][3] or 0) if reached else 0,
        "edges covered": int(reached[-1][1] or 0) if reached else 0,
        "crashes": len(broken) or int(code != 0),
    }
    return row, "\n" + "\n".join(text.splitlines()[-25:]) if code else ""


def minimised(target: str, programs: Path) -> dict[str, int]:
    """The smallest part of what was found that covers as much, in a folder of its own: how many inputs and bytes that is."""
    to = folder_of("minimised", target, fresh=True)
    command = [*program(target, programs), "-merge=1", str(to), str(BUILD / "corpus" / target), str(BUILD / "seeds" / target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BUILD, env=environment(target))
    if done.returncode:
        print(f"fuzz: {target}: its corpus could not be minimised: {done.stderr[-300:]}", file=sys.stderr)
        return {}
    sizes = [p.stat().st_size for p in to.iterdir() if p.is_file()]
    return {"minimised inputs": len(sizes), "minimised bytes": sum(sizes)}


def covered(target: str, replays: Path, tools: Tools) -> dict[str, Any]:
    """Lines and regions of the target's sources that its minimised corpus reaches, in per cent; and by file."""
    profdata, cov = tools.llvm("llvm-profdata"), tools.llvm("llvm-cov")
    if not profdata or not cov:
        return {"coverage": "no llvm-profdata or llvm-cov is here"}
    raw, merged, replay = folder_of("profiles", "") / f"{target}.raw", folder_of("profiles", "") / f"{target}.data", replays / f"fuzz_{target}"
    subprocess.run([str(replay), str(BUILD / "minimised" / target)], env={**environment(target), "LLVM_PROFILE_FILE": str(raw)}, check=True, capture_output=True)
    subprocess.run([profdata, "merge", "-sparse", str(raw), "-o", str(merged)], check=True)
    sources = [str(ROOT / "native" / "src" / name) for name in SOURCES[target]]
    told = subprocess.run([cov, "export", "-summary-only", f"-instr-profile={merged}", str(replay), *sources], check=True, capture_output=True, text=True).stdout
    data = json.loads(told)["data"][0]
    files = {Path(f["filename"]).name: round(f["summary"]["lines"]["percent"], 1) for f in data["files"]}
    return {"line coverage": round(data["totals"]["lines"]["percent"], 1), "region coverage": round(data["totals"]["regions"]["percent"], 1), "lines by file": files}


def told(row: Mapping[str, Any]) -> str:
    lines = f", {row['line coverage']} % of lines" if "line coverage" in row else ""
    return f"fuzz: {row['target']}: {row['executions']:,} executions in {row['seconds']} s, {row['edges covered']} edges{lines}, {row['crashes']} crashes"


def record(row: Mapping[str, Any], runs: int) -> None:
    """The row in place of an old one of the same target."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with LOCK, (BUILD / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another run of this script may stand beside
        _record(row, runs)


def _record(new: Mapping[str, Any], runs: int) -> None:
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    kept = [{"commit": before["commit"], **row} for row in before["rows"] if row["target"] != new["target"]]
    rows = sorted([*kept, new], key=lambda row: (row["target"] in PYTHON_TARGETS, row["target"]))
    facts = {
        "command": f"make fuzz RUNS={runs}",
        "commit": new["commit"],
        "machine": machine(),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS} seconds a target; no coverage, no rows")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target")
    parser.add_argument("--seconds", type=int, help="no target runs longer; its row says how many executions that were")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 2), help="compilers and targets side by side")
    parser.add_argument("--only", action="append", help="this target, or several by comma")
    arguments = parser.parse_args()
    every = [*native_targets(), *PYTHON_TARGETS]
    targets = [name for words in arguments.only for name in words.split(",")] if arguments.only else every
    unknown = sorted(set(targets) - set(every))
    if unknown:
        print(f"fuzz: no target {', '.join(unknown)}; there are {', '.join(every)}", file=sys.stderr)
        return 2
    if importlib.util.find_spec("atheris") is None and set(targets) & set(PYTHON_TARGETS):
        print(f"fuzz: {', '.join(t for t in targets if t in PYTHON_TARGETS)}: skipped: atheris is not installed (pip install tensorpress[fuzz])")
        targets = [name for name in targets if name not in PYTHON_TARGETS]
    native = [name for name in targets if name not in PYTHON_TARGETS]
    programs, beside, replays = BUILD, ThreadPoolExecutor(1), None
    tools = find_tools()
    if native and isinstance(tools, str):
        print(f"fuzz: native targets: skipped: {tools}")
        targets, native = [name for name in targets if name in PYTHON_TARGETS], []
    if native and isinstance(tools, Tools):
        programs = build(tools, arguments.jobs, coverage=False)
        if not arguments.quick:
            replays = beside.submit(build, tools, 1, coverage=True)  # needed when the first target is done
    make_seeds()

    def one(target: str) -> dict[str, Any]:
        row, log = fuzz(target, programs, None if arguments.quick else arguments.runs, QUICK_SECONDS if arguments.quick else arguments.seconds, arguments.seed)
        if not arguments.quick:
            if target in native:
                row |= minimised(target, programs)
            record(row, arguments.runs)
        print(told(row) + log, flush=True)
        return row

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(one, targets))
    for row in rows:
        if replays and isinstance(tools, Tools) and row["target"] in native:
            row |= covered(row["target"], replays.result(), tools)
            record(row, arguments.runs)
            print(told(row), flush=True)
    crashes = sum(row["crashes"] for row in rows)
    if crashes:
        print(f"fuzz: {crashes} inputs break a promise; they stand under tests/corrupt/", file=sys.stderr)
    return int(crashes > 0)


if __name__ == "__main__":
    sys.exit(main())
