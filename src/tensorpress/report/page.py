"""One self-contained HTML page: what was saved, what it cost, layer by layer. It opens offline and asks nobody for anything.

The words, tables and pictures are plain HTML and need no script; plotly.js, written into the page once, draws the charts.
A content policy in the page forbids every request, so that the promise does not rest on us alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tensorpress.core.atomic import write_atomically
from tensorpress.core.errors import InputError
from tensorpress.evaluate.energy import MEMORIES, dram_energy
from tensorpress.report.markdown import (
    UNKNOWN,
    Row,
    caption,
    columns,
    fixed,
    interval,
    number,
    ratio,
    ratio_with_shared,
    significant,
    size,
    text,
    whole,
)
from tensorpress.report.terminal import layer_cells, mode_shares

SERIES = ("--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7")
MODES = {"zero": "--faint", "zvc": "--s2", "dct": "--s1", "dctm": "--s1", "raw": "--s3"}
POINT_FACTS = {
    "drop_points": "drop, points",
    "agreement": "agreement",
    "bits_per_value": "bits a value",
    "quality": "quality",
    "step": "step",
}
LAYER_HEADINGS = ("site", "shape", "density", "mode", "raw", "coded", "ratio", "mse", "reads")
SEQUENTIAL = ("#0d1216", "#12424a", "#1f7a74", "#6db58f", "#c9dfa8", "#fdf8dc")  # dark is zero
DIFFERENCE = ("#0d1216", "#5a2415", "#b4521d", "#eda045", "#fdf0c9")

RULES = (
    "The ratio is total bytes: the sum of all sites at 8 bits a value over the sum of the streams. Beside it stand the mean of the layers' ratios and the worst layer.",
    "Every chosen site is compressed at once, one image at a time, and the network runs on what the decoder gave back.",
    "Headers, index and checks are in the streams' bytes. Fitted state that a decoder must already hold is shared state: counted once for the run, and the ratio is given both ways.",
    "Calibration images are never evaluated on.",
    "Drop, agreement and KL compare with the float network on the same images. The drop's 95 % interval is the normal interval of the paired per-image differences, "
    "its half-width never below Wilson's bound for an event that none of the images showed.",
    "The reference with 8-bit maps quantises every site by the named scale rule and compresses nothing.",
    "No figure on this page is an estimate of entropy: bytes are lengths of real streams.",
)


def write_page(
    path: str | Path,
    rows: Sequence[Row],
    curves: Sequence[Mapping[str, Any]] | None = None,
    pictures: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write the report of result rows (JSON objects; the first is the headline) to `path`, atomically.

    `curves` are {name, points: [{ratio, kl, …}]}; `pictures` are {site, before, after} with uint8 arrays (n, h, w) of n
    channels. Unknown values may be null. InputError where there is no row, a picture does not fit, plotly is missing, or
    the file cannot be written.
    """
    write_atomically(Path(path), _page(rows, curves or (), pictures or (), plotly_source()).encode())


def plotly_source() -> str:
    """plotly.js, to be written into a page. InputError where plotly is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise InputError("the HTML page needs plotly: pip install tensorpress[report]") from None
    return str(get_plotlyjs())


def _page(rows: Sequence[Row], curves: Sequence[Mapping[str, Any]], pictures: Sequence[Mapping[str, Any]], plotly_js: str) -> str:
    if not rows:
        raise InputError("a report needs at least one result row")
    layered = [row for row in rows if row.get("layers")]
    figures: dict[str, Any] = {"layers": [_layers_figure(row) for row in layered]}
    drawn = curve_figure(rows, curves)
    if drawn:
        figures["curve"] = drawn
    sections = (
        _headline(rows[0]),
        _comparison(rows) if len(rows) > 1 else "",
        _layers(layered) if layered else "",
        curve_section(drawn) if drawn else "",
        _pictures(pictures) if pictures else "",
        _energy(rows[0]),
        _conditions(rows),
    )
    return document(f"{text(rows[0].get('codec'))} on {text(rows[0].get('arch'))} · TensorPress", sections, figures, plotly_js)


def document(title: str, sections: Sequence[str], figures: Mapping[str, Any], plotly_js: str) -> str:
    """A whole page of HTML `sections`; `figures` are drawn where the sections have a place for them: 'layers' and 'curve'."""
    title = escape(title)
    data = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")  # no row can close the script element
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
<script type="application/json" id="figures">{data}</script>
<script>{plotly_js}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


# ---- headline


def _headline(row: Row) -> str:
    drop, bounds = row.get("drop_points"), row.get("drop_ci95")
    sites, images = number(row.get("sites")), number(row.get("images"))
    what = " · ".join(
        part
        for part in (
            "Feature maps",
            text(row.get("arch")) if row.get("arch") else "",
            f"{sites:,.0f} sites" if sites is not None else "",
            f"{images:,.0f} images" if images is not None else "",
        )
        if part
    )
    agreement = number(row.get("agreement"))
    facts = (
        (
            "top-1 drop, points",
            fixed(drop, 2),
            f"95 % {interval(bounds)}" if interval(bounds) else "no labels" if number(drop) is None else "",
        ),
        ("KL, nats", significant(row.get("kl")), f"95 % {_interval_3(row.get('kl_ci95'))}" if _interval_3(row.get("kl_ci95")) else ""),
        ("same top-1 class", fixed(None if agreement is None else 100 * agreement, 1, " %"), "as the float network"),
        ("bits a value", fixed(row.get("bits_per_value"), 2), "of 8"),
    )
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in facts)
    return f"""<header>
<p class="eyebrow"><b>TensorPress</b> {escape(what)}</p>
<h1><span class="ratio">{ratio(row.get("ratio"))}</span> <span class="claim">fewer bytes with <code>{escape(text(row.get("codec")))}</code></span></h1>
<dl class="facts">{cells}</dl>
<p class="story">{_story(row)}</p>
{_size_bars(row)}
</header>
"""


def _story(row: Row) -> str:
    """The result in sentences; what is unknown is not mentioned."""
    raw, coded, shared = row.get("raw_nbytes"), row.get("nbytes"), row.get("shared_nbytes")
    told = []
    if number(raw) is not None and number(coded) is not None:
        told.append(f"What takes {size(raw)} at 8 bits a value was written as {size(coded)} of real streams, headers included.")
    if number(shared) is not None and ratio_with_shared(row) is not None:
        told.append(
            f"A decoder must also hold {size(shared)} of shared state; counted once for this run, the ratio is {ratio(ratio_with_shared(row))}."
        )
    mean, worst = row.get("ratio_mean_of_layers"), row.get("ratio_worst_layer")
    if number(mean) is not None and number(worst) is not None:
        told.append(f"The mean of the layers' ratios is {ratio(mean)}, the worst layer reaches {ratio(worst)}.")
    before, after, bounds = row.get("top1_float"), row.get("top1"), row.get("drop_ci95") or ()
    if number(before) is not None and number(after) is not None:
        told.append(f"Top-1 accuracy is {fixed(after, 2)} % where the float network has {fixed(before, 2)} %, on the same images.")
        if interval(bounds) and bounds[0] <= 0 <= bounds[1]:
            told.append("The interval of the drop includes zero: these images do not tell it from no drop at all.")
    smoothed = row.get("drop_smoothed")
    if number(smoothed) is not None:
        told.append(f"Smoothed over the margin, the drop is {fixed(smoothed, 2)} points.")
    return escape(" ".join(told))


def _size_bars(row: Row) -> str:
    raw, coded, shared = (number(row.get(key)) for key in ("raw_nbytes", "nbytes", "shared_nbytes"))
    if not raw or coded is None:
        return ""
    scale = 100 / max(raw, coded + (shared or 0.0))
    state = f'<i class="state" style="width:{(shared or 0) * scale:.3f}%"></i>' if shared else ""
    note = f" <em>+ {size(shared)} shared state</em>" if shared is not None else ""
    return f"""<div class="sizes" role="img" aria-label="Size before {size(raw)}, after {size(coded)}">
<span>8-bit maps</span><div class="bar"><i class="before" style="width:{raw * scale:.3f}%"></i></div><b>{size(raw)}</b>
<span>streams</span><div class="bar"><i class="after" style="width:{coded * scale:.3f}%"></i>{state}</div><b>{size(coded)}{note}</b>
</div>
"""


def _interval_3(bounds: Any) -> str:
    return f"[{significant(bounds[0])}, {significant(bounds[1])}]" if interval(bounds) else ""


# ---- tables


def _comparison(rows: Sequence[Row]) -> str:
    shown = columns(rows)
    head = [(c.title.replace("-\n", "").replace("\n", " "), c.numeric) for c in shown]
    return f"""<section class="compare">
<h2>Side by side</h2>
{table(head, [[c.cell(row) for c in shown] for row in rows])}
<p class="note">{escape(caption(rows))}{". " if caption(rows) else ""}Ratios against 8 bits a value, headers included.</p>
</section>
"""


def table(head: Sequence[tuple[str, bool]], body: Sequence[Sequence[str]]) -> str:
    align = [' class="num"' if numeric else "" for _, numeric in head]
    titles = "".join(f"<th{a}>{escape(title)}</th>" for a, (title, _) in zip(align, head))
    lines = "".join("<tr>" + "".join(f"<td{a}>{escape(cell)}</td>" for a, cell in zip(align, cells)) + "</tr>" for cells in body)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


# ---- layers


def _layers(rows: Sequence[Row]) -> str:
    def choice(number: int, row: Row) -> str:
        checked = " checked" if number == 0 else ""
        return f'<label><input type="radio" name="row" value="{number}"{checked}><span>{escape(text(row.get("codec")))}</span></label>'

    choices = f'<div class="choices">{"".join(choice(n, row) for n, row in enumerate(rows))}</div>' if len(rows) > 1 else ""
    head = [(name, name not in ("site", "shape", "mode")) for name in LAYER_HEADINGS]
    tables = "".join(
        f'<details class="layer-table"><summary>{escape(text(row.get("codec")))}: all {len(row["layers"])} layers as a table</summary>'
        f"{table(head, [layer_cells(layer) for layer in row['layers']])}</details>"
        for row in rows
    )
    return f"""<section>
<h2>Layer by layer</h2>
<p class="lead">Sites in the order in which the network makes them. Point at a bar for its name and figures.</p>
{choices}
<div class="chart" id="layers"><noscript>The charts need JavaScript; the tables below hold the same figures.</noscript></div>
{tables}
</section>
"""


def _layers_figure(row: Row) -> dict[str, Any]:
    """Up to four stacked panels over one axis of sites; a panel of which nothing is known is left out."""
    layers = row["layers"]
    images = number(row.get("images")) or 0.0
    per_image = 1 / images if images > 0 else 1.0
    hover = [_hover(layer) for layer in layers]
    panels: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = []

    ratios = [number(layer.get("ratio")) for layer in layers]
    if any(value is not None for value in ratios):
        total = number(row.get("ratio"))
        name = "Ratio" + (f", total {ratio(total)} dotted" if total else "")
        panels.append((name, [_bar("ratio", ratios, "--s1", hover)], {"ticksuffix": "×", "line": total}))
    coded = [number(layer.get("nbytes")) for layer in layers]
    if any(value is not None for value in coded):
        raw = [number(layer.get("raw_nbytes")) for layer in layers]
        stays = [None if c is None else c * per_image for c in coded]
        gone = [None if r is None or c is None else max(r - c, 0.0) * per_image for r, c in zip(raw, coded)]
        name = ("Bytes an image" if images > 0 else "Bytes") + ": streams, pale what was saved"
        bars = [_bar("streams", stays, "--s1", hover), _bar("saved", gone, "--pale", hover)]
        panels.append((name, bars, {"tickformat": "~s", "ticksuffix": "B"}))
    shares = [mode_shares(layer.get("mode")) for layer in layers]
    names = sorted(
        {name for share in shares for name in share},
        key=lambda name: (list(MODES).index(name.lower()) if name.lower() in MODES else 99, name),
    )
    if names:
        spare = iter(("--s4", "--s5", "--s6", "--s7") * len(names))
        bars = []
        for name in names:
            colour = MODES.get(name.lower()) or next(spare)
            bars.append({**_bar(name, [share.get(name) for share in shares], colour, hover), "showlegend": True})
        panels.append(("Modes, share", bars, {"tickformat": ".0%", "range": [0, 1]}))
    density = [number(layer.get("density")) for layer in layers]
    if any(value is not None for value in density):
        panels.append(
            (
                "Density, share of values that are not zero",
                [_bar("density", density, "--s5", hover)],
                {"tickformat": ".0%", "range": [0, 1]},
            )
        )
    return _stacked(panels, len(layers))


def _stacked(panels: Sequence[tuple[str, list[dict[str, Any]], dict[str, Any]]], sites: int) -> dict[str, Any]:
    gap, top = 46, 30  # pixels between panels, and over the first
    height = 132
    total = len(panels) * height + max(len(panels) - 1, 0) * gap
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "height": total + top + 40,
        "margin": {"l": 52, "r": 6, "t": top, "b": 40},
        "barmode": "stack",
        "bargap": 0.22,
        "annotations": [],
        "shapes": [],
        "xaxis": {
            "range": [0.4, sites + 0.6],
            "anchor": f"y{len(panels)}" if len(panels) > 1 else "y",
            "tickvals": _ticks(sites),
            "showgrid": False,
            "zeroline": False,
            "title": {"text": "site", "standoff": 6},
        },
    }
    for place, (title, bars, axis) in enumerate(panels):
        suffix = "" if place == 0 else str(place + 1)
        start = 1 - (place * (height + gap) + height) / total
        domain = [max(start, 0.0), min(start + height / total, 1.0)]
        line = axis.get("line")
        layout[f"yaxis{suffix}"] = {"domain": domain, "rangemode": "tozero", "nticks": 4, **{k: v for k, v in axis.items() if k != "line"}}
        layout["annotations"].append(
            {
                "text": escape(title, quote=False),
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": domain[1],
                "xanchor": "left",
                "yanchor": "bottom",
            }
            | {"yshift": 5, "showarrow": False, "font": {"size": 13, "color": "--ink"}}
        )
        if line:
            dotted = {"color": "--ink", "width": 1, "dash": "dot"}
            layout["shapes"].append(
                {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": f"y{suffix}", "y0": line, "y1": line, "line": dotted}
            )
        if any(bar.get("showlegend") for bar in bars):
            layout["legend"] = {"orientation": "h", "x": 1, "xanchor": "right", "y": domain[1], "yanchor": "bottom", "traceorder": "normal"}
        data += [{**bar, "yaxis": f"y{suffix}"} for bar in bars]
    return {"data": data, "layout": layout}


def _ticks(sites: int) -> list[int]:
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100) if sites / s <= 12), 200)
    return [1, *range(step, sites + 1, step)] if step > 1 else list(range(1, sites + 1))


def _bar(name: str, values: Sequence[float | None], colour: str, hover: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": escape(name, quote=False),
        "x": list(range(1, len(values) + 1)),
        "y": list(values),
        "marker": {"color": colour, "line": {"width": 0}},
        "text": list(hover),
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }


def _hover(layer: Mapping[str, Any]) -> str:
    """Plotly reads a little HTML in labels, so names are escaped for it as well."""
    cells = dict(zip(LAYER_HEADINGS, (escape(cell, quote=False) for cell in layer_cells(layer))))
    known = [f"{name} {cells[name]}" for name in ("ratio", "mode", "density", "mse", "reads") if cells[name] != UNKNOWN]
    sizes = [f"{cells['raw']} → {cells['coded']}"] if cells["coded"] != UNKNOWN else []
    return "<br>".join([f"<b>{cells['site']}</b>", cells["shape"], *sizes, *known])


# ---- rate against distortion


def curve_section(figure: Mapping[str, Any], more: str = " Diamonds are the rows of this report.") -> str:
    return f"""<section>
<h2>Rate against distortion</h2>
<p class="lead">Higher is smaller, further left is closer to the float network.{more}</p>
<div class="chart" id="curve"></div>
</section>
"""


def curve_figure(rows: Sequence[Row], curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ratio against KL (log axis); empty where no curve has a point to draw."""
    colours: dict[str, str] = {}

    def colour(name: str) -> str:
        return colours.setdefault(name, SERIES[len(colours) % len(SERIES)])

    data = []
    drawn = []
    for curve in curves:
        name = text(curve.get("name"))
        points = sorted(
            (p for p in curve.get("points") or () if _positive(p.get("kl")) and _positive(p.get("ratio"))), key=lambda p: float(p["kl"])
        )
        if points:
            drawn += points
            data.append(_series(name, points, colour(name), "lines+markers", {"size": 6}))
    if not drawn:
        return {}
    for row in rows:
        if _positive(row.get("kl")) and _positive(row.get("ratio")):
            drawn.append(row)
            name = text(row.get("codec"))
            marker = {"size": 12, "symbol": "diamond", "line": {"width": 1.5, "color": "--paper"}}
            data.append({**_series(name, [row], colour(name), "markers", marker), "showlegend": False})
    low, high = min(log10(p["kl"]) for p in drawn), max(log10(p["kl"]) for p in drawn)
    room = 0.06 * (high - low) + 0.05
    ticks = [m * 10.0**e for e in range(floor(low) - 1, ceil(high) + 1) for m in (1, 2, 5)]
    step = 3 if high - low > 2.5 else 1  # decades alone where there are many
    layout = {
        "height": 420,
        "margin": {"l": 52, "r": 10, "t": 34, "b": 48},
        "xaxis": {
            "type": "log",
            "range": [low - room, high + room],
            "title": {"text": "KL from the float network, nats", "standoff": 8},
            "tickvals": ticks[::step],
            "ticktext": [f"{tick:.10g}" for tick in ticks[::step]],
        },
        "yaxis": {"ticksuffix": "×", "nticks": 7},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "annotations": [],
    }
    return {"data": data, "layout": layout}


def _series(name: str, points: Sequence[Mapping[str, Any]], colour: str, mode: str, marker: Mapping[str, Any]) -> dict[str, Any]:
    shown = escape(name, quote=False)

    def hover(point: Mapping[str, Any]) -> str:
        more = [f"{title} {significant(point[key])}" for key, title in POINT_FACTS.items() if number(point.get(key)) is not None]
        return "<br>".join([f"<b>{shown}</b>", f"{ratio(point['ratio'])} at KL {significant(point['kl'])}", *more])

    return {
        "type": "scatter",
        "mode": mode,
        "name": shown,
        "x": [float(p["kl"]) for p in points],
        "y": [float(p["ratio"]) for p in points],
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, **marker},
        "text": [hover(point) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _positive(value: Any) -> bool:
    known = number(value)
    return known is not None and known > 0


# ---- pictures


def _pictures(pictures: Sequence[Mapping[str, Any]]) -> str:
    return f"""<section>
<h2>Channels before and after</h2>
<p class="lead">Some channels of one image, as the network wrote them and as the decoder gave them back: 8-bit values, dark is zero.</p>
{"".join(_picture(picture) for picture in pictures)}
</section>
"""


def _picture(picture: Mapping[str, Any]) -> str:
    site = text(picture.get("site"))
    before, after = np.asarray(picture["before"]), np.asarray(picture["after"])
    if before.dtype != np.uint8 or after.dtype != np.uint8 or before.ndim != 3 or before.shape != after.shape or not before.size:
        raise InputError(
            f"picture of {site}: before is {before.dtype} {before.shape}, after {after.dtype} {after.shape}, expected equal uint8 (n, h, w)"
        )
    difference = np.abs(before.astype(np.int16) - after)
    largest = int(difference.max())
    gain = (difference * (255 / max(largest, 1))).astype(np.uint8)
    strips = (("before", before, SEQUENTIAL), ("after", after, SEQUENTIAL), ("difference", gain, DIFFERENCE))
    shown = f"largest difference {largest} of 255, drawn at full scale" if largest else "no value differs"
    grid = "".join(
        f"<span>{name}</span>" + "".join(f'<img alt="{name}, channel {n + 1}" src="{_png(tile, ramp)}">' for n, tile in enumerate(tiles))
        for name, tiles, ramp in strips
    )
    channels, height, width = before.shape
    return f"""<figure>
<figcaption><code>{escape(site)}</code> <span>{channels} channels of {height}×{width}; {shown}</span></figcaption>
<div class="scroll"><div class="tiles" style="--n:{channels}">{grid}</div></div>
</figure>
"""


def _png(values: NDArray[np.uint8], ramp: Sequence[str]) -> str:
    image = Image.fromarray(np.ascontiguousarray(values)).convert("L")
    image.putpalette(_palette(ramp))
    buffer = BytesIO()
    image.save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _palette(ramp: Sequence[str]) -> bytes:
    """256 RGB colours through the ramp's anchors."""
    anchors = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in ramp], float)
    along = np.linspace(0, len(ramp) - 1, 256)
    colours = np.stack([np.interp(along, range(len(ramp)), anchors[:, c]) for c in range(3)], 1)
    return bytes(colours.round().astype(np.uint8).ravel())


# ---- energy and conditions


def _energy(row: Row) -> str:
    images = number(row.get("images"))
    layers = row.get("layers") or ()
    if not layers or not images or any(number(layer.get(key)) is None for layer in layers for key in ("raw_nbytes", "nbytes")):
        return ""  # an energy from part of the layers would be another quantity
    found = [(constants, dram_energy(layers, key)) for key, constants in MEMORIES.items()]
    most = max(max(energy["joules_raw"], energy["joules"]) for _, energy in found)
    lines = "".join(
        f'<tr><td>{constants.title}</td><td class="num">{constants.read:g} / {constants.write:g}</td>'
        f'<td class="num">{_joules(energy["joules_raw"] / images)}</td><td class="num">{_joules(energy["joules"] / images)}</td>'
        f'<td class="num"><b>{fixed(energy["saved_percent"], 1, " %")}</b></td>'
        f'<td class="pair"><i class="before" style="width:{100 * energy["joules_raw"] / (most or 1):.2f}%"></i>'
        f'<i class="after" style="width:{100 * energy["joules"] / (most or 1):.2f}%"></i></td>'
        f'<td class="source">{escape(constants.source.replace("-", "–") if constants.assumed else constants.source)}</td></tr>'
        for constants, energy in found
    )
    return f"""<section>
<h2>DRAM energy</h2>
<p class="lead">Per image with <code>{escape(text(row.get("codec")))}</code>: every map written once and read as often as the network reads it.
The codec's own logic is not in these figures.</p>
<div class="scroll"><table class="energy"><thead><tr><th>memory</th><th class="num">pJ/bit read / write</th><th class="num">8-bit maps</th>
<th class="num">compressed</th><th class="num">saved</th><th class="pair">energy</th><th>source</th></tr></thead><tbody>{lines}</tbody></table></div>
</section>
"""


def _joules(value: float) -> str:
    for unit, scale in (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-12:.3g} pJ"


def _conditions(rows: Sequence[Row]) -> str:
    commands = list(dict.fromkeys(str(row["command"]) for row in rows if row.get("command")))
    machines = list(dict.fromkeys(text(row["machine"]) for row in rows if row.get("machine")))
    seconds = number(rows[0].get("seconds"))
    first = rows[0]
    facts = [
        ("Scale of the 8-bit reference", text(first.get("scale"))),
        ("Top-1, float network", fixed(first.get("top1_float"), 2, " %")),
        ("Top-1, 8-bit maps", fixed(first.get("top1_reference"), 2, " %")),
        ("Calibration images", whole(first.get("calib_images"))),
        ("Time of this row", UNKNOWN if seconds is None else f"{significant(seconds) if seconds < 1000 else whole(seconds)} s"),
        ("Machine", "; ".join(machines) or UNKNOWN),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    shown = (
        f"<h3>Command{'s' if len(commands) > 1 else ''}</h3><pre><code>{escape(chr(10).join(commands))}</code></pre>" if commands else ""
    )
    return f"""<footer>
<h2>Conditions</h2>
<dl class="conditions">{listed}</dl>
{shown}
<h3>How things are counted</h3>
<ol>{"".join(f"<li>{escape(rule)}</li>" for rule in RULES)}</ol>
</footer>
"""


CSS = """
:root { --paper:#fcfbf8; --panel:#f3f1ec; --ink:#1b1f23; --soft:#5c656d; --line:#dcd9d2; --faint:#b9bcb8; --pale:#d5e3e0;
  --s1:#0f766e; --s2:#3b6fb6; --s3:#c2791f; --s4:#8a5aa8; --s5:#7d8b52; --s6:#b5475b; --s7:#4f9fb3; }
@media (prefers-color-scheme: dark) { :root { --paper:#13171a; --panel:#1b2125; --ink:#e9e7e1; --soft:#9aa5ac; --line:#2d353a; --faint:#66706f;
  --pale:#24403e; --s1:#4db6a9; --s2:#7ba7e0; --s3:#e0a557; --s4:#b892d4; --s5:#aab877; --s6:#e08494; --s7:#7cc4d4; } }
* { box-sizing:border-box }
html { -webkit-text-size-adjust:100% }
body { margin:0; background:var(--paper); color:var(--ink); font:16px/1.55 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif }
main { max-width:1060px; margin:0 auto; padding:clamp(1.5rem,5vw,4rem) clamp(1rem,4vw,2.5rem) 4rem }
h1,h2,h3,p,dl,dd,figure { margin:0 }
code,pre { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace; font-size:.92em }
.eyebrow { color:var(--soft); font-size:.9rem } .eyebrow b { color:var(--s1); font-weight:650; margin-right:.6em }
h1 { font-weight:400; line-height:1; margin:1.1rem 0 2rem; display:flex; flex-wrap:wrap; align-items:baseline; gap:.3rem 1.2rem }
.ratio { font-size:clamp(4.6rem,17vw,9rem); font-weight:300; letter-spacing:-.045em; font-variant-numeric:tabular-nums; margin-left:-.04em }
.claim { font-size:clamp(1.15rem,3.4vw,1.7rem); color:var(--soft); line-height:1.25 } .claim code { color:var(--ink) }
.facts { display:grid; grid-template-columns:repeat(4,1fr); border-top:1px solid var(--line); border-bottom:1px solid var(--line) }
.facts div { padding:.9rem 1rem .9rem 0 } .facts div+div { padding-left:1rem; border-left:1px solid var(--line) }
dt { color:var(--soft); font-size:.85rem }
.facts dd { font-size:1.7rem; line-height:1.3; font-variant-numeric:tabular-nums } .facts small { display:block; font-size:.85rem; color:var(--soft); min-height:1.3em }
.story { max-width:68ch; margin:1.6rem 0; font-size:1.06rem }
.sizes { display:grid; grid-template-columns:auto 1fr auto; gap:.45rem 1rem; align-items:center; font-size:.9rem; margin-top:1.4rem }
.sizes span,.sizes em { color:var(--soft); font-style:normal } .sizes b { font-weight:500; font-variant-numeric:tabular-nums; white-space:nowrap } .sizes em { font-weight:400 }
.bar { display:flex; height:14px } .bar i { display:block; height:100% } .before { background:var(--faint) } .after { background:var(--s1) } .state { background:var(--s3); min-width:2px }
section,footer { margin-top:clamp(2.6rem,6vw,4rem) }
h2 { font-size:1.3rem; font-weight:600; letter-spacing:-.01em; margin-bottom:.35rem } h3 { font-size:1rem; font-weight:600; margin:1.6rem 0 .5rem }
.lead,.note { color:var(--soft); max-width:72ch } .lead { margin-bottom:.9rem } .note { font-size:.88rem; margin-top:.6rem }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:.9rem; font-variant-numeric:tabular-nums }
th,td { text-align:left; padding:.45rem .75rem .45rem 0; border-bottom:1px solid var(--line); vertical-align:baseline; white-space:nowrap }
th { font-weight:500; color:var(--soft); font-size:.82rem } .num { text-align:right } th:last-child,td:last-child { padding-right:0 }
.compare tbody tr:first-child td { font-weight:600 }
.energy .pair { width:22%; min-width:110px; padding-left:.6rem } .pair i { display:block; height:5px; min-width:1px } .pair .before { margin-bottom:2px }
.energy .source { white-space:normal; color:var(--soft); font-size:.82rem; min-width:220px; line-height:1.35 }
.chart { min-height:60px } .chart noscript { color:var(--soft) }
.choices { display:flex; flex-wrap:wrap; gap:.4rem; margin-bottom:.8rem } .choices input { position:absolute; opacity:0 }
.choices span { display:block; padding:.25rem .8rem; border:1px solid var(--line); border-radius:99px; font-size:.88rem; cursor:pointer; color:var(--soft) }
.choices input:checked+span { background:var(--s1); border-color:var(--s1); color:var(--paper) } .choices input:focus-visible+span { outline:2px solid var(--s2); outline-offset:2px }
details { margin-top:.6rem } summary { cursor:pointer; color:var(--soft); font-size:.9rem } details .scroll { max-height:26rem; margin-top:.5rem; overflow-y:auto }
figure { margin-top:1.3rem } figcaption { font-size:.9rem; margin-bottom:.4rem } figcaption span { color:var(--soft); margin-left:.5em }
.tiles { display:grid; grid-template-columns:5.2rem repeat(var(--n),minmax(52px,118px)); gap:4px; align-items:center; width:max-content; min-width:min(100%,calc(5.2rem + var(--n)*122px)); max-width:max(100%,calc(5.2rem + var(--n)*56px)) }
.tiles span { font-size:.82rem; color:var(--soft) } .tiles img { width:100%; display:block; image-rendering:pixelated }
footer { border-top:1px solid var(--line); padding-top:1.6rem }
.conditions { display:grid; grid-template-columns:repeat(auto-fit,minmax(200px,1fr)); gap:.8rem 1.5rem } .conditions div:last-child { grid-column:1/-1 } .conditions dd { font-variant-numeric:tabular-nums }
pre { background:var(--panel); padding:.9rem 1rem; margin:0; white-space:pre-wrap; overflow-wrap:anywhere; border-radius:4px; font-size:.86rem }
ol { margin:0; padding-left:1.3em; color:var(--soft); font-size:.88rem; max-width:84ch } li { margin:.25em 0 }
@media (max-width:640px) { .facts { grid-template-columns:1fr 1fr } .facts div:nth-child(3) { padding-left:0; border-left:0 } .facts div:nth-child(n+3) { border-top:1px solid var(--line) }
  .facts dd { font-size:1.4rem } .sizes { grid-template-columns:1fr auto; gap:.15rem 1rem } .sizes .bar { grid-column:1/-1; grid-row:auto; order:0; margin-bottom:.5rem } .sizes span { order:0 }
  .tiles { grid-template-columns:4.6rem repeat(var(--n),minmax(52px,118px)) } }
@media print { .choices,summary { display:none } }
"""

SCRIPT = """
const figures = JSON.parse(document.getElementById('figures').textContent);
const dark = matchMedia('(prefers-color-scheme: dark)');
const themed = (value, style) => Array.isArray(value) ? value.map(item => themed(item, style))
  : value && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([key, item]) =>
      [key, key === 'color' && typeof item === 'string' ? style.getPropertyValue(item).trim() : themed(item, style)]))
  : value;
function draw(id, figure) {
  const place = document.getElementById(id);
  if (!place || !figure) return;
  const style = getComputedStyle(document.documentElement), {data, layout} = themed(figure, style);
  const [ink, soft, line, panel] = ['--ink', '--soft', '--line', '--panel'].map(name => style.getPropertyValue(name).trim());
  for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key))
    Object.assign(layout[key], {gridcolor: line, linecolor: line, zerolinecolor: line, fixedrange: true, automargin: false, tickfont: {color: soft, size: 12}});
  const font = {family: getComputedStyle(document.body).fontFamily, size: 12, color: soft};
  Object.assign(layout, {font, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', hovermode: 'closest', dragmode: false,
    hoverlabel: {bgcolor: panel, bordercolor: line, align: 'left', font: {...font, color: ink}}});
  layout.legend = Object.assign({font: {color: soft, size: 12}, itemclick: false, itemdoubleclick: false, bgcolor: 'rgba(0,0,0,0)'}, layout.legend);
  Plotly.react(place, data, layout, {displayModeBar: false, responsive: true, showTips: false});
}
const tables = [...document.querySelectorAll('.layer-table')];
function show() {
  const chosen = Number(document.querySelector('input[name=row]:checked')?.value ?? 0);
  tables.forEach((table, number) => table.hidden = number !== chosen);
  draw('layers', figures.layers[chosen]);
  draw('curve', figures.curve);
}
document.querySelectorAll('input[name=row]').forEach(input => input.addEventListener('change', show));
dark.addEventListener('change', show);
show();
"""
