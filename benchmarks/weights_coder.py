"""The adaptive coder of weights: bytes against the entropy of each layer, and speed on one core next to memcpy, in one run.

    TENSORPRESS_DATA=… python benchmarks/weights_coder.py --json results/weights/coder.json
    python benchmarks/weights_coder.py --integers layers.npz      integers as a quantiser left them, one array a layer

Weights are rounded to multiples of a step: the same for all layers of a network, or, where layers differ in scale, that share of each layer's standard
deviation. `entropy` is the sum over layers of what an ideal coder of independent values would take that knows the layer's frequencies: an estimate, and
a coder that looks at neighbours may fall below it. Times are CPU seconds of the one thread, medians, in turn with a copy of the same float32 weights;
`synthetic` are Laplacian values of a size at which speed counts.
"""

from __future__ import annotations

import argparse
import lzma
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from tensorpress.coding import adaptive
from tensorpress.evaluate.record import write_record

Layers = list[NDArray[np.int32]]
STEPS = {"cifar10/resnet20": (0.045, 0.07, 0.1, 0.14), "cifar10/resnet56": (0.045, 0.07, 0.1, 0.14)}
SHARES = {"imagenet/squeezenet1_1_ncnn": (0.5, 1.0), "imagenet/mobilenet_v2_tf": (0.5, 1.0), "text/stories260K": (0.5, 1.0)}
SYNTHETIC = (0.45, 0.8, 1.6)  # scales of the Laplacian: about 1, 2 and 3 bits a value


def entropy_nbytes(layer: NDArray[np.int32]) -> float:
    counts = np.unique(layer, return_counts=True)[1]
    return float(-(counts * np.log2(counts / layer.size)).sum() / 8)


def subjects(data: Path | None, integers: list[Path], seed: int, quick: bool) -> Iterator[tuple[str, str, Layers]]:
    """(weights, step, integers of each layer)."""
    for path in integers:
        with np.load(path, allow_pickle=False) as arrays:
            yield path.stem, "as given", [arrays[name] for name in arrays.files if arrays[name].size]
    if data is not None:
        for name, steps in [*STEPS.items(), *SHARES.items()]:
            if not (data / f"{name}.safetensors").exists():
                print(f"{name}.safetensors is not in TENSORPRESS_DATA: left out", file=sys.stderr)
                continue
            layers = [w.astype(np.float32) for w in load_file(data / f"{name}.safetensors").values() if w.ndim >= 2 and w.size > 64]
            for step in steps[-1:] if quick else steps:
                own = [step * (float(w.std()) if name in SHARES else 1) for w in layers]
                yield name.split("/")[1], f"{step} std" if name in SHARES else str(step), [np.rint(w / s).astype(np.int32) for w, s in zip(layers, own)]
    rng = np.random.default_rng(seed)
    for scale in SYNTHETIC:
        yield "synthetic", f"Laplacian {scale}", [np.rint(rng.laplace(0, scale, (512, 256 if quick else 1024, 3, 3))).astype(np.int32)]


def seconds(work: Callable[[], Any]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measured(layers: Layers, form: str, rounds: int) -> dict[str, Any]:
    data = adaptive.encode(layers, form)
    shapes = [layer.shape for layer in layers]
    if not all((found == layer).all() for found, layer in zip(adaptive.decode(data, shapes), layers)):
        raise SystemExit(f"{form}: values do not come back")
    floats = [layer.astype(np.float32) for layer in layers]
    target = [np.empty_like(one) for one in floats]
    times: dict[str, list[float]] = {"encode": [], "decode": [], "memcpy": []}
    for _ in range(rounds):
        times["encode"].append(seconds(lambda: adaptive.encode(layers, form)))
        times["decode"].append(seconds(lambda: adaptive.decode(data, shapes)))
        times["memcpy"].append(seconds(lambda: [np.copyto(to, one) for to, one in zip(target, floats)]))
    raw = sum(one.nbytes for one in floats)
    return {"form": form, "nbytes": len(data), **{f"{op}_mb_per_s": raw / 1e6 / max(statistics.median(of), 1e-9) for op, of in times.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--integers", type=Path, nargs="*", default=[], help="npz files of integer arrays, one a layer")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--rounds", type=int, default=5, help="of each time; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic weights")
    parser.add_argument("--quick", action="store_true", help="one step a network, smaller synthetic weights")
    args = parser.parse_args()
    data = os.environ.get("TENSORPRESS_DATA")
    if data is None:
        print("TENSORPRESS_DATA is not set: no networks, synthetic weights only", file=sys.stderr)
    missing = [str(path) for path in args.integers if not path.exists()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    began, rows = time.monotonic(), []
    table = Table(*("weights", "step", "form", "values", "bits", "bytes", "entropy", "below it", "xz", "encode MB/s", "decode MB/s", "memcpy MB/s"))
    for name, step, layers in subjects(Path(data) if data else None, args.integers, args.seed, args.quick):
        print(f"{name}, {step} …", file=sys.stderr, flush=True)
        count, entropy = sum(layer.size for layer in layers), sum(entropy_nbytes(layer) for layer in layers)
        small = count <= adaptive.SMALL_VALUES
        xz = len(lzma.compress(b"".join(layer.clip(-128, 127).astype(np.int8).tobytes() for layer in layers))) if small else None
        for form in adaptive.FORMS if small else adaptive.FORMS[1:]:
            found = measured(layers, form, args.rounds)
            row = {"weights": name, "step": step, "values": count, "layers": len(layers), **found, "entropy_nbytes": round(entropy), "xz_nbytes": xz}
            row["bits_per_value"], row["percent_below_entropy"] = 8 * row["nbytes"] / count, 100 * (1 - row["nbytes"] / entropy)
            rows.append(row)
            speeds = (f"{row[f'{op}_mb_per_s']:,.0f}" for op in ("encode", "decode", "memcpy"))
            percent = f"{row['percent_below_entropy']:.1f} %"
            table.add_row(name, step, form, f"{count:,}", f"{row['bits_per_value']:.2f}", f"{row['nbytes']:,}", f"{entropy:,.0f}", percent, f"{xz:,}" if xz else "", *speeds)
    Console(width=140).print(table)
    if args.json:
        write_record(args.json, " ".join(["python benchmarks/weights_coder.py", *sys.argv[1:]]), time.monotonic() - began, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
