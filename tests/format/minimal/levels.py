"""Section 3, levels, and section 6, symbols: from words to values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from .binary import f32, need
from .container import Json, Payload

FORMATS = {"float32": "f", "float16": "e", "float64": "d"}


def clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def number(params: Json, name: str, low: float, high: float, default: Any = None) -> float:
    value = params.get(name, default)
    need(isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high, f"parameter {name} is {value!r}: {low} to {high} are allowed")
    return value  # type: ignore[no-any-return]


def whole(params: Json, name: str, low: int, high: int, default: Any = None) -> int:
    value = params.get(name, default)
    need(type(value) is int and low <= value <= high, f"parameter {name} is {value!r}: {low} to {high} are allowed")
    return value  # type: ignore[no-any-return]


def known(params: Json, names: str) -> None:
    for name in params:
        need(name in names.split(), f"unknown parameter {name!r}")


def float_bytes(values: Sequence[float], dtype: str) -> bytes:
    """Float32 values in a float type: what is beyond float16 is infinite."""
    out = bytearray()
    for v in values:
        try:
            out += struct.pack("<" + FORMATS[dtype], v)
        except OverflowError:
            out += struct.pack("<" + FORMATS[dtype], float("inf") if v > 0 else float("-inf"))
    return bytes(out)


def restored(values: Sequence[float], dtype: str) -> bytes:
    """Float32 values in any type: integers are rounded half to even and clamped."""
    if dtype in FORMATS:
        return float_bytes(values, dtype)
    low, high = {"bool": (0, 1), "int8": (-128, 127), "uint8": (0, 255)}[dtype]
    return b"".join((clamp(round(v), low, high)).to_bytes(1, "little", signed=low < 0) for v in values)


def zero_of(params: Json, payload: Payload) -> int:
    z = whole(params, "zero_point", 0, 255, 0)
    return z if payload.is_float else 128 if payload.dtype == "int8" else 0


def scale_of(params: Json, payload: Payload) -> float:
    for name in ("scale", "reciprocal"):
        value = params.get(name)
        need(value is None or (isinstance(value, float) and 1e-38 < value < 1e38), f"parameter {name} is {value!r}")
    need(not payload.is_float or params.get("scale") is not None, "the parameters hold no scale: floats cannot be decoded")
    return f32(params.get("scale") or 1.0)


def values_of_levels(levels: Sequence[int], params: Json, payload: Payload) -> bytes:
    """The bytes of the tensor."""
    z, scale = zero_of(params, payload), scale_of(params, payload)
    if payload.is_float:
        return float_bytes([f32((level - z) * scale) for level in levels], payload.dtype)
    need(payload.width == 1, f"this codec does not write {payload.dtype}")
    if payload.dtype == "int8":
        return bytes(level ^ 128 for level in levels)
    return bytes(levels)


# 6. Symbols of zvc


def dead_zone(params: Json) -> float:
    return 0.5 if params.get("profile") == "paper" or params.get("step", 1.0) == 1 else 0.36


def triple(params: Json, name: str) -> list[float]:
    value = params.get(name)
    value = [0.0, 0.0, 0.0] if not value else value
    need(isinstance(value, list) and len(value) == 3 and all(isinstance(c, int | float) and not isinstance(c, bool) for c in value), f"parameter {name}")
    return value  # type: ignore[no-any-return]


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
    return zvc_levels(z, params.get("step", 1.0), dead_zone(params), triple(params, "centroid"))


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
