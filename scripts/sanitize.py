"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer: builds a copy of the package, then runs tests and damaged payloads on it.

    make sanitize            all tests that need no network, 10,000 damaged payloads; for every instruction set of this machine
    make sanitize QUICK=1    the tests of kernels for the first and the last instruction set, 1,000 payloads

The copy stands in a folder of its own in front of the path; Python itself is not instrumented, so the sanitizer's library is loaded before it and
leaks are not looked for. Where the compiler has no such library this says so and is no failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICK = ["tests/blocks", "tests/coding", "tests/core", "tests/golden"]
ALL = [*QUICK, "tests/contract", "tests/format", "tests/systems"]
# the first line proves that the copy is what is tested, the last one that a byte beyond a block is seen
ARMED = """
import ctypes, pathlib, sys, tensorpress._native as native
file = pathlib.Path(native.__file__)
if not file.is_relative_to(sys.argv[1]) or b"__asan_report" not in file.read_bytes():
    sys.exit(f"not the instrumented copy, but {file}: a tensorpress in editable mode comes first; use an environment without it")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(libc.malloc(ctypes.c_size_t(16)), 0, 17)
"""


def runtime(library: str = "libasan.so") -> tuple[str, list[str]] | None:
    """(compiler, libraries to load before Python): the first compiler that has the sanitizer's `library`."""
    for compiler in filter(None, [os.environ.get("CXX"), "c++", "g++"]):
        if shutil.which(compiler.split()[0]):
            asked = [subprocess.run([*compiler.split(), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip() for name in (library, "libstdc++.so")]
            if all(Path(path).is_absolute() for path in asked):  # an unknown library comes back as its bare name
                return compiler, asked
    return None


def instruction_sets() -> list[str]:
    """Those that TENSORPRESS_ISA may pin here, as native/src/isa.cpp sees them."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    wide = {"avx512bw", "avx512vl", "avx512dq", "avx512vbmi", "avx512_vbmi2"}
    return ["scalar"] + ["avx2"] * ({"avx2", "bmi2"} <= flags) + ["avx512"] * ({"avx2", "bmi2", *wide} <= flags)


def build(folder: Path, compiler: str, option: str = "TENSORPRESS_SANITIZE") -> None:
    """The package with its kernels and bindings instrumented, installed into `folder`."""
    there = all(importlib.util.find_spec(name) for name in ("scikit_build_core", "nanobind"))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
    settings = [f"build-dir={folder.parent / 'objects'}", f"cmake.define.{option}=ON", "install.strip=false"]
    command += ["--no-build-isolation"] * there + [f"--config-settings={setting}" for setting in settings]
    subprocess.run([*command, str(ROOT)], env={**os.environ, "CXX": compiler}, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    found = runtime()
    if found is None:
        print("sanitize: skipped: no compiler here has libasan.so (GCC with its sanitizers is needed)")
        return 0
    compiler, libraries = found
    folder = ROOT / "build" / "sanitize" / "package"
    began = time.monotonic()
    build(folder, compiler)
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"} | {
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps much to its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # every object a block of its own
        "OMP_NUM_THREADS": "1",
    }
    armed = subprocess.run([sys.executable, "-c", ARMED, folder], env=env, cwd=folder, capture_output=True, text=True)
    if "heap-buffer-overflow" not in armed.stderr:
        print(f"sanitize: the sanitizer does not work here: {armed.stderr.strip() or 'it let a byte beyond a block pass'}", file=sys.stderr)
        return 1
    print(f"sanitize: built in {time.monotonic() - began:.0f} s", flush=True)
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "--capture=sys", "-p", "no:cacheprovider", *(QUICK if arguments.quick else ALL)]
    fuzz = [sys.executable, str(ROOT / "native" / "fuzz" / "payloads.py"), "--cases", "1000" if arguments.quick else "10000"]
    told = set()
    sets = instruction_sets()
    tested = {sets[0], sets[-1]} if arguments.quick else set(sets)
    for isa in sets:
        began = time.monotonic()
        at = {**env, "TENSORPRESS_ISA": isa}
        fuzzed = subprocess.run(fuzz, env=at, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        told.add(fuzzed.stdout)
        print(f"{fuzzed.stdout}sanitize: {isa}: payloads took {time.monotonic() - began:.0f} s", flush=True)
        if fuzzed.returncode or (isa in tested and subprocess.run(pytest, env=at, cwd=ROOT).returncode):
            return 1
        print(f"sanitize: {isa}: {time.monotonic() - began:.0f} s", flush=True)
    if len(told) > 1:
        print("sanitize: damaged payloads end otherwise with another instruction set", file=sys.stderr)
    return int(len(told) > 1)


if __name__ == "__main__":
    sys.exit(main())
