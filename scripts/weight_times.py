"""How long it takes to compress networks to a budget, and to load what came of it: `python scripts/weight_times.py [--networks cifar_resnet20 resnet50]`.

Writes results/weights/times.json. Needs TENSORPRESS_DATA. ResNet-50 has weights of a vector-quantised file: it stands for its size alone, its loss says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tensorpress import weights
from tensorpress.cli_parts import Bar
from tensorpress.evaluate.record import write_record
from tensorpress.planning.weight_file import WeightReader
from tensorpress.pytorch.pictures import open_pictures
from tensorpress.pytorch.weights import load_network, preprocessing

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "weights" / "times.json"
# architecture: weights, calibration pictures, how many, budget
SUBJECTS = {
    "cifar_resnet20": ("cifar10/resnet20.safetensors", "cifar10/train_10k.npz", 256, "62kB"),
    "cifar_resnet56": ("cifar10/resnet56.safetensors", "cifar10/train_10k.npz", 256, "130kB"),
    "resnet50": ("imagenet/resnet50_pqf.npz", "imagenet/images", 64, "10%"),
}


def measured(arch: str, data: Path) -> dict[str, Any]:
    path, pictures, count, budget = SUBJECTS[arch]
    model = load_network(arch=arch, weights=data / path)
    found, wanted = open_pictures(data / pictures, limit=count), preprocessing(model)
    inputs = torch.cat([found.tensor(i, wanted) for i in range(len(found))])
    begun = time.perf_counter()
    with Bar() as bar:
        small = weights.compress(model, inputs, budget=budget, progress=bar)
    seconds = time.perf_counter() - begun
    os.environ["TENSORPRESS_THREADS"] = "1"
    rates = []
    for _ in range(5):
        before = time.process_time()
        arrays = WeightReader(small.data, max_nbytes=1 << 40).all()
        spent = time.process_time() - before
        nbytes = sum(a.nbytes for a in arrays.values())
        before = time.process_time()
        copies = [np.array(a) for a in arrays.values()]
        rates.append((nbytes / spent / 1e6, spent / max(time.process_time() - before, 1e-9)))
        del copies
    del os.environ["TENSORPRESS_THREADS"]
    rate, of_copy = sorted(rates)[len(rates) // 2]
    return {
        "network": arch, "parameters": small.parameters, "calibration_pictures": count, "budget": budget, "bytes": small.nbytes, "files_tried": len(small.tried),
        "compress_seconds": seconds, "decode_MB/s_of_fp32_on_one_core": rate, "times_a_copy": of_copy, "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    chosen = parser.parse_args().networks
    data = os.environ.get("TENSORPRESS_DATA")
    if not data:
        sys.exit("weight_times: TENSORPRESS_DATA is not set")
    begun = time.perf_counter()
    old = {r["network"]: r for r in json.loads(OUT.read_text())["rows"]} if OUT.exists() else {}
    for arch in chosen:
        old[arch] = measured(arch, Path(data))
        print(json.dumps(old[arch]), flush=True)
    rows = [old[arch] for arch in SUBJECTS if arch in old]
    write_record(OUT, "python scripts/weight_times.py", time.perf_counter() - begun, rows)


if __name__ == "__main__":
    main()
