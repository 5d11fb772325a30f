"""Static rANS with its lanes side by side: row after row of symbols, one to a lane, as wide registers take them.

Symbols that are too rare for a slot share an interval, the escape, and stand as bytes of their own at the end, the last one
first. A string of as many bytes as symbols is the symbols. The native twin is native/src/rans_lanes_body.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tensorpress.coding.tables import Tables, whole
from tensorpress.core.binary import Buffer, read_varint, varint
from tensorpress.core.errors import InputError, StreamError

LOW = 1 << 16
LANES = ((3 << 14, 64), (1 << 13, 32), (0, 4))  # from so many symbols on, so many lanes: they make wide registers fast, and must be begun and ended
KEPT = 16  # of many lanes, those that the last symbols are coded in

Bytes = NDArray[np.uint8]


def lanes_of(count: int) -> int:
    return next(lanes for least, lanes in LANES if count >= least)


def ending(count: int) -> tuple[int, int]:
    """Where the tail begins, and where the symbols begin that stand in final states as they are."""
    lanes = lanes_of(count)
    plain = count - 2 * min(lanes, KEPT)
    return plain - (4 * lanes if lanes > KEPT else 0), plain


@dataclass(frozen=True)
class LaneTables:
    """`frequencies` of every symbol, 0 where it is rare; with `escape`, that of all rare ones, they sum to 2^`bits`.

    InputError where they do not.
    """

    frequencies: tuple[int, ...]
    escape: int
    bits: int

    def __post_init__(self) -> None:
        if self.bits not in (11, 12):
            raise InputError(f"tables of {self.bits} bits: 11 or 12 are allowed")
        if not 2 <= len(self.frequencies) <= 256:
            raise InputError(f"{len(self.frequencies)} symbols: 2 to 256 are allowed")
        if not all(type(n) is int for n in (self.escape, *self.frequencies)):
            raise InputError("frequencies and escape must be integers")
        if min(self.frequencies) < 0 or self.escape < 0 or sum(self.frequencies) + self.escape != 1 << self.bits:
            raise InputError(f"frequencies and escape do not sum to 2^{self.bits}")
        if max(self.escape, *self.frequencies) == 1 << self.bits:
            raise InputError("one symbol, or the escape, has the whole table")
        if self.escape == 0 and 0 in self.frequencies:
            raise InputError("a symbol has no frequency, and there is no escape")

    @classmethod
    def from_counts(cls, counts: ArrayLike, bits: int) -> LaneTables:
        """From how often each symbol was seen. No float takes part.

        A symbol is rare where its byte costs less than the slot that it takes from all others: below a sixth of a slot.
        """
        seen = whole(counts, np.int64, "counts")
        if not seen.any():
            seen = np.ones_like(seen)
        total = int(seen.sum())
        rare = np.array([6 * int(n) << bits < total for n in seen])
        if not rare.any():
            return cls(tuple(Tables.from_counts(seen, bits).frequencies[0].tolist()), 0, bits)
        kept = Tables.from_counts(np.concatenate([[int(seen[rare].sum())], seen[~rare]]), bits).frequencies[0]
        frequencies = np.zeros(seen.size, np.int64)
        frequencies[~rare] = kept[1:]
        return cls(tuple(frequencies.tolist()), int(kept[0]), bits)

    def to_bytes(self) -> bytes:
        """bits(1) varint(escape), then each frequency as a varint; after a 0, how many more 0s follow."""
        out, at = bytearray([self.bits]) + varint(self.escape), 0
        while at < len(self.frequencies):
            out += varint(self.frequencies[at])
            at += 1
            if self.frequencies[at - 1] == 0:
                start = at
                while at < len(self.frequencies) and self.frequencies[at] == 0:
                    at += 1
                out += varint(at - start)
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: Buffer, symbols: int) -> LaneTables:
        """The inverse. StreamError where `data` is no table of that many symbols."""
        if len(data) < 1:
            raise StreamError("tables are empty")
        escape, at = read_varint(data, 1, "tables: frequency of the escape")
        frequencies: list[int] = []
        while len(frequencies) < symbols:
            frequency, at = read_varint(data, at, f"tables: frequency of symbol {len(frequencies)}")
            frequencies.append(frequency)
            if frequency == 0:
                more, at = read_varint(data, at, f"tables: zeros after symbol {len(frequencies) - 1}")
                frequencies += [0] * min(more, symbols - len(frequencies) + 1)
        if at != len(data) or len(frequencies) != symbols:
            raise StreamError(f"tables of {symbols} symbols end at byte {at} of {len(data)}, with {len(frequencies)} symbols")
        try:
            found = cls(tuple(frequencies), escape, data[0])
        except InputError as error:
            raise StreamError(f"tables: {error}") from None
        if found.to_bytes() != bytes(data):
            raise StreamError("tables are not in their shortest form")
        return found

    def starts(self) -> NDArray[np.int64]:
        """Where each symbol's interval begins; of a rare one, and so of the escape, 0."""
        f = np.array(self.frequencies, np.int64)
        return np.where(f > 0, self.escape + np.cumsum(f) - f, 0)


def encode(symbols: Bytes, tables: LaneTables) -> bytes:
    """A vector of symbols as one string, never longer than they are."""
    lanes, (tail, plain) = lanes_of(symbols.size), ending(symbols.size)
    if tail < 0:
        return symbols.tobytes()
    starts, known = tables.starts(), np.array(tables.frequencies, np.int64)
    widths = np.where(known > 0, known, max(tables.escape, 1))

    def put(part: Bytes, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes a part backwards; its words in the order of decoding."""
        words = [np.zeros(0, np.int64)]
        for at in reversed(range(0, part.size, states.size)):
            row = part[at : at + states.size]
            x, f = states[: row.size], widths[row]
            full = x >> 32 - tables.bits >= f
            words.append(x[full] & 0xFFFF)
            x = np.where(full, x >> 16, x)
            states[: row.size] = (x // f << tables.bits) + x % f + starts[row]
        return np.concatenate(words[::-1])

    kept = LOW | symbols[plain:].copy().view("<u2").astype(np.int64)
    late = put(symbols[tail:plain], kept)
    others = np.full(lanes - kept.size, LOW)
    others[: late.size] |= late[: others.size]
    states = np.concatenate([kept, others])
    words = np.concatenate([put(symbols[:tail], states), late[others.size :]])
    rare = symbols[:plain][known[symbols[:plain]] == 0][::-1]
    rest = words.astype("<u2").tobytes() + rare.tobytes()
    longest = lanes // 2 + 4 * lanes  # of the states
    return states_bytes(states.tolist()) + rest if longest + len(rest) < symbols.size else symbols.tobytes()


def states_bytes(states: list[int]) -> bytes:
    """4 bits for each state, its length less 17; then its bits but the highest, from the least significant; zero bits up to a byte."""
    sizes = [x.bit_length() - 17 for x in states]
    held, fill = 0, 0
    for x, size in zip(states, sizes):
        held |= (x ^ 1 << size + 16) << fill
        fill += size + 16
    return bytes(a | b << 4 for a, b in zip(sizes[::2], sizes[1::2])) + held.to_bytes(-(-fill // 8), "little")


def first_states(data: Buffer, lanes: int) -> tuple[NDArray[np.int64], int]:
    """The decoder's first states, and the byte after them. StreamError where they are cut or padding bits are set."""
    at = lanes // 2
    sizes = [16 + (data[lane // 2] >> lane % 2 * 4 & 15) for lane in range(lanes)] if len(data) >= at else []
    end = at - (-sum(sizes) // 8)
    if not sizes or end > len(data):
        raise StreamError(f"rANS data of {len(data)} bytes is cut within its states")
    held, states = int.from_bytes(data[at:end], "little"), []
    for size in sizes:
        states.append(held & (1 << size) - 1 | 1 << size)
        held >>= size
    if held:
        raise StreamError("padding bits are not zero")
    return np.array(states, np.int64), end


def decode(data: Buffer, count: int, tables: LaneTables) -> Bytes:
    """The `count` symbols of a string. `data` may be hostile: StreamError."""
    known, escape = np.array(tables.frequencies, np.int64), tables.escape
    symbols, lanes, (tail, plain), end = np.empty(count, np.uint8), lanes_of(count), ending(count), len(data)
    if end == count:
        symbols[:] = np.frombuffer(data, np.uint8)
        if (symbols >= known.size).any():
            raise StreamError(f"symbol {int(symbols.max())} of {known.size}")
        return symbols
    if end > count or tail < 0:
        raise StreamError(f"a string of {count} symbols has {end} bytes")
    owner = np.repeat(np.arange(-1, known.size), np.concatenate([[escape], known]))
    starts, widths = np.append(tables.starts(), 0), np.append(known, escape)  # -1, the escape, is the last

    def take(part: Bytes, states: NDArray[np.int64], data: bytes) -> bytes:
        """Fills a part; the bytes of `data` that are left."""
        at, end = 0, len(data)
        for first in range(0, part.size, states.size):
            row = part[first : first + states.size]
            x = states[: row.size]
            slot = x & (1 << tables.bits) - 1
            symbol = owner[slot]
            row[:] = symbol
            x[:] = widths[symbol] * (x >> tables.bits) + slot - starts[symbol]
            low, rare = np.flatnonzero(x < LOW), np.flatnonzero(symbol < 0)
            if end - at < 2 * low.size + rare.size:
                raise StreamError(f"{len(data)} bytes of rANS data end within row {first // states.size} of {lanes} lanes")
            x[low] = x[low] << 16 | np.frombuffer(data, "<u2", low.size, at)
            at += 2 * low.size
            escaped = np.frombuffer(data, np.uint8, rare.size, end - rare.size)[::-1]
            if (escaped >= known.size).any() or known[escaped].any():
                raise StreamError("a symbol that is escaped is not rare")
            row[rare] = escaped
            end -= rare.size
        return data[at:end]

    states, at = first_states(data, lanes)
    rest = take(symbols[:tail], states, bytes(data[at:]))
    late = (states[KEPT:] & 0xFFFF).astype("<u2").tobytes()
    left = take(symbols[tail:plain], states[:KEPT], late + rest)
    if left and (len(late + rest) - len(rest) < len(left) or any(left) or not (late + rest).startswith(late)):
        raise StreamError(f"{len(left)} bytes of rANS data are left")
    if (states >> 16 != 1).any():
        raise StreamError("a rANS lane does not end in a first state")
    symbols[plain:] = (states[:KEPT] & 0xFFFF).astype("<u2").view(np.uint8)
    if (symbols[plain:] >= known.size).any():
        raise StreamError(f"symbol {int(symbols[plain:].max())} of {known.size}")
    return symbols
