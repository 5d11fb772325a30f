"""Section 1: the words of every format."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any


class FormatError(ValueError):
    """Bytes that FORMAT.md does not allow; the message names the place."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise FormatError(what)


def _table() -> list[int]:
    rows = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        rows.append(n)
    return rows


_CRC = _table()


def check(data: bytes, seeded: int = 0) -> int:
    c = seeded ^ 0xFFFFFFFF
    for byte in data:
        c = c >> 8 ^ _CRC[(c ^ byte) & 255]
    return c ^ 0xFFFFFFFF


def seed(s: int, n: int) -> int:
    return check(struct.pack("<I", n), s)


class Bytes:
    """Reads on and on; every read that passes the end is refused."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.at, self.what = data, 0, what

    def take(self, n: int) -> bytes:
        need(n <= len(self.data) - self.at, f"{self.what}: {n} bytes are needed at byte {self.at}, the data ends at {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]

    def u(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def i(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little", signed=True)

    def varint(self) -> int:
        start, value = self.at, 0
        for shift in range(0, 63, 7):
            byte = self.u(1)
            value |= (byte & 127) << shift
            if byte < 128:
                need(byte > 0 or shift == 0, f"{self.what}: varint at byte {start} is not in its shortest form")
                return value
        raise FormatError(f"{self.what}: varint at byte {start} is longer than 63 bits")

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        need(self.at == len(self.data), f"{self.what}: {len(self.data) - self.at} bytes stand after its end at {self.at}")


class Bits:
    """A bit string, from the least significant bit of each byte, or from the most significant one."""

    def __init__(self, data: bytes, what: str, highest_first: bool = False) -> None:
        self.what, self.highest_first = what, highest_first
        self.size = 8 * len(data)
        self.value = int.from_bytes(data, "big" if highest_first else "little")
        self.at = 0

    def left(self) -> int:
        return self.size - self.at

    def take(self, n: int) -> int:
        need(n <= self.left(), f"{self.what}: {n} bits are needed at bit {self.at} of {self.size}")
        self.at += n
        shift = self.size - self.at if self.highest_first else self.at - n
        return self.value >> shift & ((1 << n) - 1)

    def pad(self) -> None:
        """Up to a whole byte; the bits passed over are zero."""
        need(self.take(-self.at % 8) == 0, f"{self.what}: padding before bit {self.at} is not zero")

    def end(self) -> None:
        self.pad()
        need(self.left() == 0, f"{self.what}: {self.left() // 8} bytes stand after its end")


def nested(text: bytes) -> Iterator[int]:
    """The depth behind every bracket outside strings."""
    depth, quoted, escaped = 0, False, False
    for byte in text:
        if quoted:
            quoted, escaped = escaped or byte != 0x22, not escaped and byte == 0x5C
        elif byte == 0x22:
            quoted = True
        elif byte in b"[{":
            depth += 1
            yield depth
        elif byte in b"]}":
            depth -= 1


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def short(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        need(len(text) <= 64, f"a number of {len(text)} characters")
        return convert(text)

    return number


def parse_json(data: bytes, what: str) -> Any:
    need(max(nested(data), default=0) <= 64, f"{what}: JSON is nested deeper than 64")
    try:
        value = json.loads(data.decode(), parse_int=short(int), parse_float=short(float))
        same = canonical(value) == data
    except ValueError as error:
        raise FormatError(f"{what} is not JSON: {error}") from None
    need(same, f"{what} is not in the one form that JSON has here")
    return value


def f32(x: float) -> float:
    """The nearest float32, half to even."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")
