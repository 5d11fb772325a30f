"""Streams with their tensors in a folder, to be opened by another process, another build or another machine: the same bits, or a sentence that says where not.

    python -m tests.contract.parcel pack FOLDER [--large]      fits, encodes and writes
    python -m tests.contract.parcel check FOLDER [--threads 1,2,8] [--twin]
    python -m tests.contract.parcel golden                     the same of the golden streams

`check` builds every codec from its stream alone, so nothing is fitted there: what a fit finds may hang on a machine's linear algebra, what it has
written may not. It prints one digest of all decoded values and one of all bytes encoded again, as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.core.stream import Stream
from tests.conftest import feature_map
from tests.golden.make import HERE, golden_input

LARGE = (64, 72, 128)  # 9 stripes of 2^16 values: work for 8 threads
INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "?")


def maps(*, large: bool) -> dict[str, np.ndarray]:
    """Tensors of every type: one large enough for several threads, or small ones."""
    if large:
        return {"large": feature_map(LARGE)}
    signed = feature_map((33, 17, 19), signed=True)
    found = {"relu": feature_map((40, 16, 24), seed=1), "signed": signed, "vector": feature_map((70, 1, 1), seed=2)}
    found |= {"half": signed.astype(np.float16), "double": signed.astype(np.float64)}
    for name in INTEGERS:
        dtype = np.dtype(name)
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        found[str(dtype)] = np.clip(np.rint(signed * 40), max(low, -(1 << 20)), min(high, 1 << 20)).astype(dtype)
    return found


def pack(folder: Path, variants: list[tuple[str, dict]], *, large: bool) -> int:
    """Writes the maps and a stream for each that each variant takes; how many."""
    rows = []
    for name, x in maps(large=large).items():
        np.save(folder / f"{name}.npy", x)
        for codec_id, options in variants:
            try:
                codec = registry.build(codec_id, options).fit([x])
                data = codec.encode(x).to_bytes()
            except InputError:
                continue  # a type that this codec does not take
            values = hashlib.sha256(codec.decode_payload(Stream.from_bytes(data).payload).tobytes()).hexdigest()
            rows.append({"map": name, "stream": f"{name}-{len(rows)}.tp", "codec": codec_id, "options": options, "values": values})
            (folder / rows[-1]["stream"]).write_bytes(data)
    (folder / "rows.json").write_text(json.dumps(rows))
    return len(rows)


def packed(folder: Path) -> Iterator[tuple[str, np.ndarray, bytes, str]]:
    """(name, tensor, stream, digest of the decoded values)."""
    for row in json.loads((folder / "rows.json").read_text()):
        yield f"{row['codec']} {row['options']} {row['map']}", np.load(folder / f"{row['map']}.npy"), (folder / row["stream"]).read_bytes(), row["values"]


def golden() -> Iterator[tuple[str, np.ndarray, bytes, str]]:
    """The golden streams in the same form."""
    for path in sorted(HERE.glob("v*/*.tp")):
        row = json.loads(path.with_suffix(".json").read_text())
        yield f"{path.parent.name}/{path.stem}", golden_input(row["input"] == "signed"), path.read_bytes(), row["sha256"]


def check(items: Iterator[tuple[str, np.ndarray, bytes, str]], *, fused: bool = True, without: Sequence[str] = ()) -> dict[str, int | str | list[str]]:
    """Decodes each stream of a codec not in `without` and, where the codec's bytes are its own, encodes its tensor again; AssertionError where a bit differs."""
    values, again, left = hashlib.sha256(), hashlib.sha256(), set()
    count = 0
    for name, x, data, wanted in items:
        stream = Stream.from_bytes(data)
        if stream.codec in without:
            left.add(stream.codec)
            continue
        try:
            codec = registry.build(stream.codec, stream.params, stream.state)
            decoded = codec.decode_payload(stream.payload, fused=fused).tobytes()
        except InputError as error:
            if "install" not in str(error):
                raise
            left.add(stream.codec)  # another library's codec, and the library is not here
            continue
        if hashlib.sha256(decoded).hexdigest() != wanted:
            raise AssertionError(f"{name}: other values")
        if registry.card(stream.codec).stable:
            bytes_again = Stream(stream.codec, stream.params, {"payload": codec.encode_payload(x, fused=fused)}, stream.state).to_bytes()
            if bytes_again != data:
                raise AssertionError(f"{name}: other bytes")
            again.update(bytes_again)
        values.update(decoded)
        count += 1
    return {"streams": count, "values": values.hexdigest(), "bytes": again.hexdigest(), "left out": sorted(left)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("pack", "check", "golden"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--large", action="store_true", help="pack: a map large enough for several threads, and no other")
    parser.add_argument("--threads", default="", help="check: once with each of these counts")
    parser.add_argument("--without", nargs="+", default=[], metavar="CODEC", help="check, golden: leave these out")
    parser.add_argument("--twin", action="store_true", help="check: by the slow twins")
    arguments = parser.parse_args()
    if arguments.folder is None and arguments.verb != "golden":
        parser.error("a folder is needed")
    if arguments.verb == "pack":
        from tests.contract.test_contract import VARIANTS

        arguments.folder.mkdir(parents=True, exist_ok=True)
        print(pack(arguments.folder, VARIANTS, large=arguments.large))
        return 0
    found = []
    for threads in arguments.threads.split(","):
        if threads:
            os.environ["TENSORPRESS_THREADS"] = threads
        found.append(check(golden() if arguments.verb == "golden" else packed(arguments.folder), fused=not arguments.twin, without=arguments.without))
        if found[-1] != found[0]:
            raise AssertionError(f"{threads} threads give other bits: {found}")
    print(json.dumps({**found[0], "machine": platform.machine(), "byte order": sys.byteorder}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
