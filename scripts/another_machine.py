"""Another processor gives the same bits: the package compiled for it, run by qemu's user mode, and compared with this machine.

    make aarch64                                              the row of results/reliability/architectures.json for aarch64
    python scripts/another_machine.py --machine armhf         another of those it knows, for what it is worth

Python and its libraries for that processor are Debian's packages, unpacked into build/machines/<name>; nothing is installed, and apt works in folders
of its own. Everything that is compared was made here: golden streams, and a parcel (tests/contract/parcel.py) of streams of every card and variant for
every type. There each is decoded and encoded again, by kernels and by their twins, and then the tests of kernels run. Where a tool is missing this
says so and is no failure.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tensorpress.evaluate.machine import checkout_commit, machine

BEGAN = time.monotonic()
ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "reliability" / "architectures.json"
TESTS = ("tests/golden", "tests/core", "tests/coding", "tests/format", "tests/blocks", "tests/systems")
PURE = ("pytest", "iniconfig", "packaging", "pluggy", "pygments")  # of the test runner
NOT_THERE = {
    "blosc2": "another library's codec, without wheels of what that library needs",
    "forked_child": "qemu's user mode fails an assertion of its own where a forked child makes threads",
}
LIBRARIES = ("zstandard", "lz4", "zfpy")  # of codecs that are other people's; Blosc2 needs too much beside it


@dataclass(frozen=True)
class Machine:
    """`name`: Debian's architecture; `wheels`: the registry's platform, '' where NumPy is Debian's."""

    name: str
    processor: str
    triplet: str
    emulator: str
    flags: str = ""
    wheels: str = ""


MACHINES = {
    m.name: m
    for m in (
        Machine("arm64", "aarch64", "aarch64-linux-gnu", "qemu-aarch64", wheels="aarch64"),
        Machine("armhf", "armv7l", "arm-linux-gnueabihf", "qemu-arm"),
        Machine("i386", "i686", "i686-linux-gnu", "qemu-i386", flags="-msse2 -mfpmath=sse"),
        Machine("s390x", "s390x", "s390x-linux-gnu", "qemu-s390x"),
        Machine("ppc64el", "ppc64le", "powerpc64le-linux-gnu", "qemu-ppc64le"),
    )
}


# golden streams and denormals in every float state that a caller's thread may have, against those of the usual one
IN_STATES = """
import ctypes, sys
from tests.contract import parcel, test_same_bits
def seen():
    return test_same_bits.denormals(), parcel.check(parcel.golden(), without=sys.argv[1:])["values"]
usual = seen()
for state in test_same_bits.STATES:
    test_same_bits.set_float_state(state)
    assert seen() == usual, state
    ctypes.CDLL("libm.so.6").fesetround(0)
print(", ".join(test_same_bits.STATES))
"""


def run(command: list[str | Path], what: str, **options: object) -> str:
    """The command's output. SystemExit with its last words where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"another_machine: {what} failed:\n{done.stdout[-3000:]}")
    return str(done.stdout)


def missing(of: Machine) -> list[str]:
    tools = {"apt-get": "apt", "dpkg-deb": "dpkg", of.emulator: "qemu-user", f"{of.triplet}-g++": f"g++-{of.triplet}", "cmake": "cmake", "ninja": "ninja"}
    return [f"{tool} (package {package})" for tool, package in tools.items() if not shutil.which(tool, path=tool_path())]


def tool_path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def unpack(of: Machine, folder: Path) -> tuple[Path, str]:
    """(root of that machine's files, its Python's version): Debian's packages, by an apt that touches nothing of this system."""
    root = folder / "root"
    apt = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    settings = {"Dir::State": apt / "state", "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache", "APT::Architecture": of.name, "APT::Sandbox::User": "root"}
    text = "".join(f'{key} "{value}";\n' for key, value in settings.items())
    (apt / "apt.conf").write_text(f'{text}APT::Architectures {{ "{of.name}"; }};\n')
    env = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"}
    run(["apt-get", "update"], "apt-get update", env=env)
    depends = run(["apt-cache", "depends", "python3"], "apt-cache", env=env)
    found = re.search(r"Depends: python(3\.\d+)$", depends, re.M)
    if not found:
        raise SystemExit("another_machine: Debian's python3 does not say which version it is")
    python = found[1]
    packages = [f"python{python}", f"libpython{python}-dev", "libstdc++6", "libatomic1", "libgomp1", *([] if of.wheels else ["python3-numpy"])]
    run(["apt-get", "install", "-y", "--download-only", "--no-install-recommends", *packages], "downloading Debian's packages", env=env)
    if not (root / "usr" / "bin" / f"python{python}").exists():
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            run(["dpkg-deb", "-x", package, root], f"unpacking {package.name}")
    return root, python


def site_of(of: Machine, folder: Path, python: str) -> Path:
    """A folder of what the tests import: the test runner, NumPy and libraries with wheels for that machine, in this machine's versions."""
    site = folder / "site"
    ready = site / ".ready"
    wanted = [*PURE, *(("numpy", *LIBRARIES) if of.wheels else ())]
    names = []
    for name in wanted:
        try:
            names.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if ready.exists() and ready.read_text() == " ".join(names):
        return site
    shutil.rmtree(site, ignore_errors=True)
    platforms = [f"--platform={kind}_{of.wheels or 'x86_64'}" for kind in ("manylinux2014", "manylinux_2_27", "manylinux_2_28")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--only-binary=:all:", "--target", site]
    run([*pip, *platforms, "--platform=any", f"--python-version={python}", *names], "installing wheels")
    ready.write_text(" ".join(names))
    return site


def compiled(of: Machine, folder: Path, root: Path, python: str) -> Path:
    """A folder that holds the package with its native module for that machine, made by the project's own CMake rules."""
    objects, package = folder / "objects", folder / "package"
    include = root / "usr" / "include" / f"python{python}"
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": of.processor,
        "CMAKE_CXX_COMPILER": f"{of.triplet}-g++",
        "CMAKE_CXX_FLAGS": f"{of.flags} -idirafter {root / 'usr' / 'include'}".strip(),
        "CMAKE_BUILD_TYPE": "Release",
        "Python_EXECUTABLE": sys.executable,
        "Python_INCLUDE_DIR": include,
        "Python_INCLUDE_DIRS": include,
    }
    env = {**os.environ, "PATH": tool_path()}
    run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", objects, *(f"-D{k}={v}" for k, v in settings.items())], "configuring", env=env)
    run(["cmake", "--build", objects, "--target", "_native"], "compiling", env=env)
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "tensorpress", package / "tensorpress", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (module,) = objects.glob("_native*.so")
    shutil.copy(module, package / "tensorpress" / "_native.so")  # a name that every Python on Linux finds
    return package


def launcher(of: Machine, folder: Path, root: Path, python: str) -> Path:
    """A program that is Python of that machine, for this one to start: tests start it as well."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {shutil.which(of.emulator)} -L {root} -0 {path} {root}/usr/bin/python{python} "$@"\n')
    path.chmod(0o755)
    return path


def compared(of: Machine, there: list[str | Path], environment: dict[str, str], folder: Path) -> dict[str, object]:
    """Digests of golden streams and of a parcel, here and there, by kernels and by twins. They are strings of one and the same bits or this raises."""
    parcel = folder / "parcel"
    shutil.rmtree(parcel, ignore_errors=True)
    here = [sys.executable]
    run([*here, "-m", "tests.contract.parcel", "pack", parcel], "packing streams", cwd=ROOT)
    rows: dict[str, object] = {}
    left: list[str] = []
    for name, arguments in {
        "golden streams": ["golden"],
        "golden streams, twins": ["golden", "--twin"],
        "streams of every card": ["check", parcel],
        "streams of every card, twins": ["check", parcel, "--twin"],
        "streams of every card, 4 threads": ["check", parcel, "--threads", "4"],
    }.items():
        command = ["-m", "tests.contract.parcel", *arguments]
        theirs = json.loads(run([*there, *command], f"{name} on the other machine", cwd=ROOT, env=environment).splitlines()[-1])
        left = theirs["left out"]
        ours = json.loads(run([*here, *command, *(["--without", *left] if left else [])], f"{name} here", cwd=ROOT).splitlines()[-1])
        same = ours["values"] == theirs["values"] and ours["bytes"] == theirs["bytes"]
        rows[name] = {"streams": theirs["streams"], "values": theirs["values"], "bytes": theirs["bytes"], "equal to those here": same, "left out": left}
        print(f"another_machine: {name}: {theirs['streams']} streams, {'the same bits' if same else 'OTHER BITS'} as on {ours['machine']}", flush=True)
        if not same:
            raise SystemExit(f"another_machine: {name}: {ours} here, {theirs} there")
    if of.processor in ("x86_64", "aarch64"):  # whose float states the tests know
        states = run([*there, "-c", IN_STATES, *left], "float states of the caller on the other machine", cwd=ROOT, env=environment).strip()
        rows["float states of the caller that change nothing"] = states
        print(f"another_machine: {states}: the same bits", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", choices=sorted(MACHINES), default="arm64", help="in Debian's words")
    parser.add_argument("--part", choices=("digests", "tests"), help="this part alone; what the row has of the other one stays")
    parser.add_argument("--quick", action="store_true", help="digests only, no tests, and nothing is recorded")
    arguments = parser.parse_args()
    of = MACHINES[arguments.machine]
    lacking = missing(of)
    if lacking:
        print(f"another_machine: skipped: {', '.join(lacking)} is not here")
        return 0
    folder = ROOT / "build" / "machines" / of.name
    root, python = unpack(of, folder)
    print(f"another_machine: Python {python} for {of.processor} unpacked, {time.monotonic() - BEGAN:.0f} s", flush=True)
    package = compiled(of, folder, root, python)
    site = site_of(of, folder, python)
    print(f"another_machine: compiled, {time.monotonic() - BEGAN:.0f} s", flush=True)
    there = launcher(of, folder, root, python)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTEST_ADDOPTS", "TENSORPRESS_ISA", "LD_LIBRARY_PATH")}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, [package, site, ROOT / "scripts"])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TENSORPRESS_LEFT_OUT": "torch hypothesis scipy",
        "TENSORPRESS_PYTHON": str(there),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    facts = "import platform, sys, numpy, tensorpress._native as n; print(platform.machine(), sys.byteorder, sys.maxsize.bit_length() + 1, platform.python_version(), numpy.__version__, n.__file__)"
    processor, order, bits, version, numpy, module = run([there, "-c", facts], "the other machine's Python", env=environment, cwd=ROOT).split()
    if not Path(module).is_relative_to(package):
        raise SystemExit(f"another_machine: the package that runs is {module}")
    print(f"another_machine: {processor}, {bits} bits, {order}-endian, Python {version}, NumPy {numpy}", flush=True)
    row: dict[str, object] = {
        "architecture": processor,
        "bits": int(bits),
        "byte order": order,
        "emulator": run([of.emulator, "--version"], "qemu").splitlines()[0],
        "compiler": run([f"{of.triplet}-g++", "--version"], "the compiler").splitlines()[0],
        "Python": version,
        "NumPy": numpy,
        "machine": machine(),
    }
    if arguments.part != "tests":
        row |= {"digests": {"commit": checkout_commit(ROOT / "src" / "tensorpress"), **compared(of, [there], environment, folder)}}
        if not arguments.quick:
            keep(row)
    if arguments.quick or arguments.part == "digests":
        return 0
    failed = False
    tests: dict[str, object] = {"commit": checkout_commit(ROOT / "src" / "tensorpress"), "left out": NOT_THERE}
    for path in TESTS:
        left_out = " or ".join(NOT_THERE)
        command = [there, "-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider", "-p", "left_out", path, "-k", f"not ({left_out})"]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        summary = done.stdout.splitlines()[-1] if done.stdout else "nothing"
        tests[path] = {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?)", summary)}
        print(f"another_machine: {path}: {summary}", flush=True)
        if done.returncode:
            failed = True
            print(done.stdout[-4000:], file=sys.stderr)
        keep(row | {"tests": tests})
    return int(failed)


def keep(row: dict[str, object]) -> None:
    """Puts a row in the place of that architecture's; parts that it lacks stay as they were."""
    kept = json.loads(RECORD.read_text())["rows"] if RECORD.exists() else []
    same = [r for r in kept if r["architecture"] == row["architecture"]]
    rows = [r for r in kept if r not in same] + [{**(same[0] if same else {}), **row}]
    record = {
        "command": "make aarch64",
        "commit": checkout_commit(ROOT / "src" / "tensorpress"),
        "machine": machine(),
        "seconds": round(time.monotonic() - BEGAN),
        "rows": sorted(rows, key=lambda r: str(r["architecture"])),
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
