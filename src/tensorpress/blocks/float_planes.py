"""Words to checked stripes of byte planes, each chunk of a plane in the fewest bytes: constant, as it is, or rANS by a table of the plane or its own.

    stripe:  0 values as they are
             1 {plane}*itemsize {chunk}*        most significant plane first; 64 Ki values a chunk, the last may have fewer
             2 {plane}*itemsize {chunk}*        of integers: each less the one before it
             3 width vectors nbytes stripe stripe   vectors that repeat: each once and what is left over, then which stands where (blocks/repeats.py)
    plane:   0 | 1 byte | 2 nbytes table        as it is; one byte throughout; coded by chunks
    chunk:   [0 | 1 zero minus] {part}*itemsize of floats, 1: zeros stand in the first plane alone, 0 and -0 as these two bytes
    part:    the bytes, or nothing, or, of a plane that is coded:
             0 bytes | 1 byte | 2 nbytes string | 3 nbytes table nbytes string

FORMAT.md, section on `float_planes`, says it in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks.plane_words import Layout, Words, words_of
from tensorpress.blocks.repeats import Repeats, index_dtype, repeats_of
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
CHEAP = 32  # a stripe that became so much shorter is not searched for repeats
ASIDE = 16  # zeros are left out of a chunk's lower planes from one in so many values on: fewer are not worth the search

Array = NDArray[Any]
Bytes = NDArray[np.uint8]


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


def coded_plane(chunks: list[Chunk], plane: int) -> bytes:
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
        costs = table_nbytes(counts, np.array(tables.frequencies), tables.escape, tables.bits)
        for number, (part, row) in enumerate(zip(parts, counts)):
            written[number] = coded_part(part, row, plain[number], tables, int(costs[number] - least[number]))
    if not head or len(head) + sum(map(len, written)) >= 1 + int(sizes.sum()):
        head, written = bytes([PLAIN]), plain
    for chunk, part in zip(chunks, written):
        chunk.parts.append(part)
    return head


def coded_part(symbols: Bytes, counts: Array, plain: bytes, shared: LaneTables, excess: int) -> bytes:
    """One chunk of a plane that has a table. `excess`: bytes that this table costs above the chunk's entropy."""
    seen = np.flatnonzero(counts)
    if seen.size <= 1:
        return bytes([CONSTANT, int(seen[0]) if seen.size else 0])
    string = lanes.encode(symbols, shared)
    found = bytes([CODED]) + varint(len(string)) + string
    if excess > seen.size:  # the least that a table of its own would take
        own = LaneTables.from_counts(counts, TABLE_BITS)
        packed, string = own.to_bytes(), lanes.encode(symbols, own)
        other = bytes([OWN]) + varint(len(packed)) + packed + varint(len(string)) + string
        found = min(found, other, key=len)
    return found if len(found) < 1 + len(plain) else bytes([PLAIN]) + plain


def encode_words(words: Words, layout: Layout, planes: PlaneCoder, repeating: bool = True) -> bytes:
    """A stripe's bytes: at most one more than the words have."""
    found = planes(words, layout, 1)
    if not layout.floats and layout.itemsize > 1:
        steps = words.copy()
        steps[1:] -= words[:-1]
        other = planes(steps, layout.of_steps(), 2)
        found = other if other and (not found or len(other) < len(found)) else found
    if repeating and layout.itemsize > 1 and not 0 < len(found) < words.nbytes // CHEAP and (repeats := repeats_of(words)):
        other = encode_repeats(repeats, layout, planes)
        found = other if len(other) < (len(found) or 1 + words.nbytes) else found
    return found or bytes([0]) + words.tobytes()


def encode_repeats(repeats: Repeats, layout: Layout, planes: PlaneCoder) -> bytes:
    book = encode_words(np.concatenate([repeats.book.reshape(-1), repeats.rest]), layout, planes, repeating=False)
    front = bytes([3]) + varint(repeats.book.shape[1]) + varint(len(repeats.book)) + varint(len(book))
    return front + book + encode_words(repeats.index, Layout(repeats.index.dtype), planes, repeating=False)


def encode_planes(words: Words, layout: Layout, mode: int) -> bytes:
    """A stripe of this mode; nothing where it would be longer than the words and a byte."""
    chunks = [split(words[at : at + CHUNK], layout) for at in range(0, words.size, CHUNK)]
    body = [bytes([mode]), *(coded_plane(chunks, plane) for plane in range(layout.itemsize))]
    for chunk in chunks:
        body += [chunk.flags, *chunk.parts]
    return b"".join(body) if sum(map(len, body)) <= words.nbytes else b""


def encode_planes_natively(words: Words, layout: Layout, mode: int) -> bytes:
    return _native.byte_planes_encode(words.view(np.uint8), layout.itemsize, layout.mantissa, layout.signed, mode)


PlaneCoder = Callable[[Words, Layout, int], bytes]


class Source:
    """Takes a stripe's bytes from the front."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at

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

    def tables(self, what: str) -> LaneTables:
        found = LaneTables.from_bytes(self.block(f"table of {what}"), 256)
        if found.bits != TABLE_BITS:
            raise StreamError(f"table of {what} has {found.bits} bits, not {TABLE_BITS}")
        return found


PlaneHead = tuple[int, int, LaneTables | None]  # kind, constant, table


def plane_head(src: Source, plane: int) -> PlaneHead:
    kind = src.byte(f"head of plane {plane}")
    if kind > CODED:
        raise StreamError(f"plane {plane} is of kind {kind}")
    constant = src.byte(f"value of plane {plane}") if kind == CONSTANT else 0
    return kind, constant, src.tables(f"plane {plane}") if kind == CODED else None


def plane_part(src: Source, head: PlaneHead, count: int, place: str) -> Bytes | int:
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
            shared = src.tables(place)
    if kind == PLAIN:
        return np.frombuffer(src.take(count, place), np.uint8)
    assert shared is not None
    string = src.block(place)
    try:
        return lanes.decode(string, count, shared)
    except StreamError as error:
        raise StreamError(f"{place}: {error}") from None


def decode_planes(data: memoryview, out: Words, layout: Layout) -> None:
    """Fills `out` from what follows a stripe's mode."""
    src, k = Source(data, 1), layout.itemsize
    heads = [plane_head(src, plane) for plane in range(k)]
    for at in range(0, out.size, CHUNK):
        n = min(CHUNK, out.size - at)
        aside = src.byte(f"flags of chunk {at // CHUNK}") if layout.floats else 0
        if aside > 1:
            raise StreamError(f"chunk {at // CHUNK} has flags {aside}")
        plus, minus = src.take(2 * aside, f"zeros of chunk {at // CHUNK}") if aside else (0, 0)
        first = plane_part(src, heads[0], n, f"plane 0 of chunk {at // CHUNK}")
        row = np.broadcast_to(np.asarray(first, np.uint8), n)
        kept = np.flatnonzero((row != plus) & (row != minus)) if aside else None
        m = n if kept is None else kept.size
        parted = np.empty(m, layout.dtype)
        as_bytes = parted.view(np.uint8).reshape(m, k)
        as_bytes[:, k - 1] = row if kept is None else row[kept]
        for plane in range(1, k):
            as_bytes[:, k - 1 - plane] = plane_part(src, heads[plane], m, f"plane {plane} of chunk {at // CHUNK}")
        words = layout.joined(parted)
        if kept is not None:
            whole = np.where(row == plus, layout.dtype.type(0), layout.dtype.type(layout.minus_zero))
            whole[kept] = words
            words = whole
        out[at : at + n] = words
    if src.at != len(data):
        raise StreamError(f"{len(data) - src.at} bytes stand after the last chunk")


def decode_planes_natively(data: memoryview, out: Words, layout: Layout) -> None:
    if not _native.byte_planes_decode(data[1:], layout.itemsize, layout.mantissa, layout.signed, out.view(np.uint8)):
        decode_planes(data, out, layout)  # says what is wrong
        raise StreamError("its planes are not those of any words")


def decode_words(data: memoryview, out: Words, layout: Layout, planes: PlaneReader, repeating: bool = True) -> None:
    """Fills the contiguous `out`. StreamError where `data` is no stripe of so many words."""
    if len(data) == 0:
        raise StreamError("it has no mode")
    mode = data[0]
    if mode > (3 if repeating else 2) or (mode == 2 and layout.floats):
        raise StreamError(f"mode {mode} of {layout.name} is not known")
    if mode == 3:
        return decode_repeats(data, out, layout, planes)
    if mode == 0:
        if len(data) - 1 != out.nbytes:
            raise StreamError(f"{len(data) - 1} bytes of values, not {out.nbytes}")
        out[:] = np.frombuffer(data[1:], layout.dtype)
        return
    planes(data, out, layout if mode == 1 else layout.of_steps())
    if mode == 2:
        np.cumsum(out, dtype=out.dtype, out=out)


def decode_repeats(data: memoryview, out: Words, layout: Layout, planes: PlaneReader) -> None:
    width, at = read_varint(data, 1, "width of vectors")
    vectors, at = read_varint(data, at, "number of vectors")
    nbytes, at = read_varint(data, at, "length of vectors")
    count = out.size // width if width else 0
    if not 1 <= vectors <= count or nbytes > len(data) - at:
        raise StreamError(f"{vectors} vectors of {width} words in {nbytes} bytes, of {out.size} words and {len(data) - at} bytes")
    book = np.empty(vectors * width + out.size % width, layout.dtype)
    index = np.empty(count, index_dtype(vectors))
    decode_words(data[at : at + nbytes], book, layout, planes, repeating=False)
    decode_words(data[at + nbytes :], index, Layout(index.dtype), planes, repeating=False)
    if int(index.max()) >= vectors:
        raise StreamError(f"vector {int(index.max())} of {vectors}")
    np.take(book[: vectors * width].reshape(vectors, width), index, axis=0, out=out[: count * width].reshape(count, width))
    out[count * width :] = book[vectors * width :]


PlaneReader = Callable[[memoryview, Words, Layout], None]


class FloatPlanes(Stage[Array, None]):
    """Values (C, H, W) of any type -> one string for each 8 rows, in the order channel, row, column."""

    def __init__(self, bfloat16: bool, fused: bool = False) -> None:
        self.bfloat16 = bfloat16
        self.write, self.read = (encode_planes_natively, decode_planes_natively) if fused else (encode_planes, decode_planes)

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return 1 + view[0] * rows * view[2] * dtype.itemsize

    def encode(self, x: Array, out: Writer) -> None:
        layout, folded = Layout(x.dtype, self.bfloat16), x.reshape(chw(x.shape))
        for number in range(stripe_count(out.shape)):
            stripe = np.ascontiguousarray(folded[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS])
            out.stripe(encode_words(words_of(stripe.reshape(-1)), layout, self.write))

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
                decode_words(src.stripe(), row, layout, self.read)
            except StripeError:
                raise
            except (StreamError, InputError) as error:
                raise StripeError(number, str(error)) from None
            if row.base is not stripe.base:
                stripe[...] = row.reshape(stripe.shape)


class PlanesKernel:
    """The same with native planes."""

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
