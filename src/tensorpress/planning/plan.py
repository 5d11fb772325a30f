"""A plan: which codec with which parameters at which site, with everything a decoder must hold, in one file.

FORMAT.md, section 5. The file is a container: a JSON header and one section for each piece of binary state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

from tensorpress.core.atomic import write_atomically
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.container import MAX_NBYTES, PLAN, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import MAX_VALUES
from tensorpress.core.registry import build_from_stream
from tensorpress.core.site import Site

P = TypeVar("P", bound="Plan")
MAX_ENTRIES = 1 << 12
PLAN_TYPES = {"family": str, "model": str, "entries": list, "meta": dict}
ENTRY_TYPES = {"site": dict, "shape": list, "codec": str, "params": dict}
SITE_TYPES = {"path": str, "call": int, "what": str, "view": str, "reads": int}


@dataclass(frozen=True)
class Entry:
    """One site's choice. `shape` is that of one image's tensor, as calibrated; `reference` an earlier entry that both sides have decoded."""

    site: Site
    codec: Codec
    shape: tuple[int, ...]
    reference: int | None = None

    def to_json(self) -> dict[str, Any]:
        row = {"site": self.site.to_json(), "shape": list(self.shape), "codec": self.codec.id, "params": self.codec.params}
        return row if self.reference is None else {**row, "reference": self.reference}


@dataclass(frozen=True)
class Plan:
    """Immutable; equal plans have equal bytes. `model` is the fingerprint of the network it was made for."""

    family: str
    model: str
    entries: tuple[Entry, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)  # how it was made: target, quality, calibration

    @cached_property
    def referenced(self) -> frozenset[int]:
        """The entries whose decoded arrays others refer to."""
        return frozenset(e.reference for e in self.entries if e.reference is not None)

    @cached_property
    def _bytes(self) -> bytes:
        sections: dict[str, Buffer] = {}
        rows = []
        for number, entry in enumerate(self.entries):
            for name, data in entry.codec.state.items():
                sections[f"{number}/{name}"] = data
            rows.append(entry.to_json())
        header = {"family": self.family, "model": self.model, "entries": rows, "meta": dict(self.meta)}
        return Container(PLAN, header, sections).to_bytes()

    def to_bytes(self) -> bytes:
        return self._bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the plan's bytes."""
        import hashlib

        return hashlib.sha256(self._bytes).hexdigest()

    @property
    def id(self) -> int:
        """The first 32 bits of the digest: what every plan-bound stream carries."""
        return int(self.digest[:8], 16)

    @property
    def shared_nbytes(self) -> int:
        """Bytes that a decoder must hold before the first stream: the whole plan file less `meta`, how it was made."""
        return len(replace(self, meta={}).to_bytes())

    @classmethod
    def from_bytes(cls: type[P], data: Buffer, *, max_nbytes: int = MAX_NBYTES) -> P:
        """StreamError on anything but a whole, undamaged plan of this version."""
        box = Container.from_bytes(data, PLAN, max_nbytes=max_nbytes)
        header = typed(box.header, PLAN_TYPES, "plan header")
        if len(header["entries"]) > MAX_ENTRIES:
            raise StreamError(f"plan of {len(header['entries'])} entries; at most {MAX_ENTRIES} are allowed")
        states: list[dict[str, Buffer]] = [{} for _ in header["entries"]]
        places = {str(number): state for number, state in enumerate(states)}
        for section, part in box.sections.items():
            number, _, name = section.partition("/")
            if number not in places or not name:
                raise StreamError(f"plan has a section {section!r}, which is state of none of its {len(states)} entries")
            places[number][name] = part
        rows = [read_entry(n, row, state) for n, (row, state) in enumerate(zip(header["entries"], states, strict=True))]
        plan = cls(header["family"], header["model"], tuple(rows), header["meta"])
        plan.__dict__["_bytes"] = bytes(data)  # the digest is that of the file, whatever this version would write for the same plan
        return plan

    def save(self, path: str | Path) -> None:
        """Write atomically: the old file stays whole until the new one is."""
        write_atomically(path, self._bytes)

    @classmethod
    def load(cls: type[P], path: str | Path, *, max_nbytes: int = MAX_NBYTES) -> P:
        """A saved plan of at most `max_nbytes` (1 GiB by default). InputError where the file cannot be read, else as `from_bytes`."""
        try:
            with Path(path).open("rb") as file:
                data = read_within(file, max_nbytes)
        except OSError as error:
            raise InputError(f"plan {path}: {error.strerror}") from None
        try:
            return cls.from_bytes(data, max_nbytes=max_nbytes)
        except StreamError as error:
            raise StreamError(f"plan {path}: {error}") from None


def typed(value: Any, types: Mapping[str, type], what: str) -> Mapping[str, Any]:
    """`value`, an object with just these keys, of these types. StreamError where it is not."""
    if not isinstance(value, dict) or set(value) != set(types):
        raise StreamError(f"{what} has the keys {sorted(value) if isinstance(value, dict) else value!r:.100}, not {', '.join(types)}")
    for name, kind in types.items():
        if type(value[name]) is not kind:
            raise StreamError(f"{what}: {name!r} is {value[name]!r:.100}, no {kind.__name__}")
    return value


def read_entry(number: int, row: Any, state: Mapping[str, Buffer]) -> Entry:
    """Entry `number` of a plan's header. StreamError where it cannot be used."""
    what = f"plan entry {number}"
    referring = isinstance(row, dict) and "reference" in row
    row = typed(row, {**ENTRY_TYPES, "reference": int} if referring else ENTRY_TYPES, what)
    site = Site(**typed(row["site"], SITE_TYPES, f"{what}, site"))
    if not all(type(n) is int and 0 <= n <= MAX_VALUES for n in row["shape"]):
        raise StreamError(f"{what}: shape {row['shape']!r:.100} is no list of sizes")
    if not all(0 <= count < 1 << 63 for count in (site.call, site.reads)):
        raise StreamError(f"{what}: call {site.call:.6g} or reads {site.reads:.6g} of its site is no count")
    try:
        codec = build_from_stream(row["codec"], row["params"], state)
    except StreamError as error:
        raise StreamError(f"{what}: {error}") from None
    if referring and not 0 <= row["reference"] < number:
        raise StreamError(f"{what} refers to entry {row['reference']}, which is not one before it")
    if codec.reference != referring:
        raise StreamError(f"{what}: its codec {'needs a' if codec.reference else 'takes no'} reference")
    return Entry(site, codec, tuple(row["shape"]), row.get("reference"))


def read_within(file: IO[bytes], max_nbytes: int) -> bytes:
    """All bytes of `file`, or just more than `max_nbytes`: enough to see that it is too long."""
    parts, left = [], max_nbytes + 1
    while left and (part := file.read(min(left, 1 << 24))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
