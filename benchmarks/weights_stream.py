"""`tensorpress weights encode` and `decode` on files much larger than their largest tensor: seconds, of the processor as well (a file of output is forced to the disk), and the peak of memory, each in a process of its own.

    python benchmarks/weights_stream.py [--megabytes 1024] [--json results/weights/stream.json]

Files are synthetic: normal weights, rows of several sizes. What a process holds before it begins (Python, NumPy, this package) is taken off its peak.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tensorpress import weights_stream
from tensorpress.evaluate.record import write_record
from tensorpress.safetensors_file import front_of, laid_out

ROOT = Path(__file__).parents[1]
MB = 10**6
CASES: list[tuple[str, str, tuple[int, ...], int, dict[str, Any]]] = [  # name, type, shape of a tensor, share of --megabytes, options
    ("lossless, float32", "F32", (4096, 4096), 1, {}),
    ("lossless, bfloat16", "BF16", (8192, 4096), 1, {}),
    ("2 bits, bfloat16", "BF16", (4096, 4096), 12, {"bits": 2.0}),
]


def synthetic(path: Path, dtype: str, shape: tuple[int, ...], megabytes: int, seed: int) -> int:
    """Writes a file; bytes of a tensor of it."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.5, 2, (shape[0], 1)).astype(np.float32)
    x = rng.standard_normal(shape, np.float32) * rows * np.float32(0.02)
    one = (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else x
    count = max(2, megabytes * MB // one.nbytes)
    with open(path, "wb") as file:
        file.write(front_of(laid_out((f"layer.{i}.weight", dtype, shape) for i in range(count)), {"format": "pt"}))
        for i in range(count):
            one.reshape(-1)[0] = i  # no two are tied
            file.write(one)
    return one.nbytes


def peak(what: str) -> int:
    found = re.search(what + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def child(verb: str, source: str, output: str, options: str) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before, began, busy = peak("VmRSS"), time.perf_counter(), time.process_time()
    if verb == "encode":
        weights_stream.encode(source, output, **json.loads(options))
    else:
        weights_stream.decode(source, output)
    print(json.dumps({"seconds": time.perf_counter() - began, "busy": time.process_time() - busy, "peak": peak("VmHWM") - before}))


def measured(verb: str, source: Path, output: Path, options: dict[str, Any]) -> dict[str, float]:
    run = subprocess.run([sys.executable, __file__, "--child", verb, str(source), str(output), json.dumps(options)], capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024, help="of each file (1,024)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "weights" / "stream.json", help="file of the rows")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return 0
    if not Path("/proc/self/clear_refs").exists():
        print("weights_stream: the peak of a process is read from /proc, which this system does not have", file=sys.stderr)
        return 2
    began, rows = time.monotonic(), []
    for name, dtype, shape, part, settings in CASES:
        with tempfile.TemporaryDirectory() as folder:
            source, packed, back = (Path(folder) / n for n in ("m.safetensors", "m.tpw", "o.safetensors"))
            largest = synthetic(source, dtype, shape, options.megabytes // part, options.seed)
            encoding, decoding = measured("encode", source, packed, settings), measured("decode", packed, back, settings)
            raw = source.stat().st_size
            if not settings and source.read_bytes() != back.read_bytes():
                raise AssertionError(f"{name}: other bytes")
            row = {"case": name, "raw bytes": raw, "bytes": packed.stat().st_size, "largest tensor": largest}
            for verb, found in (("encode", encoding), ("decode", decoding)):
                row |= {f"{verb} MB/s": round(raw / found["seconds"] / MB, 1), f"{verb} MB a processor second": round(raw / found["busy"] / MB, 1), f"{verb} peak by largest tensor": round(found["peak"] / largest, 2)}
            rows.append(row)
            print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    command = f"python benchmarks/weights_stream.py --megabytes {options.megabytes} --seed {options.seed}"
    write_record(options.json, command, time.monotonic() - began, rows)
    print(f"{options.json}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
