"""Damage of every kind against every file that there is: counts what was tried and what was detected, and what `recover` gives back.

    make integrity [EVERY=1]

The golden files are the subjects: each is cut after every byte, has every bit flipped, and has bytes taken out and put in; sections are swapped, repeated and
replaced by those of other files with the same header; stripes and frames likewise; every stream is given to every other stream's codec. A damaged file
that is decoded is a failure of this program, whatever the values. With `recover` a value that is given as intact and is not right is one.
`EVERY=8` tries an eighth of the cuts and flips.
"""

from __future__ import annotations

import argparse
import itertools
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from tensorpress.core import registry
from tensorpress.core.atomic import write_atomically
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.container import KINDS, STREAM, Container
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import Reader
from tensorpress.core.stream import Stream, read_frame, write_frame
from tensorpress.evaluate.machine import checkout_commit, machine
from tensorpress.facade import decode
from tensorpress.planning.bundle import read_bundle
from tensorpress.planning.plan import Plan

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "streams"
Read = Callable[[Buffer], Any]  # raises StreamError


class Tally:
    """By kind of damage: tried, detected; and the first that was not."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, int]] = {}
        self.missed: list[str] = []

    def count(self, kind: str, detected: bool, what: str) -> None:
        row = self.rows.setdefault(kind, {"tried": 0, "detected": 0})
        row["tried"] += 1
        row["detected"] += detected
        if not detected:
            self.missed.append(f"{kind}: {what}")

    def refused(self, kind: str, read: Read, data: Buffer, what: str) -> None:
        try:
            read(data)
        except StreamError:
            self.count(kind, True, what)
        else:
            self.count(kind, False, what)


def cuts_and_flips(tally: Tally, name: str, data: bytes, read: Read, every: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for end in range(int(rng.integers(every)), len(data), every):
        tally.refused("cut", read, data[:end], f"{name} after byte {end}")
    for bit in range(int(rng.integers(every)), 8 * len(data), every):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        tally.refused("bit flipped", read, damaged, f"{name} bit {bit}")
    for _ in range(200 // every + 1):
        at, size = int(rng.integers(len(data))), int(rng.integers(1, 17))
        other = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        tally.refused("bytes put in", read, data[:at] + other + data[at:], f"{name} at {at}")
        tally.refused("bytes taken out", read, data[:at] + data[at + size :], f"{name} at {at}")
        burst = data[:at] + other + data[at + size :]
        if burst != data:
            tally.refused("burst", read, burst[: len(data)] if len(burst) > len(data) else burst, f"{name} at {at}")
    tally.refused("bytes behind", read, data + b"\0", name)


def pieces(data: bytes, box: Container) -> tuple[int, list[tuple[int, int]]]:
    """(where sections begin, (start, end) of each with its check)."""
    sizes = [len(section) + 4 for section in box.sections.values()]
    start = len(data) - sum(sizes)
    ends = [start + end for end in itertools.accumulate(sizes)]
    return start, list(zip([start, *ends], ends))


def sections(tally: Tally, name: str, data: bytes, box: Container, read: Read, others: list[tuple[str, bytes, Container]]) -> None:
    start, places = pieces(data, box)
    parts = [data[a:b] for a, b in places]
    for i, j in itertools.combinations(range(len(parts)), 2):
        if parts[i] != parts[j]:
            swapped = list(parts)
            swapped[i], swapped[j] = parts[j], parts[i]
            tally.refused("sections swapped", read, data[:start] + b"".join(swapped), f"{name} {i} and {j}")
            tally.refused("section replayed", read, data[:start] + b"".join([*parts[:j], parts[i], *parts[j + 1 :]]), f"{name} {i} in place of {j}")
    for i in range(len(parts)):
        tally.refused("section replayed", read, data + parts[i], f"{name} {i} once more")
    for other_name, other, other_box in others:
        if other_name != name and len(other_box.sections) == len(box.sections):
            theirs = pieces(other, other_box)[1]
            for i, (a, b) in enumerate(theirs):
                if other[a:b] != parts[i]:
                    mixed = data[:start] + b"".join([*parts[:i], other[a:b], *parts[i + 1 :]])
                    if mixed != other:  # header and all else alike: that is the other file
                        tally.refused("section of another file", read, mixed, f"{name} with {i} of {other_name}")


def stripes(tally: Tally, name: str, codec: Codec, payload: bytes) -> None:
    src = Reader(payload)
    ends = src.index_nbytes + np.cumsum(src.lengths)
    parts = [payload[end - nbytes : end] for end, nbytes in zip(ends.tolist(), src.lengths.tolist())]
    rows = [payload[src.head_nbytes + 8 * i :][:8] for i in range(src.stripes)]
    head = payload[: src.head_nbytes]
    for i, j in itertools.permutations(range(src.stripes), 2):
        if rows[i] != rows[j]:
            order = list(range(src.stripes))
            order[j] = i
            replayed = head + b"".join(rows[k] for k in order) + b"".join(parts[k] for k in order)
            tally.refused("stripe replayed", codec.decode_payload, replayed, f"{name} {i} in place of {j}")
            order[i] = j
            swapped = head + b"".join(rows[k] for k in order) + b"".join(parts[k] for k in order)
            tally.refused("stripes swapped", codec.decode_payload, swapped, f"{name} {i} and {j}")


def frames(tally: Tally, name: str, codec: Codec, payload: bytes, every: int, seed: int) -> None:
    frame = write_frame(payload, 7, 0x89ABCDEF)

    def read(data: Buffer) -> Any:
        found = read_frame(data)
        if found.nbytes != len(data) or found.plan_id != 0x89ABCDEF or found.site != 7:
            raise StreamError("not the frame of this plan and site alone")
        return codec.decode_payload(found.payload)

    cuts_and_flips(tally, f"frame of {name}", frame, read, every, seed)
    for other in (0x89ABCDEE, 0):
        tally.refused("frame of another plan", read, write_frame(payload, 7, other), name)
    moved = bytearray(frame)
    struct.pack_into("<I", moved, 4, 0x89ABCDEE)
    tally.refused("frame given to another plan", read, moved, name)


def recovered(tally: Tally, name: str, data: bytes, every: int, seed: int) -> tuple[int, int, int]:
    """Single bytes behind the header changed, each where it may: (decoded, values, values that were intact)."""
    rng = np.random.default_rng(seed)
    stream = Stream.from_bytes(data)
    expected = decode(data)
    start = data.rindex(bytes(stream.payload))
    count = values = intact = 0
    for at in range(start, len(data), max(every, 4)):
        damaged = bytearray(data)
        damaged[at] ^= int(rng.integers(1, 256))
        try:
            array, lost = decode(damaged, recover=True)
        except StreamError:
            continue
        right = array.shape == expected.shape and np.array_equal(array[~lost], expected[~lost])
        tally.count("recovered, and no wrong value given as intact", right, f"{name} byte {at}")
        count, values, intact = count + 1, values + lost.size, intact + lost.size - int(lost.sum())
    return count, values, intact


def subjects(only: str) -> Iterator[tuple[str, bytes, Read]]:
    """(name, bytes, what reads them) of every golden stream, plan and bundle."""
    for path in sorted(GOLDEN.glob("v*/**/*.tp*")):
        name = str(path.relative_to(GOLDEN))
        if only not in name or path.suffix not in (".tp", ".tpp", ".tpb"):
            continue
        if path.suffix == ".tpb":
            yield name, path.read_bytes(), partial(read_bundle, plan=Plan.load(path.with_suffix(".tpp")))
        else:
            yield name, path.read_bytes(), decode if path.suffix == ".tp" else Plan.from_bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try one in N cuts and flips")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="files with this in their names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where rows go; none are written without it")
    arguments = parser.parse_args()
    began, tally, here = time.monotonic(), Tally(), {"commit": checkout_commit(ROOT / "src" / "tensorpress"), "machine": machine()}
    files = list(subjects(arguments.only))
    if not files:
        print(f"integrity: no golden file has {arguments.only!r} in its name", file=sys.stderr)
        return 2
    boxes = [(name, data, Container.from_bytes(data, data[:4])) for name, data, _ in files]
    total = [0, 0, 0]
    with Progress(transient=True) as progress:
        for number, ((name, data, box), (*_, read)) in enumerate(progress.track(list(zip(boxes, files)), description="integrity")):
            seed = arguments.seed + number
            read(data)
            cuts_and_flips(tally, name, data, read, arguments.every, seed)
            sections(tally, name, data, box, read, [other for other in boxes if other[1][:4] == data[:4]])
            if data[:4] != STREAM:
                continue
            stream = Stream.from_bytes(data)
            codec = registry.build(stream.codec, stream.params, stream.state)
            frames(tally, name, codec, bytes(stream.payload), max(arguments.every, 2), seed)
            stripes(tally, name, codec, bytes(stream.payload))
            for other_name, other, _ in boxes:
                if other[:4] == STREAM and Stream.from_bytes(other).shared != stream.shared:
                    tally.refused("stream given to another codec or state", lambda d: codec.decode(Stream.from_bytes(d)), other, f"{other_name} to {name}")  # noqa: B023
            total = [a + b for a, b in zip(total, recovered(tally, name, data, arguments.every, seed))]
    for kind, row in tally.rows.items():
        print(f"{kind:<46} {row['tried']:>10,} tried {row['detected']:>10,} {'right' if kind.startswith('recovered') else 'detected'}")
    if total[1]:
        print(f"recover: {total[0]:,} damaged streams decoded, {total[2] / total[1]:.1%} of their values intact")
    for line in tally.missed[:20]:
        print(f"not detected: {line}", file=sys.stderr)
    if arguments.json:
        found = {
            "command": "make integrity" + (f" EVERY={arguments.every}" if arguments.every != 1 else ""),
            **here,
            "seconds": round(time.monotonic() - began),
            "files": {kind: sum(data[:4] == magic for _, data, _ in files) for magic, kind in KINDS.items()},
            "rows": [{"damage": kind, **row} for kind, row in tally.rows.items()],
            "recovered": {"streams": total[0], "values": total[1], "intact": total[2]},
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.json, (json.dumps(found, indent=1) + "\n").encode())
    return int(bool(tally.missed))


if __name__ == "__main__":
    sys.exit(main())
