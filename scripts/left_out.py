"""A pytest plugin: a test that imports a module named in TENSORPRESS_LEFT_OUT is skipped, and says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest

NAMES = frozenset(os.environ.get("TENSORPRESS_LEFT_OUT", "").split())


class Finder:
    """In front of every other one: a skip instead of a module."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name.partition(".")[0] in NAMES:
            pytest.skip(f"{name} is left out here", allow_module_level=True)


def pytest_configure() -> None:
    sys.meta_path.insert(0, Finder())
    sys.executable = os.environ.get("TENSORPRESS_PYTHON", sys.executable)  # what starts this Python, where that is an emulator
