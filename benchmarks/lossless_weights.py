"""Lossless files of real weights: bytes and MB/s of `float_planes` beside zstd and xz, with and without a byte shuffle, on one core.

    TENSORPRESS_DATA=… python benchmarks/lossless_weights.py [--only NAME …] [--no-slow] [--json results/weights/lossless.json]

`float_planes` codes every tensor by itself, its type and shape in the bytes. The others get all tensors of a subject in one piece, the best that they
can be given; shuffled, the first bytes of all values of a tensor stand before all second ones, and so on, as in blosc2 and numcodecs, and the time of
shuffling is left out. Every result is decoded and compared. MB are 10^6 raw bytes; times are processor
time, the best of three, of those that take seconds one.
"""

from __future__ import annotations

import argparse
import lzma
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tensorpress.core import registry
from tensorpress.evaluate.record import write_record

ROOT = Path(__file__).parents[1]
Arrays = list[np.ndarray]
LAYER = "layer3."  # of ResNet-50: 7 million values are enough
SLOW = ("zstd -19", "xz -6")


def bfloat16(arrays: Arrays) -> Arrays:
    """Floats rounded to the nearest bfloat16, ties to even, as uint16."""
    words = [x.astype(np.float32).view(np.uint32).astype(np.uint64) for x in arrays]
    return [((w + 0x7FFF + (w >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16) for w in words]


def subjects(data: Path) -> Iterator[tuple[str, str, Arrays]]:
    """(name, layout, tensors)."""
    from safetensors.numpy import load_file

    def tensors(name: str) -> Arrays:
        return [x for x in load_file(data / name).values() if x.dtype.kind == "f"]

    for name, file in (("ResNet-56", "cifar10/resnet56"), ("stories260K", "text/stories260K")):
        arrays = tensors(f"{file}.safetensors")
        yield f"{name}, float32", "type", arrays
        yield f"{name}, float16", "type", [x.astype(np.float16) for x in arrays]
        yield f"{name}, bfloat16", "bfloat16", bfloat16(arrays)
    squeezed = tensors("imagenet/squeezenet1_1_ncnn.safetensors")
    yield "SqueezeNet 1.1, float16 and float32 as stored", "type", squeezed
    yield "SqueezeNet 1.1, float32", "type", [x.astype(np.float32) for x in squeezed]
    yield "SqueezeNet 1.1, bfloat16", "bfloat16", bfloat16(squeezed)
    with np.load(data / "imagenet/resnet50_pqf.npz", allow_pickle=False) as z:
        coded = [z[name].astype(np.float32) for name in z.files if name.startswith(LAYER)]
    yield "ResNet-50 layer3 out of a vector-quantised file, float32", "type", coded


def timed(work: Callable[[], Any], times: int) -> tuple[Any, float]:
    """(what it gives, processor seconds of the fastest)."""
    found, best = None, float("inf")
    for _ in range(times):
        began = time.process_time()
        found = work()
        best = min(best, time.process_time() - began)
    return found, best


def ours(arrays: Arrays, layout: str) -> tuple[int, float, float]:
    """(bytes, seconds to encode, seconds to decode)."""
    codec = registry.build("float_planes", {"layout": layout})
    payloads, encoding = timed(lambda: [codec.encode_payload(x) for x in arrays], 3)
    decoded, decoding = timed(lambda: [codec.decode_payload(p) for p in payloads], 3)
    if any(x.tobytes() != y.tobytes() for x, y in zip(arrays, decoded)):
        raise AssertionError("float_planes: other values")
    return sum(map(len, payloads)), encoding, decoding


def zstd(level: int) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    import zstandard

    return zstandard.ZstdCompressor(level=level).compress, zstandard.ZstdDecompressor().decompress


PEERS: dict[str, tuple[Callable[[], tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]], int]] = {  # coder, times
    "zstd -3": (lambda: zstd(3), 3),
    "zstd -19": (lambda: zstd(19), 1),
    "xz -6": (lambda: (lambda data: lzma.compress(data, preset=6), lzma.decompress), 1),
}


def peer(name: str, data: bytes) -> tuple[int, float, float]:
    make, times = PEERS[name]
    compress, expand = make()
    packed, encoding = timed(lambda: compress(data), times)
    found, decoding = timed(lambda: expand(packed), 3)
    if found != data:
        raise AssertionError(f"{name}: other bytes")
    return len(packed), encoding, decoding


def shuffled(x: np.ndarray) -> bytes:
    return x.reshape(-1).view(np.uint8).reshape(-1, x.itemsize).T.tobytes()


def rows_of(name: str, layout: str, arrays: Arrays, slow: bool) -> Iterator[dict[str, Any]]:
    raw = sum(x.nbytes for x in arrays)
    plain, apart = b"".join(x.tobytes() for x in arrays), b"".join(shuffled(x) for x in arrays)
    work: dict[str, Callable[[], tuple[int, float, float]]] = {"float_planes": lambda: ours(arrays, layout)}
    for coder in PEERS:
        if slow or coder not in SLOW:
            work[coder] = lambda coder=coder: peer(coder, plain)  # type: ignore[misc]
            work[f"{coder}, shuffled"] = lambda coder=coder: peer(coder, apart)  # type: ignore[misc]
    for coder, measure in work.items():
        nbytes, encoding, decoding = measure()
        speeds = {"encode MB/s": round(raw / encoding / 1e6, 1), "decode MB/s": round(raw / decoding / 1e6, 1)}
        yield {"subject": name, "tensors": len(arrays), "coder": coder, "raw bytes": raw, "bytes": nbytes, "share": round(nbytes / raw, 4), **speeds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="subjects whose names begin with one of these; no file is written")
    parser.add_argument("--no-slow", action="store_true", help=f"leave out {' and '.join(SLOW)}; no file is written")
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "weights" / "lossless.json", help="file of the rows")
    options = parser.parse_args()
    if not os.environ.get("TENSORPRESS_DATA"):
        print("lossless_weights: set TENSORPRESS_DATA to the folder of networks", file=sys.stderr)
        return 2
    try:
        import safetensors.numpy  # noqa: F401
        import zstandard  # noqa: F401
    except ImportError as error:
        print(f"lossless_weights: {error.name} is missing: pip install 'tensorpress[pytorch,peers]'", file=sys.stderr)
        return 2
    os.environ["TENSORPRESS_THREADS"] = "1"
    began, rows = time.monotonic(), []
    for name, layout, arrays in subjects(Path(os.environ["TENSORPRESS_DATA"])):
        if options.only and not name.startswith(tuple(options.only)):
            continue
        print(f"{name}: {sum(x.nbytes for x in arrays):,} bytes in {len(arrays)} tensors", flush=True)
        for row in rows_of(name, layout, arrays, not options.no_slow):
            rows.append(row)
            print(f"  {row['coder']:20} {row['bytes']:>12,} B {row['share']:7.2%}  {row['encode MB/s']:8} MB/s  {row['decode MB/s']:8} MB/s", flush=True)
    if options.only or options.no_slow:
        return 0
    write_record(options.json, "python benchmarks/lossless_weights.py", time.monotonic() - began, rows)
    print(f"{options.json}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
