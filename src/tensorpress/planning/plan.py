"""A plan: which codec with which parameters at which site, with everything a decoder must hold, in one file.

FORMAT.md, section 5. The file is a container: a JSON header and one section for each piece of binary state.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.container import MAX_NBYTES, PLAN, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import MAX_VALUES
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
        try:
            rows = []
            for number, row in enumerate(box.header["entries"]):
                prefix = f"{number}/"
                state = {k.removeprefix(prefix): v for k, v in box.sections.items() if k.startswith(prefix)}
                codec = build_from_stream(row["codec"], row["params"], state)
                reference = row.get("reference")
                if reference is not None and not (type(reference) is int and 0 <= reference < number):
                    raise StreamError(f"plan entry {number} refers to entry {reference!r}, which is not one before it")
                if codec.reference != (reference is not None):
                    raise StreamError(f"plan entry {number}: its codec {'needs a' if codec.reference else 'takes no'} reference")
                shape = row["shape"]
                if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= MAX_VALUES for n in shape):
                    raise StreamError(f"plan entry {number} has the shape {shape!r}, which is no list of sizes")
                rows.append(Entry(_typed(Site(**row["site"]), f"site of plan entry {number}"), codec, tuple(shape), reference))
            plan = cls(box.header["family"], box.header["model"], tuple(rows), box.header["meta"])
            if not isinstance(plan.family, str) or not isinstance(plan.model, str) or not isinstance(plan.meta, dict):
                raise StreamError("plan header is malformed: family and model are texts, meta is an object")
            return plan
        except (KeyError, TypeError, AttributeError) as error:
            raise StreamError(f"plan header is malformed: {error!r}") from None

    def save(self, path: str | Path) -> None:
        """Write atomically: the old file stays whole until the new one is."""
        write_atomically(Path(path), self._bytes)

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


def _typed(site: Site, what: str) -> Site:
    """StreamError where a site's texts are no texts, or its counts no counts."""
    for name, text in (("path", site.path), ("what", site.what), ("view", site.view)):
        if not isinstance(text, str):
            raise StreamError(f"{what} has {name} = {text!r}, which is no text")
    for name, count in (("call", site.call), ("reads", site.reads)):
        if type(count) is not int or not 0 <= count < 1 << 63:
            raise StreamError(f"{what} has {name} = {count!r}, which is no count")
    return site


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename over it: no reader ever sees half a file."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent or Path("."))
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would surprise whoever shares the folder
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
