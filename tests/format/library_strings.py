"""Strings of four libraries, decoded from their public descriptions with the standard library alone: what section 14 of FORMAT.md stands on.

    zstd    RFC 8878          lz4     LZ4 block format
    blosc2  Blosc2 chunk      zfp     Lindstrom, TVCG 2014, and the documentation of the library

Each takes what it is to give: neither more nor less comes out, and whatever is wrong with the bytes is a ValueError."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

# --- Zstandard --------------------------------------------------------------------------------------------------------------------------------------

MAX_BLOCK = 1 << 17
PAD = 16  # zero bytes before a backward bit string: what is read beyond its start, and then refused
States = list[tuple[int, int, int]]  # of each state: symbol, bits to read, what they are added to


@dataclass
class Backward:
    """Bits from the end of a string to its start; the highest bit set in the last byte is no part of them."""

    data: bytes
    left: int

    @staticmethod
    def of(data: bytes) -> Backward:
        if not data or not data[-1]:
            raise ValueError("zstd: a bit string without its end mark")
        return Backward(bytes(PAD) + data, 8 * len(data) - 9 + data[-1].bit_length())

    def peek(self, count: int) -> int:
        at = self.left - count + 8 * PAD
        return (int.from_bytes(self.data[at >> 3 : (at + count + 7) >> 3], "little") >> (at & 7)) & ((1 << count) - 1)

    def take(self, count: int) -> int:
        value = self.peek(count)
        self.left -= count
        return value


def _states(probabilities: Sequence[int], log: int) -> States:
    """The decoding table of an FSE code: RFC 8878, 4.1.1."""
    size = high = 1 << log
    symbols = [0] * size
    for symbol, p in enumerate(probabilities):
        if p == -1:
            high -= 1
            symbols[high] = symbol
    at = 0
    for symbol, p in enumerate(probabilities):
        for _ in range(p):
            symbols[at] = symbol
            at = (at + (size >> 1) + (size >> 3) + 3) & (size - 1)
            while at >= high:
                at = (at + (size >> 1) + (size >> 3) + 3) & (size - 1)
    following = [abs(p) for p in probabilities]
    states = []
    for symbol in symbols:
        n = following[symbol]
        following[symbol] += 1
        bits = log + 1 - n.bit_length()
        states.append((symbol, bits, (n << bits) - size))
    return states


def _described_states(data: bytes, at: int, max_log: int, symbols: int) -> tuple[States, int]:
    """(table, where its description ends) of an FSE code of at most so many symbols."""
    text = int.from_bytes(data[at : at + 256], "little")
    log, used = (text & 15) + 5, 4
    if log > max_log:
        raise ValueError(f"zstd: an FSE table of 2^{log} states")
    left, probabilities = 1 << log, []
    while left > 0:
        bits = (left + 1).bit_length()
        value, short = (text >> used) & ((1 << bits) - 1), (1 << bits) - 2 - left
        low = value & ((1 << bits - 1) - 1)
        if low < short:
            value, used = low, used + bits - 1
        else:
            value, used = value - (short if value > low else 0), used + bits
        probabilities.append(value - 1)
        left -= abs(value - 1)
        more = 3 if value == 1 else 0
        while more == 3 and len(probabilities) <= symbols:
            more, used = (text >> used) & 3, used + 2
            probabilities += [0] * more
        if len(probabilities) > symbols:
            raise ValueError("zstd: an FSE table of too many symbols")
    at += (used + 7) // 8
    if at > len(data) or left < 0:
        raise ValueError("zstd: an FSE table is cut or sums to too much")
    return _states(probabilities, log), at


@dataclass(frozen=True)
class Huffman:
    bits: int  # of the longest code
    codes: list[tuple[int, int]]  # of every string of so many bits: symbol, bits taken


def _weights(data: bytes) -> list[int]:
    states, at = _described_states(data, 0, 6, 12)
    bits = Backward.of(data[at:])
    log = len(states).bit_length() - 1
    pair = [bits.take(log), bits.take(log)]
    weights: list[int] = []
    if bits.left < 0:
        raise ValueError("zstd: a Huffman table is cut")
    for turn in itertools.cycle((0, 1)):
        symbol, count, base = states[pair[turn]]
        weights.append(symbol)
        if bits.left < count:
            return [*weights, states[pair[1 - turn]][0]]
        pair[turn] = base + bits.take(count)
        if len(weights) > 254:
            break
    raise ValueError("zstd: a Huffman table of too many symbols")


def _huffman(data: bytes, at: int) -> tuple[Huffman, int]:
    if at >= len(data):
        raise ValueError("zstd: a Huffman table is missing")
    head = data[at]
    end = at + 1 + (head if head < 128 else (head - 126) // 2)
    if end > len(data):
        raise ValueError("zstd: a Huffman table is cut")
    weights = _weights(data[at + 1 : end]) if head < 128 else [w for b in data[at + 1 : end] for w in (b >> 4, b & 15)][: head - 127]
    if max(weights) > 11:
        raise ValueError("zstd: a Huffman code of more than 11 bits")
    total = sum(1 << w >> 1 for w in weights)
    bits = total.bit_length()
    rest = (1 << bits) - total
    if not 0 < bits <= 11 or rest & (rest - 1):
        raise ValueError("zstd: a Huffman code that is not complete")
    weights.append(rest.bit_length())
    codes = [(symbol, bits + 1 - w) for w in range(1, bits + 1) for symbol, its in enumerate(weights) if its == w for _ in range(1 << w >> 1)]
    return Huffman(bits, codes), end


def _huffman_string(table: Huffman, data: bytes, count: int) -> bytes:
    bits, out = Backward.of(data), bytearray()
    for _ in range(count):
        symbol, used = table.codes[bits.peek(table.bits)]
        bits.left -= used
        if bits.left < 0:
            break
        out.append(symbol)
    if bits.left:
        raise ValueError("zstd: literals do not fill their bytes")
    return bytes(out)


def _code_of_lengths(first: int, bits: Sequence[int]) -> list[tuple[int, int]]:
    """(first value, extra bits) of every code."""
    return list(zip(itertools.accumulate((1 << b for b in bits[:-1]), initial=first), bits, strict=True))


LITERAL_LENGTHS = _code_of_lengths(0, [0] * 16 + [1] * 4 + [2, 2, 3, 3, 4, *range(6, 17)])
MATCH_LENGTHS = _code_of_lengths(3, [0] * 32 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, *range(7, 17)])
OFFSETS = [(1 << b, b) for b in range(32)]
KINDS = (  # literal lengths, offsets, match lengths: largest table, codes, the table known to all
    (9, LITERAL_LENGTHS, _states([4, 3] + [2] * 11 + [1] * 3 + [2] * 9 + [3, 2] + [1] * 5 + [-1] * 4, 6)),
    (8, OFFSETS, _states([1] * 6 + [2] * 3 + [1] * 15 + [-1] * 5, 5)),
    (9, MATCH_LENGTHS, _states([1, 4, 3] + [2] * 6 + [1] * 37 + [-1] * 7, 6)),
)


@dataclass
class Frame:
    """What blocks of a frame hand on."""

    nbytes: int
    out: bytearray = field(default_factory=bytearray)
    huffman: Huffman | None = None
    tables: list[States | None] = field(default_factory=lambda: [None, None, None])
    recent: list[int] = field(default_factory=lambda: [1, 4, 8])

    def room(self, count: int) -> None:
        if len(self.out) + count > self.nbytes:
            raise ValueError(f"zstd: more than the {self.nbytes} bytes that are asked for")

    def copy(self, offset: int, count: int) -> None:
        self.room(count)
        _repeat(self.out, offset, count, "zstd")


def _repeat(out: bytearray, offset: int, count: int, name: str) -> None:
    if not 0 < offset <= len(out):
        raise ValueError(f"{name}: a match {offset} bytes back, where {len(out)} are known")
    start = len(out) - offset
    known = out[start : start + count]
    out += (known * (count // len(known) + 1))[:count] if count > len(known) else known


def _literals(frame: Frame, data: bytes) -> tuple[bytes, int]:
    """(literals, where they end in the block)."""
    if not data:
        raise ValueError("zstd: an empty block")
    kind, form = data[0] & 3, data[0] >> 2 & 3
    head = (1, 2, 1, 3)[form] if kind < 2 else (3, 3, 4, 5)[form]
    if head > len(data):
        raise ValueError("zstd: the head of the literals is cut")
    value = int.from_bytes(data[:head], "little")
    if kind < 2:
        count = value >> (3 if head == 1 else 4)
        nbytes = 1 if kind else count
    else:
        width = (10, 10, 14, 18)[form]
        count, nbytes = value >> 4 & ((1 << width) - 1), value >> 4 + width
    frame.room(count)
    end = head + nbytes
    if end > len(data) or count > MAX_BLOCK:
        raise ValueError("zstd: literals end behind their block")
    if kind < 2:
        return data[head:end] * (count if kind else 1), end
    start = head
    if kind == 2:
        frame.huffman, start = _huffman(data[:end], head)
    if frame.huffman is None:
        raise ValueError("zstd: literals without a table")
    if form == 0:
        return _huffman_string(frame.huffman, data[start:end], count), end
    part, first = (count + 3) // 4, start + 6
    if first > end or 3 * part > count:
        raise ValueError("zstd: four literal strings do not fit")
    sizes = struct.unpack_from("<3H", data, start)
    ends = [*itertools.accumulate(sizes, initial=first), end]
    if ends[3] > end:
        raise ValueError("zstd: literal strings end behind their section")
    counts = (part, part, part, count - 3 * part)
    return b"".join(_huffman_string(frame.huffman, data[a:b], n) for a, b, n in zip(ends, ends[1:], counts, strict=False)), end


def _sequence_tables(frame: Frame, data: bytes, at: int) -> int:
    if at >= len(data) or data[at] & 3:
        raise ValueError("zstd: the head of the sequences is damaged")
    modes = data[at]
    at += 1
    for number, (max_log, codes, known) in enumerate(KINDS):
        mode = modes >> 6 - 2 * number & 3
        if mode == 0:
            frame.tables[number] = known
        elif mode == 1:
            if at >= len(data) or data[at] >= len(codes):
                raise ValueError("zstd: a code that does not exist")
            frame.tables[number] = [(data[at], 0, 0)]
            at += 1
        elif mode == 2:
            frame.tables[number], at = _described_states(data, at, max_log, len(codes))
        elif frame.tables[number] is None:
            raise ValueError("zstd: a table is repeated that there is not")
    return at


def _offset(recent: list[int], value: int, literals: int) -> int:
    """Where a match begins; the three recent ones move up."""
    if value > 3:
        recent[:] = [value - 3, *recent[:2]]
        return recent[0]
    which = value - 1 + (literals == 0)
    offset = recent[which] if which < 3 else recent[0] - 1
    if which:
        recent[:] = [offset, recent[0], recent[1] if which > 1 else recent[2]]
    return offset


def _sequences(frame: Frame, data: bytes, at: int, literals: bytes) -> None:
    count = data[at]
    size = 1 if count < 128 else 2 if count < 255 else 3
    if at + size > len(data):
        raise ValueError("zstd: the number of sequences is cut")
    if size == 2:
        count = (count - 128 << 8) + data[at + 1]
    elif size == 3:
        count = data[at + 1] + (data[at + 2] << 8) + 0x7F00
    at += size
    if not count:
        if at != len(data):
            raise ValueError("zstd: bytes are left in a block")
        frame.out += literals
        return
    at = _sequence_tables(frame, data, at)
    tables = [t for t in frame.tables if t is not None]
    bits = Backward.of(data[at:])
    states = [bits.take(len(t).bit_length() - 1) for t in tables]
    taken = 0
    for number in range(count):
        length, offset, match = (t[s] for t, s in zip(tables, states, strict=True))
        offset_value = OFFSETS[offset[0]][0] + bits.take(offset[0])
        first, extra = MATCH_LENGTHS[match[0]]
        matched = first + bits.take(extra)
        first, extra = LITERAL_LENGTHS[length[0]]
        plain = first + bits.take(extra)
        if number + 1 < count:  # literal length, match length, offset
            for which, state in ((0, length), (2, match), (1, offset)):
                states[which] = state[2] + bits.take(state[1])
        if bits.left < 0 or taken + plain > len(literals):
            raise ValueError("zstd: sequences are cut, or want more literals than there are")
        frame.room(plain)
        frame.out += literals[taken : taken + plain]
        taken += plain
        frame.copy(_offset(frame.recent, offset_value, plain), matched)
    if bits.left:
        raise ValueError("zstd: bits are left behind the sequences")
    frame.room(len(literals) - taken)
    frame.out += literals[taken:]


def _block(frame: Frame, data: bytes) -> None:
    before = len(frame.out)
    literals, at = _literals(frame, data)
    if at >= len(data):
        raise ValueError("zstd: a block without sequences")
    _sequences(frame, data, at, literals)
    if len(frame.out) - before > MAX_BLOCK:
        raise ValueError("zstd: a block of more than 2^17 bytes")


def _frame(data: bytes, nbytes: int, sized: bool) -> bytes:
    """`sized`: the frame must say how much it holds."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("zstd: no frame")
    flags = data[4]
    single, checked, named = flags >> 5 & 1, flags >> 2 & 1, (0, 1, 2, 4)[flags & 3]
    size = (single, 2, 4, 8)[flags >> 6]
    at = 5 + (not single)
    if flags & 8 or at + named + size > len(data):
        raise ValueError("zstd: the frame's head is cut or of a later version")
    if any(data[at : at + named]):
        raise ValueError("zstd: a frame that needs a dictionary")
    at += named
    content = int.from_bytes(data[at : at + size], "little") + (256 if size == 2 else 0)
    at += size
    if content != nbytes if size else sized:
        raise ValueError(f"zstd: a frame of {content if size else 'unknown'} bytes, {nbytes} are asked for")
    frame, last = Frame(nbytes), 0
    while not last:
        head = int.from_bytes(data[at : at + 3], "little")
        last, kind, count = head & 1, head >> 1 & 3, head >> 3
        start = at + 3
        at = start + (1 if kind == 1 else count)
        if at > len(data) or kind == 3 or count > MAX_BLOCK:
            raise ValueError(f"zstd: the block at byte {start - 3} is cut or of no known kind")
        if kind < 2:
            frame.room(count)
            frame.out += data[start:at] * (count if kind else 1)
        else:
            _block(frame, data[start:at])
    if at + 4 * checked != len(data) or len(frame.out) != nbytes:
        raise ValueError(f"zstd: {len(frame.out)} bytes of {nbytes}, at byte {at} of {len(data)}")
    out = bytes(frame.out)
    if checked and int.from_bytes(data[at:], "little") != _xxh64(out) & 0xFFFFFFFF:
        raise ValueError("zstd: the check fails")
    return out


WORD = (1 << 64) - 1
P1, P2, P3, P4, P5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def _turn(x: int, bits: int) -> int:
    return (x << bits | x >> 64 - bits) & WORD


def _round(x: int, lane: int) -> int:
    return _turn((x + lane * P2) & WORD, 31) * P1 & WORD


def _xxh64(data: bytes) -> int:
    at, x = 0, P5
    if len(data) >= 32:
        lanes = [(P1 + P2) & WORD, P2, 0, -P1 & WORD]
        while at + 32 <= len(data):
            lanes = [_round(v, lane) for v, lane in zip(lanes, struct.unpack_from("<4Q", data, at), strict=True)]
            at += 32
        x = sum(_turn(v, bits) for v, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & WORD
        for v in lanes:
            x = ((x ^ _round(0, v)) * P1 + P4) & WORD
    x = (x + len(data)) & WORD
    while at + 8 <= len(data):
        x = (_turn(x ^ _round(0, int.from_bytes(data[at : at + 8], "little")), 27) * P1 + P4) & WORD
        at += 8
    if at + 4 <= len(data):
        x = (_turn(x ^ int.from_bytes(data[at : at + 4], "little") * P1 & WORD, 23) * P2 + P3) & WORD
        at += 4
    for byte in data[at:]:
        x = _turn(x ^ byte * P5 & WORD, 11) * P1 & WORD
    x = (x ^ x >> 33) * P2 & WORD
    x = (x ^ x >> 29) * P3 & WORD
    return x ^ x >> 32


def zstd(data: bytes, nbytes: int) -> bytes:
    """One whole Zstandard frame that says it holds `nbytes` bytes."""
    return _frame(bytes(data), nbytes, True)


# --- LZ4 --------------------------------------------------------------------------------------------------------------------------------------------


def lz4(data: bytes, nbytes: int) -> bytes:
    """One LZ4 block of `nbytes` decoded bytes."""
    data, out, at = bytes(data), bytearray(), 0

    def length(short: int, at: int) -> tuple[int, int]:
        """A length of four bits, and further bytes where these are 15."""
        total = short
        while short in (15, 255):
            if at >= len(data):
                raise ValueError("lz4: a length is cut")
            total, at, short = total + data[at], at + 1, 255 if data[at] == 255 else 0
        return total, at

    while at < len(data):
        token = data[at]
        plain, at = length(token >> 4, at + 1)
        if at + plain > len(data) or len(out) + plain > nbytes:
            raise ValueError(f"lz4: literals at byte {at} go beyond the block or the {nbytes} bytes asked for")
        out += data[at : at + plain]
        at += plain
        if at == len(data):
            if len(out) != nbytes:  # the last token's match length means nothing
                raise ValueError(f"lz4: the block ends at {len(out)} bytes of {nbytes}")
            return bytes(out)
        offset = int.from_bytes(data[at : at + 2], "little")
        matched, at = length(token & 15, at + 2)
        if len(out) + matched + 4 > nbytes:
            raise ValueError(f"lz4: more than the {nbytes} bytes that are asked for")
        _repeat(out, offset, matched + 4, "lz4")
    raise ValueError("lz4: the block is cut")


# --- Blosc2 -----------------------------------------------------------------------------------------------------------------------------------------

HEAD = 32


def _gathered(rows: bytes, size: int) -> bytes:
    """The inverse of a bit shuffle of values of `size` bytes: row 8k + j holds bit j of every value's byte k, eight values a byte."""
    count = len(rows) // size // 8 * 8
    out = bytearray(count * size)
    for row in range(8 * size):
        place, bit = row // 8, 1 << row % 8
        for number, byte in enumerate(rows[row * count // 8 : (row + 1) * count // 8]):
            at = 8 * number * size + place
            while byte:
                if byte & 1:
                    out[at] |= bit
                byte >>= 1
                at += size
    return bytes(out) + rows[count * size :]  # values that fill no eight stand as they are


def _part(data: bytes, at: int, nbytes: int, codec: int) -> tuple[bytes, int]:
    """(bytes, where the part ends): behind its size, and whatever that size means."""
    if not HEAD <= at <= len(data) - 4:
        raise ValueError(f"blosc2: a part at byte {at} of {len(data)}")
    size = int.from_bytes(data[at : at + 4], "little", signed=True)
    at += 4
    if size <= 0:
        if size and (size < -255 or at >= len(data) or not data[at] & 1):
            raise ValueError(f"blosc2: the run at byte {at} is of no known kind")
        return bytes([-size]) * nbytes, at + (size < 0)
    if at + size > len(data):
        raise ValueError(f"blosc2: the part at byte {at} is cut")
    part = data[at : at + size]
    if size == nbytes:
        return part, at + size
    if codec == 1:
        return lz4(part, nbytes), at + size
    if codec == 4:
        return _frame(part, nbytes, False), at + size
    raise ValueError(f"blosc2: a compressor of number {codec}")


def blosc2(data: bytes, nbytes: int) -> bytes:
    """One Blosc2 chunk of `nbytes` bytes whose only filter, if any, is the bit shuffle, and whose compressor is Zstandard or LZ4."""
    data = bytes(data)
    if len(data) < HEAD:
        raise ValueError("blosc2: the head is cut")
    flags, size = data[2], data[3]
    content, block, whole = struct.unpack_from("<3I", data, 4)
    filters, special = data[16:22], data[31] >> 4 & 7
    if content != nbytes or whole != len(data):
        raise ValueError(f"blosc2: {content} bytes in {whole}; {nbytes} are asked for, in {len(data)}")
    if flags & 5 != 5 or not size or data[31] & 0x8F or set(filters) - {0, 2}:
        raise ValueError("blosc2: the head asks for what is not supported")
    if special == 1 and whole == HEAD:
        return bytes(nbytes)
    if special:
        raise ValueError(f"blosc2: a chunk of special kind {special}")
    if flags & 2:
        if whole != HEAD + nbytes:
            raise ValueError("blosc2: a plain chunk of another size")
        return data[HEAD:]
    if not block or not nbytes:
        raise ValueError("blosc2: blocks of no bytes")
    blocks = -(-nbytes // block)
    if HEAD + 4 * blocks > whole:
        raise ValueError("blosc2: the table of blocks is cut")
    out = bytearray()
    for start in struct.unpack_from(f"<{blocks}I", data, HEAD):
        here = min(block, nbytes - len(out))
        parts = 1 if flags & 16 or here < block else size
        if here % parts:
            raise ValueError("blosc2: a block that cannot be split")
        text = b""
        for _ in range(parts):
            part, start = _part(data, start, here // parts, flags >> 5)
            text += part
        for _ in range(filters.count(2)):
            text = _gathered(text, size)
        out += text
    return bytes(out)


# --- ZFP --------------------------------------------------------------------------------------------------------------------------------------------

BLOCK_NBYTES = 300  # more than a block of 64 values takes


def _order(dims: int) -> list[int]:
    """Places in a block of 4^dims values, from low frequencies to high."""

    def rank(at: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(at)) == 3:
            top = at.index(max(at))
            return sum(at), sum(i * i for i in at), top, at[(top + 1) % 3] == min(at)
        odd = [axis for axis in range(dims) if at.count(at[axis]) == 1]
        top = max(odd, key=lambda axis: at[axis], default=0)
        return sum(at), sum(i * i for i in at), top, 0

    return [sum(i * 4**axis for axis, i in enumerate(at)) for at in sorted(itertools.product(range(4), repeat=dims), key=rank)]


ORDERS = {dims: _order(dims) for dims in (1, 2, 3)}


def _int32(x: int) -> int:
    return (x + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def _lift(p: list[int], at: int, stride: int) -> None:
    """The inverse transform of four integers, in place."""
    x, y, z, w = p[at], p[at + stride], p[at + 2 * stride], p[at + 3 * stride]
    y = _int32(y + (w >> 1))
    w = _int32(w - (y >> 1))
    y, w = y + w, w - y
    z, x = z + x, x - z
    y, z = y + z, z - y
    w, x = w + x, x - w
    p[at : at + 4 * stride : stride] = [_int32(v) for v in (x, y, z, w)]


def _integers(text: int, planes: int, dims: int) -> tuple[list[int], int]:
    """(the block's integers, bits taken): bit planes from the highest, of each the values that are known first, the rest by group tests."""
    size = 4**dims
    found, used, known = [0] * size, 0, 0
    for plane in range(31, 31 - min(planes, 32), -1):
        bits = (text >> used) & ((1 << known) - 1)
        used += known
        while known < size:
            used += 1
            if not text >> used - 1 & 1:
                break
            while known < size - 1:
                used += 1
                if text >> used - 1 & 1:
                    break
                known += 1
            bits |= 1 << known
            known += 1
        for number in range(known):
            found[number] |= (bits >> number & 1) << plane
    p = [0] * size
    for place, value in zip(ORDERS[dims], found, strict=True):
        p[place] = _int32((value ^ 0xAAAAAAAA) - 0xAAAAAAAA)
    for axis in reversed(range(dims)):
        for place in range(size):
            if place // 4**axis % 4 == 0:
                _lift(p, place, 4**axis)
    return p, used


def _float32(x: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        raise ValueError("zfp: a value beyond float32") from None


def zfp(data: bytes, shape: tuple[int, ...], tolerance: float) -> list[float]:
    """A ZFP stream without header of float32 values, one to three dimensions, the last one fastest; words of 8 bytes, the last filled with zeros."""
    data, dims, total = bytes(data), len(shape), math.prod(shape)
    if dims not in ORDERS or not 0 < tolerance < math.inf or min(shape) < 0:
        raise ValueError(f"zfp: {dims} dimensions to {tolerance}")
    lowest = math.frexp(tolerance)[1] - 1
    strides = [math.prod(shape[axis + 1 :]) for axis in range(dims)]
    out, at = [0.0] * total, 0
    for corner in itertools.product(*(range(0, n, 4) for n in shape)) if total else ():
        text = int.from_bytes(data[at >> 3 : (at >> 3) + BLOCK_NBYTES], "little") >> (at & 7)
        at += 1
        if text & 1:
            top = (text >> 1 & 255) - 127
            p, used = _integers(text >> 9, max(0, top - lowest + 2 * (dims + 1)), dims)
            at += 8 + used
            step = _float32(math.ldexp(1.0, top - 30))
            for place in range(4**dims):  # the last axis is the first of a place
                where = [c + place // 4 ** (dims - 1 - axis) % 4 for axis, c in enumerate(corner)]
                if all(i < n for i, n in zip(where, shape, strict=True)):
                    out[sum(i * s for i, s in zip(where, strides, strict=True))] = _float32(step * _float32(p[place]))
        if at > 8 * len(data):
            raise ValueError(f"zfp: the stream ends at byte {len(data)}, in the block at {corner}")
    if len(data) != (at + 63) // 64 * 8 or int.from_bytes(data, "little") >> at:
        raise ValueError(f"zfp: a stream of {len(data)} bytes, of which {at} bits are read")
    return out
