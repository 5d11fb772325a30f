"""The container: sections, checks, limits, versions."""

from __future__ import annotations

import pytest

from tensorpress.core.binary import crc32c, read_varint, varint
from tensorpress.core.container import BUNDLE, PLAN, STREAM, Container
from tensorpress.core.errors import StreamError

BOX = Container(STREAM, {"a": 1.5, "b": ["x"]}, {"one": b"1234", "two": b"5678", "none": b""})


def test_round_trip_and_breakdown():
    data = BOX.to_bytes()
    found = Container.from_bytes(data, STREAM)
    assert found.header == BOX.header and {k: bytes(v) for k, v in found.sections.items()} == BOX.sections
    assert sum(BOX.breakdown().values()) == len(data)


def test_crc32c_is_castagnoli():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"56789", crc32c(b"1234")) == 0xE3069283
    assert crc32c(b"") == 0


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**62])
def test_varint(value):
    data = varint(value)
    assert read_varint(data + b"\xff", 0, "n") == (value, len(data))
    with pytest.raises(StreamError, match="cut"):
        read_varint(data[:-1], 0, "n")


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff" * 9 + b"\x01", b"\x80" * 12])
def test_varints_that_are_not_canonical_are_refused(data):
    with pytest.raises(StreamError):
        read_varint(data, 0, "n")


def test_every_truncation_flip_and_addition_is_refused():
    data = BOX.to_bytes()
    for end in range(len(data)):
        with pytest.raises(StreamError):
            Container.from_bytes(data[:end], STREAM)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StreamError):
            Container.from_bytes(damaged, STREAM)
    with pytest.raises(StreamError, match="after the end"):
        Container.from_bytes(data + b"\0", STREAM)


def test_swapped_sections_of_equal_length_are_refused():
    data = BOX.to_bytes()
    one, two = data.index(b"1234"), data.index(b"5678")
    swapped = data[:one] + data[two : two + 8] + data[one : one + 8] + data[two + 8 :]
    with pytest.raises(StreamError, match="damaged"):
        Container.from_bytes(swapped, STREAM)


def test_a_section_of_another_file_is_refused():
    other = Container(STREAM, {"a": 2.5, "b": ["x"]}, dict(BOX.sections)).to_bytes()
    data = BOX.to_bytes()
    at = data.index(b"1234")
    with pytest.raises(StreamError, match="damaged"):
        Container.from_bytes(data[:at] + other[at : at + 8] + data[at + 8 :], STREAM)


def test_kinds_versions_and_limits_are_named():
    with pytest.raises(StreamError, match="it is a stream"):
        Container.from_bytes(BOX.to_bytes(), PLAN)
    with pytest.raises(StreamError, match="not a TensorPress bundle"):
        Container.from_bytes(b"", BUNDLE)
    newer = bytearray(BOX.to_bytes())
    newer[4] = 9
    with pytest.raises(StreamError, match="version 9"):
        Container.from_bytes(newer, STREAM)
    with pytest.raises(StreamError, match="limit"):
        Container.from_bytes(BOX.to_bytes(), STREAM, max_nbytes=10)


def test_a_section_that_stands_twice_is_refused():
    class Twice(dict):
        def items(self):
            return [("one", b"1"), ("one", b"2")]

        def values(self):
            return [b"1", b"2"]

        def __len__(self):
            return 2

    with pytest.raises(StreamError, match="twice"):
        Container.from_bytes(Container(STREAM, {}, Twice()).to_bytes(), STREAM)


def header_of(text: bytes) -> bytes:
    """A container with this header, its check right."""
    from tensorpress.core.binary import crc32c, varint

    head = STREAM + b"\x01" + varint(len(text)) + text + b"\x00"
    return head + crc32c(head).to_bytes(4, "little")


def test_headers_have_one_form():
    assert Container.from_bytes(header_of(b'{"a":1.5,"b":[{}]}'), STREAM).header == {"a": 1.5, "b": [{}]}
    others = (b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1,"a":2}', b'{"a":1.50}', b'{"a":NaN}', b'{"a":1e999}', b'{"a":-Infinity}', b'{"a":"\\ud800"}', b'{"a":"\\u0041"}')
    for text in (*others, b"[1]", b"\xff", b"", b'{"a":' + b"1" * 5000 + b"}"):
        with pytest.raises(StreamError, match="header is no"):
            Container.from_bytes(header_of(text), STREAM)


@pytest.mark.parametrize("depth", [65, 5000, 200_000])
def test_deep_headers_are_refused(depth):
    assert Container.from_bytes(header_of(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"), STREAM)
    with pytest.raises(StreamError, match=r"nested deeper|is not JSON"):
        Container.from_bytes(header_of(b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"), STREAM)
