"""Inputs that once broke a promise, found by `make fuzz` or beside what it found: whatever they hold, the reader ends in an array or a StreamError.

Folders are named after their targets. Those of Python's targets are read here; the others need the native targets, which
`make fuzz` builds with clang: it runs them on these files before anything else.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tensorpress.core.errors import StreamError
from tensorpress.core.stream import Stream
from tensorpress.planning.plan import Plan

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = ROOT / "build" / "fuzz" / "fuzzers" / "native" / "fuzz"


def load_targets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("python_targets", ROOT / "native" / "fuzz" / "python_targets.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGETS = load_targets()
FILES = sorted(p for p in HERE.glob("*/*") if p.is_file() and p.parent.name != "__pycache__")


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name in TARGETS.TARGETS], ids=named)
def test_readers_refuse_or_read(path: Path) -> None:
    TARGETS.TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name not in TARGETS.TARGETS], ids=named)
def test_native_targets_take_them(path: Path) -> None:
    program = PROGRAMS / f"fuzz_{path.parent.name}"
    if not program.exists():
        pytest.skip(f"{program.name} is not built: `make fuzz` builds it and runs it on this file")
    env = {**os.environ, "TENSORPRESS_FUZZ_TABLES": str(ROOT / "build" / "fuzz" / "tables" / path.parent.name)}
    done = subprocess.run([program, path], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["half-a-character", "number-beyond-all", "not-a-number", "number-of-5000-digits", "deep-lists"])
def test_headers_that_cannot_be_written_again(name: str) -> None:
    with pytest.raises(StreamError, match="header"):
        Stream.from_bytes((HERE / "stream" / name).read_bytes())


@pytest.mark.parametrize("name, place", [("shape-of-words", "one form"), ("path-of-numbers", "entry 0, site"), ("model-of-nothing", "header")])
def test_plans_of_other_types(name: str, place: str) -> None:
    with pytest.raises(StreamError, match=place):
        Plan.from_bytes((HERE / "plan" / name).read_bytes())
