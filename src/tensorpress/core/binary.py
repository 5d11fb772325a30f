"""The small words of every format: varints, CRC-32C, canonical JSON, digests."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from tensorpress._native import crc32c as _crc32c
from tensorpress.core.errors import StreamError

Buffer = bytes | bytearray | memoryview


def crc32c(data: Buffer, seed: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, continued from `seed`, as an unsigned 32-bit integer."""
    return _crc32c(data, seed)


def row_of_bytes(data: Any) -> memoryview:
    """Any buffer as one row of unsigned bytes; a copy only where its items do not lie side by side."""
    view = memoryview(data)
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    return view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())


def varint(value: int) -> bytes:
    """`value` >= 0 as little-endian base-128 (LEB128), the shortest form."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: Buffer, at: int, what: str) -> tuple[int, int]:
    """(value, position after it). StreamError where it is cut, longer than 63 bits or not the shortest form."""
    value = shift = 0
    start = at
    while True:
        if at >= len(data):
            raise StreamError(f"{what} at byte {start} is cut: the data ends at {len(data)}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift >= 63:
            raise StreamError(f"{what} at byte {start} is no varint of at most 63 bits")
    if byte == 0 and at - start > 1:
        raise StreamError(f"{what} at byte {start} is not in its shortest form")
    return value, at


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


MAX_NESTING = 64  # objects and lists within one another


def parse_json(data: Buffer, what: str) -> Any:
    """A JSON value that `canonical_json` can write again. StreamError on anything else: other bytes, numbers that are not finite, half characters, deep nesting."""
    text = bytes(data)
    try:
        value = json.loads(text.decode(), parse_float=_finite, parse_constant=_finite)
        if b"\\u" in text:
            canonical_json(value)  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise StreamError(f"{what} is not JSON: {error}") from None
    if text.count(b"[") + text.count(b"{") > MAX_NESTING and _nesting(value) > MAX_NESTING:
        raise StreamError(f"{what} has more than {MAX_NESTING} objects and lists within one another")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _nesting(value: Any) -> int:
    """How many objects and lists lie within one another."""
    level, deep = [value], 0
    while level := [v for v in level if isinstance(v, (dict, list))]:
        level, deep = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)], deep + 1
    return deep


def digest(params: Any, state: Mapping[str, Buffer]) -> str:
    """SHA-256 (hex) of what a decoder must hold: parameters and named binary state."""
    h = hashlib.sha256(canonical_json(params))
    for name in sorted(state):
        h.update(canonical_json([name, len(state[name])]))
        h.update(state[name])
    return h.hexdigest()
