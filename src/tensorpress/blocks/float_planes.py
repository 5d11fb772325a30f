"""Words to checked stripes of byte planes, each chunk of a plane in the fewest bytes: constant, as it is, or rANS by a table of the plane or its own.

    stripe:  0 values as they are
             1 {plane}*itemsize {chunk}*        most significant plane first; 64 Ki values a chunk, the last may have fewer
             2 {plane}*itemsize {chunk}*        of integers: each less the one before it
    plane:   0 | 1 byte | 2 nbytes table        as it is; one byte throughout; coded by chunks
    chunk:   [0 | 1 zero minus] {part}*itemsize of floats, 1: zeros stand in the first plane alone, 0 and -0 as these two bytes
    part:    the bytes, or nothing, or, of a plane that is coded:
             0 bytes | 1 byte | 2 nbytes string | 3 nbytes table nbytes string

FORMAT.md, section on `float_planes`, says it in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.plane_words import Layout, Words, words_of
from tensorpress.coding import lanes
from tensorpress.coding.cost import entropy_nbytes, table_nbytes
from tensorpress.coding.lanes import LaneTables
from tensorpress.core.binary import Buffer, read_varint, varint
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import STRIPE_ROWS, Reader, View, Writer, chw, max_payload_nbytes, placed, stripe_count
from tensorpress.core.stage import Stage

CHUNK = 1 << 16
TABLE_BITS = 12
PLAIN, CONSTANT, CODED, OWN = range(4)
ASIDE = 16  # zeros are left out of a chunk's lower planes from one in so many values on: fewer are not worth the search

Array = NDArray[Any]
Bytes = NDArray[np.uint8]
IDENTITY = np.arange(256, dtype=np.uint8)


class Strings:
    """rANS strings of one table: native, or by the slow twin."""

    def __init__(self, tables: LaneTables, fused: bool) -> None:
        self.tables = tables
        self.native = _native.LanedRans(np.array(tables.frequencies, np.uint32), tables.escape, tables.bits, 0, IDENTITY, IDENTITY) if fused else None

    def encode(self, symbols: Bytes) -> bytes:
        return lanes.encode(symbols, self.tables) if self.native is None else self.native.encode_string(symbols)

    def decode(self, data: memoryview, count: int) -> Bytes:
        if self.native is None:
            return lanes.decode(data, count, self.tables)
        out = np.empty(count, np.uint8)
        if not self.native.decode_string(data, out):
            raise StreamError(f"{len(data)} bytes are no rANS string of {count} symbols")
        return out


@dataclass
class Chunk:
    """Planes of some values, most significant first. `flags`: of floats, whether zeros stand in the first alone, and as what."""

    flags: bytes
    planes: list[Bytes]
    parts: list[bytes] = field(default_factory=list)


def split(words: Words, layout: Layout) -> Chunk:
    """The planes of up to CHUNK values."""
    parted, k = layout.parted(words), layout.itemsize
    as_bytes = parted.view(np.uint8).reshape(-1, k)
    first, flags = as_bytes[:, k - 1].copy(), bytes(layout.floats)
    if layout.floats:
        zero = parted & layout.dtype.type(layout.everything_but_sign) == 0
        if 0 < first.size <= np.count_nonzero(zero) * ASIDE:
            kept = parted[~zero]
            others = kept.view(np.uint8).reshape(-1, k)
            free = np.flatnonzero(np.bincount(others[:, k - 1], minlength=256) == 0)
            if free.size >= 2:
                plus, minus = free[0 if free[0] == 0 else -2], free[-1]  # 0 where it can be, so that many chunks share a table
                first[zero] = np.where(parted[zero] == 0, plus, minus)
                flags, as_bytes = bytes([1, plus, minus]), others
    return Chunk(flags, [first, *(as_bytes[:, p].copy() for p in reversed(range(k - 1)))])


def coded_plane(chunks: list[Chunk], plane: int, fused: bool) -> bytes:
    """The plane's head; the chunks' parts are set, and the planes let go."""
    parts = [chunk.planes[plane] for chunk in chunks]
    counts = np.array([np.bincount(part, minlength=256) for part in parts])
    sizes, total = counts.sum(axis=1), counts.sum(axis=0)
    if np.count_nonzero(total) <= 1:
        for chunk in chunks:
            chunk.parts.append(b"")
        return bytes([CONSTANT, int(total.argmax())])
    plain = [part.tobytes() for part in parts]
    least = entropy_nbytes(counts)
    written = [b""] * len(chunks)
    head = b""
    if int(sizes.sum() - least.sum()) > np.count_nonzero(total):
        tables = LaneTables.from_counts(total, TABLE_BITS)
        packed = tables.to_bytes()
        head = bytes([CODED]) + varint(len(packed)) + packed
        shared = Strings(tables, fused)
        costs = table_nbytes(counts, np.array(tables.frequencies), tables.escape, tables.bits)
        for number, (part, row) in enumerate(zip(parts, counts)):
            written[number] = coded_part(part, row, plain[number], shared, int(costs[number] - least[number]))
    if not head or len(head) + sum(map(len, written)) >= 1 + int(sizes.sum()):
        head, written = bytes([PLAIN]), plain
    for chunk, part in zip(chunks, written):
        chunk.parts.append(part)
    return head


def coded_part(symbols: Bytes, counts: Array, plain: bytes, shared: Strings, excess: int) -> bytes:
    """One chunk of a plane that has a table. `excess`: bytes that this table costs above the chunk's entropy."""
    seen = np.flatnonzero(counts)
    if seen.size <= 1:
        return bytes([CONSTANT, int(seen[0]) if seen.size else 0])
    string = shared.encode(symbols)
    found = bytes([CODED]) + varint(len(string)) + string
    if excess > seen.size:  # the least that a table of its own would take
        own = LaneTables.from_counts(counts, TABLE_BITS)
        packed, string = own.to_bytes(), Strings(own, shared.native is not None).encode(symbols)
        other = bytes([OWN]) + varint(len(packed)) + packed + varint(len(string)) + string
        found = min(found, other, key=len)
    return found if len(found) < 1 + len(plain) else bytes([PLAIN]) + plain


def encode_words(words: Words, layout: Layout, fused: bool) -> bytes:
    """A stripe's bytes: at most one more than the words have."""
    if words.size < 2 or layout.floats or layout.itemsize == 1:
        return encode_planes(words, 1, layout, fused)
    steps = words.copy()
    steps[1:] -= words[:-1]
    return min(encode_planes(words, 1, layout, fused), encode_planes(steps, 2, layout.of_steps(), fused), key=len)


def encode_planes(words: Words, mode: int, layout: Layout, fused: bool) -> bytes:
    """A stripe of this mode, or of mode 0."""
    chunks = [split(words[at : at + CHUNK], layout) for at in range(0, words.size, CHUNK)]
    heads = [coded_plane(chunks, plane, fused) for plane in range(layout.itemsize)]
    body = [bytes([mode]), *heads]
    for chunk in chunks:
        body += [chunk.flags, *chunk.parts]
    if sum(map(len, body)) <= words.nbytes:
        return b"".join(body)
    return bytes([0]) + (words.tobytes() if mode == 1 else np.cumsum(words, dtype=words.dtype).tobytes())


class Source:
    """Takes a stripe's bytes from the front."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, nbytes: int, what: str) -> memoryview:
        if nbytes > len(self.data) - self.at:
            raise StreamError(f"{what} ends at byte {self.at + nbytes} of {len(self.data)}")
        self.at += nbytes
        return self.data[self.at - nbytes : self.at]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def block(self, what: str) -> memoryview:
        """Of a length that stands before it."""
        nbytes, self.at = read_varint(self.data, self.at, f"length of {what}")
        return self.take(nbytes, what)

    def strings(self, what: str, fused: bool) -> Strings:
        return Strings(LaneTables.from_bytes(self.block(f"table of {what}"), 256), fused)


PlaneHead = tuple[int, int, Strings | None]  # kind, constant, table


def plane_head(src: Source, plane: int, fused: bool) -> PlaneHead:
    kind = src.byte(f"head of plane {plane}")
    if kind > CODED:
        raise StreamError(f"plane {plane} is of kind {kind}")
    constant = src.byte(f"value of plane {plane}") if kind == CONSTANT else 0
    return kind, constant, src.strings(f"plane {plane}", fused) if kind == CODED else None


def plane_part(src: Source, head: PlaneHead, count: int, place: str, fused: bool) -> Bytes | int:
    """The bytes of one chunk of a plane; an integer where all are the same."""
    kind, constant, shared = head
    if kind == CONSTANT:
        return constant
    if shared is not None:
        kind = src.byte(f"kind of {place}")
        if kind > OWN:
            raise StreamError(f"{place} is of kind {kind}")
        if kind == CONSTANT:
            return src.byte(f"value of {place}")
        if kind == OWN:
            shared = src.strings(place, fused)
    if kind == PLAIN:
        return np.frombuffer(src.take(count, place), np.uint8)
    assert shared is not None
    string = src.block(place)
    try:
        return shared.decode(string, count)
    except StreamError as error:
        raise StreamError(f"{place}: {error}") from None


def decoded_chunks(src: Source, count: int, layout: Layout, fused: bool) -> Iterator[tuple[int, Words]]:
    """(where it begins, the words) of every chunk."""
    k = layout.itemsize
    heads = [plane_head(src, plane, fused) for plane in range(k)]
    for at in range(0, count, CHUNK):
        n = min(CHUNK, count - at)
        aside = src.byte(f"flags of chunk {at // CHUNK}") if layout.floats else 0
        if aside > 1:
            raise StreamError(f"chunk {at // CHUNK} has flags {aside}")
        plus, minus = src.take(2 * aside, f"zeros of chunk {at // CHUNK}") if aside else (0, 0)
        first = plane_part(src, heads[0], n, f"plane 0 of chunk {at // CHUNK}", fused)
        row = np.broadcast_to(np.asarray(first, np.uint8), n)
        kept = np.flatnonzero((row != plus) & (row != minus)) if aside else None
        m = n if kept is None else kept.size
        parted = np.empty(m, layout.dtype)
        as_bytes = parted.view(np.uint8).reshape(m, k)
        as_bytes[:, k - 1] = row if kept is None else row[kept]
        for plane in range(1, k):
            as_bytes[:, k - 1 - plane] = plane_part(src, heads[plane], m, f"plane {plane} of chunk {at // CHUNK}", fused)
        words = layout.joined(parted)
        if kept is not None:
            whole = np.where(row == plus, layout.dtype.type(0), layout.dtype.type(layout.minus_zero))
            whole[kept] = words
            words = whole
        yield at, words


def decode_words(data: memoryview, out: Words, layout: Layout, fused: bool) -> None:
    """Fills the contiguous `out`. StreamError where `data` is no stripe of so many words."""
    src = Source(data)
    mode = src.byte("mode")
    if mode > 2 or (mode == 2 and layout.floats):
        raise StreamError(f"mode {mode} of {layout.name} is not known")
    if mode == 0:
        out[:] = np.frombuffer(src.take(out.nbytes, "values"), layout.dtype)
    else:
        for at, words in decoded_chunks(src, out.size, layout if mode == 1 else layout.of_steps(), fused):
            out[at : at + CHUNK] = words
        if mode == 2:
            np.cumsum(out, dtype=out.dtype, out=out)
    if src.at != len(data):
        raise StreamError(f"{len(data) - src.at} bytes stand after the last chunk")


class FloatPlanes(Stage[Array, None]):
    """Values (C, H, W) of any type -> one string for each 8 rows, in the order channel, row, column."""

    def __init__(self, bfloat16: bool, fused: bool = False) -> None:
        self.bfloat16, self.fused = bfloat16, fused

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return 1 + view[0] * rows * view[2] * dtype.itemsize

    def encode(self, x: Array, out: Writer) -> None:
        layout, folded = Layout(x.dtype, self.bfloat16), x.reshape(chw(x.shape))
        for number in range(stripe_count(out.shape)):
            stripe = np.ascontiguousarray(folded[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS])
            out.stripe(encode_words(words_of(stripe.reshape(-1)), layout, self.fused))

    def decode(self, y: None, src: Reader) -> Array:
        x = np.empty(src.shape, src.dtype)
        self.decode_into(src, x)
        return x

    def decode_into(self, src: Reader, x: Array) -> None:
        """Fills the C-contiguous `x`."""
        layout, words = Layout(src.dtype, self.bfloat16), words_of(x.reshape(-1)).reshape(chw(x.shape))
        for number in range(stripe_count(src.shape)):
            stripe = words[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            row = stripe.reshape(-1) if stripe.flags.c_contiguous else np.empty(stripe.size, words.dtype)
            try:
                decode_words(src.stripe(), row, layout, self.fused)
            except StripeError:
                raise
            except (StreamError, InputError) as error:
                raise StripeError(number, str(error)) from None
            if row.base is not stripe.base:
                stripe[...] = row.reshape(stripe.shape)


class PlanesKernel:
    """The same with native strings."""

    def __init__(self, bfloat16: bool) -> None:
        self.stage = FloatPlanes(bfloat16, fused=True)

    def accepts(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        return True

    def capacity(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        return max_payload_nbytes(dtype, shape, self.stage.max_stripe_nbytes)

    def encode(self, x: Array, out: Array | None = None, reference: Array | None = None) -> Buffer:
        writer = Writer(x.dtype, x.shape)
        self.stage.encode(x, writer)
        payload = writer.finish()
        return payload if out is None else placed(payload, out)

    def decode(self, src: Reader, out: Array) -> None:
        if out.flags.c_contiguous:
            self.stage.decode_into(src, out)
        else:
            out[...] = self.stage.decode(None, src)
