"""Speed and memory of every feature codec beside memcpy and peers, in one run on one core: `make bench [QUICK=1] [JSON=path]`.

Subjects are interleaved, round after round, so that a slow moment of the machine meets them all; figures are medians.
Codecs take float32 maps and give them back, framing and checks included; memcpy copies the 8-bit maps they stand for.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
from rich.console import Console
from rich.table import Table

from tensorpress.blocks.levels import scale_and_zero
from tensorpress.core import registry
from tensorpress.core.stream import read_frame, write_frame
from tensorpress.planning.plan import write_atomically

GOAL_SECONDS = 0.060  # dct_cm, encode and decode of all maps of one ResNet-50 image


def network_maps(data: str | None) -> tuple[str, list[np.ndarray]]:
    """Name and post-activation maps, float32 (C, H, W), of one picture: ResNet-50, or the packaged demo network."""
    import torch

    from tensorpress.pytorch.pictures import open_pictures, prepare
    from tensorpress.pytorch.sites import find_sites
    from tensorpress.pytorch.taps import tapped
    from tensorpress.pytorch.weights import load_network, preprocessing

    torch.set_num_threads(1)
    if data:
        name, net = "resnet50-all", load_network(arch="resnet50", weights=f"{data}/imagenet/resnet50_pqf.npz")
        x = open_pictures(f"{data}/imagenet/images").tensor(0, preprocessing(net))
    else:
        from tensorpress.demo import digits, network

        name, net = "demo-all", network.load()
        x = prepare(digits.load("test")[0][0], preprocessing(net))
    maps: list[np.ndarray] = []

    def keep(_: int, tensor: Any) -> Any:
        maps.append(tensor[0].numpy().copy())
        return tensor

    with torch.inference_mode():
        sites = find_sites(net, x)
        with tapped(net, sites, keep):
            net(x)
    return name, maps


class Subject:
    """`encode` and `decode` of all maps; sizes of the streams of the last encode."""

    def __init__(self, name: str, encode: Callable[[], int], decode: Callable[[], None] | None) -> None:
        self.name, self.encode, self.decode = name, encode, decode
        self.nbytes = 0
        self.times: dict[str, list[float]] = {"encode": [], "decode": []}

    def round(self) -> None:
        started = time.perf_counter()
        self.nbytes = self.encode()
        self.times["encode"].append(time.perf_counter() - started)
        if self.decode is not None:
            started = time.perf_counter()
            self.decode()
            self.times["decode"].append(time.perf_counter() - started)


def codec_subject(name: str, codec_id: str, options: dict[str, Any], maps: list[np.ndarray]) -> Subject:
    codecs = []
    for x in maps:
        params = dict(options)
        if codec_id in ("raw", "zvc", "dct_cm"):
            params["scale"], params["reciprocal"], params["zero_point"] = scale_and_zero(float(x.min()), float(x.max()))
        codecs.append(registry.build(codec_id, params).fit([x]))
    frames: list[bytes] = [b""] * len(maps)
    outs = [np.zeros_like(x) for x in maps]

    def encode() -> int:
        for n, (codec, x) in enumerate(zip(codecs, maps)):
            frames[n] = write_frame(codec.encode_payload(x), n, 1)
        return sum(map(len, frames))

    def decode() -> None:
        for codec, frame, out in zip(codecs, frames, outs):
            codec.decode_payload(read_frame(frame).payload, out=out)

    encode()
    decode()
    for codec, x, out in zip(codecs, maps, outs):  # what was measured is right: the slow twin gives the same
        payload = codec.encode_payload(x)
        if not np.array_equal(codec.decode_payload(payload), out):
            raise AssertionError(f"{name}: two decodes differ")
    return Subject(name, encode, decode)


def peer_subject(name: str, compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes], levels: list[np.ndarray]) -> Subject:
    raws = [x.tobytes() for x in levels]
    coded = [compress(raw) for raw in raws]
    if [decompress(c) for c in coded] != raws:
        raise AssertionError(f"{name}: round trip differs")

    def encode() -> int:
        for n, raw in enumerate(raws):
            coded[n] = compress(raw)
        return sum(map(len, coded))

    def decode() -> None:
        for data in coded:
            decompress(data)

    return Subject(name, encode, decode)


def peers(levels: list[np.ndarray], tell: Callable[[str], None]) -> list[Subject]:
    found = [peer_subject("zlib-1", lambda d: zlib.compress(d, 1), zlib.decompress, levels)]
    try:
        import zstandard

        for level in (1, 3):
            c, d = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
            found.append(peer_subject(f"zstd-{level}", c.compress, d.decompress, levels))
    except ImportError:
        tell("zstd is left out: pip install zstandard")
    try:
        import blosc2

        found.append(
            peer_subject(
                "blosc2-bitshuffle-zstd",
                lambda d: blosc2.compress2(d, typesize=1, codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.BITSHUFFLE], nthreads=1),
                lambda d: blosc2.decompress2(d, nthreads=1),
                levels,
            )
        )
    except ImportError:
        tell("blosc2 is left out: pip install blosc2")
    return found


def subjects(maps: list[np.ndarray], tell: Callable[[str], None]) -> list[Subject]:
    levels = [np.clip(np.rint(x * (255 / max(float(x.max()), 1e-9))), 0, 255).astype(np.uint8) for x in maps]
    copies = [np.zeros_like(x) for x in levels]

    def copy() -> int:
        for out, x in zip(copies, levels):
            ctypes.memmove(out.ctypes.data, x.ctypes.data, x.nbytes)
        return sum(x.nbytes for x in levels)

    found = [Subject("memcpy", copy, None)]
    for card in registry.cards().values():
        if card.family == "features":
            found.append(codec_subject(card.id, card.id, {}, maps))
    found.append(codec_subject("dct_cm, step 4", "dct_cm", {"step": 4.0}, maps))
    found.append(codec_subject("dct_cm, step 4, DCT forced", "dct_cm", {"step": 4.0, "transform": "dct"}, maps))
    return found + peers(levels, tell)


def rows_of(found: list[Subject], tensor: str, values: int) -> list[dict[str, Any]]:
    rows = []
    for subject in found:
        for op, times in subject.times.items():
            if times:
                median = statistics.median(times)
                rows.append(
                    {
                        "subject": subject.name,
                        "op": "copy" if subject.name == "memcpy" else op,
                        "threads": 1,
                        "seconds": median,
                        "gb_per_s": values / median / 1e9,
                        "ratio": values / subject.nbytes,
                        "nbytes": subject.nbytes,
                        "tensor": tensor,
                        "spread": (max(times) - min(times)) / median,
                        "rounds": len(times),
                        "values": values,
                    }
                )
    return rows


PEAK = """
import sys, numpy as np
sys.path.insert(0, {here!r})
from tensorpress.core import registry
rng = np.random.default_rng(0)
x = np.maximum(rng.laplace(size=(256, 112, 112)) - 0.2, 0).astype(np.float32)
codec = registry.build("dct_cm", {{"step": 4.0}}).fit([x[:, :16]])
payload = codec.encode_payload(x)
out = np.zeros_like(x)
codec.decode_payload(payload, out=out)
def high():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
def now():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmRSS"))
for what in ("encode", "decode"):
    open("/proc/self/clear_refs", "w").write("5")
    before = now()
    codec.encode_payload(x) if what == "encode" else codec.decode_payload(payload, out=out)
    print(what, (high() - before) / x.nbytes)
"""


def peak_memory() -> dict[str, float | None]:
    """Growth of the peak resident set in an encode and a decode, as a multiple of the map's float bytes, in a fresh process."""
    fixed = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed buffers go back at once, so none hides a later one
    run = subprocess.run([sys.executable, "-c", PEAK.format(here=os.getcwd())], env=fixed, capture_output=True, text=True)
    if run.returncode:
        return {"encode": None, "decode": None}  # no /proc here
    return {line.split()[0]: float(line.split()[1]) for line in run.stdout.splitlines()}


def call_overhead() -> float:
    """Seconds of an encode and a decode of 4 KiB of floats, of which the kernel takes a few microseconds."""
    x = np.maximum(np.random.default_rng(0).normal(size=(16, 8, 8)), 0).astype(np.float32)
    codec = registry.build("dct_cm", {"step": 4.0}).fit([x])
    best = []
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(200):
            codec.decode_payload(read_frame(write_frame(codec.encode_payload(x), 0, 0)).payload)
        best.append((time.perf_counter() - started) / 200)
    return statistics.median(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--rounds", type=int, help="rounds of every subject")
    parser.add_argument("--json", type=Path, help="write the rows")
    wanted = parser.parse_args()
    console = Console()
    tensor, maps = network_maps(os.environ.get("TENSORPRESS_DATA"))
    values = sum(x.size for x in maps)
    console.print(f"{tensor}: {len(maps)} maps, {values:,} values, one core")
    found = subjects(maps, lambda text: console.print(f"[dim]{text}[/]"))
    rounds = wanted.rounds or (3 if wanted.quick else 9)
    with console.status("") as status:
        for number in range(rounds):
            for subject in found:
                status.update(f"round {number + 1} of {rounds}: {subject.name}")
                subject.round()
    rows = rows_of(found, tensor, values)
    copy = next(r["gb_per_s"] for r in rows if r["op"] == "copy")
    table = Table(title=f"{tensor}, medians of {rounds} rounds", caption="GB/s of 8-bit values; × memcpy is of the same run")
    for name in ("subject", "op", "ratio", "ms", "GB/s", "× memcpy", "spread"):
        table.add_column(name, justify="left" if name in ("subject", "op") else "right")
    for r in rows:
        table.add_row(
            r["subject"], r["op"], f"{r['ratio']:.3f}", f"{1e3 * r['seconds']:.2f}", f"{r['gb_per_s']:.3f}", f"{r['gb_per_s'] / copy:.3f}", f"{r['spread']:.0%}"
        )
    console.print(table)
    both = sum(r["seconds"] for r in rows if r["subject"] == "dct_cm, step 4")
    facts: dict[str, Any] = {"dct_cm_encode_decode_seconds": both, "peak_memory": peak_memory(), "call_seconds_4kib": call_overhead()}
    goal = f" (goal {1e3 * GOAL_SECONDS:.0f} ms)" if tensor == "resnet50-all" else ""
    console.print(f"dct_cm, step 4, encode + decode of all maps: {1e3 * both:.1f} ms{goal}")
    peak = facts["peak_memory"]
    if peak["encode"] is not None:
        console.print(f"peak memory beyond the map, as a multiple of its float bytes: encode {peak['encode']:.2f}, decode {peak['decode']:.2f} (goal 2)")
    console.print(f"a 4 KiB tensor, encode + decode, all of it: {1e6 * facts['call_seconds_4kib']:.0f} µs")
    if wanted.json:
        write_atomically(wanted.json, (json.dumps(rows, indent=1) + "\n").encode())
        write_atomically(wanted.json.with_suffix(".facts.json"), (json.dumps(facts, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
