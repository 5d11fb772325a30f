"""A safetensors file to a .tpw and back without its network: a tensor at a time, a piece of it at a time, however large the file.

    encode("model.safetensors", "m.tpw")                     every bit comes back
    encode("model.safetensors", "m.tpw", bits=4)             matrices at about 4 bits a weight, all else as it is
    decode("m.tpw", "out.safetensors")

All that is known of a weight here is its size beside the others of its tensor, so a matrix has one step, the same share of its root mean square
everywhere; or each of its rows has one, `by="row"`, which suits rows that a norm behind them makes alike, and on a ResNet-20 lost more at as many bytes.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.forms import Grid, Planes, Slabs, Target
from tensorpress.blocks.forms.planes import PIECE, put_piece
from tensorpress.coding.adaptive import encoded_nbytes
from tensorpress.core.atomic import behind_links, replacing
from tensorpress.core.binary import crc32c, varint
from tensorpress.core.container import MAX_NBYTES, WEIGHTS, front, on_disk, section_seed
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.floats import plainly
from tensorpress.planning.weight_file import PART_VALUES, SAME, Entry, Parts, Tensor, WeightReader, in_dtype
from tensorpress.safetensors_file import Place, SafetensorsFile, front_of, laid_out, opened

Progress = Callable[[str, int, int], None]  # what, bytes done, of how many
Array = NDArray[Any]
LOSSY = ("F64", "F32", "F16", "BF16")
LARGEST = {"F64": 1e30, "F32": 1e30, "BF16": 1e30, "F16": 6e4}  # what is beyond is stored bit for bit, as is what a step would be too small for
SLAB = 1 << 18  # values that are quantised at a time
LEAST_PART = 1 << 16  # values
LEAST_ROW = 8  # values: shorter ones are no rows of weights
LEAST_STEP = 2.0**-95
STEPS = (2.0**-12, 16.0)  # of a row's root mean square
SAMPLE = 1 << 19  # values from which the step for a number of bits is found
TRIES = 8
COPY = 1 << 22  # bytes
EXPANDING = 64  # a file may hold tensors of so many times its bytes, or of MAX_NBYTES, unless told otherwise


def silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Written:
    """What `encode` did."""

    nbytes: int  # of the file
    raw_nbytes: int  # of the safetensors file
    values: int
    step_rms: float | None  # of a row's root mean square; None where all is lossless
    relative_mse: float | None  # of what was quantised: squared error by squared weights
    forms: Mapping[str, int]  # tensors of each
    kept: tuple[str, ...]  # matrices of floats that could not be quantised
    seconds: float

    @property
    def bits_per_value(self) -> float:
        """Of the whole file."""
        return 8 * self.nbytes / max(self.values, 1)

    def row(self) -> dict[str, Any]:
        """As JSON."""
        names = ("nbytes", "raw_nbytes", "values", "step_rms", "relative_mse", "seconds")
        return {**{n: getattr(self, n) for n in names}, "bits_per_value": self.bits_per_value, "forms": dict(self.forms), "kept": list(self.kept)}


# --- parts on disk ------------------------------------------------------------------------------------------------------------------------------


class Spooled(NamedTuple):
    """A finished part: bytes of the spool."""

    coded: tuple[int, int]  # (from, bytes) of the adaptive coder's string
    octets: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return len(varint(self.coded[1])) + self.coded[1] + self.octets[1]


class Spool(Target):
    """A part whose bytes go to a file as they are made."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._start = file, file.tell()

    def octets(self, data: Any) -> None:
        self._file.write(varint(len(data)))
        self._file.write(data)

    def finish(self) -> Any:
        middle, coded = self._file.tell(), self._coder.finish()
        self._file.write(coded)
        return Spooled((middle, len(coded)), (self._start, middle - self._start))


def copied(file: BinaryIO, start: int, nbytes: int) -> Iterator[bytes]:
    """Those bytes of a file, some at a time."""
    for at in range(start, start + nbytes, COPY):
        file.seek(at)
        yield file.read(min(COPY, start + nbytes - at))


def assemble(out: BinaryIO, header: Mapping[str, Any], index: bytes, spool: BinaryIO, parts: list[Spooled], progress: Progress) -> int:
    """The container of index and parts; how many bytes it takes."""
    head, check = front(WEIGHTS, header, [("index", len(index)), *((f"part/{i}", part.nbytes) for i, part in enumerate(parts))])
    out.write(head)
    total, done = sum(part.nbytes for part in parts), 0

    def section(number: int, pieces: Iterator[bytes]) -> None:
        nonlocal done
        found = section_seed(check, number)
        for piece in pieces:
            out.write(piece)
            found, done = crc32c(piece, found), done + len(piece)
            progress("writing", done, total + len(index))
        out.write(found.to_bytes(4, "little"))

    def part_of(part: Spooled) -> Iterator[bytes]:
        yield varint(part.coded[1])
        yield from copied(spool, *part.coded)
        yield from copied(spool, *part.octets)

    section(0, iter([index]))
    for number, part in enumerate(parts):
        section(number + 1, part_of(part))
    return out.tell()


# --- tensors that are still on disk, as forms ------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What became of the weights that were quantised."""

    energy: float = 0.0
    error: float = 0.0
    beside: int = 0  # values


@dataclass(frozen=True)
class OnDisk:
    """A tensor of a safetensors file as `Parts` takes it: the byte planes of all of it, a piece at a time."""

    file: SafetensorsFile
    place: Place
    told: Callable[[int], None]  # of values that were read

    id = Planes.id

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.shape

    @property
    def params(self) -> dict[str, Any]:
        return {"bfloat16": True} if self.place.dtype == "BF16" else {}

    def write(self, out: Target) -> None:
        for piece in self.file.pieces(self.place, PIECE):
            put_piece(out, piece, self.place.dtype == "BF16")
            self.told(piece.nbytes)


@dataclass(frozen=True)
class Quantised(OnDisk):
    """The same as multiples of a step, a slab of rows at a time."""

    step: float = 1.0  # of the root mean square of a row, or of the tensor
    rms: float | None = None  # of the tensor, where all its rows have one step
    measured: Measured = field(default_factory=Measured)

    @property
    def rows(self) -> int:
        """Of a slab."""
        return slab_rows(self.shape)

    @property
    def id(self) -> str:  # type: ignore[override]
        return Slabs.id if self.rows < self.shape[0] else Grid.id

    @property
    def params(self) -> dict[str, Any]:
        own = {"rows": True} if self.rms is None and self.shape[0] > 1 else {}
        return {"rows": self.rows, "form": Grid.id, "own": own} if self.id == Slabs.id else own

    def write(self, out: Target) -> None:
        for slab in slabs(self.file, self.place):
            grid = quantised(slab, self.step, self.rms)
            grid.write(out)
            error = np.subtract(in_float64(in_dtype(grid.values(), self.place.dtype), self.place.dtype), slab)
            self.measured.error += float(np.vdot(error, error))
            self.measured.energy += float(np.vdot(slab, slab))
            self.told(slab.size * self.place.array_dtype.itemsize)


def slab_rows(shape: tuple[int, ...]) -> int:
    """About SLAB values; the last slab has two rows at least, unless there is one only: a grid of one row has no steps by row."""
    rows = shape[0]
    found = max(2, SLAB // max(math.prod(shape[1:]), 1))
    while found < rows and rows % found == 1:
        found += 1
    return min(found, rows)


def in_float64(values: Array, dtype: str) -> NDArray[np.float64]:
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def slabs(file: SafetensorsFile, place: Place) -> Iterator[NDArray[np.float64]]:
    """The tensor as (rows, values of a row), a slab at a time."""
    width, rows = place.values // place.shape[0], slab_rows(place.shape)
    for at in range(0, place.shape[0], rows):
        n = min(rows, place.shape[0] - at)
        yield in_float64(file.read(place, at * width, n * width), place.dtype).reshape(n, *place.shape[1:])


def steps_of(slab: NDArray[np.float64], step: float, rms: float | None) -> NDArray[np.float64]:
    """(rows,) or (1,); a row of zeros has any."""
    if rms is not None:
        return np.array([step * rms or 1.0])
    size = np.sqrt(np.square(slab.reshape(len(slab), -1)).mean(axis=1))
    return np.where(size > 0, step * size, 1.0)


def quantised(slab: NDArray[np.float64], step: float, rms: float | None) -> Grid:
    return Grid.nearest(slab, steps_of(slab, step, rms))


def tensor_rms(file: SafetensorsFile, place: Place, step: float) -> float | None:
    """Of all its values; None where it cannot be quantised: it is not finite, or too large or small for it."""
    energy, largest, least = 0.0, 0.0, math.inf
    for slab in slabs(file, place):
        rows = slab.reshape(len(slab), -1)
        top = float(np.abs(rows).max())
        if not top <= LARGEST[place.dtype]:  # NaN as well
            return None
        sizes = np.square(rows).mean(axis=1)
        energy, largest = energy + float(sizes.sum()), max(largest, top)
        least = min(least, float(sizes[sizes > 0].min(initial=math.inf)))
    if step * math.sqrt(least) < LEAST_STEP:
        return None
    return math.sqrt(energy / place.shape[0])


def is_matrix(place: Place) -> bool:
    return place.dtype in LOSSY and len(place.shape) >= 2 and place.values > 0 and place.values // place.shape[0] >= LEAST_ROW and width_fits(place)


def width_fits(place: Place) -> bool:
    """Whether few rows are a piece: what is wider is as good as a vector."""
    return 3 * (place.values // place.shape[0]) <= PIECE or place.values <= PIECE


def step_for(file: SafetensorsFile, places: list[Place], bits: float, by: str, progress: Progress) -> float:
    """The step, as a share of root mean squares, at which the coder takes about `bits` for each weight: found on rows from the middle of every matrix."""
    total, sample = sum(p.values for p in places), []
    for number, place in enumerate(places):
        width = place.values // place.shape[0]
        rows = max(1, min(place.shape[0], round(place.values * min(1.0, SAMPLE / total) / width), SLAB // width))
        first = (place.shape[0] - rows) // 2
        slab = in_float64(file.read(place, first * width, rows * width), place.dtype).reshape(rows, *place.shape[1:])
        if np.isfinite(slab).all() and np.abs(slab).max() <= LARGEST[place.dtype]:
            sample.append(slab)
        progress("sampling", number + 1, len(places))
    count = sum(s.size for s in sample)
    if not count:
        return 1.0
    sizes = [float(np.sqrt(np.square(s).mean())) if by == "tensor" else None for s in sample]

    def taken(step: float) -> float:
        return 8 * encoded_nbytes([quantised(s, step, rms).levels for s, rms in zip(sample, sizes)]) / count

    low, high = math.log2(STEPS[0]), math.log2(STEPS[1])
    at = min(max(2.0 - bits, low), high)
    for number in range(TRIES):  # a bit less for each doubling of the step, and less of that at low rates
        found = taken(2.0**at)
        progress("choosing a step", number + 1, TRIES)
        if abs(found - bits) < 0.005:
            break
        low, high = (at, high) if found > bits else (low, at)
        wanted = at + (found - bits)
        at = wanted if low < wanted < high else (low + high) / 2
    return float(2.0**at)


# --- both ways -------------------------------------------------------------------------------------------------------------------------------------


def tied(file: SafetensorsFile) -> dict[str, str]:
    """{tensor: an earlier one with the same bytes, type and shape}. Only tensors that begin and end alike are read to their ends."""
    alike: dict[Any, list[Place]] = {}
    for place in file.places:
        if place.nbytes >= 64:
            edge = min(place.values, 64)
            ends = file.read(place, 0, edge).tobytes() + file.read(place, place.values - edge, edge).tobytes()
            alike.setdefault((place.dtype, place.shape, ends), []).append(place)
    found: dict[str, str] = {}
    for places in alike.values():
        first: dict[bytes, str] = {}
        for place in places if len(places) > 1 else ():
            whole = hashlib.blake2b()
            for piece in file.pieces(place, PIECE):
                whole.update(piece.view(np.uint8))
            owner = first.setdefault(whole.digest(), place.name)
            if owner != place.name:
                found[place.name] = owner
    return found


@plainly
def encode(
    source: str | Path, output: str | Path, *, bits: float | None = None, step_rms: float | None = None, by: str = "tensor", progress: Progress = silent
) -> Written:
    """`source` (safetensors) to `output` (.tpw), lossless unless `bits` or `step_rms` is given. Memory: below twice the largest tensor, or some tens of MB.

    `bits`: that each weight of a matrix takes on average. `step_rms`: the quantiser's step instead, as a share of the root mean square of each matrix
    or row (`by`: "tensor" or "row"). Vectors, integers, 8-bit floats and what is not finite stay as they are. InputError, StreamError with the place and the reason.
    """
    began = time.monotonic()
    if bits is not None and step_rms is not None:
        raise InputError("give bits or step_rms, not both")
    if bits is not None and not 0.05 <= bits <= 12:
        raise InputError(f"bits = {bits}: 0.05 to 12 are possible")
    if step_rms is not None and not STEPS[0] <= step_rms <= STEPS[1]:
        raise InputError(f"step_rms = {step_rms}: {STEPS[0]:g} to {STEPS[1]:g} are possible")
    if by not in ("row", "tensor"):
        raise InputError(f"by = {by!r}: 'row' and 'tensor' are known")
    lossless = bits is None and step_rms is None
    with SafetensorsFile(source) as file, replacing(output) as out, tempfile.TemporaryFile(dir=behind_links(Path(output)).parent) as spool:
        same = tied(file)
        matrices = [] if lossless else [p for p in file.places if is_matrix(p) and p.name not in same]
        step = step_for(file, matrices, bits, by, progress) if bits is not None and matrices else step_rms
        chosen = {p.name for p in matrices}
        largest = max((p.values for p in file.places), default=0)  # small parts, where there is no coder that learns on from tensor to tensor
        parts, done = Parts(min(PART_VALUES, max(LEAST_PART, largest)) if lossless else PART_VALUES, lambda: Spool(spool)), []
        total, read, measured, forms, kept = sum(p.nbytes for p in file.places), 0, Measured(), dict[str, int](), list[str]()

        def told(nbytes: int) -> None:
            nonlocal read
            read += nbytes
            progress(place.name, read, total)

        for place in file.places:
            form: OnDisk | None = OnDisk(file, place, told)
            if place.name in same:
                form = None
                told(place.nbytes)
            elif place.name in chosen and step is not None:
                rms = tensor_rms(file, place, step)
                if rms is None:
                    kept.append(place.name)
                else:
                    form = Quantised(file, place, told, step, rms if by == "tensor" else None, measured)
            done.append(parts.add(Tensor(place.name, place.dtype, place.shape, form, same.get(place.name, ""))))  # type: ignore[arg-type]
            forms[SAME if form is None else form.id] = forms.get(SAME if form is None else form.id, 0) + 1
        done.append(parts.rest())
        made: dict[str, Any] = {"safetensors": [[k, v] for k, v in file.metadata.items()]} if file.metadata else {}
        if step is not None and not lossless:
            made["data_free"] = {"step_rms": step, "by": by}
        header, index = parts.front(made)
        nbytes = assemble(out, header, index, spool, [p for p in done if p is not None], progress)
        raw, values = file.path.stat().st_size, sum(p.values for p in file.places)
    mse = measured.error / measured.energy if measured.energy else None
    return Written(nbytes, raw, values, None if lossless else step, mse, forms, tuple(kept), time.monotonic() - began)


def held_nbytes(entry: Entry) -> int:
    """What of a tensor a decoder makes at once, as float32 or in its own type."""
    if entry.form in (SAME, Planes.id):
        return 0
    rows = entry.params.get("rows") if entry.form == Slabs.id else None
    share = min(rows, entry.shape[0]) / max(entry.shape[0], 1) if type(rows) is int and entry.shape else 1.0
    return int(share * max(entry.nbytes, 4 * entry.values))


@plainly
def decode(source: str | Path, output: str | Path, *, max_nbytes: int | None = None, progress: Progress = silent) -> tuple[int, int]:
    """`source` (.tpw) to `output` (safetensors); (bytes of the output, tensors). Memory: below twice the largest tensor, or some tens of MB.

    Any file of weights will do, though what others wrote may have tensors that are held whole; what `encode` wrote has its metadata again. StreamError where
    it is damaged, or where tensors take over `max_nbytes`; by default over 1 GiB and 64 times the file, and none over 1 GiB is held whole.
    """
    with opened(source) as file:
        limit = max(MAX_NBYTES, EXPANDING * Path(source).stat().st_size) if max_nbytes is None else max_nbytes
        reader = WeightReader.of(on_disk(file, WEIGHTS), max_nbytes=limit)
        for entry in reader.entries:
            if (held := held_nbytes(entry)) > (MAX_NBYTES if max_nbytes is None else max_nbytes):
                raise StreamError(f"tensor {entry.name!r} takes {held} bytes at once, which is over the limit of {max_nbytes or MAX_NBYTES}")
        pairs = reader.made.get("safetensors", [])  # a list, for an object of JSON would lose their order
        if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 and all(isinstance(v, str) for v in p) for p in pairs):
            raise StreamError("header 'made' has metadata of safetensors that are no pairs of strings")
        metadata = dict(pairs)
        if any(entry.name == "__metadata__" for entry in reader.entries):
            raise StreamError("a tensor of the name '__metadata__' cannot stand in a safetensors file")
        places = {p.name: p for p in laid_out((e.name, e.dtype, e.shape) for e in reader.entries)}
        total, done = sum(p.nbytes for p in places.values()), 0
        with replacing(output) as out:
            head = front_of(places.values(), metadata)
            out.write(head)
            for part in range(len(reader)):
                for entry, pieces in reader.pieces(part):
                    out.seek(len(head) + places[entry.name].start)
                    for values in pieces:
                        out.write(np.ascontiguousarray(values).view(np.uint8))
                        done += values.nbytes
                        progress(entry.name, done, total)
            for entry in reader.entries:
                if entry.form == SAME:
                    place, at = places[entry.params["of"]], len(head) + places[entry.name].start
                    for piece in copied(out, len(head) + place.start, place.nbytes):
                        out.seek(at)
                        at += out.write(piece)
                        done += len(piece)
                        progress(entry.name, done, total)
            nbytes = out.seek(0, 2)
            if nbytes != len(head) + total:  # an empty tensor at the end writes nothing
                raise StreamError(f"tensors of {nbytes - len(head)} bytes were decoded, the index has {total}")
    return nbytes, len(places)
