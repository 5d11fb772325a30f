"""The small words of every format: varints, CRC-32C, canonical JSON, digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from tensorpress._native import crc32c as _crc32c
from tensorpress.core.errors import StreamError
from tensorpress.core.floats import plainly

Buffer = bytes | bytearray | memoryview
MAX_DEPTH = 64  # of nested lists and objects in a header
MAX_VARINT_NBYTES = 9
MAX_NUMBER_LENGTH = 64  # characters of a number in JSON


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


@plainly
def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def _short(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if len(text) > MAX_NUMBER_LENGTH:  # a long number takes time that grows with its square
            raise ValueError(f"a number of {len(text)} characters; at most {MAX_NUMBER_LENGTH} are allowed")
        return convert(text)

    return read


@plainly
def parse_json(data: Buffer, what: str) -> Any:
    """The value that `canonical_json` wrote. StreamError for any other bytes, which another reader might take for something else."""
    text = bytes(data)
    try:
        value = json.loads(text.decode(), parse_int=_short(int), parse_float=_short(float))
        canonical = canonical_json(value)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, NaN, half a surrogate, a giant number
        raise StreamError(f"{what} is not JSON: {error}") from None
    if depth_of(value) > MAX_DEPTH:
        raise StreamError(f"{what} is JSON nested deeper than {MAX_DEPTH}")
    if canonical != text:
        at = next((i for i, (a, b) in enumerate(zip(canonical, text)) if a != b), min(len(canonical), len(text)))
        raise StreamError(f"{what} is not JSON in its one form (keys sorted, each once, no spaces, shortest numbers) from its byte {at} on")
    return value


def depth_of(value: Any) -> int:
    """How deep lists and objects are nested in a JSON value; 0 for a number."""
    depth, level = 0, [value]
    while nested := [found for found in level if isinstance(found, dict | list)]:
        depth += 1
        level = [inner for outer in nested for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def digest(params: Any, state: Mapping[str, Buffer]) -> str:
    """SHA-256 (hex) of what a decoder must hold: parameters and named binary state."""
    h = hashlib.sha256(canonical_json(params))
    for name in sorted(state):
        h.update(canonical_json([name, len(state[name])]))
        h.update(state[name])
    return h.hexdigest()
