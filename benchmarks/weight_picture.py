"""Bytes against KL of one network's rows, every weight system and anchor, as plain SVG: no script, no font of its own, readable on light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any

from plot import overlap

Row = Mapping[str, Any]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 58, 64  # of the axes; names of curves stand to the right of their last points
FLOOR = 1e-5  # nats: what is less is drawn there
OURS, THEIRS, GREY = "#0b7a4b", "#a8541c", "#6b7280"
SYSTEMS = ("#2563eb", "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#b45309", "#475569", "#dc2626", "#4f46e5", "#0d9488", "#9333ea", "#ca8a04")
LETTER, LINE = 6.1, 13.0  # of a name, pixels
DEFAULT = "second_order"


def picture(name: str, title: str, rows: Sequence[Row]) -> str:
    """The SVG document. Rows without loss lie where KL is 0, which a logarithm has not: they are told of below."""
    lossy = [row for row in rows if row["kl_unlabelled"] > 0]
    free = sorted({f"{row['method']} {row['setting']}: {row['nbytes'] / 1000:,.0f} kB" for row in rows if row["kl_unlabelled"] == 0})
    curves = grouped(lossy)
    xs, ys = [log10(row["nbytes"]) for row in lossy], [log10(max(row["kl_unlabelled"], FLOOR)) for row in lossy]
    x0, x1, y0, y1 = min(xs) - 0.03, max(xs) + 0.03, max(floor(min(ys)), log10(FLOOR)), min(max(ys) + 0.1, 0.6)

    def at(row: Row) -> Point:
        x, y = log10(row["nbytes"]), min(max(log10(max(row["kl_unlabelled"], FLOOR)), y0), y1)
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT), TOP + (y1 - y) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [*frame(name, title, lossy, (x0, x1, y0, y1), free)]
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in map(at, lossy)]
    palette = iter(SYSTEMS * 3)
    named: list[tuple[str, str, Sequence[Point], bool]] = []
    for method, found in curves.items():
        colour, width = (OURS, 2.6) if method == DEFAULT else (THEIRS, 1.4) if method.startswith("nncodec") else (GREY, 1.0) if method in ("zstd", "xz", "torchao") else (next(palette), 1.6)
        points = [at(row) for row in found]
        if colour != GREY and len(points) > 1:
            dash = "" if "+" not in method else f' stroke-dasharray="{2 + 2 * method.count("+")} 3"'
            parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>')
        for row, (x, y) in zip(found, points):
            told = f"{method} {row['setting']}: {row['nbytes']:,} B, KL {row['kl_unlabelled']:.2g}, agreement {row['agreement']:.3f}"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3.6 if colour == OURS else 2.8}" fill="{colour}"><title>{escape(told)}</title></circle>')
        if colour == GREY:
            named += [(short(method, str(row["setting"])), colour, [point], False) for row, point in zip(found, points)]
        else:
            trained = {False: "", True: " (retrained)"}.get(found[0].get("retrained", False), " (scales trained)")
            named.append((method.replace("+", " + ") + trained, colour, points, method == DEFAULT))
            taken += [box for start, end in pairwise(points) for box in along(start, end)]
    for text, colour, points, bold in sorted(named, key=lambda n: not n[3]):
        x, y, anchor = place(text, points, taken)
        weight = ' font-weight="700"' if bold else ""
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="11"{weight}>{escape("ours: " + text if bold else text)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" role="img">'
    return "\n".join([head, f"<title>Bytes against KL of {escape(title)}: every weight system and anchor</title>", *parts, "</svg>", ""])


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of a method by bytes; ours last, so that it lies on top."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r["method"] == DEFAULT, r["method"], r["nbytes"])):
        found.setdefault(row["method"], []).append(row)
    return found


def short(method: str, setting: str) -> str:
    return f"{method} {setting.replace('WeightOnlyConfig', '').replace(' by channel', '').replace(', all layers', '').replace(' layers', '')}"


def frame(name: str, title: str, rows: Sequence[Row], limits: tuple[float, float, float, float], free: Sequence[str]) -> list[str]:
    """Ground, heading, grid, axes and their names."""
    x0, x1, y0, y1 = limits
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    images = rows[0]["images_unlabelled"]
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" font-weight="700" fill="#111827">{escape(title)}: bytes of the whole file against what the network lost</text>',
        f'<text x="{LEFT}" y="43" font-size="12" fill="#4b5563">KL against the float network on {images:,} unlabelled images, nats; lower and further left is better. Nothing retrained unless a name says so.</text>',
    ]
    for power in range(ceil(y0), floor(y1) + 1):
        y = TOP + (y1 - power) / (y1 - y0) * (bottom - TOP)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e5e7eb"/><text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" font-size="11" fill="#4b5563">{10.0**power:g}</text>')
    for kb in [m * 10**e for e in range(0, 6) for m in (1, 2, 3, 5, 7)]:
        if x0 <= log10(1000 * kb) <= x1:
            x = LEFT + (log10(1000 * kb) - x0) / (x1 - x0) * (right - LEFT)
            parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#f3f4f6"/><text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" font-size="11" fill="#4b5563">{kb:,} kB</text>')
    raw = rows[0]["raw_nbytes"]
    parts.append(f'<text x="{LEFT}" y="{bottom + 34}" font-size="11" fill="#4b5563">float32: {raw / 1000:,.0f} kB. {escape("Without loss: " + ", ".join(free) + "." if free else "")}</text>')
    parts.append(f'<text x="{LEFT}" y="{bottom + 50}" font-size="11" fill="#4b5563">Rows: results/weights/anchors.json, systems.json, curves.json (network {escape(name)}).</text>')
    return parts


def along(start: Point, end: Point, every: float = 12.0) -> list[Box]:
    """Small boxes on a line, so that names keep off it."""
    count = int(max(abs(end[0] - start[0]), abs(end[1] - start[1])) / every)
    middles = [(start[0] + (end[0] - start[0]) * k / (count + 1), start[1] + (end[1] - start[1]) * k / (count + 1)) for k in range(1, count + 1)]
    return [(x - 3, y - 3, x + 3, y + 3) for x, y in middles]


def place(text: str, points: Sequence[Point], taken: list[Box]) -> tuple[float, float, str]:
    """Where a name covers least: beside one of its curve's ends first, then beside any of its points."""
    wide = LETTER * len(text) + 4
    best: tuple[float, float, float, str, Box] | None = None
    ends = [points[0], points[-1], *points[1:-1]]
    for rank, (x, y) in enumerate(ends):
        for dx, dy, anchor in ((8, 4, "start"), (-8, 4, "end"), (0, -8, "middle"), (0, 17, "middle"), (8, -9, "start"), (8, 17, "start"), (-8, -9, "end"), (-8, 17, "end")):
            left = x + dx - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            box = (left, y + dy - LINE + 2, left + wide, y + dy + 3)
            cost = sum(overlap(box, other) for other in taken) + 2.0 * rank + 20 * (max(0.0, LEFT - left) + max(0.0, left + wide - WIDTH + 4) + max(0.0, box[3] - HEIGHT + BOTTOM))
            if best is None or cost < best[0]:
                best = cost, x + dx, y + dy, anchor, box
    assert best is not None
    taken.append(best[4])
    return best[1], best[2], best[3]
