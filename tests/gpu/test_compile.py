"""The kernels pass the whole compiler, down to machine code."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def test_every_kernel_compiles_for_a_gpu_and_fuses_no_product(device, tmp_path):
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-m", "tests.gpu.compile_kernels"], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert {"_count", "_write", "_read", "_popcount", "_quantise", "_restore", "_choose", "_pack", "_walk", "_chain", "_leap", "_spread", "_values"} <= {row["kernel"] for row in rows}
    assert all(row["nbytes"] > 1000 and row["fused"] == 0 for row in rows)
