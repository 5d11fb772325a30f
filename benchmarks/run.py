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
from collections.abc import Sequence
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
from tables import goal_table, growth_table, speed_table
from tensors import tall

from tensorpress.core.errors import TensorPressError
from tensorpress.evaluate.machine import checkout_commit, cpu_model, machine
from tensorpress.planning.plan import write_atomically

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("speed", "threads", "growth", "memory", "calls", "forward")
LEAST = 64 << 20  # bytes of a sequence of maps
GOAL_PEERS = ("zstd-1", "zstd-19")  # what goals compare with, measured as long as our own
LATEST = 200.0  # seconds after the start of a short run; a part that would begin later is left out, so that it ends within five minutes
TALL, TALL_LIMIT = 1 << 20, 24 << 20  # bytes that each tensor exceeds on which threads are compared; and of all of them, about


def paces(names: Sequence[str], threads: int, quick: bool, rounds: int) -> dict[str, Pace]:
    """How long each subject may take: what has goals has time, of the rest the slow ones show a part of the maps."""
    main, rest = (Pace(rounds, 6, 12 / threads), Pace(rounds, 4, 0.7)) if quick else (Pace(rounds, 60, 120), Pace(rounds, 20, 30))
    return {name: main if name in OURS or name in GOAL_PEERS else rest for name in names}


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
        columns = TextColumn("[progress.description]{task.description}"), BarColumn(), TimeElapsedColumn()
        self.started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=self.console, refresh_per_second=2) as self.progress:
            for network in self.networks():
                self.network(network, Path(folder))
            self.rest()
        self.facts["goals"] = [goal.to_json() for goal in goals(self.rows, self.facts)]

    def part(self, part: str, title: str, work: Any, *args: Any, threads: int = 1, **more: Any) -> list[dict[str, Any]]:
        """What `work` returns, done in a process of its own while a bar shows how far it is; nothing where it is not wanted."""
        if part not in self.wanted.parts:
            return []
        if self.wanted.quick and time.monotonic() - self.started > LATEST:
            self.left_out.append(f"{title}: left out, there was no time")
            return []
        found: list[dict[str, Any]] = self.apart(title, work, *args, threads=threads, **more)
        return found

    def apart(self, title: str, work: Any, *args: Any, threads: int = 1, **more: Any) -> Any:
        task = self.progress.add_task(title, total=None)

        def tell(what: str, done: int, total: int) -> None:
            self.progress.update(task, description=what, completed=done, total=total)

        found = apart(tell, threads, work, *args, **more)
        self.progress.update(task, description=title, completed=1, total=1)
        return found

    def network(self, network: str, folder: Path) -> None:
        """The maps of a network on one core, then on two; and tall ones of the first network."""
        if not {"speed", "threads"} & set(self.wanted.parts):
            return
        files = self.apart(f"maps of {network}", make_maps, network, self.wanted.nbytes, folder)
        for threads in self.counts:
            pace = paces(self.names if threads == 1 else self.side, threads, self.wanted.quick, self.wanted.rounds)
            self.rows += self.part("speed", f"{network}, {counted(threads)}", speed, files["all"], pace, threads, threads=threads)
        for threads in self.counts if network == self.networks()[0] else ():
            pace = {name: Pace(self.wanted.rounds, 4 if self.wanted.quick else 20, math.inf) for name in self.main}
            self.rows += self.part("threads", f"{network}, tall, {counted(threads)}", speed, files["tall"], pace, threads, threads=threads)

    def rest(self) -> None:
        """What needs no sequence of maps, in order of weight."""
        import forward
        import growth

        quick, rounds, data = self.wanted.quick, self.wanted.rounds, os.environ.get("TENSORPRESS_DATA")
        largest = min(self.wanted.nbytes, 16 << 20) if quick else 4 * self.wanted.nbytes
        attached = {name: OURS[name] for name in ("dct_cm", "zvc") if name in self.main}
        self.facts["calls"] = self.part("calls", "small calls", growth.calls, self.main, rounds)
        self.facts["forward"] = self.part("forward", "forward passes", forward.forward, Path(data) if data else None, attached, rounds)
        # freed buffers go back to the system at once, so that none hides a later one
        self.facts["peaks"] = self.part("memory", "peak memory", growth.peaks, largest, self.main, env={"MALLOC_MMAP_THRESHOLD_": "65536"})
        for threads in self.counts:
            pace = Pace(rounds, 1 if quick else 20, math.inf)
            self.rows += self.part("growth", f"growth, {counted(threads)}", growth.growth, largest, self.main, threads, pace, threads=threads)
        found = {(p["subject"], p["op"], p["tensor"]): p["peak_ratio"] for p in self.facts["peaks"]}
        for row in self.rows:
            if (key := (row["subject"], row["op"], row["tensor"])) in found and row["threads"] == 1:
                row["peak_ratio"] = found[key]

    def show(self) -> None:
        for text in self.left_out:
            self.console.print(f"[dim]{text}[/]")
        for name in dict.fromkeys(row["tensor"].rsplit("-", 1)[0] for row in self.rows if row["tensor"].endswith("-all")):
            self.console.print(speed_table(name, self.rows))
        if any(row["tensor"].startswith("synthetic") for row in self.rows):
            self.console.print(growth_table(self.rows))
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    return wanted


def main() -> None:
    console = Console()
    run = Run(parsed(), console)
    try:
        run.everything()
    except TensorPressError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    run.show()
    run.write()


if __name__ == "__main__":
    main()
