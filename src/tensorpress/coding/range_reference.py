"""The binary range coder of native/include/tensorpress/range.h in plain Python, both ways: the specification, and slow."""

from __future__ import annotations


class Interval:
    """Writes without `data`, reads with it: `code(p, bit)` or `code(p)`; p is the probability of a 1, of 2^16."""

    def __init__(self, data: bytes | None = None) -> None:
        self.low, self.high, self.out, self.data, self.at = 0, 0xFFFFFFFF, bytearray(), data, 0
        self.value = 0
        if data is not None:
            for _ in range(4):
                self.value = self.value << 8 | self._next()

    def _next(self) -> int:
        assert self.data is not None
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def code(self, p: int, bit: int | None = None) -> int:
        middle = self.low + ((self.high - self.low) * p >> 16)
        if bit is None:
            bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) >> 24 == 0:
            self.out.append(self.high >> 24)
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 | 255) & 0xFFFFFFFF
            if self.data is not None:
                self.value = (self.value << 8 | self._next()) & 0xFFFFFFFF
        return bit

    def finish(self) -> bytes:
        for keep in range(5):
            unit = 1 << 32 - 8 * keep
            value = -(-self.low // unit) * unit
            if value <= self.high:
                return bytes(self.out) + value.to_bytes(5, "big")[1 : 1 + keep]
        raise AssertionError("an interval is never empty")
