"""Section 11 is enforced by both decoders: what stands at a limit is taken, what stands beyond it is refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import minimal
import pytest
from compare import ours, theirs
from damage import container_of
from document import EXAMPLES, example, state
from minimal.binary import Bytes, FormatError
from minimal.container import BUNDLE, STREAM, open_container, read_head
from minimal.entropy import read_code_tables, read_tables

from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.tables import Tables
from tensorpress.core import registry
from tensorpress.core.binary import read_varint, varint
from tensorpress.core.container import PLAN, Container
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import Reader
from tensorpress.core.stream import Stream
from tensorpress.planning.plan import Plan

Check = Callable[[bytes], Any]


def agree(data: bytes, taken: bool, left: Check, right: Check) -> None:
    """Both take `data`, or both refuse it."""
    if taken:
        left(data)
        right(data)
        return
    with pytest.raises(StreamError):
        left(data)
    with pytest.raises(FormatError):
        right(data)


@pytest.mark.parametrize(("at", "taken"), [(8, True), (9, False)])
def test_dimensions(at, taken):
    head = bytes([3, at]) + b"\1" * (at - 1) + b"\0"
    agree(head, taken, Reader, minimal.open_payload)


@pytest.mark.parametrize(("values", "taken"), [(1 << 40, True), ((1 << 40) + 1, False), ((1 << 63) - 1, False)])
def test_values(values, taken):
    agree(b"\3\2" + varint(values) + b"\0", taken, Reader, minimal.open_payload)


@pytest.mark.parametrize(("side", "taken"), [(1 << 14, True), ((1 << 14) + 1, False)])
def test_max_nbytes(side, taken):
    """4 bytes a value, of 2^28 values, from the head alone."""
    head = b"\3\2" + varint(side) + varint(1 << 14)
    table = b"" if side == 0 else struct.pack("<II", 0, 0)
    payload = head + table
    agree(payload, taken, Reader, lambda data: read_head(Bytes(data, "payload"), minimal.LIMIT))


@pytest.mark.parametrize(("data", "taken"), [(b"\xff" * 8 + b"\x7f", True), (b"\xff" * 9 + b"\1", False), (b"\x80\0", False)])
def test_varints(data, taken):
    agree(data, taken, lambda d: read_varint(d, 0, "it"), lambda d: Bytes(d, "it").varint())


def headed(header: bytes, kind: bytes = STREAM) -> bytes:
    return container_of(kind, header, [])


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        (b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", True), (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", False),
        (b'{"a":' + b"7" * 64 + b"}", True), (b'{"a":' + b"7" * 65 + b"}", False),
        (b'{"a":"' + b"x" * ((1 << 20) - 8) + b'"}', True), (b'{"a":"' + b"x" * ((1 << 20) - 7) + b'"}', False),
    ],
    ids=["depth", "deeper", "number", "longer", "size", "larger"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [STREAM, BUNDLE])
def test_headers(header, taken, kind):
    agree(headed(header, kind), taken, lambda d: Container.from_bytes(d, kind), lambda d: open_container(d, kind))


def test_headers_of_plans():
    text = b'{"a":"' + b"x" * ((1 << 24) - 8) + b'"}'
    for size, taken in ((0, True), (1, False)):
        data = headed(text[:-2] + b"x" * size + b'"}', PLAN) if taken else b"\x89TPP\1" + varint(len(text) + size)
        if taken:
            Container.from_bytes(data, PLAN)  # a pure decoder takes seconds for its check
        else:
            agree(data, False, lambda d: Container.from_bytes(d, PLAN), lambda d: open_container(d, PLAN))


@pytest.mark.parametrize(("count", "taken"), [(1 << 16, True), ((1 << 16) + 1, False)])
def test_sections(count, taken):
    data = container_of(STREAM, b"{}", [(str(n), b"") for n in range(count)])
    agree(data, taken, lambda d: Container.from_bytes(d, STREAM), lambda d: open_container(d, STREAM))


def test_entries_of_plans():
    data = headed(b'{"entries":[' + b",".join([b"0"] * 65537) + b'],"family":"","meta":{},"model":""}', PLAN)
    with pytest.raises(StreamError, match="65537 entries; at most 65536"):
        Plan.from_bytes(data)
    with pytest.raises(FormatError, match="too long"):
        minimal.open_plan(data)


@pytest.mark.parametrize(("bits", "rows", "taken"), [(10, 1 << 14, True), (10, (1 << 14) + 1, False), (16, 1 << 8, True), (16, (1 << 8) + 1, False), (9, 1, False), (17, 1, False)])
def test_slots_of_tables(bits, rows, taken):
    data = bytes([bits]) + varint(rows) + varint(1) + varint((1 << bits) - 1) * rows
    agree(data, taken, Tables.from_bytes, lambda d: read_tables(Bytes(d, "tables")))


@pytest.mark.parametrize(("rows", "symbols", "taken"), [(4096, 1, True), (4097, 1, False), (1, 1 << 15, True), (2, 1 << 15, True), (1, (1 << 15) + 1, False), (1, 0, False), (0, 1, False)])
def test_codes(rows, symbols, taken):
    lengths = (b"\0" if symbols == 1 else b"\xff") * ((rows * symbols + 1) // 2)
    agree(varint(rows) + varint(symbols) + lengths, taken, HuffmanTables.from_bytes, lambda d: read_code_tables(Bytes(d, "tables")))


def stream(name: str, **pieces: bytes) -> bytes:
    """An example as a self-contained stream, with other pieces of state."""
    row = EXAMPLES[name]
    return Stream(row["codec"], row["params"], {"payload": example(name)}, {**state(name), **pieces}).to_bytes()


def both(data: bytes, taken: bool) -> None:
    assert (ours(data) is not None) == taken and (theirs(data) is not None) == taken


def packed(lengths: list[int]) -> bytes:
    lengths = lengths + [0] * (len(lengths) % 2)
    return bytes(a | b << 4 for a, b in zip(lengths[::2], lengths[1::2]))


@pytest.mark.parametrize(("classes", "taken"), [(2, True), (16, True), (17, False)])
def test_classes_of_klt(classes, taken):
    tables = state("klt")["tables"]
    both(stream("klt", tables=tables + tables[6:] * (classes - 2)), taken)


@pytest.mark.parametrize(("symbols", "taken"), [(4095, True), (4096, False)])
def test_symbols_of_klt(symbols, taken):
    table = varint(1) + varint(symbols) + packed([12] * 4096 if symbols == 4096 else [11] + [12] * 4094)
    tables = state("klt")["tables"]
    both(stream("klt", tables=tables + b"\0" + varint(len(table)) + table), taken)


def model(low: int = 0, high: int = 15, earlier: int = 0, parts: int = 1, edges: int = 0, shift: int = 0, bits: int = 0, more: int = 0) -> bytes:
    """A model of `max` of one channel, whose first rows are even."""
    k = edges + 1
    out = struct.pack("<BBBIBBf", 0, low, high, 1, earlier, parts, 0.5) + struct.pack("<iBB", 0, shift, edges) + b"".join(struct.pack("<H", n) for n in range(edges))
    out += bytes(1 + 2) + b"\xff\xff" * earlier + bytes(6 + (4 + earlier if earlier else 0)) + bytes(1) + bytes(4 * k)
    return zlib.compress(out + bytes([1] * 13 * k) + bytes([bits] * 16 * k) + bytes(16 * 65 * k) + bytes(more))


@pytest.mark.parametrize(
    ("of", "taken"),
    [
        ({}, True), ({"more": 1}, False),
        ({"low": 128, "high": 127, "bits": 4}, True), ({"low": 128, "high": 128, "bits": 8}, False), ({"high": 16}, False), ({"bits": 8}, True), ({"bits": 9}, False),
        ({"earlier": 16}, True), ({"earlier": 17}, False), ({"parts": 16}, True), ({"parts": 17}, False), ({"parts": 0}, False),
        ({"edges": 63}, True), ({"edges": 64}, False), ({"shift": 30}, True), ({"shift": 31}, False),
    ],
)  # fmt: skip
def test_models_of_context(of, taken):
    x_is_nothing = Stream("context", {}, {"payload": b"\0\3\1\1\6" + struct.pack("<II", 0, minimal.binary.check(b"", minimal.binary.seed(minimal.binary.check(b"\0\3\1\1\6"), 0)))}, {"model": model(**of)})
    both(x_is_nothing.to_bytes(), taken)


def test_unpacked_models_of_context():
    data = stream("max", model=zlib.compress(bytes((1 << 26) + 1), 9))
    assert len(data) < 1 << 17
    with pytest.raises(StreamError, match="over 64 MiB"):
        registry.build_from_stream("context", {}, {"model": Stream.from_bytes(data).state["model"]})
    both(data, False)


@pytest.mark.parametrize(("size", "taken"), [(2112, True), (2113, False)])
def test_cells_of_slots(size, taken):
    """A whole cell of 2,048 words in 8 bits; one byte more is refused."""
    body = struct.pack("<H", size) + b"\x88" * 64 + b"\xa5" * (size - 64)
    head = b"\3\3\40\10\10"
    check = minimal.binary.check
    payload = head + struct.pack("<II", len(body), check(body, minimal.binary.seed(check(head), 0))) + body
    both(Stream("slots", {}, {"payload": payload}, {}).to_bytes(), taken)


def test_strings_of_zfp():
    pytest.importorskip("zfpy")
    head, check = b"\0\3\1\4\4", minimal.binary.check
    for size, taken in ((308, True), (309, False)):
        body = bytes(size)
        payload = head + struct.pack("<II", size, check(body, minimal.binary.seed(check(head), 0))) + body
        data = Stream("zfp", {"scale": 1.0}, {"payload": payload}, {}).to_bytes()
        assert (ours(data) is not None) == taken
        if not taken:
            assert theirs(data) is None
