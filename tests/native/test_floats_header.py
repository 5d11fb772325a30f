"""The native module is not made where its bits would be others: the compiler stops with a sentence that says why."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[2] / "native" / "include"
COMPILER = next((c for c in (os.environ.get("CXX", "").split(" ")[0], "g++", "clang++") if c and shutil.which(c)), "")


def compiled(*flags: str) -> subprocess.CompletedProcess[str]:
    if not COMPILER:
        pytest.skip("there is no C++ compiler here")
    command = [COMPILER, "-std=c++20", "-fsyntax-only", f"-I{INCLUDE}", *flags, "-x", "c++", "-"]
    return subprocess.run(command, input='#include "tensorpress/floats.h"\n', capture_output=True, text=True)


def test_plain_flags() -> None:
    assert compiled("-O3").returncode == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["-ffast-math"], "must not be compiled with -ffast-math"),
        (["-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__"], "big-endian machines are not supported"),
        (["-U__FLT_EVAL_METHOD__", "-D__FLT_EVAL_METHOD__=2"], "floats must be computed in their own precision"),
    ],
    ids=["fast-math", "big-endian", "long floats"],
)
def test_other_arithmetic_is_refused(flags: list[str], sentence: str) -> None:
    found = compiled(*flags)
    assert found.returncode != 0 and sentence in found.stderr
