"""Rounds: every subject once in turn, round after round, so that a slow moment of the machine meets them all. Medians become rows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from process import Tell
from subjects import Coder, Ours, Subject, ready
from tensors import Array, Tensors

from tensorpress.core.binary import Buffer


@dataclass(frozen=True)
class Pace:
    """How long to measure: `rounds` of everything, but of slow subjects only what `allowance` seconds allow, and
    of those that need more than `patience` seconds for all tensors only the first `part` bytes of them."""

    rounds: int
    allowance: float
    patience: float
    part: int = 9 << 20


@dataclass
class Times:
    """Seconds of each operation on all tensors, a number a round."""

    name: str
    tensors: Tensors
    rounds: int = 1
    nbytes: int = 0
    error: float = 0.0  # root mean square, in levels
    ours: bool = False
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def clock(self, op: str, call: Callable[[], None]) -> float:
        started = time.perf_counter()
        call()
        self.seconds.setdefault(op, []).append(time.perf_counter() - started)
        return self.seconds[op][-1]


class Copy:
    """memcpy: numpy's copy of every array. With more threads each copies its own stretch of every array."""

    def __init__(self, tensors: Tensors, outs: Sequence[Array], threads: int) -> None:
        self.times = Times("memcpy", tensors, nbytes=tensors.nbytes)
        flat = [(out.reshape(-1), x.reshape(-1)) for out, x in zip(outs, tensors.arrays)]
        self.shares = [[(out[s], x[s]) for out, x in flat for s in [stretch(out.size, n, threads)]] for n in range(threads)]
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def round(self) -> None:
        self.times.clock("copy", self._copy)

    def _copy(self) -> None:
        if self.pool is None:
            copy_all(self.shares[0])
        else:
            list(self.pool.map(copy_all, self.shares))


def stretch(size: int, number: int, of: int) -> slice:
    return slice(size * number // of, size * (number + 1) // of)


def copy_all(pairs: Sequence[tuple[Array, Array]]) -> None:
    for out, x in pairs:
        np.copyto(out, x)


class Space:
    """Memory for streams, made and touched once and used by every subject in turn: what one encodes it decodes before the next begins."""

    def __init__(self) -> None:
        self.held = np.zeros(0, np.uint8)

    def rooms(self, sizes: Sequence[int | None]) -> list[Array | None]:
        """A buffer of its own for each array, or None."""
        ends = np.cumsum([0 if n is None else -(-n // 64) * 64 for n in sizes], dtype=np.int64)
        if len(ends) and ends[-1] > self.held.size:
            self.held = np.ones(ends[-1], np.uint8)
        return [None if n is None else self.held[end - -(-n // 64) * 64 :][:n] for n, end in zip(sizes, ends)]


def room_nbytes(coder: Coder, x: Array) -> int | None:
    return coder.room_nbytes(x) if isinstance(coder, Ours) else None


class Coding:
    """A subject on its way through all tensors and back."""

    def __init__(self, subject: Subject, tensors: Tensors, outs: Sequence[Array], space: Space, pace: Pace) -> None:
        self.subject, self.outs, self.space = subject, outs, space
        used = set(tensors.sites)
        coders = {site: subject.fit(site, samples) for site, samples in enumerate(tensors.samples) if site in used}
        self.coders = [coders[site] for site in tensors.sites]
        self.times = Times(subject.name, tensors, ours=subject.ours)
        trial = tensors.first(f"{tensors.name.removesuffix('-all')}-some", min(pace.part, tensors.nbytes // 7 + 1))
        if not subject.whole and len(trial.arrays) < len(tensors.arrays):
            self._make(trial)
            seconds = self.times.clock("encode", self.encode) + self.times.clock("decode", self.decode)
            self.times.seconds.clear()
            if seconds * tensors.nbytes / trial.nbytes <= pace.patience:
                self._make(tensors)
        else:
            self._make(tensors)
        self._check(pace)

    def _make(self, tensors: Tensors) -> None:
        self.times.tensors = tensors
        self.data: list[Buffer] = [b""] * len(tensors.arrays)
        self.rooms = self.space.rooms([room_nbytes(coder, x) for coder, x in zip(self.coders, tensors.arrays)])

    def encode(self) -> None:
        for n, (coder, x, room) in enumerate(zip(self.coders, self.times.tensors.arrays, self.rooms)):
            self.data[n] = coder.encode(x, room)

    def decode(self) -> None:
        for coder, data, out in zip(self.coders, self.data, self.outs):
            coder.decode(data, out)

    def _check(self, pace: Pace) -> None:
        """What is timed is right: values come back as promised, and the same bytes every time. AssertionError where not."""
        name, arrays = self.subject.name, self.times.tensors.arrays
        first = Times(name, self.times.tensors)
        spent = first.clock("encode", self.encode)
        for out, x in zip(self.outs, arrays):
            np.copyto(out, ~x)  # a value that is not written stays wrong
        found: list[Any] = []
        spent += first.clock("decode", lambda: found.extend(c.decode(d, o) for c, d, o in zip(self.coders, self.data, self.outs)))
        back = [np.frombuffer(y, x.dtype) for x, y in zip(arrays, found, strict=True)]
        if self.subject.error == 0:
            if not all(np.array_equal(y, x.reshape(-1)) for x, y in zip(arrays, back)):
                raise AssertionError(f"{name}: an array came back with other bytes")
        else:
            self.times.error = self._away(back)
        if self.subject.ours and bytes(self.coders[0].encode(arrays[0], None)) != bytes(self.data[0]):
            raise AssertionError(f"{name}: two encodes of one array differ")
        self.times.nbytes = sum(len(data) for data in self.data)
        self.times.rounds = max(1, min(pace.rounds, int(pace.allowance / spent)))
        if spent > pace.allowance:  # once is enough
            self.times.rounds, self.times.seconds = 0, first.seconds

    def _away(self, back: Sequence[Array]) -> float:
        """Root mean square error of a lossy subject, in levels."""
        squares = 0.0
        for coder, data, out, x, y in zip(self.coders, self.data, self.outs, self.times.tensors.arrays, back):
            away = y.astype(np.int16) - x.reshape(-1)
            if np.abs(away).max(initial=0) > np.ceil(self.subject.error):
                raise AssertionError(f"{self.subject.name}: a value came back {np.abs(away).max()} levels away, {self.subject.error} are allowed")
            squares += float(np.square(away, dtype=np.float64).sum())
            kept = y.copy()
            np.copyto(out, ~x)
            if not np.array_equal(kept, np.frombuffer(coder.decode(data, out), x.dtype)):
                raise AssertionError(f"{self.subject.name}: two decodes of one stream differ")
        return float((squares / self.times.tensors.nbytes) ** 0.5)

    def round(self) -> None:
        self.times.clock("encode", self.encode)
        self.times.clock("decode", self.decode)


def measure(
    tensors: Tensors, wanted: Sequence[tuple[Subject, Pace]], threads: int, tell: Tell, copies: bool = True, seconds: float = math.inf
) -> list[dict[str, Any]]:
    """Two rows a subject, encode and decode, and, with `copies`, one of memcpy. After so many `seconds` no subject and no round is begun."""
    started = time.monotonic()
    outs, space = [np.zeros_like(x) for x in tensors.arrays], Space()
    rounds = max([1, *(pace.rounds for _, pace in wanted)])
    title = f"{tensors.name}, {threads} thread{'s'[: threads > 1]}"
    copy = Copy(tensors, outs, threads)
    copy.round()  # touches the arrays
    copy.times.seconds.clear()
    copy.times.rounds = rounds
    found: list[Copy | Coding] = [copy] if copies else []
    steps = len(wanted) + rounds * (1 + len(wanted))
    for n, (subject, pace) in enumerate(wanted):
        tell(f"{title}: checking {subject.name}", n, steps)
        if time.monotonic() - started > seconds:
            break
        found.append(Coding(subject, tensors, outs, space, pace))
    for number in range(rounds):
        for n, each in enumerate(found):
            late = number > 0 and time.monotonic() - started > seconds
            if number < each.times.rounds and not late:
                tell(f"{title}: round {number + 1} of {rounds}, {each.times.name}", len(wanted) + number * len(found) + n, steps)
                each.round()
    tell(title, steps, steps)
    return [row for each in found for row in rows_of(each.times, threads)]


def rows_of(times: Times, threads: int) -> list[dict[str, Any]]:
    return [row(times, op, seconds, threads) for op, seconds in times.seconds.items()]


def row(times: Times, op: str, seconds: Sequence[float], threads: int, **more: Any) -> dict[str, Any]:
    """One figure of the contract. `seconds`: a number a round, of all tensors."""
    raw, median = times.tensors.nbytes, statistics.median(seconds)
    low, _, high = np.percentile(seconds, (25, 50, 75))
    return {
        "subject": times.name,
        "op": op,
        "threads": threads,
        "gb_per_s": raw / median / 1e9,
        "ratio": raw / times.nbytes,
        "nbytes": times.nbytes,
        "tensor": times.tensors.name,
        "spread": float(high - low) / median,
        "seconds": median,
        "rounds": len(seconds),
        "raw_nbytes": raw,
        "ours": times.ours,
        **({"rmse": times.error} if times.error else {}),
        **more,
    }


def speed(path: Path, paces: Mapping[str, Pace], threads: int, copies: bool, seconds: float, tell: Tell) -> list[dict[str, Any]]:
    """`measure` for a process of its own: tensors from a file, subjects by name."""
    return measure(Tensors.load(path), [(ready(name), pace) for name, pace in paces.items()], threads, tell, copies, seconds)
