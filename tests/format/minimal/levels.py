"""Section 3, levels, and section 6, symbols: from words to values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from .binary import f32, need
from .container import Json, Payload

ZEROS = (0.0, 0.0, 0.0)
FORMATS = {"float32": "f", "float16": "e", "float64": "d"}


def clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def float_bytes(values: Sequence[float], dtype: str) -> bytes:
    """Float32 values in a float type, half to even; for float16 clamped."""
    if dtype == "float16":
        values = [min(max(v, -65504.0), 65504.0) for v in values]
    return struct.pack(f"<{len(values)}{FORMATS[dtype]}", *values)


def restored(values: Sequence[float], dtype: str) -> bytes:
    """Float32 values as floats, or as 8-bit integers: rounded half to even and clamped."""
    if dtype in FORMATS:
        return float_bytes(values, dtype)
    need(dtype in ("int8", "uint8"), f"this codec does not write {dtype}")
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    return b"".join((clamp(round(v), low, high)).to_bytes(1, "little", signed=low < 0) for v in values)


def zero_of(params: Json, payload: Payload) -> int:
    return int(params["zero_point"]) if payload.is_float else 128 if payload.dtype == "int8" else 0


def scale_of(params: Json, payload: Payload) -> float:
    need(not payload.is_float or params["scale"] is not None, "the parameters hold no scale: floats cannot be decoded")
    return f32(params["scale"] or 1.0)


def values_of_levels(levels: Sequence[int], params: Json, payload: Payload) -> bytes:
    """The bytes of the tensor."""
    z, scale = zero_of(params, payload), scale_of(params, payload)
    if payload.is_float:
        return float_bytes([f32((level - z) * scale) for level in levels], payload.dtype)
    need(payload.width == 1, f"this codec does not write {payload.dtype}")
    if payload.dtype == "int8":
        return bytes(level ^ 128 for level in levels)
    return bytes(min(level, 1) for level in levels) if payload.dtype == "bool" else bytes(levels)


# 6. Symbols of zvc


def dead_zone(params: Json) -> float:
    return 0.5 if params.get("profile") == "paper" or params["step"] == 1 else 0.36


def zvc_levels(z: int, step: float, f: float, centroid: Sequence[float]) -> tuple[list[int], int]:
    """(level of each of the 256 symbols, the largest symbol that a level has)."""
    r, big_f = round(65536 / step), round(65536 * f)

    def q(d: int) -> int:
        return (abs(d) * r + big_f >> 16) * (1 if d > 0 else -1)

    least, most = q(-z), q(255 - z)
    m = min(-least, most)
    found = [z]
    for s in range(1, 256):
        k, sign = ((s + 1) // 2, 1 if s % 2 else -1) if s <= 2 * m else (s - m, 1 if most >= -least else -1)
        found.append(clamp(z + sign * max(0, round(k * step + centroid[min(k, 3) - 1])), 0, 255))
    return found, m + max(-least, most)


def symbol_levels(params: Json, z: int) -> tuple[list[int], int]:
    return zvc_levels(z, params["step"], dead_zone(params), params["centroid"] or ZEROS)


def assembled(payload: Payload, stripes: Sequence[Sequence[Any]]) -> list[Any]:
    """Stripes' values in the order channel, row, column, as one such row of the whole tensor."""
    channels, rows, columns = payload.view
    out: list[Any] = [0] * (channels * rows * columns)
    for number, flat in enumerate(stripes):
        own = payload.rows(number)
        for c in range(channels):
            size = len(own) * columns
            at = (c * rows + own.start) * columns
            out[at : at + size] = flat[c * size : (c + 1) * size]
    return out


def numbers(payload: Payload, values: bytes) -> list[float]:
    """A tensor's bytes as numbers, for what refers to it."""
    letters = {**FORMATS, "uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "uint64": "Q", "int64": "q", "bool": "B"}
    return list(struct.unpack(f"<{len(values) // payload.width}{letters[payload.dtype]}", values))
