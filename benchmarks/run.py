"""Speed and memory of every feature codec beside memcpy and peers, in one run on one core: `make bench [QUICK=1] [JSON=path]`.

Subjects are interleaved, round after round, so that a slow moment of the machine meets them all; figures are medians.
Codecs take float32 maps and give them back, framing and checks included; memcpy and peers take the 8-bit maps they stand for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy's and torch's thread pools start

import numpy as np
import torch
from maps import Map, demo_maps, resnet50_maps
from rich.console import Console
from rich.table import Table

from tensorpress.blocks.levels import Levels, scale_and_zero
from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import TensorPressError
from tensorpress.core.payload import Writer
from tensorpress.core.stream import read_frame, write_frame
from tensorpress.evaluate.machine import machine
from tensorpress.planning.plan import write_atomically

GOAL_SECONDS = 0.060  # dct_cm at a step of 4 levels, encode and decode of all maps of one ResNet-50 image
GOAL_MEMORY = 2.0  # beside the map, in float bytes of it
VISIBLE = 2 << 20  # bytes of the smallest map whose memory is measured: the kernel counts pages in batches
STEP4 = "dct_cm, step 4"


class Subject:
    """`encode` all maps and return the bytes; `decode` them again. A round times both."""

    def __init__(self, name: str, encode: Callable[[], int], decode: Callable[[], None] | None = None) -> None:
        self.name, self.encode, self.decode = name, encode, decode
        self.nbytes = 0
        self.times: dict[str, list[float]] = {"encode": [], "decode": []} if decode else {"copy": []}

    def round(self) -> None:
        started = time.perf_counter()
        self.nbytes = self.encode()
        self.times["encode" if self.decode else "copy"].append(time.perf_counter() - started)
        if self.decode is not None:
            started = time.perf_counter()
            self.decode()
            self.times["decode"].append(time.perf_counter() - started)


def copy_subject(levels: Sequence[np.ndarray]) -> Subject:
    """numpy's copy of the 8-bit maps into memory that was touched before."""
    copies = [np.zeros_like(x) for x in levels]

    def copy() -> int:
        for out, x in zip(copies, levels):
            np.copyto(out, x)
        return sum(x.nbytes for x in copies)

    return Subject("memcpy", copy)


def levels_of(x: Map) -> Levels:
    scale, reciprocal, zero = scale_and_zero(float(x.min()), float(x.max()))
    return Levels(scale, reciprocal, zero)


def words_of(levels: Levels, x: Map) -> np.ndarray:
    return np.ascontiguousarray(levels.encode(x, Writer(x.dtype, x.shape)).levels)


def fitted(codec_id: str, options: dict[str, Any], x: Map) -> Codec:
    """The codec for one map, on the range of that map wherever the codec counts in 8-bit levels."""
    levels = levels_of(x)
    ours = {"scale": levels.scale, "reciprocal": levels.reciprocal, "zero_point": levels.zero_point}
    counts_levels = hasattr(registry.system(codec_id).Config, "scale")
    return registry.build(codec_id, {**options, **(ours if counts_levels else {})}).fit([x])


def codec_subject(name: str, codec_id: str, options: dict[str, Any], maps: Sequence[Map]) -> Subject:
    """A codec on its way to a plan-bound stream and back. AssertionError where what it measures would be wrong."""
    codecs = [fitted(codec_id, options, x) for x in maps]
    frames = [b""] * len(maps)
    outs = [np.full_like(x, np.nan) for x in maps]

    def encode() -> int:
        for n, (codec, x) in enumerate(zip(codecs, maps)):
            frames[n] = write_frame(codec.encode_payload(x), n, 1)
        return sum(map(len, frames))

    def decode() -> None:
        for codec, frame, out in zip(codecs, frames, outs):
            codec.decode_payload(read_frame(frame).payload, out=out)

    encode()
    decode()
    for codec, x, out, frame in zip(codecs, maps, outs, frames):
        payload = read_frame(frame).payload
        if not np.array_equal(codec.decode_payload(payload), out):  # a value that was never written is still NaN
            raise AssertionError(f"{name}: two decodes of one stream differ")
        if codec.encode_payload(x) != payload:
            raise AssertionError(f"{name}: two encodes of one map differ")
        if registry.card(codec_id).lossless and not options and codec.encode_payload(out) != payload:
            raise AssertionError(f"{name}: decoded levels are not those that were encoded")
    return Subject(name, encode, decode)


def peer_subject(
    name: str, compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes], levels: Sequence[np.ndarray]
) -> Subject:
    raws = [x.tobytes() for x in levels]
    coded = [compress(raw) for raw in raws]
    if [decompress(data) for data in coded] != raws:
        raise AssertionError(f"{name}: round trip differs")

    def encode() -> int:
        for n, raw in enumerate(raws):
            coded[n] = compress(raw)
        return sum(map(len, coded))

    def decode() -> None:
        for data in coded:
            decompress(data)

    return Subject(name, encode, decode)


def peers(levels: Sequence[np.ndarray], tell: Callable[[str], None]) -> list[Subject]:
    found = [peer_subject("zlib-1", lambda d: zlib.compress(d, 1), zlib.decompress, levels)]
    try:
        import zstandard
    except ImportError:
        tell("zstd is left out: pip install zstandard")
    else:
        for level in (1, 3):
            compressor, decompressor = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
            found.append(peer_subject(f"zstd-{level}", compressor.compress, decompressor.decompress, levels))
    try:
        import blosc2
    except ImportError:
        tell("blosc2 is left out: pip install blosc2")
    else:
        filters = [blosc2.Filter.BITSHUFFLE]

        def compress(data: bytes) -> bytes:
            return bytes(blosc2.compress2(data, typesize=1, codec=blosc2.Codec.ZSTD, clevel=1, filters=filters, nthreads=1))

        found.append(peer_subject("blosc2-bitshuffle-zstd", compress, lambda d: blosc2.decompress2(d, nthreads=1), levels))
    return found


def subjects(maps: Sequence[Map], tell: Callable[[str], None]) -> list[Subject]:
    levels = [words_of(levels_of(x), x) for x in maps]
    found = [copy_subject(levels)]
    found += [codec_subject(card.id, card.id, {}, maps) for card in registry.cards().values() if card.family == "features"]
    found.append(codec_subject(STEP4, "dct_cm", {"step": 4.0}, maps))
    found.append(codec_subject(f"{STEP4}, DCT forced", "dct_cm", {"step": 4.0, "transform": "dct"}, maps))
    return found + peers(levels, tell)


def measure(name: str, maps: Sequence[Map], rounds: int, console: Console) -> list[dict[str, Any]]:
    """One row for each subject and operation."""
    values = sum(x.size for x in maps)
    console.print(f"{name}: {len(maps)} maps, {values:,} values, one core")
    with console.status("fitting the codecs and checking their round trips") as status:
        found = subjects(maps, lambda text: console.print(f"[dim]{text}[/]"))
        for number in range(rounds):
            for subject in found:
                status.update(f"{name}: round {number + 1} of {rounds}, {subject.name}")
                subject.round()
    rows = []
    for subject in found:
        for op, times in subject.times.items():
            median = statistics.median(times)
            row = {"subject": subject.name, "op": op, "threads": 1, "seconds": median, "gb_per_s": values / median / 1e9}
            row |= {"ratio": values / subject.nbytes, "nbytes": subject.nbytes, "tensor": name, "values": values}
            rows.append({**row, "spread": (max(times) - min(times)) / median, "rounds": rounds})
    return rows


def table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Rows by op, fastest first; speed against the memcpy of the same run."""
    copy = next(r["gb_per_s"] for r in rows if r["op"] == "copy")
    shown = Table(title=f"{name}, medians of {rows[0]['rounds']} rounds", caption="GB/s of 8-bit values; spread is (max - min) / median")
    for column in ("subject", "op", "ratio", "ms", "GB/s", "× memcpy", "spread"):
        shown.add_column(column, justify="left" if column in ("subject", "op") else "right")
    for r in sorted(rows, key=lambda r: (("copy", "encode", "decode").index(r["op"]), r["seconds"])):
        figures = f"{r['ratio']:.3f}", f"{1e3 * r['seconds']:.2f}", f"{r['gb_per_s']:.3f}", f"{r['gb_per_s'] / copy:.3f}", f"{r['spread']:.0%}"
        shown.add_row(r["subject"], r["op"], *figures)
    return shown


# Growth of the peak resident set, in a process of its own. A copy of the map comes first: where the kernel does not see
# that grow (no /proc, no clear_refs), nothing that it says of the codec would be true.
PEAK = """
import json, sys
import numpy as np
from tensorpress.core import registry

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def growth(call):
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    before = status("VmRSS:")
    kept = call()
    return (status("VmHWM:") - before) / x.nbytes

x = np.load(sys.argv[1], allow_pickle=False)
codec = registry.build(sys.argv[2], json.loads(sys.argv[3])).fit([x[:, :16]])
payload = codec.encode_payload(x)
out = np.zeros_like(x)
codec.decode_payload(payload, out=out)
try:
    if growth(x.copy) < 0.9:
        sys.exit(3)
except (OSError, StopIteration):
    sys.exit(3)
print(json.dumps({
    "encode": growth(lambda: codec.encode_payload(x)),
    "decode": growth(lambda: codec.decode_payload(payload, out=out)),
    "decode_into_new": growth(lambda: codec.decode_payload(payload)),
}))
"""


def peak_memory(x: Map, codec_id: str, options: dict[str, Any]) -> dict[str, float] | None:
    """Memory that a call takes beside `x` and a given `out`, as a multiple of x's float bytes; None where it cannot be seen."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "map.npy"
        np.save(file, x)
        # freed buffers go back to the system at once, so that none hides a later one
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, "-c", PEAK, str(file), codec_id, json.dumps(options)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode == 3:
        return None
    if run.returncode:
        raise RuntimeError(f"the memory of {codec_id} was not measured:\n{run.stderr}")
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def call_seconds() -> float:
    """Encode and decode of 4 KiB of floats: mostly the way through Python."""
    x = np.maximum(np.random.default_rng(0).normal(size=(16, 8, 8)), 0).astype(np.float32)
    codec = registry.build("dct_cm", {"step": 4.0}).fit([x])
    times = []
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(200):
            codec.decode_payload(read_frame(write_frame(codec.encode_payload(x), 0, 0)).payload)
        times.append((time.perf_counter() - started) / 200)
    return statistics.median(times)


def facts_of(name: str, maps: Sequence[Map], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is no row: the sum that has a goal, memory on the largest map (repeated where it is small), the cost of a call, the machine."""
    largest = max(maps, key=lambda x: x.size)
    if largest.nbytes < VISIBLE:
        largest = np.tile(largest, (1, -(-VISIBLE // largest.nbytes), 1))
    return {
        "tensor": name,
        "machine": machine(),
        "dct_cm_encode_decode_seconds": sum(r["seconds"] for r in rows if r["subject"] == STEP4),
        "peak_memory": peak_memory(largest, "dct_cm", {"step": 4.0}),
        "peak_memory_shape": list(largest.shape),
        "call_seconds_4kib": call_seconds(),
    }


def tell_facts(facts: dict[str, Any], console: Console) -> None:
    goal = f" (goal {1e3 * GOAL_SECONDS:.0f})" if facts["tensor"] == "resnet50-all" else ""
    console.print(f"{STEP4}: encode + decode of all maps {1e3 * facts['dct_cm_encode_decode_seconds']:.1f} ms{goal}")
    shape, peak = "x".join(map(str, facts["peak_memory_shape"])), facts["peak_memory"]
    if peak is None:
        console.print("peak memory is not measured: this system does not show it in /proc/self")
    else:
        figures = f"encode {peak['encode']:.2f}, decode {peak['decode']:.2f}, decode without a given array {peak['decode_into_new']:.2f}"
        console.print(f"peak memory beside the map of {shape}, in its float bytes: {figures} (goal {GOAL_MEMORY:.0f})")
    console.print(f"4 KiB of floats, encode + decode with framing: {1e6 * facts['call_seconds_4kib']:.0f} µs")


def run(quick: bool, rounds: int, target: Path | None, console: Console) -> None:
    data = os.environ.get("TENSORPRESS_DATA")
    sets: dict[str, Callable[[], list[Map]]] = {"resnet50-all": lambda: resnet50_maps(Path(str(data)))} if data else {}
    if not (data and quick):
        sets["demo-all"] = demo_maps
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for name, load in sets.items():
        maps = load()
        found = measure(name, maps, rounds, console)
        console.print(table(name, found))
        facts = facts or facts_of(name, maps, found)  # of the larger set, which comes first
        rows += found
    tell_facts(facts, console)
    if target is not None:
        write_atomically(target, (json.dumps(rows, indent=1) + "\n").encode())
        write_atomically(target.with_suffix(".facts.json"), (json.dumps(facts, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one set of maps, three rounds instead of nine")
    parser.add_argument("--rounds", type=int, help="rounds of every subject")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows to PATH, and facts beside it")
    wanted = parser.parse_args()
    if wanted.rounds is not None and wanted.rounds < 1:
        parser.error("--rounds is at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    try:
        run(wanted.quick, wanted.rounds or (3 if wanted.quick else 9), wanted.json, Console())
    except TensorPressError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
