"""How many threads a native call may use. What it gives never depends on it."""

from __future__ import annotations

import os

SHARE = 1 << 16  # values that make another thread worth its waking


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(values: int | None = None) -> int:
    """TENSORPRESS_THREADS, or every core; for a tensor of so many values not more than it keeps busy."""
    if values is not None and values < 2 * SHARE:
        return 1
    allowed = int(os.environ.get("TENSORPRESS_THREADS") or cores())
    return allowed if values is None else min(allowed, values // SHARE)
