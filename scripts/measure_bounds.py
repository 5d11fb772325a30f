"""What decoders take, measured: memory against what a shape declares, and time while sizes double. Writes results/reliability/memory.json and linear.json.

    python scripts/measure_bounds.py                       both, for every codec
    python scripts/measure_bounds.py --only memory zvc      one table, one codec

Each codec is measured in a process of its own. Honest data is a map of noise and zeros; hostile data is the shortest payload that still decodes, or is refused
last: a stripe without bytes, a few zeros, or what an encoder makes of nothing but zeros. Sizes double three times; a ratio of 2 a doubling is linear.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = [1 << n for n in (16, 17, 18, 19)]  # values, whose time is taken
DECLARED = 1 << 20  # values, whose memory is
CHANNELS = 64
TYPES = ("float32", "float16", "uint8")
RUN = """
import json, sys, time
import numpy as np
from tensorpress.core import registry
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import Writer, chw, stripe_count

codec, jobs, seed = json.loads(sys.argv[1])

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

def measured(shape, kind, dtype, repeats):
    shape, rng = tuple(shape), np.random.default_rng(seed)
    sample = np.maximum(rng.laplace(size=(min(chw(shape)[0], 64), 16, 16)), 0).astype(np.float32)
    coder = registry.build(codec).fit([sample])
    coder.decode_payload(coder.encode_payload(sample))  # what is made once

    def stripes(filling):
        out = Writer(np.dtype(dtype), shape)
        for _ in range(stripe_count(shape)):
            out.stripe(filling)
        return out.finish()

    def decoded(payload):
        try:
            coder.decode_payload(payload, max_nbytes=1 << 62)
        except StreamError:
            pass

    if kind == "honest":
        x = np.maximum(rng.laplace(size=shape), 0)
        payloads = [bytes(coder.encode_payload((x if dtype.startswith("f") else 20 * x).astype(dtype)))]
    else:
        payloads = [stripes(b""), stripes(bytes(16)), bytes(coder.encode_payload(np.zeros(shape, dtype)))]
    declared, times, seconds = int(np.prod(shape)) * max(4, np.dtype(dtype).itemsize), 0.0, []
    for payload in payloads:
        before = status("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        decoded(payload)
        times = max(times, (status("VmHWM") - before) / (declared + len(payload)))
    for _ in range(repeats):
        at = time.process_time()
        for payload in payloads:
            decoded(payload)
        seconds.append(time.process_time() - at)
    return [times, min(seconds, default=0.0)]

print(json.dumps([measured(*job) for job in jobs]))
"""


def measured(codec: str, jobs: list[tuple[Any, ...]], seed: int) -> list[tuple[float, float]]:
    """(memory over what was asked for, seconds) of each (shape, kind, type, repeats)."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TENSORPRESS_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", RUN, json.dumps([codec, jobs, seed])], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{codec}: {done.stderr.strip().splitlines()[-1]}")
    return [(times, seconds) for times, seconds in json.loads(done.stdout)]


def memory(codec: str, seed: int) -> list[dict[str, Any]]:
    """The most memory that a decoder takes beyond its input, over what shape and input ask for."""
    n = DECLARED
    shapes = [(CHANNELS, 8, n // CHANNELS // 8), (1, 8, n // 8), (1, 1, n), (1, n // 64, 8)]
    if codec not in ("klt", "context"):  # their state is for so many channels: it is the input
        shapes += [(n // 8, 8, 1), (n, 1, 1)]
    jobs = [(shape, "hostile", dtype, 0) for shape in shapes for dtype in TYPES]
    times, (shape, _, dtype, _) = max((times, job) for (times, _), job in zip(measured(codec, jobs, seed), jobs))
    print(f"{codec:14} {times:5.2f} times, {dtype} {shape}", flush=True)
    return [{"codec": codec, "times": round(times, 2), "type": dtype, "shape": list(shape)}]


def linear(codec: str, seed: int) -> list[dict[str, Any]]:
    """Processor seconds while sizes double: in one stripe, and in ever more of them."""
    rows = []
    for kind in ("honest", "hostile"):
        for grows in ("columns", "rows"):
            sides = [n // CHANNELS // 8 for n in SIZES]
            jobs = [((CHANNELS, 8, side) if grows == "columns" else (CHANNELS, 8 * side, 1), kind, "float32", 3) for side in sides]
            seconds = [s for _, s in measured(codec, jobs, seed)]
            ratios = [round(b / a, 2) for a, b in itertools.pairwise(seconds)]
            rows.append({"codec": codec, "data": kind, "grows": grows, "values": SIZES, "seconds": [round(s, 5) for s in seconds], "ratio per doubling": ratios})
            print(f"{codec:14} {kind:8} {grows:8} {seconds[-1]:8.4f} s, ratios {ratios}", flush=True)
    return rows


def main() -> None:
    sys.path.insert(0, str(ROOT / "src"))
    from tensorpress.core import registry
    from tensorpress.core.errors import InputError
    from tensorpress.evaluate.machine import checkout_commit, machine
    from tensorpress.planning.plan import write_atomically

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*", help="ids; none: every codec")
    parser.add_argument("--only", choices=["memory", "linear"], help="one of the two tables")
    parser.add_argument("--seed", type=int, default=0, help="of the maps")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reliability", help="folder of the tables")
    args = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("memory is read from Linux's /proc, which is not there")
    codecs = args.codecs or [card.id for card in registry.cards().values() if card.family == "features"]
    for codec in list(codecs):
        try:
            registry.build(codec)
        except InputError as error:
            print(f"{codec} is left out: {error}", file=sys.stderr)
            codecs.remove(codec)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, table in (("memory", memory), ("linear", linear)):
        if args.only in (None, name):
            start = time.perf_counter()
            command = " ".join(["python scripts/measure_bounds.py", "--only", name, "--seed", str(args.seed), *args.codecs])
            rows = [row for codec in codecs for row in table(codec, args.seed)]
            found = {"command": command, "commit": checkout_commit(ROOT / "src" / "tensorpress"), "machine": machine(), "seconds": round(time.perf_counter() - start, 1), "rows": rows}
            write_atomically(args.out / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
