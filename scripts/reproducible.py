"""Is the release reproducible? Builds the sdist and the wheel twice, under conditions that differ, and compares them byte by byte.

    make reproducible           two builds from the last commit; writes results/reliability/reproducible.json
    make dist                   one build, the same way, into dist/

The second build has another folder, umask, time zone, locale and hash seed, and its files another date. Each wheel is made from its own
sdist, unpacked, so the sdist is shown to hold all that a wheel needs. SOURCE_DATE_EPOCH is the date of the commit; compiler and build
tools are those that are here: others may give other bytes, so the row names them.
"""

from __future__ import annotations

import argparse
import email.parser
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "reliability" / "reproducible.json"
TOOLS = ("build", "scikit-build-core", "nanobind", "cmake", "ninja")
CONDITIONS = (
    {"folder": "a", "umask": 0o022, "aged_seconds": 0, "env": {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}},
    {"folder": "another-folder/with-a-longer-name", "umask": 0o077, "aged_seconds": 98765432, "env": {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "2"}},
)


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()


def epoch(commit: str) -> str:
    """Seconds since 1970 of a commit: the date of every file in what is built from it."""
    return git("log", "-1", "--format=%ct", commit)


def checkout(commit: str, folder: Path, aged_seconds: int) -> None:
    """The commit's files in `folder`, with the umask of this process, dated `aged_seconds` ago."""
    folder.mkdir(parents=True)
    data = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
    umask = os.umask(0)
    os.umask(umask)
    then = time.time() - aged_seconds
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            if member.isfile():
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
                path.chmod((0o777 if member.mode & 0o100 else 0o666) & ~umask)
                os.utime(path, (then, then))


def build(source: Path, out: Path, date: str, env: Mapping[str, str]) -> list[Path]:
    """An sdist of `source`, and a wheel of that sdist, in `out`; both are worked on beside `source`."""
    work = source.parent / "work"
    work.mkdir()
    there = all(importlib.util.find_spec(name) for name in ("scikit_build_core", "nanobind"))
    command = [sys.executable, "-m", "build", *["--no-isolation"] * there, "--outdir", str(out), str(source)]
    done = subprocess.run(command, env={**os.environ, **env, "SOURCE_DATE_EPOCH": date, "TMPDIR": str(work)}, cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"reproducible: the build failed:\n{done.stdout[-4000:]}")
    return sorted(out.iterdir())


def under(commit: str, umask: int, source: Path, out: Path, aged_seconds: int, env: Mapping[str, str]) -> list[Path]:
    before = os.umask(umask)
    try:
        checkout(commit, source, aged_seconds)
        return build(source, out, epoch(commit), env)
    finally:
        os.umask(before)


def members(path: Path) -> dict[str, tuple[Any, ...]]:
    """name -> (date, mode, digest) of each file in an sdist or a wheel, in order."""
    found: dict[str, tuple[Any, ...]] = {}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                found[info.filename] = (info.date_time, info.external_attr >> 16, hashlib.sha256(wheel.read(info)).hexdigest())
        return found
    with tarfile.open(path) as sdist:
        for member in sdist.getmembers():
            data = sdist.extractfile(member)
            found[member.name] = (member.mtime, member.mode, hashlib.sha256(data.read() if data else b"").hexdigest())
    return found


def difference(a: Path, b: Path) -> str:
    """Where two archives differ first: in their lists, in a file's date, mode or bytes, or only in how they are packed."""
    one, other = members(a), members(b)
    if list(one) != list(other):
        only = sorted(set(one) ^ set(other))
        return f"files of one alone: {', '.join(only[:5])}" if only else "the order of files"
    for name, (date, mode, digest) in one.items():
        for what, x, y in zip(("date", "mode", "bytes"), (date, mode, digest), other[name]):
            if x != y:
                return f"{what} of {name}" + ("" if what == "bytes" else f": {x} and {y}")
    return "the packing alone"


def stray(commit: str, wheel: Path) -> list[str]:
    """What is wrong with a wheel's contents: files that do not belong, files that are missing, metadata that cannot be read."""
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/"
        metadata = email.parser.Parser().parsestr(opened.read(info + "METADATA").decode())
    wrong = []
    tracked = {name.removeprefix("src/") for name in git("ls-tree", "-r", "--name-only", commit, "src/tensorpress").splitlines()}
    inside = {name for name in names if name.startswith("tensorpress/")}
    native = {name for name in inside if name.startswith("tensorpress/_native.") and name.endswith((".so", ".pyd"))}
    wrong += [f"{name} is no file of the package" for name in sorted(inside - tracked - native)]
    wrong += [f"{name} is missing" for name in sorted(tracked - inside)]
    wrong += [f"{name} stands beside the package" for name in names if not name.startswith(("tensorpress/", info))]
    wrong += [] if len(native) == 1 else [f"{len(native)} native modules, not one"]
    wrong += [f"{name} is missing" for name in (info + "entry_points.txt", info + "RECORD") if name not in names]
    wrong += [] if any(name.startswith(info) and name.endswith("LICENSE") for name in names) else ["the licence is missing"]
    wrong += [f"metadata has no {field}" for field in ("Name", "Version", "Summary", "Requires-Python", "Description-Content-Type") if not metadata[field]]
    wrong += [] if str(metadata.get_payload()).strip() else ["metadata has no description"]
    return wrong


def versions() -> dict[str, str]:
    """The tools that the bytes depend upon."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "newest"
    for name, command in (("compiler", shlex.split(os.environ.get("CXX", "c++"))), ("cmake", ["cmake"]), ("ninja", ["ninja"])):
        if shutil.which(command[0]):
            found[name] = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    return {**found, "python": sys.version.split()[0]}


def compare(commit: str, folder: Path) -> list[dict[str, Any]]:
    """One row for each kind of file: both digests, whether they agree, and if not, where they differ."""
    sets = []
    for number, condition in enumerate(CONDITIONS, 1):
        began = time.monotonic()
        source, out = folder / str(condition["folder"]) / "source", folder / f"out{number}"
        sets.append(under(commit, condition["umask"], source, out, condition["aged_seconds"], condition["env"]))  # type: ignore[arg-type]
        print(f"reproducible: build {number} of {len(CONDITIONS)} took {time.monotonic() - began:.0f} s", flush=True)
    if [p.name for p in sets[0]] != [p.name for p in sets[1]]:
        raise SystemExit(f"reproducible: the builds made {[p.name for p in sets[0]]} and {[p.name for p in sets[1]]}")
    rows = []
    for a, b in zip(*sets):
        digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (a, b)]
        same = digests[0] == digests[1]
        row = {"file": a.name, "nbytes": a.stat().st_size, "files": len(members(a)), "sha256": digests, "same": same}
        rows.append(row if same else {**row, "differs in": difference(a, b)})
        if a.suffix == ".whl":
            rows[-1]["contents"] = stray(commit, a) or "the package, its native module and its metadata; nothing else"
    return rows


def result(commit: str, rows: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    from tensorpress.evaluate.machine import machine

    facts = {"command": "make reproducible", "commit": commit, "machine": machine().partition(", commit ")[0], "seconds": round(seconds, 1)}
    return {**facts, "source_date_epoch": int(epoch(commit)), "tools": versions(), "conditions": [{**c, "umask": f"{c['umask']:03o}"} for c in CONDITIONS], "rows": list(rows)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", action="store_true", help="build once, into dist/, and say the digests")
    parser.add_argument("--json", type=Path, default=RESULT, help="where the row goes (default: %(default)s)")
    arguments = parser.parse_args()
    if importlib.util.find_spec("build") is None:
        print("reproducible: build is missing: pip install build", file=sys.stderr)
        return 2
    if git("status", "--porcelain", "--untracked-files=no"):
        print("reproducible: the tree differs from the last commit; what is built is the commit", file=sys.stderr)
    commit = git("rev-parse", "HEAD")  # of this moment: a commit made meanwhile has another date
    with tempfile.TemporaryDirectory() as name:
        if arguments.dist:
            made = under(commit, 0o022, Path(name) / "source", Path(name) / "out", 0, {})
            wrong = [fault for path in made if path.suffix == ".whl" for fault in stray(commit, path)]
            (ROOT / "dist").mkdir(exist_ok=True)
            for path in made:
                shutil.copyfile(path, ROOT / "dist" / path.name)
                print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}")
        else:
            began = time.monotonic()
            rows = compare(commit, Path(name))
            wrong = [fault for row in rows for fault in (row.get("contents") if isinstance(row.get("contents"), list) else ())]
            wrong += [f"{row['file']} differs between the builds: {row['differs in']}" for row in rows if not row["same"]]
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(result(commit, rows, time.monotonic() - began), indent=1) + "\n")
            for row in rows:
                print(f"{row['sha256'][0]}  {row['file']}: {'the same twice' if row['same'] else 'differs'}")
    for fault in wrong:
        print(f"reproducible: {fault}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
