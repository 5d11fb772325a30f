"""The slow twins of native/src/words.cpp: what each packer of words writes and reads, in plain Python integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tensorpress.core.errors import StreamError

GROUP, SLOT = 16, 2112


class Bits:
    """A string of bits, least significant first."""

    def __init__(self, data: bytes = b"") -> None:
        self.value, self.count, self.end = int.from_bytes(data, "little"), 0, 8 * len(data)

    def put(self, value: int, width: int) -> None:
        self.value |= value << self.count
        self.count += width

    def take(self, width: int) -> int:
        if self.count + width > self.end:
            raise StreamError(f"{width} bits at bit {self.count} end beyond the {self.end} there are")
        self.count += width
        return self.value >> self.count - width & (1 << width) - 1

    def to_bytes(self) -> bytes:
        return self.value.to_bytes(-(-self.count // 8), "little")

    def check_rest(self, nbytes: int | None = None) -> None:
        """StreamError unless the bits taken end in byte `nbytes` (the last) and all after them are zero."""
        if -(-self.count // 8) != (self.end // 8 if nbytes is None else nbytes) or self.value >> self.count:
            raise StreamError(f"{self.end} bits end otherwise than at bit {self.count} and zeros")


def runs(words: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """(zeros before it, word): every word that is not zero, and a zero after each `longest` zeros that go on."""
    run = 0
    for word in words:
        if word or run == longest:
            yield run, word
            run = 0
        else:
            run += 1
    if run:
        yield run - 1, 0


def spread(pairs: Sequence[tuple[int, int]], count: int, what: str) -> list[int]:
    """The inverse: `count` words, of which all after the last pair are zero."""
    words = [0] * count
    at = 0
    for number, (run, word) in enumerate(pairs):
        at += run
        if at >= count:
            raise StreamError(f"{what}: pair {number} runs past its {count} words")
        words[at] = word
        at += 1
    return words


def zero_runs_encode(words: Sequence[int]) -> bytes:
    bits = Bits()
    for run, word in runs(words, 31):
        bits.put(run | word << 5, 13)
    return bits.to_bytes()


def zero_runs_decode(data: bytes, count: int) -> list[int]:
    bits = Bits(data)
    pairs = [(bits.take(5), bits.take(8)) for _ in range(bits.end // 13)]
    bits.check_rest()
    if sum(run + 1 for run, _ in pairs) < count:
        raise StreamError(f"{len(pairs)} pairs end before the {count} words")
    return spread(pairs, count, "stripe")


def columns_encode(columns: Sequence[Sequence[int]]) -> bytes:
    length = len(columns[0])
    counts, places, values = Bits(), Bits(), bytearray()
    for words in columns:
        last = max((i for i, word in enumerate(words) if word), default=-1)
        pairs = list(runs(words[: last + 1], 15))
        counts.put(len(pairs), length.bit_length())
        for run, word in pairs:
            places.put(run, 4)
            values.append(word)
    return counts.to_bytes() + places.to_bytes() + bytes(values)


def columns_decode(data: bytes, columns: int, length: int) -> list[list[int]]:
    at = -(-columns * length.bit_length() // 8)
    if len(data) < at:
        raise StreamError(f"the counts of {columns} columns end at {at}, the data at {len(data)}")
    head = Bits(data[:at])
    counts = [head.take(length.bit_length()) for _ in range(columns)]
    head.check_rest()
    entries = sum(counts)
    values = at + -(-entries // 2)
    if len(data) != values + entries:
        raise StreamError(f"{entries} entries end at {values + entries}, the data at {len(data)}")
    places, next_value = Bits(data[at:values]), iter(data[values:])
    found = [spread([(places.take(4), next(next_value)) for _ in range(n)], length, f"column {c}") for c, n in enumerate(counts)]
    places.check_rest()
    return found


def cell_encode(words: Sequence[int]) -> bytes:
    """Codes of 4 bits for each 16 words, then their bits."""
    codes, bits = Bits(), Bits()
    for first in range(0, len(words), GROUP):
        group = words[first : first + GROUP]
        there = [word - 1 for word in group if word]
        plain = max(group).bit_length()
        width = max(2, max(there, default=0).bit_length())
        if len(group) + width * len(there) < plain * len(group):
            codes.put(width + 7, 4)
            for word in group:
                bits.put(word != 0, 1)
            for word in there:
                bits.put(word, width)
        else:
            codes.put(plain, 4)
            for word in group:
                bits.put(word, plain)
    return codes.to_bytes() + bits.to_bytes()


def cell_decode(data: bytes, count: int) -> tuple[list[int], int]:
    """(words, bytes of the cell); the data may go on."""
    groups = -(-count // GROUP)
    head = -(-groups // 2)
    if len(data) < head:
        raise StreamError(f"the codes of {groups} groups end at {head}, the data at {len(data)}")
    codes, bits = Bits(data[:head]), Bits(data[head:])
    words: list[int] = []
    for first in range(0, count, GROUP):
        size, code = min(GROUP, count - first), codes.take(4)
        if code <= 8:
            words += [bits.take(code) for _ in range(size)]
        else:
            there = [bits.take(1) for _ in range(size)]
            words += [bits.take(code - 7) + 1 if bit else 0 for bit in there]
    codes.check_rest()
    if max(words) > 255 or bits.value >> bits.count & (1 << -bits.count % 8) - 1:
        raise StreamError("a word is 256, or the bits that fill the last byte are not zero")
    return words, head + -(-bits.count // 8)


def slots_encode(cells: Sequence[Sequence[int]], padded: bool) -> bytes:
    coded = [cell_encode(cell) for cell in cells]
    if padded:
        return b"".join(cell.ljust(SLOT, b"\0") for cell in coded)
    return b"".join(len(cell).to_bytes(2, "little") for cell in coded) + b"".join(coded)


def slots_decode(data: bytes, counts: Sequence[int], padded: bool) -> list[list[int]]:
    """The words of each cell, given how many it has."""
    at = 0 if padded else 2 * len(counts)
    if len(data) < at or (padded and len(data) != SLOT * len(counts)):
        raise StreamError(f"{len(data)} bytes are not {len(counts)} slots or sizes")
    sizes = [SLOT if padded else int.from_bytes(data[2 * n : 2 * n + 2], "little") for n in range(len(counts))]
    cells = []
    for number, (size, count) in enumerate(zip(sizes, counts)):
        if size > SLOT or at + size > len(data):
            raise StreamError(f"cell {number} has {size} bytes at {at} of {len(data)}")
        words, used = cell_decode(data[at : at + size], count)
        if (used != size and not padded) or any(data[at + used : at + size]):
            raise StreamError(f"cell {number} ends at {used} of its {size} bytes")
        cells.append(words)
        at += size
    if at != len(data):
        raise StreamError(f"cells end at {at}, the data at {len(data)}")
    return cells


def ranges_encode(words: Sequence[int], starts: Sequence[int]) -> tuple[list[int], bytes]:
    """Each word's range, and the offsets in them end to end; range n is starts[n] to starts[n + 1] - 1, the last one ends with 255."""
    out, numbers = Bits(), []
    for word in words:
        number = max(n for n, start in enumerate(starts) if start <= word)
        out.put(word - starts[number], ([*starts, 256][number + 1] - starts[number] - 1).bit_length())
        numbers.append(number)
    return numbers, out.to_bytes()


def ranges_decode(numbers: Sequence[int], data: bytes, starts: Sequence[int]) -> list[int]:
    """The inverse."""
    bits, words = Bits(data), []
    for number in numbers:
        size = [*starts, 256][number + 1] - starts[number]
        offset = bits.take((size - 1).bit_length())
        if offset >= size:
            raise StreamError(f"offset {offset} leads out of range {number}, which has {size} words")
        words.append(starts[number] + offset)
    bits.check_rest()
    return words
