"""The figures in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

Row = Mapping[str, Any]


def ordered(rows: Sequence[Row], network: str) -> dict[str, dict[tuple[str, int], Row]]:
    """subject -> (op, threads) -> row of the network's whole sequence, or of a part of it; memcpy first, then by ratio."""
    by: dict[str, dict[tuple[str, int], Row]] = {}
    for row in rows:
        if row["tensor"] in (f"{network}-all", f"{network}-some"):
            by.setdefault(row["subject"], {})[row["op"], row["threads"]] = row
    return dict(sorted(by.items(), key=lambda item: (item[0] != "memcpy", -next(iter(item[1].values()))["ratio"])))


def copy_speed(rows: Sequence[Row], network: str) -> float:
    return float(next(r["gb_per_s"] for r in rows if r["op"] == "copy" and r["threads"] == 1 and r["tensor"] == f"{network}-all"))


def speed_table(network: str, rows: Sequence[Row]) -> Table:
    copy = copy_speed(rows, network)
    caption = "GB/s of raw 8-bit values, medians; ±: half of what the middle half of the rounds spans; *: on a part of the maps"
    table = Table(title=f"{network}-all", caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("subject", no_wrap=True)
    for column in ("ratio", "enc.\nGB/s", "dec.\nGB/s", "±", "enc. /\nmemcpy", "dec. /\nmemcpy", "enc.\n2 thr.", "dec.\n2 thr."):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in ordered(rows, network).items():
        first = next(iter(found.values()))
        one, two = ([found.get((op, threads)) or found.get(("copy", threads)) for op in ("encode", "decode")] for threads in (1, 2))
        spread = max(50 * row["spread"] for row in one if row)
        speeds = [*map(gb, one), f"{spread:.0f}%", *(f"{row['gb_per_s'] / copy:.3f}" for row in one if row), *map(gb, two)]
        table.add_row(name + "*" * first["tensor"].endswith("-some"), f"{first['ratio']:.3f}", *speeds)
    return table


def gb(row: Row | None) -> str:
    return "" if row is None else f"{row['gb_per_s']:.3f}"


def growth_table(rows: Sequence[Row], threads: int) -> Table:
    """GB/s of encode/decode by size and, on one thread, by channels."""
    shown = [r for r in rows if r["tensor"].startswith("synthetic") and r["threads"] == threads]
    names = list(dict.fromkeys(r["subject"] for r in shown))
    table = by_tensor(f"growth, {threads} thread{'s'[: threads > 1]}: GB/s", "encode/decode" + "; ch.: a MiB in so many channels" * (threads == 1), names)
    for tensor in dict.fromkeys(r["tensor"] for r in shown):
        by = {(r["subject"], r["op"]): r["gb_per_s"] for r in shown if r["tensor"] == tensor}
        cells = ("/".join(f"{by[name, op]:.2g}" for op in ("copy", "encode", "decode") if (name, op) in by) for name in names)
        table.add_row(size_name(tensor.removeprefix("synthetic-")), *cells)
    return table


def peak_table(peaks: Sequence[Row]) -> Table:
    names = list(dict.fromkeys(p["subject"] for p in peaks))
    table = by_tensor("peak memory of a call", "encode/decode, times the tensor's bytes, output included", names)
    for tensor in dict.fromkeys(p["tensor"] for p in peaks):
        by = {(p["subject"], p["op"]): p["peak_ratio"] for p in peaks if p["tensor"] == tensor}
        table.add_row(size_name(tensor.removeprefix("synthetic-")), *(f"{by[name, 'encode']:.2f}/{by[name, 'decode']:.2f}" for name in names))
    return table


def by_tensor(title: str, caption: str, names: Sequence[str]) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("tensor", no_wrap=True)
    for name in names:
        table.add_column(name.replace("-", "\n"), justify="right", no_wrap=True)
    return table


def size_name(text: str) -> str:
    if text.startswith("c"):
        return f"{text[1:]} ch."
    return f"{int(text) >> 10} KiB" if int(text) < 1 << 20 else f"{int(text) >> 20} MiB"


def goal_table(goals: Sequence[Row]) -> Table:
    """The goals that this run says something about; how many others there are stands below."""
    measured = [goal for goal in goals if goal["met"] is not None]
    rest = f"; {len(goals) - len(measured)} others were not measured" * (len(measured) < len(goals))
    caption = f"{sum(goal['met'] for goal in measured)} of {len(measured)} met{rest}; no exit status depends on them"
    table = Table(title="goals", caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("goal", "wanted", "measured", ""):
        table.add_column(column, justify="left" if column in ("goal", "") else "right")
    for goal in measured:
        table.add_row(*goal_cells(goal), style="" if goal["met"] else "yellow")
    return table


def goal_cells(goal: Row) -> tuple[str, str, str, str]:
    unit = "" if goal["unit"] == "x" else f" {goal['unit']}"
    measured = "not measured" if goal["measured"] is None else f"{goal['measured']:.3g}{unit}"
    return goal["goal"], f"{'≤' if goal['most'] else '≥'} {goal['bound']:g}{unit}", measured, {True: "met", False: "not met", None: ""}[goal["met"]]
