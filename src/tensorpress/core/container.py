"""The container of every file: magic, version, JSON header, checked sections. FORMAT.md, section 2.

    magic(4) version(1) varint(len header) header  varint(sections) {varint(len name) name varint(nbytes)}*  check(4)
    {data check(4)}*

The first check covers all that stands before it. A section's check is seeded with that first check and the section's
number, so a flipped bit, a swapped section or a section of another file is refused.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tensorpress.core.binary import Buffer, canonical_json, crc32c, parse_json, read_varint, row_of_bytes, varint
from tensorpress.core.errors import InputError, StreamError

VERSION = 1
MAX_NBYTES = 1 << 30  # what a decoder may produce or hold unless told otherwise: 1 GiB
MAX_SECTIONS = 1 << 16
CHECK_NBYTES = 4
STREAM, PLAN, BUNDLE, WEIGHTS = b"\x89TPS", b"\x89TPP", b"\x89TPB", b"\x89TPW"
MAX_HEADER_NBYTES = {STREAM: 1 << 20, PLAN: 1 << 24, BUNDLE: 1 << 20, WEIGHTS: 1 << 20}  # parsed, a header takes up to 64 times its size
KINDS = {STREAM: "stream", PLAN: "plan", BUNDLE: "bundle", WEIGHTS: "file of weights"}


def section_seed(check: int, number: int) -> int:
    return crc32c(struct.pack("<I", number), check)


def front(kind: bytes, header: Mapping[str, Any], lengths: Sequence[tuple[str, int]]) -> tuple[bytes, int]:
    """(all that stands before the first section of these lengths, its check). InputError where a reader would refuse it."""
    text = canonical_json(dict(header))
    if len(text) > MAX_HEADER_NBYTES[kind] or len(lengths) > MAX_SECTIONS:
        raise InputError(f"a {KINDS[kind]} with a header of {len(text)} bytes and {len(lengths)} sections is over what the format allows")
    try:
        parse_json(text, "header")
    except StreamError as error:
        raise InputError(f"it could not be read again: {error}") from None
    parts = [kind, bytes([VERSION]), varint(len(text)), text, varint(len(lengths))]
    for name, nbytes in lengths:
        encoded = name.encode()
        parts += [varint(len(encoded)), encoded, varint(nbytes)]
    head = b"".join(parts)
    check = crc32c(head)
    return head + struct.pack("<I", check), check


def read_front(data: memoryview, kind: bytes) -> tuple[dict[str, Any], list[tuple[str, int]], int, int]:
    """(header, names and lengths of the sections, the first check, where the first section begins). `data` may end behind the front."""
    what = KINDS[kind]
    if bytes(data[:4]) != kind:
        found = KINDS.get(bytes(data[:4]))
        raise StreamError(f"not a TensorPress {what}: " + (f"it is a {found}" if found else f"it begins with {bytes(data[:4])!r}"))
    if len(data) < 5 or data[4] != VERSION:
        version = data[4] if len(data) > 4 else "none"
        raise StreamError(f"{what} has format version {version}; this TensorPress reads version {VERSION}")
    size, at = read_varint(data, 5, "header length")
    if size > MAX_HEADER_NBYTES[kind]:
        raise StreamError(f"header of {size} bytes; a {what} has one of at most {MAX_HEADER_NBYTES[kind]}")
    if size > len(data) - at:
        raise StreamError(f"header ends at {at + size}, the data at {len(data)}")
    header_at, at = at, at + size
    count, at = read_varint(data, at, "section count")
    if count > MAX_SECTIONS:
        raise StreamError(f"{count} sections declared, at most {MAX_SECTIONS} are allowed")
    table: list[tuple[bytes, int]] = []
    for _ in range(count):
        length, at = read_varint(data, at, "section name length")
        if length > len(data) - at:
            raise StreamError(f"section name ends at {at + length}, the data at {len(data)}")
        name, at = bytes(data[at : at + length]), at + length
        nbytes, at = read_varint(data, at, "section length")
        table.append((name, nbytes))
    if len(data) - at < 4:
        raise StreamError(f"header check at byte {at} is cut: the data ends at {len(data)}")
    check = crc32c(data[:at])
    if check != struct.unpack_from("<I", data, at)[0]:
        raise StreamError(f"header check fails: bytes 0 to {at} are damaged")
    at += 4
    header = parse_json(data[header_at : header_at + size], "header")
    if not isinstance(header, dict):
        raise StreamError("header is not a JSON object")
    names: dict[str, int] = {}
    for number, (encoded, nbytes) in enumerate(table):
        try:
            name_text = encoded.decode()
        except UnicodeDecodeError:
            raise StreamError(f"name of section {number} is not UTF-8") from None
        if name_text in names:
            raise StreamError(f"section {name_text!r} stands twice")
        names[name_text] = nbytes
    return header, list(names.items()), check, at


@dataclass(frozen=True)
class Container:
    """A header (JSON object) and named byte sections; `kind` is one of the magics above."""

    kind: bytes
    header: Mapping[str, Any]
    sections: Mapping[str, Buffer]
    faults: Mapping[str, str] = field(default_factory=dict)  # of sections that were taken although they are damaged

    def to_bytes(self) -> bytes:
        """InputError where `from_bytes` would refuse the header or the number of sections."""
        head, check = front(self.kind, self.header, [(name, len(data)) for name, data in self.sections.items()])
        parts: list[Buffer] = [head]
        for number, data in enumerate(self.sections.values()):
            parts += [data, struct.pack("<I", crc32c(data, section_seed(check, number)))]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: Buffer, kind: bytes, *, max_nbytes: int = MAX_NBYTES, damaged: str = "") -> Container:
        """Parse and verify. StreamError names the byte and the reason. `max_nbytes` (1 GiB by default): of all of it.

        Sections are views of `data`. What is allocated is the header, parsed, and the names of the sections.
        `damaged`: the section that may be: then its fault stands in `faults`, and where it is the last one it is all that is left of the
        data, CHECK_NBYTES of which may be its check.
        """
        data = row_of_bytes(data)
        if len(data) > max_nbytes:
            raise StreamError(f"{KINDS[kind]} of {len(data)} bytes is over the limit of {max_nbytes}")
        header, table, check, at = read_front(data, kind)
        sections: dict[str, Buffer] = {}
        faults: dict[str, str] = {}
        for number, (name_text, nbytes) in enumerate(table):
            body, end = data[at : at + nbytes], at + nbytes + CHECK_NBYTES
            fault = ""
            if end > len(data):
                fault = f"section {name_text!r} ends at {len(data)}, header promised {end}"
            elif crc32c(body, section_seed(check, number)) != struct.unpack_from("<I", data, at + nbytes)[0]:
                fault = f"section {name_text!r} is damaged: the check over bytes {at} to {at + nbytes} fails"
            if fault and name_text != damaged:
                raise StreamError(fault)
            if fault and number == len(table) - 1:
                body, end = data[at:], len(data)  # bytes may be missing or too many
            if fault:
                faults[name_text] = fault
            at, sections[name_text] = end, body
        if at != len(data):
            raise StreamError(f"{len(data) - at} bytes stand after the end at {at}")
        return cls(kind, header, sections, faults)

    def breakdown(self) -> dict[str, int]:
        """Bytes by part; sums to `len(to_bytes())`."""
        parts = {name: len(data) + 4 for name, data in self.sections.items()}
        header = len(canonical_json(dict(self.header)))
        parts["header"] = header
        parts["framing"] = len(self.to_bytes()) - sum(parts.values())
        return parts


MAX_FRONT_NBYTES = 1 << 22  # of a file whose sections are read one by one: every header, and names of a few bytes


class SectionsOnDisk(Mapping[str, Buffer]):
    """The sections of a file, each read and verified when it is asked for."""

    def __init__(self, file: BinaryIO, table: Sequence[tuple[str, int]], check: int, start: int) -> None:
        self._file, self._check, self._places = file, check, {}
        for number, (name, nbytes) in enumerate(table):
            self._places[name] = number, start, nbytes
            start += nbytes + CHECK_NBYTES
        end = file.seek(0, os.SEEK_END)
        if start != end:
            raise StreamError(f"sections end at {start}, the data at {end}")

    def __getitem__(self, name: str) -> Buffer:
        number, start, nbytes = self._places[name]
        self._file.seek(start)
        data = self._file.read(nbytes)
        if len(data) != nbytes or self._file.read(CHECK_NBYTES) != struct.pack("<I", crc32c(data, section_seed(self._check, number))):
            raise StreamError(f"section {name!r} is damaged: the check over bytes {start} to {start + nbytes} fails")
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def on_disk(file: BinaryIO, kind: bytes) -> Container:
    """The container of an open file, of which only the front is read. StreamError as from `Container.from_bytes`, for a section when it is asked for."""
    file.seek(0)
    header, table, check, start = read_front(memoryview(file.read(MAX_FRONT_NBYTES)), kind)
    return Container(kind, header, SectionsOnDisk(file, table, check, start))
