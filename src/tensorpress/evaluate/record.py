"""A file of result rows: the command that makes them again, the commit and machine that made them, how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorpress.core.atomic import write_atomically
from tensorpress.evaluate.machine import PACKAGE, checkout_commit, machine


def write_record(path: Path, command: str, seconds: float, rows: Sequence[Mapping[str, Any]], *, commit: str | None = None, **facts: Any) -> None:
    """Writes it whole. `commit`: of the code that was measured, where it may have moved on since; `facts` stand beside the rows."""
    record = {"command": command, "commit": checkout_commit(PACKAGE) if commit is None else commit, "machine": machine(), "seconds": round(seconds, 1), **facts, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
