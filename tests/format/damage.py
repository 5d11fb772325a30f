"""Damaged streams that are sealed again: every check holds, so that what lies under the checks is what decoders meet."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from tensorpress.core.codec import Codec
from tensorpress.core.payload import DTYPES, Reader
from tensorpress.core.stream import Stream

SHAPES: tuple[tuple[int, ...], ...] = ((5, 9, 3), (2, 3, 10), (1, 1, 40), (7, 33), (9,), (), (36, 2, 2), (2, 0, 3), (2, 2, 3, 17))


def tensor(shape: tuple[int, ...], dtype: str, rng: random.Random) -> np.ndarray:
    """Small whole numbers, half of them zero: the same on every machine."""
    values = [rng.choice((0, 0, 1, rng.randrange(8), rng.randrange(-90, 128))) for _ in range(int(np.prod(shape)))]
    array = np.array(values, np.int64).reshape(shape)
    return (array > 0) if dtype == "bool" else (array if dtype[0] != "u" else np.abs(array)).astype(dtype)


def sealed(stream: Stream, head: bytes, stripes: list[bytes], params: dict[str, Any], state: dict[str, bytes]) -> bytes:
    from minimal.binary import check, seed

    s = check(head)
    table = b"".join(struct.pack("<II", len(d), check(d, seed(s, n))) for n, d in enumerate(stripes))
    return Stream(stream.codec, params, {"payload": head + table + b"".join(stripes)}, state).to_bytes()


def bent(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to three small changes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, at = rng.randrange(6), rng.randrange(len(out) + 1)
        if kind == 0 or not out:
            out[at:at] = bytes([rng.choice((0, 1, 255, rng.randrange(256)))])
        elif kind == 1:
            del out[at : at + rng.choice((1, 1, 2, 5))]
        elif kind == 2 and rng.random() < 0.3:
            del out[at:]
        else:
            at = min(at, len(out) - 1)
            out[at] = rng.choice((0, 255, out[at] ^ 1 << rng.randrange(8), rng.randrange(256)))
    return bytes(out)


def odd_value(value: Any, rng: random.Random) -> Any:
    choices: list[Any] = [None, True, -1, 0, 1, 2, 3.5, 300, 0.0, -1.0, 1e30, 1e-30, "x", [], [1, 2, 3], [1.5, -2.0, 0.25], {}, "both", "fast", "paper", "fixed", "slot", "lz4"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        choices += [value * 2, value / 2, value + 1, -value]
    return rng.choice(choices)


def damaged(codec: Codec, shape: tuple[int, ...], dtype: str, count: int, rng: random.Random) -> Iterator[bytes]:
    """`count` streams of a tensor, whole but for what a few changes did before the checks were made."""
    x = tensor(shape, dtype, rng)
    stream = codec.fit([x]).encode(x)
    src = Reader(stream.payload)
    head, stripes = bytes(src.payload[: src.head_nbytes]), [bytes(src.stripe()) for _ in range(src.stripes)]
    yield stream.to_bytes()
    for _ in range(count):
        params, state, own, front = copy.deepcopy(dict(stream.params)), dict(stream.state), list(stripes), head
        kind = rng.randrange(12)
        if kind == 0 and params:
            name = rng.choice(sorted(params))
            if rng.random() < 0.15:
                del params[name]
            else:
                params[name] = odd_value(params[name], rng)
        elif kind < 4 and state:
            name = rng.choice(sorted(state))
            state[name] = bent_state(name, bytes(state[name]), rng)
        elif kind == 4:
            front = bytes([rng.randrange(len(DTYPES) + 1)]) + head[1:] if rng.random() < 0.5 else bent(head, rng)
        elif own:
            at = rng.randrange(len(own))
            own[at] = bent(own[at], rng)
        yield sealed(stream, front, own, params, state)


def bent_state(name: str, data: bytes, rng: random.Random) -> bytes:
    if name != "model":
        return bent(data, rng)
    import zlib

    return zlib.compress(bent(zlib.decompress(data), rng))
