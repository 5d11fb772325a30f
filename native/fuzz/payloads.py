"""Damaged payloads for every decoder: each case ends in an array or a StreamError, or this program ends with its number.

    python native/fuzz/payloads.py [--cases 10000] [--seed 1] [--codec ID]

The golden streams are the corpus, so a new codec enters with its own. Each case takes one of them, or what its codec writes for another shape and
type, changes stripes, head or state, mostly makes the checks right again, and decodes. It says most under `make sanitize`, where a byte
read beyond a buffer ends the process. A case is made again by its seed alone: `--seed CASE --cases 1`.
The digest of all bytes that were written and read is the same for every instruction set.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import tensorpress._native
from tensorpress.core import registry
from tensorpress.core.binary import crc32c, varint
from tensorpress.core.codec import Codec
from tensorpress.core.container import section_seed
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import DTYPE_CODES, DTYPES, STRIPE_ROWS, Reader, chw
from tensorpress.core.stream import Stream

STREAMS = Path(__file__).parents[2] / "tests" / "golden" / "streams"
Hash = Any  # of hashlib
LIMIT = 1 << 22  # bytes that a decoder may produce
LONGEST = 20.0  # seconds for a case: more is a hang
TWINS = 0.05  # share of the cases that the slow twin decodes as well


def corpus(only: str | None) -> list[Stream]:
    """The golden streams of codecs with kernels of ours: what other libraries do with damaged bytes is theirs to test."""
    found = [Stream.from_bytes(path.read_bytes()) for path in sorted(STREAMS.glob("v*/*.tp"))]
    return [s for s in found if registry.card(s.codec).stable and only in (None, s.codec)]


def random_array(rng: np.random.Generator, channels: int) -> np.ndarray:
    """(channels, rows, columns) of any type that payloads know, sparse or dense, contiguous or not; shapes up to 20 x 20, edges often."""
    rows, columns = (int(rng.choice([0, 1, 2, 7, 8, 9, int(rng.integers(1, 21))], p=[0.02, 0.13, 0.1, 0.15, 0.2, 0.15, 0.25])) for _ in range(2))
    values = rng.laplace(size=(channels, rows, columns)) * rng.choice([0.5, 8.0, 60.0, 2e3])
    values[rng.random(values.shape) < rng.choice([0.0, 0.5, 0.95, 1.0])] = 0
    dtype = DTYPES[int(rng.integers(len(DTYPES)))] if rng.random() < 0.4 else np.dtype("f4")
    if dtype.kind != "f":
        limits = (0, 1) if dtype.kind == "b" else (max(np.iinfo(dtype).min, -(1 << 40)), min(np.iinfo(dtype).max, 1 << 40))
        values = np.clip(np.rint(values), *limits)
    array = values.astype(dtype)
    kind = int(rng.integers(4))
    if kind == 1:
        return np.repeat(array, 2, axis=2)[..., ::2]
    if kind == 2:
        return np.ascontiguousarray(np.moveaxis(array, 0, -1)).transpose(2, 0, 1)
    return array[:, ::-1].copy()[:, ::-1] if kind == 3 else array


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, cut, repeated or put in; the first ones more often, since counts and lengths stand there."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(out) + 1)) if rng.random() < 0.6 else int(rng.integers(min(len(out), 8) + 1))
        kind = int(rng.integers(6))
        if kind == 0 and at < len(out):
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and at < len(out):
            out[at] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
        elif kind == 4:
            out[at:at] = out[at : at + int(rng.integers(1, 65))]
        else:
            end = at + int(rng.integers(1, 17))
            out[at:end] = bytes([int(rng.choice([0, 255]))]) * (len(out[at:end]))
    return bytes(out)


def hostile(payload: bytes, rng: np.random.Generator) -> bytes:
    """The payload with stripes or head damaged; in nine of ten cases its checks are right."""
    src = Reader(payload, max_nbytes=1 << 62)
    shape, dtype = list(src.shape), src.dtype
    stripes = [bytes(src.stripe()) for _ in range(src.stripes)]
    if rng.random() < 0.1:
        return damaged(payload, rng)
    kind = rng.random()
    if kind < 0.15 and shape:  # another shape or type over the same stripes
        axis = int(rng.integers(len(shape)))
        shape[axis] = max(0, int(rng.choice([0, 1, shape[axis] - 1, shape[axis] + 1, 2 * shape[axis], 1 << 20])))
    elif kind < 0.2:
        dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    for number in range(len(stripes)):
        if rng.random() < 0.7:
            stripes[number] = damaged(stripes[number], rng)
    channels, rows, columns = chw(shape)
    wanted = min(-(-rows // STRIPE_ROWS) if channels and columns else 0, 1024)
    stripes = (stripes + [b""] * wanted)[:wanted]
    head = bytes([DTYPE_CODES[dtype], len(shape)]) + b"".join(varint(n) for n in shape)
    seed = crc32c(head)
    table = b"".join(struct.pack("<II", len(s), crc32c(s, section_seed(seed, i))) for i, s in enumerate(stripes))
    return b"".join([head, table, *stripes])


def outcome(codec: Codec, payload: bytes, *, fused: bool) -> bytes | None:
    """The values' bytes; None where the payload is refused."""
    try:
        return codec.decode_payload(payload, max_nbytes=LIMIT, fused=fused).tobytes()
    except StreamError:
        return None


def case(stream: Stream, codec: Codec, seed: int, seen: Hash) -> str:
    """One case; how it ended. What was written and read goes to `seen`."""
    rng = np.random.default_rng(seed)
    payload = bytes(stream.payload)
    if rng.random() < 0.5:
        try:
            x = random_array(rng, Reader(payload).shape[0])
            payload = codec.encode_payload(x)
        except InputError:
            pass  # a type or shape that this codec does not take: the golden payload serves
        else:
            seen.update(payload)
            seen.update(codec.decode_payload(payload).tobytes())  # what was written is read
    if stream.state and rng.random() < 0.1:
        name = str(rng.choice(sorted(stream.state)))
        try:
            codec = registry.build_from_stream(stream.codec, stream.params, {**stream.state, name: damaged(bytes(stream.state[name]), rng)})
        except StreamError:
            return "state refused"
    else:
        payload = hostile(payload, rng)
    found = outcome(codec, payload, fused=True)
    if rng.random() < TWINS and found != outcome(codec, payload, fused=False):
        raise AssertionError("kernel and twin do not agree")
    seen.update(found or b"refused")
    return "refused" if found is None else "decoded"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first case; the next ones count on")
    parser.add_argument("--codec", help="this one alone")
    arguments = parser.parse_args()
    streams = corpus(arguments.codec)
    if not streams:
        print(f"no golden stream of {arguments.codec!r}", file=sys.stderr)
        return 2
    codecs = [registry.build(s.codec, s.params, s.state) for s in streams]
    ends: dict[str, int] = {}
    seen = hashlib.sha256()
    for seed in range(arguments.seed, arguments.seed + arguments.cases):
        number = seed % len(streams)
        began = time.monotonic()
        try:
            end = case(streams[number], codecs[number], seed, seen)
        except BaseException:
            print(f"case {seed}, codec {streams[number].codec}:", file=sys.stderr)
            raise
        ends[end] = ends.get(end, 0) + 1
        if time.monotonic() - began > LONGEST:
            print(f"case {seed}, codec {streams[number].codec}: took more than {LONGEST:g} s", file=sys.stderr)
            return 1
    told = ", ".join(f"{n} {end}" for end, n in sorted(ends.items()))
    print(f"{arguments.cases} cases from seed {arguments.seed} on {tensorpress._native.__file__}: {told}; digest {seen.hexdigest()[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
