"""Every codec beside memcpy and the compressors that a Python user can install, on the same real 8-bit maps, in one run.

    python benchmarks/run.py --quick --json bench.json        rows in bench.json, facts and goals in bench.facts.json, bench.html to look at
    python benchmarks/run.py --subjects zvc zstd-1 --parts speed       two subjects against memcpy, nothing else

Maps are those of ResNet-50 and MobileNetV2 where TENSORPRESS_DATA names the folder of networks and pictures, else those of the
packaged demo network. benchmarks/README.md says what is counted and how to add a subject.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import subjects
from goals import goals
from measure import Pace, speed
from peers import PEERS
from plot import write_page
from process import Tell, apart, cores
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from subjects import OURS, Subject
from tables import goal_table, growth_table, peak_table, speed_table
from tensors import tall

from tensorpress.core.atomic import write_atomically
from tensorpress.core.errors import TensorPressError
from tensorpress.evaluate.machine import checkout_commit, cpu_model, machine

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("speed", "threads", "growth", "memory", "calls", "forward")
LEAST = 64 << 20  # bytes of a sequence of maps
FIRST = (*OURS, "zstd-1", "zstd-3", "zstd-19", "lz4", "blosc2-lz4")  # what has goals, what goals compare with, and quick ones: interleaved
SHORT = 285.0  # seconds that a short run may take: a part that would not end by then is left out
TALL, TALL_LIMIT = 1 << 20, 24 << 20  # bytes that each tensor exceeds on which threads are compared; and of all of them, about


def pace_of(name: str, threads: int, quick: bool, rounds: int) -> Pace:
    """How long a subject may take: what has goals has time, of the rest the slow ones show a part of the maps."""
    if not quick:
        return Pace(rounds, 60, 120) if name in FIRST else Pace(rounds, 20, 30)
    return Pace(rounds, 5, 12 / threads) if name in FIRST else Pace(rounds, 2.5, 0.7)


def make_maps(network: str, nbytes: int, folder: Path, tell: Tell) -> dict[str, Path]:
    """Files of a network's sequences: 'all' of its maps, and 'tall' ones."""
    import maps
    import torch

    torch.set_num_threads(1)
    data = Path(os.environ.get("TENSORPRESS_DATA", ""))
    source = {"resnet50": lambda: maps.resnet50(data), "mobilenet_v2": lambda: maps.mobilenet_v2(data), "demo": maps.demo}[network]()
    found = maps.tensors_of(source, nbytes, tell)
    stacked = tall(found, f"{network}-tall", min(TALL, nbytes), min(TALL_LIMIT, nbytes))
    files = {"all": folder / f"{network}-all.npz", "tall": folder / f"{network}-tall.npz"}
    found.save(files["all"])
    stacked.save(files["tall"])
    return files


class Run:
    """The parts of a benchmark, each in a fresh process, with a bar for each on the terminal."""

    def __init__(self, wanted: argparse.Namespace, console: Console) -> None:
        self.wanted, self.console = wanted, console
        self.left_out: list[str] = []
        for name in wanted.subjects or ():
            if name not in (*subjects.names(), "memcpy"):
                sys.exit(f"error: unknown subject {name!r}: {', '.join(subjects.names())}")
        known = {name: found for name in subjects.names() if not wanted.subjects or name in wanted.subjects if (found := self.found(name))}
        self.names = list(known)
        self.main = [name for name in self.names if name in OURS]
        self.side = [name for name in self.names if known[name].threads and (name in OURS or not known[name].ours or not wanted.quick)]
        self.counts = [n for n in (1, 2) if n <= len(cores())]
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {"machine": machine(), "quick": wanted.quick, "networks": self.networks(), "left_out": self.left_out}

    def found(self, name: str) -> Subject | None:
        try:
            return subjects.ready(name)
        except ImportError as error:
            self.left_out.append(f"{name}: left out, {error}; pip install {PEERS[name].package}")
            return None

    def networks(self) -> list[str]:
        if not os.environ.get("TENSORPRESS_DATA"):
            return ["demo"]
        return ["resnet50"] if self.wanted.quick else ["resnet50", "mobilenet_v2"]

    def everything(self) -> None:
        """All parts, in order of weight, so that a short run on a slow machine has what matters most."""
        columns = TextColumn("[progress.description]{task.description}"), BarColumn(), TimeElapsedColumn()
        with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=self.console, refresh_per_second=2) as self.progress:
            self.started, self.expected = time.monotonic(), 0.0
            wanted = self.networks() if {"speed", "threads"} & set(self.wanted.parts) else []
            files = {network: found for network in wanted if (found := self.maps(network, Path(folder)))}
            for network, of in files.items():
                self.speed(network, of["all"], True, 65)
            for network, of in list(files.items())[:1]:
                self.threads(network, of["tall"])
            self.rest()
            for network, of in files.items():
                self.speed(network, of["all"], False, 60)
            self.growth()
        self.facts["goals"] = [goal.to_json() for goal in goals(self.rows, self.facts)]

    def part(self, part: str, title: str, seconds: float, work: Any, *args: Any, threads: int = 1, **more: Any) -> Any:
        """What `work` returns, done in a process of its own while a bar shows how far it is; nothing where it is not wanted. `seconds`: of a
        short run, where this was written; how much longer earlier parts took says whether there is time."""
        if part and part not in self.wanted.parts:
            return []
        slow = max(1.0, (SHORT - self.left) / self.expected) if self.expected > 30 else 1.0  # the first seconds tell too little
        self.expected += seconds
        if slow * seconds > self.left:
            self.left_out.append(f"{title}: left out, there was no time")
            return []
        task = self.progress.add_task(title, total=None)

        def tell(what: str, done: int, total: int) -> None:
            self.progress.update(task, description=what, completed=done, total=total)

        try:
            found = apart(tell, threads, self.left, work, *args, **more)
        except TimeoutError as error:
            self.left_out.append(f"{title}: left out, {error}")
            return []
        self.progress.update(task, description=title, completed=1, total=1)
        return found

    @property
    def left(self) -> float:
        """Seconds that a short run may still take."""
        return SHORT - (time.monotonic() - self.started) if self.wanted.quick else math.inf

    def maps(self, network: str, folder: Path) -> dict[str, Path]:
        files: dict[str, Path] = self.part("", f"maps of {network}", 5, make_maps, network, self.wanted.nbytes, folder)
        return files

    def speed(self, network: str, file: Path, first: bool, seconds: float) -> None:
        """A network's whole sequence on one core, then on two: the first subjects with memcpy in the same rounds, or all others."""
        for threads in self.counts:
            names = [n for n in self.names if (n in FIRST) == first and (threads == 1 or n in self.side)]
            pace = {n: pace_of(n, threads, self.wanted.quick, self.wanted.rounds) for n in names}
            title = f"{network}, {'' if first else 'others, '}{counted(threads)}"
            if names or first:
                self.measured("speed", title, seconds if threads == 1 else 15, file, pace, threads, first)

    def threads(self, network: str, file: Path) -> None:
        """Tensors over a MiB on one core, then on two."""
        pace = {name: Pace(self.wanted.rounds, 3 if self.wanted.quick else 20, math.inf) for name in self.main}
        for threads in self.counts:
            self.measured("threads", f"{network}, tall, {counted(threads)}", 12, file, pace, threads, True)

    def measured(self, part: str, title: str, seconds: float, file: Path, pace: dict[str, Pace], threads: int, copies: bool) -> None:
        """Rows of these subjects; who was not reached is left out by name."""
        limit = 0.6 * self.left  # what comes later needs time as well
        found = self.part(part, title, seconds, speed, file, pace, threads, copies, limit, threads=threads)
        self.rows += found
        missing = [name for name in pace if name not in {row["subject"] for row in found}]
        if found and missing:
            self.left_out.append(f"{title}: left out {', '.join(missing)}, there was no time")

    @property
    def largest(self) -> int:
        return min(self.wanted.nbytes, 16 << 20) if self.wanted.quick else 4 * self.wanted.nbytes

    def rest(self) -> None:
        """Small calls, attached forward passes, peak memory."""
        import forward
        import growth

        rounds, data = self.wanted.rounds, os.environ.get("TENSORPRESS_DATA")
        attached = {name: OURS[name] for name in ("dct_cm", "zvc") if name in self.main}
        self.facts["calls"] = self.part("calls", "small calls", 6, growth.calls, self.main, rounds)
        self.facts["forward"] = self.part("forward", "forward passes", 8, forward.forward, Path(data) if data else None, attached, rounds)
        # freed buffers go back to the system at once, so that none hides a later one
        self.facts["peaks"] = self.part("memory", "peak memory", 12, growth.peaks, self.largest, self.main, env={"MALLOC_MMAP_THRESHOLD_": "65536"})

    def growth(self) -> None:
        """Time by size and channels, with peak memory beside it."""
        import growth

        pace = Pace(self.wanted.rounds, 1 if self.wanted.quick else 20, math.inf)
        for threads in self.counts:
            title = f"growth, {counted(threads)}"
            self.rows += self.part("growth", title, 20, growth.growth, self.largest, self.main, threads, pace, threads=threads)
        found = {(p["subject"], p["op"], p["tensor"]): p["peak_ratio"] for p in self.facts["peaks"]}
        for row in self.rows:
            if (key := (row["subject"], row["op"], row["tensor"])) in found and row["threads"] == 1:
                row["peak_ratio"] = found[key]

    def show(self) -> None:
        for text in self.left_out:
            self.console.print(f"[dim]{text}[/]")
        for name in dict.fromkeys(row["tensor"].rsplit("-", 1)[0] for row in self.rows if row["tensor"].endswith("-all")):
            self.console.print(speed_table(name, self.rows))
        for threads in sorted({row["threads"] for row in self.rows if row["tensor"].startswith("synthetic")}):
            self.console.print(growth_table(self.rows, threads))
        if self.facts["peaks"]:
            self.console.print(peak_table(self.facts["peaks"]))
        self.console.print(goal_table(self.facts["goals"]))

    def write(self) -> None:
        target: Path | None = self.wanted.json
        cpu, commit = cpu_model(), checkout_commit(ROOT / "src" / "tensorpress")
        if target is not None:
            rows = [{**row, "cpu": cpu, "commit": commit} for row in self.rows]
            write_atomically(target, (json.dumps(rows, indent=1) + "\n").encode())
            write_atomically(target.with_suffix(".facts.json"), (json.dumps(self.facts, indent=1) + "\n").encode())
        page = self.wanted.page or (target.with_suffix(".html") if target is not None else None)
        if page is not None:
            write_page(page, self.rows, self.facts)
            self.console.print(f"ratio against speed: {page}")


def counted(threads: int) -> str:
    return f"{threads} thread{'s'[: threads > 1]}"


def parsed() -> argparse.Namespace:
    everyone = f"subjects: {', '.join(subjects.names())}"
    parser = argparse.ArgumentParser(description=__doc__, epilog=everyone, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within five minutes: one network, seven rounds, slow subjects on a part of the maps")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write rows to PATH, facts to PATH with the ending .facts.json, the plot to .html")
    parser.add_argument("--page", type=Path, metavar="PATH", help="write the plot and the goals there, as one HTML page")
    parser.add_argument("--subjects", nargs="+", metavar="NAME", help="only these, and memcpy")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"only these of: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="of every subject that is not slow (7 with --quick, else 9)")
    parser.add_argument("--nbytes", type=int, default=LEAST, help=f"least bytes of a sequence of maps ({LEAST:,})")
    wanted = parser.parse_args()
    wanted.rounds = wanted.rounds if wanted.rounds is not None else 7 if wanted.quick else 9
    if wanted.rounds < 1 or wanted.nbytes < 1:
        parser.error("--rounds and --nbytes are at least 1")
    for path in (wanted.json, wanted.page):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path}: there is no folder {path.absolute().parent}")  # now, not when all is measured
    return wanted


def main() -> None:
    console = Console()
    run = Run(parsed(), console)
    try:
        run.everything()
        run.show()
        run.write()
    except TensorPressError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
