"""16 threads encode and decode with the same codec objects and one plan: the bytes are those of one thread alone.

    python native/race/shared.py [--threads 16] [--rounds 4] [--codec ID] [--json FILE]

Every card is here by itself, with the options of the golden streams. Objects are made anew for each round, so that what they work out on first use
is worked out by all threads at once; maps are cut for the pool of native threads however small they are. `make race` runs this under
ThreadSanitizer, the tests run a little of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden.make import OPTIONS

import tensorpress.core.threads
from tensorpress.core import registry
from tensorpress.core.site import Site
from tensorpress.core.stream import read_frame
from tensorpress.facade import decode
from tensorpress.planning.plan import Entry, Plan

SHAPES = ((32, 17, 19), (32, 9, 9), (32, 33, 8), (32, 24, 24))  # of one network's site: fits want the same channels
Array = NDArray[Any]


def maps(seed: int) -> list[Array]:
    """Rectified maps with zeros, one of each shape."""
    rng = np.random.default_rng(seed)
    return [np.maximum(rng.laplace(size=shape) * rng.gamma(1, 1, (shape[0], 1, 1)) - 0.2, 0).astype(np.float32) for shape in SHAPES]


def variants(only: list[str] | None) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(codec, options, whether it is fitted with a reference)."""
    for card in registry.cards().values():
        if card.family == "features" and (only is None or card.id in only):
            for options in [{}, *OPTIONS.get(card.id, {}).values()]:
                yield card.id, options, False
                if not options and registry.build(card.id).takes_reference:
                    yield card.id, options, True


def together(threads: int, work: Callable[[int], None]) -> None:
    """work(0 … threads - 1), all let go at one moment; the first error of any of them is raised."""
    ready, failed = threading.Barrier(threads), []

    def run(number: int) -> None:
        try:
            ready.wait()
            work(number)
        except BaseException as error:
            failed.append(error)
            ready.abort()

    all_ = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in all_:
        thread.start()
    for thread in all_:
        thread.join()
    for error in failed:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error


def same(found: Any, wanted: Any, what: str) -> None:
    if not (np.array_equal(found, wanted) if isinstance(wanted, np.ndarray) else bytes(found) == bytes(wanted)):
        raise AssertionError(f"{what}: 16 threads make something else than one alone")


def share(codec_id: str, options: dict[str, Any], referred: bool, threads: int, rounds: int) -> dict[str, Any]:
    """One codec in all threads at once. AssertionError where anything differs from what one thread gave."""
    began, what = time.monotonic(), f"{codec_id} {options}"
    xs = maps(1)
    before: list[Any] = [x * np.float32(0.9) for x in xs] if referred else [None] * len(xs)
    alone = registry.build(codec_id, options).fit(xs, before if referred else None)
    payloads = [bytes(alone.encode_payload(x, reference=r)) for x, r in zip(xs, before)]
    arrays = [alone.decode_payload(p, reference=r) for p, r in zip(payloads, before)]
    whole = None if referred else alone.encode(xs[0]).to_bytes()
    count, lock = [0, 0], threading.Lock()
    for _ in range(rounds):
        codec = registry.build(codec_id, alone.params, alone.state)  # nothing is worked out yet

        def work(number: int) -> None:
            encoded = decoded = 0
            for step in range(len(xs)):
                i = (step + number) % len(xs)
                same(codec.encode_payload(xs[i], reference=before[i]), payloads[i], what)  # noqa: B023
                out = np.empty_like(arrays[i])
                same(codec.decode_payload(payloads[i], reference=before[i], out=out), arrays[i], what)  # noqa: B023
                encoded, decoded = encoded + 1, decoded + 1
            if whole is not None:
                same(codec.encode(xs[0]).to_bytes(), whole, what)  # noqa: B023
                same(decode(whole), arrays[0], what)
                encoded, decoded = encoded + 1, decoded + 1
            with lock:
                count[0] += encoded
                count[1] += decoded

        together(threads, work)
    return {
        "codec": codec_id, "options": options, "with a reference": referred, "threads": threads, "encodes": count[0], "decodes": count[1], "different": 0,
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip


def share_plan(threads: int, rounds: int) -> dict[str, Any]:
    """One plan in all threads: its bytes and its id, worked out on first use, and frames of each of its sites."""
    began, xs = time.monotonic(), maps(2)
    codecs = [registry.build(name).fit([x]) for name, x in zip(("zvc", "uniform_rans", "dct_cm", "context"), xs)]
    entries = tuple(Entry(Site(f"layer{n}", what="conv"), codec, x.shape) for n, (codec, x) in enumerate(zip(codecs, xs)))
    first = Plan("features", "0" * 64, entries)
    data = first.to_bytes()
    frames = [bytes(e.codec.encode_frame(x, n, first.id)) for n, (e, x) in enumerate(zip(entries, xs))]
    arrays = [e.codec.decode_payload(read_frame(f).payload) for e, f in zip(entries, frames)]
    for _ in range(rounds):
        plan = Plan.from_bytes(data)

        def work(number: int) -> None:
            for step in range(len(xs)):
                n = (step + number) % len(xs)
                codec = plan.entries[n].codec  # noqa: B023
                same(codec.encode_frame(xs[n], n, plan.id), frames[n], "plan")  # noqa: B023
                same(codec.decode_payload(read_frame(frames[n]).payload), arrays[n], "plan")
            same(plan.to_bytes(), data, "plan")  # noqa: B023
            same(Plan.from_bytes(data).digest.encode(), first.digest.encode(), "plan")

        together(threads, work)
    calls = threads * rounds * len(xs)
    return {"plan of": len(entries), "threads": threads, "encodes": calls, "decodes": calls, "different": 0, "seconds": round(time.monotonic() - began, 3)}


def measured(threads: int, rounds: int, only: list[str] | None = None, turn: float = 1e-4) -> Iterator[dict[str, Any]]:
    """A row for each codec and its options, then one for the plan. `turn`: seconds after which Python lets another thread run (its own default is 0.005)."""
    share_of_thread, interval = tensorpress.core.threads.SHARE, sys.getswitchinterval()
    tensorpress.core.threads.SHARE = 1 << 10  # values that make another native thread worth its waking
    sys.setswitchinterval(turn)
    try:
        for codec, options, referred in variants(only):
            try:
                registry.build(codec, options)
            except ImportError as error:
                yield {"codec": codec, "options": options, "skipped": str(error)}
                continue
            yield share(codec, options, referred, threads, rounds)
        yield share_plan(threads, rounds)
    finally:
        tensorpress.core.threads.SHARE = share_of_thread
        sys.setswitchinterval(interval)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turn", type=float, default=1e-4, help="seconds after which Python lets another thread run")
    parser.add_argument("--codec", action="append", choices=sorted(registry.cards()))
    parser.add_argument("--json", type=Path, help="write the rows")
    arguments = parser.parse_args()
    os.environ.setdefault("TENSORPRESS_THREADS", "4")
    rows = []
    for row in measured(arguments.threads, arguments.rounds, arguments.codec, arguments.turn):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
