"""A plan: which codec with which parameters at which site, with everything a decoder must hold, in one file.

FORMAT.md, section 5. The file is a container: a JSON header and one section for each piece of binary state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tensorpress.core.atomic import write_atomically
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.container import MAX_NBYTES, PLAN, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.registry import build_from_stream
from tensorpress.core.site import Site

P = TypeVar("P", bound="Plan")


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
        check_keys("plan header", box.header, {"family": str, "model": str, "entries": list, "meta": dict})
        try:
            rows = []
            states: dict[str, dict[str, Buffer]] = {str(number): {} for number in range(len(box.header["entries"]))}
            for name, data_of in box.sections.items():
                owner, _, piece = name.partition("/")
                if owner not in states:
                    raise StreamError(f"plan section {name!r} belongs to none of its {len(states)} entries")
                states[owner][piece] = data_of
            for number, (row, state) in enumerate(zip(box.header["entries"], states.values())):
                optional = {"reference": int} if "reference" in row else {}
                check_keys(f"plan entry {number}", row, {"site": dict, "shape": list, "codec": str, "params": dict, **optional})
                check_keys(f"site of plan entry {number}", row["site"], {"path": str, "call": int, "what": str, "view": str, "reads": int})
                if not all(type(n) is int and n >= 0 for n in row["shape"]):
                    raise StreamError(f"plan entry {number} has the shape {row['shape']}")
                codec = build_from_stream(row["codec"], row["params"], state)
                reference = row.get("reference")
                if reference is not None and not 0 <= reference < number:
                    raise StreamError(f"plan entry {number} refers to entry {reference!r}, which is not one before it")
                if codec.reference != (reference is not None):
                    raise StreamError(f"plan entry {number}: its codec {'needs a' if codec.reference else 'takes no'} reference")
                rows.append(Entry(Site(**row["site"]), codec, tuple(row["shape"]), reference))
            plan = cls(box.header["family"], box.header["model"], tuple(rows), box.header["meta"])
        except (KeyError, TypeError, AttributeError) as error:
            raise StreamError(f"plan header is malformed: {error!r}") from None
        plan.__dict__["_bytes"] = bytes(data)  # the digest is that of the file, though a codec's parameters have become more since
        return plan

    def save(self, path: str | Path) -> None:
        """Write atomically: the old file stays whole until the new one is."""
        write_atomically(path, self._bytes)

    @classmethod
    def load(cls: type[P], path: str | Path) -> P:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"plan {path}: {error.strerror}") from None
        try:
            return cls.from_bytes(data)
        except StreamError as error:
            raise StreamError(f"plan {path}: {error}") from None


def check_keys(what: str, found: Any, keys: Mapping[str, type]) -> None:
    """StreamError where `found` is not an object of exactly these keys and types."""
    if not isinstance(found, dict) or set(found) != set(keys):
        raise StreamError(f"{what} has {sorted(found) if isinstance(found, dict) else type(found).__name__}, not {sorted(keys)}")
    for key, kind in keys.items():
        if type(found[key]) is not kind:
            raise StreamError(f"{what}: {key} is a {type(found[key]).__name__}, not a {kind.__name__}")
