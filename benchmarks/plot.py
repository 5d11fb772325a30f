"""One page: ratio against speed of every subject, speed against size, the goals, and the figures; it opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from tables import Row, copy_speed, goal_cells, ordered, size_name

from tensorpress.core.atomic import write_atomically
from tensorpress.report.page import SERIES, document, plotly_source, table

OPS = ("encode", "decode")
PLACES = {  # of a label beside its point, best first: how far right and up
    "middle right": (1, 0), "middle left": (-1, 0), "top center": (0, 1), "bottom center": (0, -1),
    "top right": (1, 1), "bottom right": (1, -1), "top left": (-1, 1), "bottom left": (-1, -1),
}  # fmt: skip
WIDTH, HEIGHT = 910.0, 380.0  # of a panel, pixels, for placing labels
LETTER, LINE = 7.2, 15.0  # of a label, pixels


def write_page(path: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """The page of a run, atomically. InputError where plotly is missing."""
    networks = [n for n in facts["networks"] if any(r["tensor"] == f"{n}-all" for r in rows)]
    sections = ["<header><h1>Speed of feature-map codecs</h1></header>"]
    figure: dict[str, Any] = {}
    if networks:
        figure = ratio_against_speed(rows, networks[0])
        sections.append(
            f"<section><h2>Ratio against speed, {escape(networks[0])}</h2><p class='lead'>Further right is faster, higher is smaller; one core, 8-bit maps in and out, "
            "framing and checks included. Green: ours; brown: others; the line: memcpy. A ring: measured on a part of the maps.</p><div class='chart' id='curve'></div></section>"
        )
    grown = speed_against_size(rows)
    if grown:
        sections.append(
            "<section><h2>Speed against size</h2><p class='lead'>Synthetic maps, one core; encode solid, decode dotted. What a call costs shows on the left, what memory costs on the right."
            "</p><div class='chart' id='layers'></div></section>"
        )
    goals = [list(goal_cells(goal)) for goal in facts["goals"]]
    sections.append(f"<section><h2>Goals</h2>{table((('goal', False), ('wanted', True), ('measured', True), ('', False)), goals)}</section>")
    for network in networks:
        sections.append(f"<section><h2>{escape(network)}-all</h2>{figures_table(rows, network)}</section>")
    left_out = "".join(f"<p class='note'>{escape(text)}</p>" for text in facts["left_out"])
    sections.append(f"<section><h2>Conditions</h2><p>{escape(facts['machine'])}</p>{left_out}</section>")
    figures = {"layers": [grown] if grown else [], **({"curve": figure} if figure else {})}
    write_atomically(path, document("Speed · TensorPress", sections, figures, plotly_source()).encode())


def figures_table(rows: Sequence[Row], network: str) -> str:
    head = (("subject", False), ("ratio", True), *((f"{op}, {n}", True) for n in ("one core", "two") for op in OPS), ("rounds", True))
    body = []
    for name, found in ordered(rows, network).items():
        first = next(iter(found.values()))
        by = [found.get((op, n)) or found.get(("copy", n)) for n in (1, 2) for op in OPS]
        body.append([name, f"{first['ratio']:.3f}", *("" if r is None else f"{r['gb_per_s']:.3f} GB/s" for r in by), str(first["rounds"])])
    return table(head, body)


def ratio_against_speed(rows: Sequence[Row], network: str) -> dict[str, Any]:
    """Two panels, encode over decode, on one scale; each subject a point with its name beside it."""
    points = {op: [(name, found[op, 1]) for name, found in ordered(rows, network).items() if (op, 1) in found] for op in OPS}
    everyone = [row for op in OPS for _, row in points[op]]
    copy = copy_speed(rows, network)
    low, high = log10(min([copy, *(r["gb_per_s"] for r in everyone)])) - 0.15, log10(max([copy, *(r["gb_per_s"] for r in everyone)])) + 0.15
    top = max([1.0, *(r["ratio"] for r in everyone)]) * 1.08
    bottom = min([1.0, *(r["ratio"] for r in everyone)]) - 0.1
    ticks = [m * 10.0**e for e in range(floor(low) - 1, ceil(high) + 1) for m in (1, 2, 5)]
    axis = {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [f"{t:.10g}" for t in ticks]}
    data = []
    layout: dict[str, Any] = {"height": 2 * HEIGHT + 120, "margin": {"l": 52, "r": 16, "t": 30, "b": 48}, "showlegend": False, "annotations": [], "shapes": []}
    for number, op in enumerate(OPS):
        suffix = "" if number == 0 else "2"
        placed = [(log10(r["gb_per_s"]), r["ratio"]) for _, r in points[op]]
        names = [name for name, _ in points[op]]
        scale = WIDTH / (high - low), HEIGHT / (top - bottom)
        where = label_places(names, [((x - low) * scale[0], (y - bottom) * scale[1]) for x, y in placed])
        for (name, row), place in zip(points[op], where):
            data.append(point(name, row, op, place, suffix))
        layout[f"xaxis{suffix}"] = {**axis, "anchor": f"y{suffix}", **({"title": {"text": "GB/s of 8-bit values, one core", "standoff": 8}} if number else {})}
        layout[f"yaxis{suffix}"] = {"ticksuffix": "×", "range": [bottom, top], "nticks": 7, "domain": [0.53, 1] if number == 0 else [0, 0.47], "anchor": f"x{suffix}"}
        layout["annotations"].append({"text": f"<b>{op}</b>", "x": 0, "y": 1 if number == 0 else 0.47, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False})
        layout["shapes"].append({"type": "line", "x0": copy, "x1": copy, "y0": bottom, "y1": top, "xref": f"x{suffix}", "yref": f"y{suffix}", "line": {"color": "--faint", "width": 1.5, "dash": "dot"}})
        layout["annotations"].append({"text": "memcpy", "x": log10(copy), "y": top, "xref": f"x{suffix}", "yref": f"y{suffix}", "xanchor": "right", "yanchor": "top", "xshift": -4, "showarrow": False})
    return {"data": data, "layout": layout}


def speed_against_size(rows: Sequence[Row]) -> dict[str, Any]:
    """GB/s over bytes of the tensor, both log; a line for each subject and direction. Empty where sizes were not measured."""
    shown = [r for r in rows if r["threads"] == 1 and r["tensor"].removeprefix("synthetic-").isdigit()]
    data = []
    for number, name in enumerate(dict.fromkeys(r["subject"] for r in shown)):
        colour = "--faint" if name == "memcpy" else SERIES[(number - 1) % len(SERIES)]
        for op, dash in (("copy", "solid"), ("encode", "solid"), ("decode", "dot")):
            line = [(int(r["tensor"].split("-")[1]), r["gb_per_s"]) for r in shown if (r["subject"], r["op"]) == (name, op)]
            if line:
                data.append({
                    "type": "scatter", "mode": "lines+markers", "name": escape(name), "showlegend": op != "decode", "x": [x for x, _ in line], "y": [y for _, y in line],
                    "line": {"color": colour, "width": 2, "dash": dash}, "marker": {"color": colour, "size": 6},
                    "hovertemplate": f"<b>{escape(name)}</b> {op}<br>%{{y:.3f}} GB/s<extra></extra>",
                })  # fmt: skip
    sizes = sorted({x for line in data for x in line["x"]})
    xaxis = {"type": "log", "tickvals": sizes, "ticktext": [size_name(str(x)) for x in sizes], "title": {"text": "bytes of the tensor", "standoff": 8}}
    yaxis = {"type": "log", "title": {"text": "GB/s"}, "tickvals": [10.0**e for e in range(-3, 3)], "ticktext": [f"{10.0**e:.10g}" for e in range(-3, 3)]}
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"}
    return {"data": data, "layout": {"height": 420, "margin": {"l": 60, "r": 16, "t": 40, "b": 48}, "xaxis": xaxis, "yaxis": yaxis, "legend": legend}} if data else {}


def point(name: str, row: Row, op: str, place: str, suffix: str) -> dict[str, Any]:
    colour = "--s1" if row.get("ours") else "--s3"
    part = row["tensor"].endswith("-some")
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [row["gb_per_s"]],
        "y": [row["ratio"]],
        "text": [escape(name)],
        "textposition": place,
        "textfont": {"color": colour, "size": 12},
        "marker": {"color": colour, "size": 9, "symbol": "circle-open" if part else "circle", "line": {"width": 2, "color": colour}},
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "hovertemplate": f"<b>{escape(name)}</b> {op}<br>ratio {row['ratio']:.3f}<br>{row['gb_per_s']:.3f} GB/s ±{50 * row['spread']:.0f} %<br>{escape(row['tensor'])}, {row['rounds']} rounds<extra></extra>",
    }


def label_places(names: Sequence[str], at: Sequence[tuple[float, float]]) -> list[str]:
    """For each point, in pixels, the side on which its name covers least of the other points and of the names placed before."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    chosen = []
    for name, (x, y) in zip(names, at):
        width = LETTER * len(name)
        boxes = {}
        for place, (right, up) in PLACES.items():
            cx, cy = x + right * (width / 2 + 8 - 4 * abs(up)), y + up * (LINE / 2 + 6 - 3 * abs(right))
            boxes[place] = (cx - width / 2, cy - LINE / 2, cx + width / 2, cy + LINE / 2)
        place = min(boxes, key=lambda p: sum(overlap(boxes[p], other) for other in taken) + outside(boxes[p]))
        taken.append(boxes[place])
        chosen.append(place)
    return chosen


Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def outside(a: Box) -> float:
    return LINE * (max(0.0, -a[0]) + max(0.0, a[2] - WIDTH)) + LETTER * 10 * (max(0.0, -a[1]) + max(0.0, a[3] - HEIGHT))
