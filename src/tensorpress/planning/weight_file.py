"""A file of weights (.tpw): named tensors, each in a form, in parts that are decoded side by side. FORMAT.md, section 23.

    container "weights": header {made, parts: [tensors in each]}, sections "index", "part/0", "part/1" …

The index is JSON, deflated: columns of names, types, shapes and forms, so that what repeats takes a few bits. A part holds the
tensors that follow each other until they have `PART_VALUES` values; its adaptive coder goes on from tensor to tensor, so small
tensors do not pay for what a coder has to learn.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.forms import FORMS, Form, Source, Target
from tensorpress.core.binary import Buffer, canonical_json, parse_json
from tensorpress.core.container import MAX_NBYTES, WEIGHTS, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.floats import plainly
from tensorpress.core.threads import threads

PART_VALUES = 1 << 22
MAX_INDEX_NBYTES = 1 << 24
MAX_RANK = 8
# what a tensor is outside the file; bfloat16 and 8-bit floats travel as the integers of their bits where they are plain
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "|u1", "F8_E5M2": "|u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file. `form` is None where it is `same` as another one: tied weights are stored once."""

    name: str
    dtype: str  # of DTYPES: what a decoder gives back
    shape: tuple[int, ...]
    form: Form | None
    same: str = ""


@dataclass(frozen=True)
class Entry:
    """A tensor as the index has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    form: str  # an id of FORMS, or SAME
    params: Mapping[str, Any]

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of the decoded tensor."""
        return self.values * np.dtype(DTYPES[self.dtype]).itemsize


SAME = "="  # in the place of a form: the tensor `of` is this one as well


class Parts:
    """Writes parts one after another: `add` gives those that are full, `rest` the last."""

    def __init__(self, part_values: int = PART_VALUES, target: Callable[[], Target] = Target) -> None:
        """`target` makes where a part is written; what its `finish` gives is the part."""
        self.entries: list[Entry] = []
        self.counts: list[int] = []  # tensors of each part
        self._make, self._full, self._values, self._count, self._target = target, part_values, 0, 0, target()

    def add(self, tensor: Tensor) -> Any:
        """The part that `tensor` filled, if it did."""
        form = tensor.form
        params = {"of": tensor.same} if form is None else dict(form.params)
        self.entries.append(Entry(tensor.name, tensor.dtype, tuple(tensor.shape), SAME if form is None else form.id, params))
        self._count += 1
        if form is not None:
            if tuple(form.shape) != tuple(tensor.shape):
                raise InputError(f"tensor {tensor.name!r} has shape {list(tensor.shape)}, its form {list(form.shape)}")
            form.write(self._target)
            self._values += self.entries[-1].values
        return self.rest() if self._values >= self._full else None

    def rest(self) -> Any:
        if not self._count:
            return None
        part = self._target.finish()
        self.counts.append(self._count)
        self._values, self._count, self._target = 0, 0, self._make()
        return part

    def front(self, made: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """(the file's header, its index)."""
        columns = {
            "names": [e.name for e in self.entries],
            "dtypes": [e.dtype for e in self.entries],
            "shapes": [list(e.shape) for e in self.entries],
            "forms": [[e.form, dict(e.params)] if e.params else e.form for e in self.entries],
        }
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        index = packer.compress(canonical_json(columns)) + packer.flush()
        header = {"parts": list(self.counts), **({"made": dict(made)} if made else {})}
        return header, index

    def container(self, parts: Sequence[Buffer], made: Mapping[str, Any]) -> Container:
        header, index = self.front(made)
        return Container(WEIGHTS, header, {"index": index, **{f"part/{i}": part for i, part in enumerate(parts)}})


@dataclass(frozen=True)
class WeightFile:
    """Tensors in the order of the model's state; `made` says how: JSON that a decoder does not need."""

    tensors: tuple[Tensor, ...]
    made: Mapping[str, Any] = field(default_factory=dict)

    @plainly
    def to_bytes(self) -> bytes:
        """InputError where names stand twice or a form does not suit its tensor."""
        names = [t.name for t in self.tensors]
        if len(set(names)) != len(names):
            raise InputError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice")
        parts, written = Parts(), []
        for tensor in self.tensors:
            written.append(parts.add(tensor))
        written.append(parts.rest())
        return parts.container([p for p in written if p is not None], self.made).to_bytes()


class WeightReader:
    """The index of a .tpw, and its tensors on request. `max_nbytes`: what all decoded tensors may take.

    StreamError on anything but a whole, undamaged file.
    """

    def __init__(self, data: Buffer, *, max_nbytes: int = MAX_NBYTES) -> None:
        self._open(Container.from_bytes(data, WEIGHTS, max_nbytes=memoryview(data).nbytes), max_nbytes)

    @classmethod
    def of(cls, box: Container, *, max_nbytes: int = MAX_NBYTES) -> WeightReader:
        """The same of a container that may lie on disk."""
        found = cls.__new__(cls)
        found._open(box, max_nbytes)
        return found

    def _open(self, box: Container, max_nbytes: int) -> None:
        self.box, header = box, box.header
        if not set(header) <= {"parts", "made"} or "parts" not in header or not isinstance(header.get("made", {}), dict):
            raise StreamError(f"a file of weights has the header keys {sorted(header)}, not parts and made")
        self.made: Mapping[str, Any] = header.get("made", {})
        counts = header["parts"]
        if not isinstance(counts, list) or not all(type(n) is int and n > 0 for n in counts):
            raise StreamError("header 'parts' is not a list of numbers of tensors")
        if set(self.box.sections) != {"index", *(f"part/{i}" for i in range(len(counts)))}:
            raise StreamError(f"a file of weights with {len(counts)} parts has the sections {sorted(self.box.sections)[:9]}")
        self.entries = read_index(self.box.sections["index"])
        if sum(counts) != len(self.entries):
            raise StreamError(f"parts hold {sum(counts)} tensors, the index {len(self.entries)}")
        total = sum(e.nbytes for e in self.entries)
        if total > max_nbytes:
            raise StreamError(f"tensors of {total} bytes are over the limit of {max_nbytes}")
        ends = np.cumsum([0, *counts]).tolist()
        self._spans = list(pairwise(ends))

    def forms(self, part: int) -> list[Tensor]:
        """The tensors of one part. StreamError names the tensor."""
        src, found = self._source(part), []
        for entry in self.entries[slice(*self._spans[part])]:
            if entry.form == SAME:
                found.append(Tensor(entry.name, entry.dtype, entry.shape, None, entry.params["of"]))
                continue
            try:
                form = FORMS[entry.form].read(entry.params, entry.shape, np.dtype(DTYPES[entry.dtype]), src)
            except StreamError as error:
                raise StreamError(f"part {part}, tensor {entry.name!r}: {error}") from None
            found.append(Tensor(entry.name, entry.dtype, entry.shape, form))
        try:
            src.done()
        except StreamError as error:
            raise StreamError(f"part {part}: {error}") from None
        return found

    def _source(self, part: int) -> Source:
        try:
            return Source(self.box.sections[f"part/{part}"])
        except StreamError as error:
            raise StreamError(f"part {part}: {error}") from None

    def pieces(self, part: int) -> Iterator[tuple[Entry, Iterator[NDArray[Any]]]]:
        """The same with each tensor's values in a row, in its own type, a vector at a time: each is to be read to its end before the next. Tied ones have none."""
        src = self._source(part)
        for entry in self.entries[slice(*self._spans[part])]:
            yield entry, self._pieces(part, entry, src) if entry.form != SAME else iter(())
        try:
            src.done()
        except StreamError as error:
            raise StreamError(f"part {part}: {error}") from None

    def _pieces(self, part: int, entry: Entry, src: Source) -> Iterator[NDArray[Any]]:
        try:
            for values in FORMS[entry.form].pieces(entry.params, entry.shape, np.dtype(DTYPES[entry.dtype]), src):
                yield in_dtype(values, entry.dtype)
        except StreamError as error:
            raise StreamError(f"part {part}, tensor {entry.name!r}: {error}") from None

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._spans)

    @plainly
    def arrays(self, part: int) -> dict[str, NDArray[Any]]:
        """The values of one part's own tensors (not those that are the same as another), by name."""
        return {t.name: in_dtype(t.form.values(), t.dtype) for t in self.forms(part) if t.form is not None}

    def all(self) -> dict[str, NDArray[Any]]:
        """Every tensor in the index's order, tied ones as the same array. Parts are decoded side by side."""
        with ThreadPoolExecutor(max(1, min(threads(), len(self)))) as pool:
            found = {name: array for part in pool.map(self.arrays, range(len(self))) for name, array in part.items()}
        return {e.name: found[e.params["of"]] if e.form == SAME else found[e.name] for e in self.entries}

    def __iter__(self) -> Iterator[Tensor]:
        return (tensor for part in range(len(self)) for tensor in self.forms(part))


def read_index(data: Buffer) -> list[Entry]:
    """StreamError where it is not what `Parts` writes."""
    unpacker = zlib.decompressobj(-15)
    try:
        text = unpacker.decompress(data, MAX_INDEX_NBYTES)
    except zlib.error as error:
        raise StreamError(f"the index is not deflated data: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise StreamError(f"the index is cut, has bytes after its end, or is over {MAX_INDEX_NBYTES} bytes")
    columns = parse_json(text, "index")
    if (
        not isinstance(columns, dict)
        or set(columns) != {"names", "dtypes", "shapes", "forms"}
        or not all(isinstance(c, list) for c in columns.values())
    ):
        raise StreamError("the index does not have the columns names, dtypes, shapes and forms")
    if len({len(c) for c in columns.values()}) > 1:
        raise StreamError("the columns of the index differ in length")
    entries = []
    for name, dtype, shape, form in zip(*(columns[k] for k in ("names", "dtypes", "shapes", "forms"))):
        kind, params = (form[0], form[1]) if isinstance(form, list) and len(form) == 2 else (form, {})
        if not (isinstance(name, str) and isinstance(dtype, str) and dtype in DTYPES):
            raise StreamError(f"the index has a tensor {name!r} of type {dtype!r}")
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_RANK
            or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
            or math.prod(shape) >= 1 << 40
        ):
            raise StreamError(f"tensor {name!r} has the shape {shape!r}")
        if (
            not isinstance(kind, str)
            or (kind not in FORMS and kind != SAME)
            or not isinstance(params, dict)
            or (isinstance(form, list) and not params)
        ):
            raise StreamError(f"tensor {name!r} has the form {form!r}, which this TensorPress does not know")
        if DTYPES[dtype][1] != "f" and dtype != "BF16" and kind not in ("plain", "planes", SAME):
            raise StreamError(f"tensor {name!r} of type {dtype} has the form {kind!r}")
        entries.append(Entry(name, dtype, tuple(shape), kind, params))
    own = {e.name: e for e in entries if e.form != SAME}
    if len({e.name for e in entries}) != len(entries):
        raise StreamError("a name stands twice in the index")
    for entry in entries:
        if entry.form == SAME:
            other = own.get(entry.params.get("of", "")) if set(entry.params) == {"of"} and isinstance(entry.params["of"], str) else None
            if other is None or (other.shape, other.dtype) != (entry.shape, entry.dtype):
                raise StreamError(f"tensor {entry.name!r} is the same as {entry.params!r}, which is no tensor of its shape and type")
    return entries


def in_dtype(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """A form's float32 values in the tensor's own type, rounded half to even; what is plain already has it. bfloat16 is the bits, as uint16."""
    target = np.dtype(DTYPES[dtype])
    if values.dtype == target:
        return values
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):  # float16 ends at 65504
        return values.astype(target)
