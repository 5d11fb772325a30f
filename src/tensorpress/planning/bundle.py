"""All frames of one forward pass in one file that names its plan. FORMAT.md, section 10. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.binary import Buffer
from tensorpress.core.container import BUNDLE, CHECK_NBYTES, MAX_NBYTES, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import DTYPES, parse_head
from tensorpress.core.recover import Recovered, scan_frames
from tensorpress.core.stream import Frame, read_frame
from tensorpress.planning.plan import Plan

Array = NDArray[Any]


class RecoveredBundle(NamedTuple):
    """`frames`: (site's place in the plan, what is intact), in the order of writing; `missing`: frames of which not even the head is; `faults`: a line each."""

    frames: list[tuple[int, Recovered]]
    missing: int
    faults: tuple[str, ...]


def write_bundle(plan: Plan, frames: Sequence[bytes]) -> bytes:
    """All streams of one forward pass as one file, which names the plan by its full digest."""
    return Container(BUNDLE, {"plan": plan.digest, "frames": len(frames)}, {"frames": b"".join(frames)}).to_bytes()


@overload
def read_bundle(data: Buffer, plan: Plan, *, max_nbytes: int = MAX_NBYTES, recover: Literal[False] = False) -> list[tuple[int, Array]]: ...
@overload
def read_bundle(data: Buffer, plan: Plan, *, max_nbytes: int = MAX_NBYTES, recover: Literal[True]) -> RecoveredBundle: ...
def read_bundle(data: Buffer, plan: Plan, *, max_nbytes: int = MAX_NBYTES, recover: bool = False) -> list[tuple[int, Array]] | RecoveredBundle:
    """[(site's place in the plan, array)] in the order of writing. StreamError for damage, another plan, or over `max_nbytes` (1 GiB by default) in all.

    With `recover` the frames may be damaged, cut or missing: see RecoveredBundle. What refers to a lost array is lost as well.
    """
    nbytes = memoryview(data).nbytes  # frames are views of the data: what is made of them is counted
    box = Container.from_bytes(data, BUNDLE, max_nbytes=nbytes, damaged="frames" if recover else "")
    header = box.header
    if set(header) != {"plan", "frames"} or set(box.sections) != {"frames"}:
        raise StreamError(f"bundle has the keys {sorted(header)} and sections {sorted(box.sections)}, not plan and frames, and frames")
    if header["plan"] != plan.digest:
        raise StreamError(f"bundle was written with plan {str(header['plan'])[:16]}…, this plan is {plan.digest[:16]}…")
    body = memoryview(box.sections["frames"])
    if recover:
        return _recovered(body, plan, header["frames"], list(box.faults.values()), max_nbytes)
    found: list[tuple[int, Array]] = []
    by_site: list[list[Array]] = [[] for _ in plan.entries]
    at, left = 0, max_nbytes
    while at < len(body):
        frame = read_frame(body, at, max_nbytes=left)
        if frame.plan_id != plan.id or frame.site >= len(plan.entries):
            found_is = f"frame at byte {at} is of site {frame.site} and plan {frame.plan_id:08x}"
            raise StreamError(f"{found_is}; plan {plan.id:08x} has {len(plan.entries)} sites")
        entry = plan.entries[frame.site]
        reference = None
        if entry.reference is not None:  # the same image's: frames of one site stand in the order of the batch
            number, of = len(by_site[frame.site]), by_site[entry.reference]
            if number >= len(of):
                raise StreamError(f"frame at byte {at} of site {frame.site} comes before its reference, site {entry.reference}")
            reference = of[number]
        try:
            array = entry.codec.decode_payload(frame.payload, max_nbytes=left, reference=reference)
        except (InputError, StreamError) as error:
            raise StreamError(f"frame at byte {at} of site {frame.site}: {error}") from None
        found.append((frame.site, array))
        by_site[frame.site].append(array)
        at, left = at + frame.nbytes, left - array.nbytes
    if len(found) != header["frames"]:
        raise StreamError(f"bundle holds {len(found)} frames, its header promised {header['frames']}")
    return found


def _recovered(body: memoryview, plan: Plan, promised: Any, faults: list[str], max_nbytes: int) -> RecoveredBundle:
    if type(promised) is not int:
        raise StreamError(f"bundle has {promised!r} frames")
    found: list[tuple[int, Recovered]] = []
    by_site: list[list[Recovered]] = [[] for _ in plan.entries]
    complete = True  # no frame is missing so far, so a site's k-th frame is the k-th image's
    for span in scan_frames(body, plan.id, max_nbytes=max_nbytes):
        if span.frame is None or span.frame.site >= len(plan.entries):
            if span.end - span.start > CHECK_NBYTES or span.end < len(body) or not faults:  # else it may be the section's check
                faults.append(f"frames bytes {span.start} to {span.end}: {span.fault or 'of a site that the plan has not'}")
                complete = False
            continue
        site = span.frame.site
        entry, number = plan.entries[site], len(by_site[site])
        beside = None
        if entry.reference is not None and complete and number < len(by_site[entry.reference]):
            beside = by_site[entry.reference][number]
        one = _frame(span.frame, plan, beside, max_nbytes)
        max_nbytes -= one.array.nbytes
        faults += [f"frame at byte {span.start} of site {site}: {fault}" for fault in one.faults]
        found.append((site, one))
        by_site[site].append(one)
    return RecoveredBundle(found, promised - len(found), tuple(faults))


def _frame(frame: Frame, plan: Plan, beside: Recovered | None, max_nbytes: int) -> Recovered:
    """One frame, its head verified; `beside` is what its reference became."""
    entry = plan.entries[frame.site]
    try:
        if entry.reference is None:
            return entry.codec.recover(frame.payload, max_nbytes=max_nbytes, trusted=True)
        if beside is not None:
            return entry.codec.recover(frame.payload, max_nbytes=max_nbytes, trusted=True, reference=beside)
        fault = f"its reference, site {entry.reference}, is not known"
    except InputError as error:
        fault = str(error)
    code, shape, *_ = parse_head(frame.payload)
    return Recovered(np.zeros(shape, DTYPES[code]), np.broadcast_to(np.True_, shape), (fault,))
