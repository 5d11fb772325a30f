"""Damaged streams, plans and bundles that are sealed again: every check holds, so that what lies under the checks is what decoders meet."""

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


# --- plans and bundles ------------------------------------------------------------------------------------------------


def container_of(kind: bytes, header: bytes, sections: list[tuple[str, bytes]]) -> bytes:
    """Any header and sections, in a container whose checks are right."""
    from minimal.binary import check, seed

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    front = kind + b"\1" + varint(len(header)) + header + varint(len(sections))
    front += b"".join(varint(len(name.encode())) + name.encode() + varint(len(data)) for name, data in sections)
    c = check(front)
    return front + struct.pack("<I", c) + b"".join(data + struct.pack("<I", check(data, seed(c, n))) for n, (_, data) in enumerate(sections))


def bent_json(value: Any, rng: random.Random) -> Any:
    """The value with one place of it changed; codecs and their parameters are left alone."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice([k for k in value if k not in ("codec", "params")])
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != name}
        return {**value, name: bent_json(value[name], rng)} if rng.random() < 0.9 else {**value, rng.choice(("more", "reference")): rng.choice((0, 1, None, "x"))}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [bent_json(v, rng) if i == at else v for i, v in enumerate(value)]
    return rng.choice((None, True, -1, 0, 1, 7, 1.5, 1 << 41, 1 << 63, 10**70, "", "x", [], {}, [0], [-1], [1.0], {"a": 1}))


def damaged_plan(data: bytes, rng: random.Random) -> bytes:
    from minimal.binary import canonical
    from minimal.container import PLAN, open_container

    header, sections = open_container(data, PLAN)
    pieces = list(sections.items())
    text = canonical(header)
    kind = rng.randrange(8)
    if kind == 0:
        pieces.append((rng.choice(("x", "99/tables", "00/tables", "0", "0/", "-1/x", "/x", "1 /x", "²/x")), b"abc"))
    elif kind == 1:
        text = rng.choice((text.replace(b":", b": ", 1), text.replace(b"{", b'{"a":1,', 1), text + b" ", text[:-1], text.replace(b"1.0", b"1.00", 1), b"[]", b"null"))
    else:
        text = canonical(bent_json(header, rng))
    return container_of(PLAN, text, pieces)


def damaged_bundle(data: bytes, plan_id: int, rng: random.Random) -> bytes:
    from minimal.binary import canonical
    from minimal.container import BUNDLE, open_bundle, open_container

    from tensorpress.core.stream import write_frame

    header, _ = open_container(data, BUNDLE)
    frames = [(f.site, f.plan, f.payload) for f in open_bundle(data)[1]]
    count, tail, name = len(frames), b"", "frames"
    for _ in range(rng.choice((1, 1, 2))):
        kind, a, b = rng.randrange(9), rng.randrange(len(frames)), rng.randrange(len(frames))
        if kind == 0 and len(frames) > 1:
            del frames[a]
            count -= rng.choice((0, 1, 1))
        elif kind == 1:
            frames.insert(b, frames[a])
            count += rng.choice((0, 1, 1))
        elif kind == 2:
            frames[a], frames[b] = frames[b], frames[a]
        elif kind == 3:
            frames[a] = (rng.choice((0, 1, 2, 254, 255, 9)), *frames[a][1:])
        elif kind == 4:
            frames[a] = (frames[a][0], plan_id ^ 1, frames[a][2])
        elif kind == 5:
            header = {**header, rng.choice(("plan", "frames", "more")): rng.choice((True, 1.0, "x", None, len(frames)))}
        elif kind == 6:
            tail = rng.choice((b"\0", b"\1" * 11, b"\1" * 30))
        elif kind == 7:
            name = rng.choice(("frame", "frames/", ""))
        else:
            header = {**header, "frames": count + rng.choice((-1, 1))}
    if type(header.get("frames")) is int and rng.random() < 0.9:
        header = {**header, "frames": count}
    return container_of(BUNDLE, canonical(header), [(name, b"".join(write_frame(p, site, plan) for site, plan, p in frames) + tail)])
