"""The benchmark of the GPU compares before it times, and times nothing where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_check_compares_every_codec(device, tmp_path):
    run = subprocess.run([sys.executable, SCRIPT, "--check", "--json", tmp_path / "rows.json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["subject"].split(",")[0] for row in rows} == {"zvc", "dct_cm"} and all("gb_per_s" not in row and row["nbytes"] > 100 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_figures_without_a_gpu(device):
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert run.returncode == 2 and "CUDA" in run.stderr
