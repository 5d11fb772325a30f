"""The benchmark runs and writes what it measured; how fast is never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tensorpress.core import registry


def test_rows(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "run.py"
    env = {k: v for k, v in os.environ.items() if k != "TENSORPRESS_DATA"}
    subprocess.run([sys.executable, script, "--rounds", "2", "--json", tmp_path / "rows.json"], env=env, check=True, capture_output=True, timeout=120)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {card.id for card in registry.cards().values()} <= {row["subject"] for row in rows}
    for row in rows:
        assert {"subject", "op", "threads", "gb_per_s", "ratio", "nbytes", "tensor", "spread"} <= set(row)
        assert row["tensor"] == "demo-all" and abs(row["ratio"] - row["values"] / row["nbytes"]) < 1e-9
