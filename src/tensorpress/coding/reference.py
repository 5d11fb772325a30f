"""The slow twins: what each native kernel computes, in plain Python integers. Tests hold the two byte-equal."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.tables import Tables
from tensorpress.core.errors import StreamError

LANES, LOW = 4, 1 << 16


def rans_encode(coded: Iterable[tuple[int, int, Tables]]) -> bytes:
    """rANS of (symbol, row, tables) in the order of decoding."""
    states, words = [LOW] * LANES, []
    for number, (symbol, row, tables) in reversed(list(enumerate(coded))):
        start, stop = int(tables.cdf[row, symbol]), int(tables.cdf[row, symbol + 1])
        x, frequency = states[number % LANES], stop - start
        if x >= frequency << 32 - tables.bits:
            words.append(x & 0xFFFF)
            x >>= 16
        states[number % LANES] = (x // frequency << tables.bits) + x % frequency + start
    return struct.pack(f"<{LANES}I{len(words)}H", *states, *reversed(words))


def rans_decode(data: bytes, models: Sequence[tuple[int, Tables]]) -> list[int]:
    """The symbols of `data`, given each one's (row, tables)."""
    if len(data) < 4 * LANES:
        raise StreamError(f"rANS data of {len(data)} bytes is cut")
    states, at, symbols = list(struct.unpack_from(f"<{LANES}I", data)), 4 * LANES, []
    if min(states) < LOW:
        raise StreamError("a rANS state is below 2^16")
    for number, (row, tables) in enumerate(models):
        x, cdf = states[number % LANES], tables.cdf[row].tolist()
        slot = x & (1 << tables.bits) - 1
        symbol = next(s for s in range(tables.symbols) if slot < cdf[s + 1])
        x = (cdf[symbol + 1] - cdf[symbol]) * (x >> tables.bits) + slot - cdf[symbol]
        if x < LOW:
            if at + 2 > len(data):
                raise StreamError(f"rANS data ends at byte {len(data)}, within symbol {number}")
            x = x << 16 | struct.unpack_from("<H", data, at)[0]
            at += 2
        states[number % LANES] = x
        symbols.append(symbol)
    if at != len(data) or states != [LOW] * LANES:
        raise StreamError(f"rANS words end at {at} of {len(data)} in the states {states}")
    return symbols


def huffman_encode(coded: Iterable[tuple[int, int, HuffmanTables]]) -> bytes:
    """Huffman codes of (symbol, row, tables), most significant bit first, filled up with zero bits."""
    bits = "".join(f"{tables.codes[row, s]:b}".zfill(n) if (n := int(tables.lengths[row, s])) else "" for s, row, tables in coded)
    return bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))


def huffman_decode(data: bytes, models: Sequence[tuple[int, HuffmanTables]]) -> list[int]:
    """The symbols of `data`, given each one's (row, tables)."""
    bits, at, symbols = "".join(f"{byte:08b}" for byte in data), 0, []
    for number, (row, tables) in enumerate(models):
        book = {(int(n), int(c)): s for s, (n, c) in enumerate(zip(tables.lengths[row], tables.codes[row]))}
        length = 0
        while (length, int("0" + bits[at : at + length], 2)) not in book:
            length += 1
            if at + length > len(bits):
                raise StreamError(f"Huffman data ends at byte {len(data)}, within symbol {number}")
        symbols.append(book[length, int("0" + bits[at : at + length], 2)])
        at += length
    if (at + 7) // 8 != len(data) or "1" in bits[at:]:
        raise StreamError(f"Huffman codes end at bit {at} of {len(bits)}, or the bits after them are not zero")
    return symbols


def zero_bitmap_encode(words: Sequence[int], word_nbytes: int) -> bytes:
    """One bit a word, least significant first, padded to a byte; then the words that are not zero, little-endian."""
    bitmap = bytearray(-(-len(words) // 8))
    for i, word in enumerate(words):
        bitmap[i // 8] |= (word != 0) << i % 8
    return bytes(bitmap) + b"".join(word.to_bytes(word_nbytes, "little") for word in words if word)


def zero_bitmap_decode(data: bytes, count: int, word_nbytes: int) -> list[int]:
    """The inverse. StreamError where lengths or padding bits are wrong."""
    at = -(-count // 8)
    if len(data) < at or (count % 8 and data[at - 1] >> count % 8):
        raise StreamError(f"bitmap of {count} words is cut, or its padding bits are not zero")
    words = []
    for i in range(count):
        present = data[i // 8] >> i % 8 & 1
        words.append(int.from_bytes(data[at : at + word_nbytes], "little") if present else 0)
        at += word_nbytes * present
    if at != len(data):
        raise StreamError(f"non-zero words end at {at}, the data at {len(data)}")
    return words
