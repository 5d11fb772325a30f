"""How cost grows: time against a tensor's size and against its channels, peak memory beside each, and what a call costs when there is little to do."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from measure import Pace, measure, room_nbytes
from process import Tell
from subjects import Subject, ready
from tensors import Tensors, synthetic_tensors

from tensorpress import _native

SIZES = {4 << 10: (16, 16, 16), 64 << 10: (64, 32, 32), 1 << 20: (64, 128, 128), 16 << 20: (64, 512, 512), 256 << 20: (256, 1024, 1024)}
CHANNELS = {4: (4, 512, 512), 16: (16, 256, 256), 256: (256, 64, 64), 1024: (1024, 32, 32), 4096: (4096, 16, 16)}  # a MiB each
SMALL = 4 << 10  # bytes of the tensor of a small call
FILL = 1 << 20  # bytes: a smaller tensor is coded again and again in one round until it was so many
VISIBLE = 2 << 20  # bytes of the smallest tensor whose memory is measured: the kernel counts pages in batches


def by_size(nbytes: int) -> Tensors:
    return synthetic_tensors(f"synthetic-{nbytes}", SIZES[nbytes])


def shapes(largest: int, channels: bool) -> dict[str, tuple[int, int, int]]:
    """Tensors of up to `largest` bytes: by size, then perhaps by channels."""
    found = {str(n): shape for n, shape in SIZES.items()} | ({f"c{n}": shape for n, shape in CHANNELS.items()} if channels else {})
    return {f"synthetic-{name}": shape for name, shape in found.items() if math.prod(shape) <= largest}


def growth(largest: int, names: Sequence[str], threads: int, pace: Pace, tell: Tell) -> list[dict[str, Any]]:
    """Rows by size; on one thread also by channels."""
    wanted = [(ready(name), pace) for name in names]
    rows = []
    for name, shape in shapes(largest, channels=threads == 1).items():
        tensors = synthetic_tensors(name, shape)
        times = max(1, FILL // tensors.nbytes)
        rows += measure(Tensors(tensors.name, tensors.arrays * times, tensors.sites * times, tensors.samples), wanted, threads, tell)
    return rows


# ---- memory


def peaks(largest: int, names: Sequence[str], tell: Tell) -> list[dict[str, Any]]:
    """What an encode and a decode add to the resident set at their peak, as a multiple of the tensor's bytes; output that the
    call makes itself is in it. Nothing where this system does not show it: a copy of the tensor must be seen to grow it first."""
    found: list[dict[str, Any]] = []
    sizes = [n for n in SIZES if VISIBLE <= n <= largest]
    for number, nbytes in enumerate(sizes):
        tensors = by_size(nbytes)
        seen = risen(tensors.arrays[0].copy)
        if seen is None or seen / nbytes < 0.9:
            return []
        for name in names:
            tell(f"peak memory of {name}", number, len(sizes))
            for op, call in calls_of(ready(name), tensors, own=True).items():
                call()  # what is made once, such as tables and the threads' scratch, is no cost of a call
                found.append({"subject": name, "op": op, "tensor": tensors.name, "peak_ratio": (risen(call) or 0) / nbytes})
    return found


def calls_of(subject: Subject, tensors: Tensors, own: bool) -> dict[str, Callable[[], Any]]:
    """An encode of the one array, into memory of its `own` or into a buffer, and its decode into an array."""
    x = tensors.arrays[0]
    coder, out = subject.fit(0, tensors.samples[0]), np.zeros_like(x)
    nbytes = None if own else room_nbytes(coder, x)
    room = None if nbytes is None else np.ones(nbytes, np.uint8)
    data = bytes(coder.encode(x, room))
    return {"encode": lambda: coder.encode(x, room), "decode": lambda: coder.decode(data, out)}


def risen(call: Callable[[], Any]) -> int | None:
    """Bytes by which the peak of the resident set exceeds its size before `call`; None where it cannot be seen."""
    with suppress(OSError, StopIteration):
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS:")
        kept = call()
        after = status("VmHWM:")
        del kept
        return max(after - before, 0)
    return None


def status(key: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


# ---- calls


def calls(names: Sequence[str], rounds: int, tell: Tell) -> list[dict[str, Any]]:
    """What an encode and a decode of 4 KiB take, and what of it is the kernels': microseconds, medians of `rounds`."""
    tensors = by_size(SMALL)
    found = []
    for number, name in enumerate(names):
        tell(f"a call of {name} on 4 KiB", number, len(names))
        for op, call in calls_of(ready(name), tensors, own=False).items():  # recorded kernels write there again
            with recorded() as kernels:
                call()
            whole, kernel, over = [], [], []
            for _ in range(5 * rounds):
                whole.append(microseconds(call))
                kernel.append(sum(microseconds(replay) for replay in kernels))
                over.append(whole[-1] - kernel[-1])
            call_us, kernel_us, over_us = map(statistics.median, (whole, kernel, over))
            found.append({"subject": name, "op": op, "call_us": call_us, "kernel_us": kernel_us, "over_us": over_us})
    return found


def microseconds(call: Callable[[], Any], times: int = 40) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times * 1e6


@contextmanager
def recorded() -> Iterator[list[Callable[[], Any]]]:
    """The native calls that are made inside, each to be made again with the same arguments."""
    made: list[Callable[[], Any]] = []

    def recorder(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made.append(lambda: kernel(*args, **kwargs))
            return kernel(*args, **kwargs)

        return call

    places = [_native, *(c for c in vars(_native).values() if isinstance(c, type))]
    changed = []
    for place in places:
        for name, value in list(vars(place).items()):
            if not name.startswith("_") and callable(value) and not isinstance(value, type):
                setattr(place, name, recorder(value))
                changed.append((place, name, value))
    try:
        yield made
    finally:
        for place, name, value in changed:
            setattr(place, name, value)
