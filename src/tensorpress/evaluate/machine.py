"""The machine in one line: what a reader needs to judge a time or repeat a run, and nothing that names its owner."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def machine() -> str:
    """CPU model, usable cores, versions of Python, torch and TensorPress, and the commit where run from a checkout."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [
        cpu_model(),
        f"{cores} core{'s' if cores > 1 else ''}",
        f"Python {platform.python_version()}",
        f"torch {_version('torch')}",
        f"tensorpress {_version('tensorpress')}",
    ]
    commit = checkout_commit(PACKAGE)
    return ", ".join([*parts, f"commit {commit}"] if commit else parts)


def cpu_model() -> str:
    """The processor's name as the system gives it, or at least its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    except OSError:
        pass
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine() or "unknown CPU"


def checkout_commit(package: Path) -> str:
    """Commit of the checkout that `package` is the source of, '-dirty' where tracked files differ; '' if there is none."""
    root = package.parent.parent
    if root / "src" / "tensorpress" != package or not (root / ".git").exists():
        return ""  # an installed package may lie inside somebody else's repository
    return _output("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
