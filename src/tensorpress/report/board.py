"""The leaderboard as a terminal table, Markdown, and one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from tensorpress.core.atomic import write_atomically
from tensorpress.evaluate.energy import MEMORIES
from tensorpress.report.markdown import UNKNOWN, Row, fixed, number, ratio, size, text, whole
from tensorpress.report.page import curve_figure, curve_section, document, plotly_source, table

HEAD = (
    ("entry", False), ("lossless, max", True), ("lossless, 99.99 %", True), ("at KL .0125", True), ("at KL .025", True), ("at KL .05", True),
    ("saved at .025", True), ("at 0.5 points", True), ("shared", True), ("encode, decode MB/s", True),
)  # fmt: skip
NOTE = (
    "Ratios are total bytes of all sites against 8 bits a value, headers included, all maps compressed at once; '>' where the coarsest point loses less than asked. "
    "At a KL: read off the measured curve, log ratio over log KL, with the 95 % interval of resampled images. "
    "Points: expected top-1 drop. Saved: fewer bytes than uniform_rans at that KL. Shared: what a decoder must hold, in the middle of the curve. "
    "MB/s: 8-bit levels a second of one image's maps on one core, float32 in and out; measured beside other work, so good for an order."
)

ENERGY_NOTE = (
    "DRAM traffic at the curve's point nearest KL .025, every map written once and read as often as the network reads it, the reads of references among them, and an estimate of the codec's own "
    "operations at 45 nm (docs/energy.md). Where memory is cheap, work is not: a codec that saves most bytes need not save most joules."
)


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Best at KL .025 first; those that do not reach it after them."""
    return sorted(rows, key=lambda row: -(number(row["at_kl"]["0.025"]["ratio"]) or 0.0))


def at(found: Mapping[str, Any], bounds: bool = True) -> str:
    if number(found.get("ratio")) is None:
        return UNKNOWN
    prefix = "> " if found.get("reached") != "yes" else ""
    ends = found.get("ci95")
    return prefix + ratio(found["ratio"]) + (f" [{fixed(ends[0], 2)}, {fixed(ends[1], 2)}]" if bounds and ends and not prefix else "")


def cells(row: Row, bounds: bool = True) -> list[str]:
    """One entry's line, in the order of `HEAD`."""
    lossless = row.get("lossless") or {}
    saved = (row.get("saved_percent") or {}).get("0.025")
    points = row["points"]
    return [
        text(row.get("name")),
        *(ratio(lossless.get(scale, {}).get("ratio")) for scale in ("max", "p99.99")),
        *(at(row["at_kl"][kl], bounds) for kl in ("0.0125", "0.025", "0.05")),
        fixed(saved, 0, " %"),
        at(row["at_drop"]["0.5"], bounds),
        size(points[len(points) // 2].get("shared_nbytes")),
        ", ".join(whole((row.get("mb_per_second") or {}).get(what)) for what in ("encode", "decode")),
    ]


def caption(rows: Sequence[Row]) -> str:
    first = rows[0]
    return f"{text(first.get('arch'))}, {whole(first.get('images'))} images, {whole(first.get('calib_images'))} others for calibration"


def board_table(rows: Sequence[Row]) -> Table:
    """For the terminal: 80 columns hold the entry, its lossless ratio, three KLs and what is saved."""
    made = Table(title=caption(rows) if rows else "nothing measured yet", caption=NOTE, caption_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown = (0, 1, 3, 4, 5, 6, 8)
    for title, numeric in (HEAD[i] for i in shown):
        made.add_column(title.removeprefix("at ") if title.startswith("at KL") else title, justify="right" if numeric else "left", no_wrap=not numeric)
    for row in ordered(rows):
        line = cells(row, bounds=False)
        made.add_row(*(line[i] for i in shown))
    return made


def board_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, best at KL .025 first."""
    lines = ["| " + " | ".join(title for title, _ in HEAD) + " |", "|" + "|".join("---:" if numeric else "---" for _, numeric in HEAD) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in ordered(rows))])


def write_board(path: str | Path, rows: Sequence[Row]) -> None:
    """The page: every curve in one figure, the table, and how it was measured. Atomically."""
    best = ordered(rows)
    figure = curve_figure((), [{"name": row["name"], "points": row["points"]} for row in best])
    sections = [f"<header><h1>Feature-map codecs on {escape(text(rows[0].get('arch')) if rows else UNKNOWN)}</h1></header>"]
    if figure:
        figure["layout"]["height"] = 620
        sections.append(curve_section(figure, more=""))
    sections.append(f'<section class="compare"><h2>Every codec, one counting rule</h2>{table(HEAD, [cells(row) for row in best])}<p class="note">{escape(NOTE)}</p></section>')
    if rows and all(row.get("energy") for row in rows):
        head = (("energy saved, of", False), *((constants.title, True) for constants in MEMORIES.values()))
        body = [[text(row["name"]), *(fixed(row["energy"][key]["saved_percent"], 0, " %") for key in MEMORIES)] for row in best]
        sections.append(f'<section><h2>Energy, with the codec\'s own work</h2>{table(head, body)}<p class="note">{escape(ENERGY_NOTE)}</p></section>')
    if rows:
        sections.append(f"<section><h2>Conditions</h2><p>{escape(caption(rows))}.</p><p><code>{escape(text(rows[0].get('command')))}</code></p><p>{escape(text(rows[0].get('machine')))}</p></section>")
    write_atomically(Path(path), document("Leaderboard · TensorPress", sections, {"layers": [], "curve": figure} if figure else {"layers": []}, plotly_source()).encode())
