"""What the figures have to show, each as a ratio within one run: held against the rows, met or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
SMALL_CALL, MEMORY, TWO, OF_MEMCPY = 15.0, 1.1, 1.8, 0.9
FORWARD = {"dct_cm": 1.5, "zvc": 1.2}


@dataclass(frozen=True)
class Goal:
    what: str
    bound: float
    measured: float | None  # None: not measured in this run
    unit: str = "x"
    most: bool = False  # `bound` is the most that is allowed, not the least

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.bound if self.most else self.measured >= self.bound

    def to_json(self) -> dict[str, Any]:
        return {"goal": self.what, "bound": self.bound, "most": self.most, "unit": self.unit, "measured": self.measured, "met": self.met}


class Figures:
    """Rows by what they are of. A figure that was not measured makes every ratio with it None."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.by = {(r["subject"], r["op"], r["threads"], r["tensor"]): r for r in rows}

    def get(self, key: str, subject: str, op: str, tensor: str, threads: int = 1) -> float | None:
        op = "copy" if subject == "memcpy" else op
        row = self.by.get((subject, op, threads, tensor))
        return None if row is None else row[key]

    def speed(self, subject: str, op: str, tensor: str, threads: int = 1) -> float | None:
        return self.get("gb_per_s", subject, op, tensor, threads)


def over(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def mega(speed: float | None) -> float | None:
    return None if speed is None else 1e3 * speed


def goals(rows: Sequence[Row], facts: Mapping[str, Any]) -> list[Goal]:
    """All goals, on the first set of real maps that `facts` name."""
    f, name = Figures(rows), facts["networks"][0]
    whole, tall = f"{name}-all", f"{name}-tall"
    found = []
    for subject, against, encode, decode in (
        ("zvc", "memcpy", 0.9, 0.8),
        ("dct_cm", "memcpy", 0.5, 0.5),
        ("context-fast", "zstd-1", 2.0, 1.0),
        ("rans", "zstd-1", 3.0, 1.8),
    ):
        for op, bound in (("encode", encode), ("decode", decode)):
            found.append(Goal(f"{subject} {op} / {against}", bound, over(f.speed(subject, op, whole), f.speed(against, op, whole))))
    for peer, bound in (("zstd-1", 1.15), ("zstd-19", 1.0)):
        ratio = over(f.get("ratio", "context-fast", "encode", whole), f.get("ratio", peer, "encode", whole))
        found.append(Goal(f"context-fast ratio / {peer} ratio", bound, ratio))
    for op in ("encode", "decode"):
        speed, part = f.speed("context-max", op, whole), f.speed("context-max", op, f"{name}-some")
        found.append(Goal(f"context-max {op}" + " (part of the maps)" * (speed is None), 60.0, mega(part if speed is None else speed), "MB/s"))
    copy = over(f.speed("memcpy", "copy", tall, 2), f.speed("memcpy", "copy", tall))
    for subject in ("rans", "context-fast", "context-max", "zvc", "dct_cm"):
        for op in ("encode", "decode"):
            gain = over(f.speed(subject, op, tall, 2), f.speed(subject, op, tall))
            if subject in ("zvc", "dct_cm"):
                found.append(Goal(f"{subject} {op}: gain by 2 threads / memcpy's", OF_MEMCPY, over(gain, copy)))
            else:
                found.append(Goal(f"{subject} {op}: 2 threads / one", TWO, gain))
    for call in facts.get("calls", ()):
        found.append(Goal(f"{call['subject']} {call['op']} of 4 KiB, over kernel", SMALL_CALL, call["over_us"], "µs", most=True))
    for subject, bound in FORWARD.items():
        times = next((r["times_plain"] for r in facts.get("forward", ()) if r["subject"] == subject and r["network"] == "resnet50"), None)
        found.append(Goal(f"{subject} attached to ResNet-50: forward / plain", bound, times, most=True))
    for peak in facts.get("peaks", ()):
        if peak["op"] == "encode":
            size = int(peak["tensor"].removeprefix("synthetic-")) >> 20
            found.append(Goal(f"{peak['subject']} encode of {size} MiB: peak memory / tensor", MEMORY, peak["peak_ratio"], most=True))
    return found
