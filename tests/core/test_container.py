"""The container: sections, checks, limits, versions."""

from __future__ import annotations

import pytest

from tensorpress.core.binary import crc32c, parse_json, read_varint, varint
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


@pytest.mark.parametrize("text", [b"NaN", b"-Infinity", b"1e999", b'{"a":[NaN]}', b"1" * 5000, b"[" * 100_000, b"\xff"])
def test_json_that_no_encoder_writes_is_refused(text):
    with pytest.raises(StreamError, match="thing is not JSON"):
        parse_json(text, "thing")
