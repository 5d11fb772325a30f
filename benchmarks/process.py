"""Work in a fresh process on so many cores: thread pools are made once a process and read their size when they start."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tensorpress.core.errors import InputError, TensorPressError

Tell = Callable[[str, int, int], None]  # what is done, how much is, of how much
THREADS = ("TENSORPRESS_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS", "NUMEXPR_NUM_THREADS")


def cores() -> list[int]:
    """Those that this process may use; made up where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def apart(tell: Tell, threads: int, seconds: float, work: Callable[..., Any], *args: Any, env: Mapping[str, str] | None = None) -> Any:
    """`work(*args, tell)` in a new process pinned to the first `threads` cores. InputError where it raised one, TimeoutError where it
    took longer than `seconds`, else RuntimeError."""
    until = time.monotonic() + seconds
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(theirs, cores()[:threads], work, args), daemon=True)
    with environment({**dict.fromkeys(THREADS, str(threads)), **(env or {})}):
        process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(min(max(until - time.monotonic(), 0), 1e6)):
                raise TimeoutError(f"{work.__name__} took longer than {seconds:.0f} s")
            kind, value = ours.recv()
            if kind == "result":
                process.join(10)  # its own clearing up is better than being ended
                return value
            if kind == "refused":
                raise InputError(value)
            if kind == "error":
                raise RuntimeError(value)
            tell(*value)
    except EOFError:
        process.join()
        raise RuntimeError(f"the measuring process ended with status {process.exitcode}") from None
    finally:
        process.terminate()
        process.join()


def _child(pipe: Any, pinned: list[int], work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, pinned)
    try:
        pipe.send(("result", work(*args, lambda *what: pipe.send(("tell", what)))))
    except KeyboardInterrupt:
        pass
    except TensorPressError as error:
        pipe.send(("refused", str(error)))
    except Exception:
        pipe.send(("error", traceback.format_exc()))


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` with these for as long as a process is started."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
