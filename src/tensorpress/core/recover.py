"""What is left of damaged bytes: stripes whose checks hold, and frames behind a damaged one. Nothing is guessed.

A stripe's check is seeded with the payload's head and the stripe's number, so who finds a right one knows the head as well.
A damaged stripe does not hide the next: its length stands in the stripe table. Where that is damaged too, or bytes are missing, stripes are
found from the end of the payload backwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.binary import Buffer, crc32c, row_of_bytes
from tensorpress.core.container import section_seed
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import DTYPES, STRIPE_ROWS, Reader, Shape, check_needed, parse_head
from tensorpress.core.stream import FRAME_NBYTES, MAX_FRAME_HEAD_NBYTES, Frame, frame_front


@dataclass(frozen=True)
class Recovered:
    """What could be decoded. Unpacks as `array, lost`.

    `array`: the values, 0 where lost; `lost`: bool, of the array's shape (a read-only view); `faults`: a line for each thing that is wrong.
    """

    array: NDArray[Any]
    lost: NDArray[np.bool_]
    faults: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.array, self.lost))


class Salvage(NamedTuple):
    """The stripes of a payload: verified, or None with a fault."""

    dtype: np.dtype[Any]
    shape: Shape
    stripes: list[memoryview | None]
    faults: dict[int, str]  # by stripe


def salvage(payload: Buffer, *, tail: int = 0, max_nbytes: int, trusted: bool = False) -> Salvage:
    """The stripes that are intact. StreamError where the head is damaged or, unless the head is `trusted`, no stripe proves it.

    `tail`: bytes at the end that are not the payload's, if all of them are there: what was cut may have been those.
    """
    data = row_of_bytes(payload)
    code, shape, at, count = parse_head(data)
    dtype = DTYPES[code]
    check_needed(dtype, shape, max_nbytes)
    end = at + 8 * count
    if end > len(data):
        raise StreamError(f"stripe table ends at {end}, the payload at {len(data)}")
    table = np.frombuffer(data, "<u4", 2 * count, at).reshape(count, 2)
    seed = crc32c(data[:at])
    lengths = table[:, 0].astype(np.int64)
    forward = end + np.concatenate([[0], np.cumsum(lengths)])
    backward = len(data) - tail - np.concatenate([[0], np.cumsum(lengths[::-1])])[::-1]  # where they begin, if the last one ends where the payload does

    def found(number: int, begin: int) -> memoryview | None:
        stripe = data[max(begin, 0) : begin + int(lengths[number])]
        right = begin >= end and len(stripe) == lengths[number] and crc32c(stripe, section_seed(seed, number)) == table[number, 1]
        return stripe if right else None

    stripes: list[memoryview | None] = []
    faults: dict[int, str] = {}
    for number in range(count):
        begin, other = int(forward[number]), int(backward[number])
        stripe = found(number, begin)
        if stripe is None and other != begin:
            stripe = found(number, other)
        stripes.append(stripe)
        if stripe is None:
            cut = begin + int(lengths[number]) > len(data)
            faults[number] = f"stripe {number} (payload bytes {begin} to {begin + int(lengths[number])}) is {'cut' if cut else 'damaged: its check fails'}"
    if not trusted and all(stripe is None for stripe in stripes):
        raise StreamError("no stripe of the payload is intact: its head may be damaged as well" + "".join(f"; {fault}" for fault in [*faults.values()][:1]))
    return Salvage(dtype, shape, stripes, faults)


def stripes_of(lost: NDArray[np.bool_]) -> list[int]:
    """The stripes that have a lost value."""
    if lost.ndim < 3:
        return [0] if lost.any() else []
    rows = lost.any(axis=tuple(axis for axis in range(lost.ndim) if axis != lost.ndim - 2))
    return sorted({int(row) // STRIPE_ROWS for row in np.flatnonzero(rows)})


def lost_rows(shape: Shape, stripes: set[int]) -> NDArray[np.bool_]:
    """A bool view of `shape`, true in the rows of these stripes."""
    if len(shape) < 3:
        return np.broadcast_to(np.bool_(bool(stripes)), shape)
    rows = np.zeros((shape[-2], 1), bool)
    for number in stripes:
        rows[number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS] = True
    return np.broadcast_to(rows, shape)


# --- frames --------------------------------------------------------------------------------------------------------

HEADS = ((16, MAX_FRAME_HEAD_NBYTES), (4, FRAME_NBYTES))  # where the plan's id stands in a wide and in a narrow head, and their sizes
SEARCH = 16  # bytes of stripe tables that are looked at, at most, for each byte that is searched


class Span(NamedTuple):
    """Bytes `start` to `end`: a frame with a right head whose payload may be damaged or cut, or none and why."""

    start: int
    end: int
    frame: Frame | None
    fault: str = ""


def scan_frames(data: Buffer, plan_id: int, *, max_nbytes: int) -> Iterator[Span]:
    """Every frame of a plan whose head is intact, and what lies between; the spans fill `data`.

    Behind damage the next frame is the next place that names the plan and has a right check.
    """
    whole = bytes(data)  # once, for all searches: a view has no find
    data, at = memoryview(whole), 0
    while at < len(data):
        frame: Frame | None = None
        fault = ""
        try:
            frame = frame_front(data[at:], at, max_nbytes=max_nbytes, whole=False)
            if frame.plan_id != plan_id:
                fault = f"frame at byte {at} is of plan {frame.plan_id:08x}, not {plan_id:08x}"
                frame = None
        except StreamError as error:
            fault = str(error)
        if frame is not None and _intact(frame):
            end = at + frame.nbytes
        else:
            end = _next_frame(whole, at + 1, plan_id, max_nbytes)
            if frame is not None:
                start = at + frame.nbytes - len(frame.payload)
                frame = frame._replace(payload=data[start : min(at + frame.nbytes, end)])
        yield Span(at, end, frame, fault)
        at = end


def _intact(frame: Frame) -> bool:
    try:
        src = Reader(frame.payload, max_nbytes=1 << 62)
        for _ in range(src.stripes):
            src.stripe()
    except StreamError:
        return False
    return True


def _next_frame(whole: bytes, at: int, plan_id: int, max_nbytes: int) -> int:
    """Where the next frame of the plan begins, at `at` or later; the end of the data where there is none."""
    data, wanted = memoryview(whole), struct.pack("<I", plan_id)
    found, work = whole.find(wanted, at + HEADS[-1][0]), SEARCH * (len(data) - at)
    while found >= 0 and work >= 0:
        for before, head_nbytes in HEADS:
            first = found - before
            if first < at:
                continue
            try:
                work -= 8 * min(parse_head(data[first + head_nbytes :])[3], len(data) // 8)
                if frame_front(data[first:], first, max_nbytes=max_nbytes, whole=False).plan_id == plan_id:
                    return first
            except StreamError:
                continue
        found = whole.find(wanted, found + 1)
    return len(data)
