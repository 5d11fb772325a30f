"""Speed of the codecs that run on a GPU: bytes compared with the host's first, then timed with CUDA events.

    python benchmarks/gpu.py [--json rows.json] [--rounds 15]      on a machine with a GPU and the extra 'gpu'
    python benchmarks/gpu.py --check                               compares only; without a GPU in Triton's interpreter, on small maps

Timed are `encode_on_device` and `decode_on_device`: from a tensor of the GPU to a payload there and back, with the one wait of each for the host,
allocations from PyTorch's cache included. `clone` copies the same tensor: what memory alone allows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = os.environ["TENSORPRESS_TRITON"] = "1"  # read when the kernels are imported

from torch import Tensor

from tensorpress.core import registry
from tensorpress.core.atomic import write_atomically
from tensorpress.core.codec import Codec
from tensorpress.core.payload import sealed
from tensorpress.evaluate.machine import machine

CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "zvc": ("zvc", {}),
    "zvc, step 4": ("zvc", {"step": 4.0}),
    "dct_cm, 8 channels": ("dct_cm", {"profile": "paper", "step": 8.0, "transform": "dct", "lengths": (8,)}),
    "dct_cm, auto": ("dct_cm", {"profile": "paper", "step": 8.0}),
}
SHAPES = [(256, 56, 56), (64 * 64, 112, 112), (64 * 256, 56, 56), (64 * 2048, 7, 7)]  # one map; batches of 64 maps of ResNet-50
SMALL = [(40, 9, 20)]
DTYPES = (torch.uint8, torch.float32, torch.bfloat16)
GOALS = {"zvc": 500.0, "dct_cm, 8 channels": 300.0}  # GB/s of the raw tensor, encode and decode, on an H200


def rectified(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Like a map after ReLU: 56 % non-zero, exponential, channels in groups of 8 that resemble one another."""
    generator = torch.Generator(device=device).manual_seed(1)
    common = torch.randn((-(-shape[0] // 8), 1, *shape[1:]), generator=generator, device=device).expand(-1, 8, -1, -1).flatten(0, 1)[: shape[0]]
    x = (0.96 * common + 0.28 * torch.randn(shape, generator=generator, device=device) + 0.15).relu_()
    return (x * (255 / x.max())).round_().to(torch.uint8) if dtype == torch.uint8 else x.to(dtype)


def seconds_of(run: Callable[[], Any], rounds: int) -> list[float]:
    for _ in range(3):
        run()
    found = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return found


def compared(codec: Codec, x: Tensor) -> Tensor:
    """The payload on the device. AssertionError where it, or what it decodes to, is not what the host has."""
    host = (x.float() if x.dtype == torch.bfloat16 else x).cpu()
    expected = codec.encode_payload(host.numpy())
    held = codec.encode_on_device(x)
    if sealed(held.cpu().numpy()) != expected:
        raise AssertionError("the GPU wrote other bytes than the host")
    values = torch.from_numpy(codec.decode_payload(expected, max_nbytes=1 << 62)).to(x.dtype)
    if not torch.equal(codec.decode_on_device(held, out=torch.empty_like(x), max_nbytes=1 << 62).cpu(), values):
        raise AssertionError("the GPU decoded other values than the host")
    return held


def rows(shapes: list[tuple[int, ...]], device: str, rounds: int) -> Iterator[dict[str, Any]]:
    for shape in shapes:
        for dtype in DTYPES:
            x = rectified(shape, dtype, device)
            facts = {"tensor": "x".join(map(str, shape)), "dtype": str(dtype).removeprefix("torch."), "values": x.numel(), "raw_nbytes": x.nbytes}

            def row(
                subject: str, op: str, run: Callable[[], Any], nbytes: int, facts: dict[str, Any] = facts, raw: int = x.nbytes, values: int = x.numel()
            ) -> dict[str, Any]:
                found = {**facts, "subject": subject, "op": op, "nbytes": nbytes, "ratio": values / nbytes}
                if not rounds:
                    return found
                times = seconds_of(run, rounds)
                median = statistics.median(times)
                speed = {"seconds": median, "spread": (max(times) - min(times)) / median, "gb_per_s": raw / 1e9 / median, "gvalues_per_s": values / 1e9 / median}
                return {**found, **speed, "rounds": rounds, "goal_gb_per_s": GOALS.get(subject)}

            if rounds:
                yield row("clone", "copy", x.clone, x.nbytes)
            sample = (x[:64].float() if dtype == torch.bfloat16 else x[:64]).cpu().numpy()
            for name, (codec_id, options) in CODECS.items():
                codec = registry.build(codec_id, options).fit([sample])
                held = compared(codec, x)
                out = torch.empty_like(x)
                yield row(name, "encode", lambda codec=codec, x=x: codec.encode_on_device(x), held.numel())
                yield row(name, "decode", lambda codec=codec, held=held, out=out: codec.decode_on_device(held, out=out, max_nbytes=1 << 62), held.numel())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", action="store_true", help="compare bytes and values with the host's, time nothing")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not options.check:
        print("no CUDA device here: nothing can be timed; --check compares bytes in Triton's interpreter", file=sys.stderr)
        return 2
    where = f"{torch.cuda.get_device_name()}, {machine()}" if gpu else f"Triton's interpreter, {machine()}"
    found = []
    for row in rows(SHAPES if gpu else SMALL, "cuda" if gpu else "cpu", 0 if options.check else options.rounds):
        found.append({**row, "machine": where})
        speed = f"{row['gb_per_s']:8.1f} GB/s  ±{50 * row['spread']:.0f} %" if "gb_per_s" in row else "equal"
        print(f"{row['subject']:20} {row['op']:7} {row['tensor']:>14} {row['dtype']:9} ratio {row['ratio']:5.2f}  {speed}", flush=True)
    if options.json:
        write_atomically(options.json, (json.dumps(found, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
