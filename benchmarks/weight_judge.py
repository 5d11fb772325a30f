"""One row for one compressed network: whole bytes, and what was lost on both sets of inputs; rows are kept in a JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import weight_subjects
from torch import nn

from tensorpress.core.atomic import write_atomically
from tensorpress.core.errors import InputError
from tensorpress.evaluate.machine import PACKAGE, checkout_commit, machine
from tensorpress.evaluate.weights import judge, outputs

ROWS = Path(__file__).resolve().parents[1] / "results" / "weights"
LABEL_FREE = ("agreement", "kl")
COMMIT = checkout_commit(PACKAGE)  # when the run began: the code that is measured


class Judge:
    """Holds the float network's answers, so that a compressed one is run but once."""

    def __init__(self, name: str, data: Path, characters: Path | None = None) -> None:
        self.name, self.data, self.characters = name, data, characters
        self.inputs = weight_subjects.inputs_of(name, data)
        network = self.network()
        self.state = weight_subjects.state_of(network)
        self.raw_nbytes = sum(4 * value.numel() for value in self.state.values())
        self.parameters = sum(p.numel() for p in network.parameters())
        self.test = outputs(network, self.inputs.test)
        self.unlabelled = None if self.inputs.unlabelled is None else outputs(network, self.inputs.unlabelled)

    def network(self) -> nn.Module:
        return weight_subjects.build(self.name, self.data, self.characters)

    def with_state(self, state: Mapping[str, Any]) -> nn.Module:
        return weight_subjects.with_state(self.network(), state)

    def row(self, model: nn.Module, nbytes: int, **facts: Any) -> dict[str, Any]:
        """`facts`: method, setting, whether retrained, what data it saw … Figures without a suffix are of the test inputs."""
        lost = judge(self.test, outputs(model, self.inputs.test), self.inputs.test_labels)
        other = lost if self.unlabelled is None else judge(self.unlabelled, outputs(model, self.inputs.unlabelled))  # type: ignore[arg-type]
        return {
            "network": self.name,
            **facts,
            "nbytes": nbytes,
            "raw_nbytes": self.raw_nbytes,
            "percent_of_fp32": 100 * nbytes / self.raw_nbytes,
            "bits_per_param": 8 * nbytes / self.parameters,
            **lost,
            **{f"{key}{end}_unlabelled": other[f"{key}{end}"] for key in LABEL_FREE for end in ("", "_low", "_high")},
            "images_unlabelled": other["images"],
        }


def read(path: Path) -> dict[str, Any]:
    """What is in a file of rows, or an empty one."""
    if not path.is_file():
        return {"rows": [], "left_out": []}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, command: str, rows: Sequence[Mapping[str, Any]], left_out: Sequence[Mapping[str, Any]], replaced: Callable[[Mapping[str, Any]], bool]) -> None:
    """Rows of this run in place of those for which `replaced` says so; every row says how long it took and at which commit."""
    before = read(path)
    kept = [row for row in before["rows"] if not replaced(row)]
    every = sorted([*kept, *({**row, "commit": COMMIT} for row in rows)], key=lambda r: (list(weight_subjects.SUBJECTS).index(r["network"]), r["method"], r["nbytes"]))
    faults = [*(fault for fault in before["left_out"] if not replaced(fault)), *left_out]
    document = {"command": command, "commit": COMMIT, "machine": machine(), "seconds": round(sum(row["seconds"] for row in every), 1), "rows": every, "left_out": faults}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def clock() -> Callable[[], float]:
    """Seconds since it was made."""
    started = time.perf_counter()
    return lambda: round(time.perf_counter() - started, 2)


def folder(data: str | None) -> Path:
    if not data:
        raise InputError("TENSORPRESS_DATA is not set: no networks and no pictures here")
    if not Path(data).is_dir():
        raise InputError(f"TENSORPRESS_DATA is {data}: no such folder")
    return Path(data)
