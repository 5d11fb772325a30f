"""Result rows in the terminal: codecs side by side, and one codec's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tensorpress.report.markdown import (
    REFERENCE,
    UNKNOWN,
    Row,
    caption,
    columns,
    fixed,
    number,
    ratio,
    significant,
    size,
    text,
    whole,
)


def result_table(rows: Sequence[Row]) -> Table:
    """Codecs side by side: ratio (total bytes), with shared state, bits a value, accuracy, drop, agreement, KL.

    Conditions that all rows share stand in the title; unknown values are a dash.
    """
    table = _table(caption(rows), REFERENCE)
    for column in columns(rows):
        title = column.title.replace(", points\n", "\npoints\n")
        table.add_column(title, justify="right" if column.numeric else "left", overflow="fold", no_wrap=not column.numeric)
    for row in rows:
        table.add_row(*(Text(narrow(column.cell(row))) for column in columns(rows)))
    return table


def narrow(cell: str) -> str:
    """An interval under its value, one end a line: 80 columns are few."""
    return cell.replace(" [", "\n[").replace(", ", ",\n ") if " [" in cell else cell


def layer_table(row: Row) -> Table:
    """One codec's sites in network order: shape, density, how their cells were coded, bytes of the whole run, ratio, error."""
    layers = row.get("layers") or []
    title = f"{text(row.get('codec'))} on {text(row.get('arch'))}: {len(layers)} sites, {whole(row.get('images'))} images"
    table = _table(title, f"{ratio(row.get('ratio'))} in total against 8 bits a value, headers included; bytes are of all images")
    for name, justify in (
        ("site", "left"),
        ("shape", "left"),
        ("density", "right"),
        ("mode", "left"),
        ("raw", "right"),
        ("coded", "right"),
        ("ratio", "right"),
        ("mse", "right"),
        ("reads", "right"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for layer in layers:
        table.add_row(*(Text(cell) for cell in layer_cells(layer)))
    return table


def profile_table(row: Row) -> Table:
    """An ONNX network's tensors: operator, shape, density, bytes, ratio and normalised error of each, totals beneath."""
    layers = row.get("layers") or []
    title = f"{text(row.get('codec'))} on {text(row.get('model'))}: {len(layers)} tensors, {whole(row.get('inputs'))} inputs"
    total = (
        f"{ratio(row.get('ratio'))} in total against 8 bits a value, headers included ({ratio(row.get('ratio_with_shared'))} with shared state); "
        f"mean of tensors {ratio(row.get('ratio_mean_of_layers'))}, worst {ratio(row.get('ratio_worst_layer'))}; {size(row.get('raw_nbytes'))} to {size(row.get('nbytes'))}"
    )
    table = _table(title, total)
    for name in ("tensor", "operator", "shape", "density", "raw", "coded", "ratio", "nmse"):
        table.add_column(name, justify="left" if name in ("tensor", "operator", "shape") else "right", overflow="fold")
    for layer in layers:
        cells = [text(layer["tensor"]), text(layer["op"]), shape(layer["shape"]), fixed(layer["density"], 3), size(layer["raw_nbytes"])]
        cells += [size(layer["nbytes"]), ratio(layer["ratio"]), significant(layer["nmse"])]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def layer_cells(layer: Mapping[str, Any]) -> list[str]:
    """Site, shape, density, mode, raw bytes, coded bytes, ratio, mean squared error and reads of a layer, as text."""
    return [
        text(layer.get("site")),
        shape(layer.get("shape")),
        fixed(layer.get("density"), 3),
        mode(layer.get("mode")),
        size(layer.get("raw_nbytes")),
        size(layer.get("nbytes")),
        ratio(layer.get("ratio")),
        significant(layer.get("mse")),
        whole(layer.get("reads")),
    ]


def shape(value: Any) -> str:
    return "×".join(str(n) for n in value) if isinstance(value, Sequence) and not isinstance(value, str) and value else text(value)


def mode(value: Any) -> str:
    """A mode's name, or the shares of several in percent, the largest first."""
    shares = mode_shares(value)
    if len(shares) == 1 and not isinstance(value, Mapping):
        return next(iter(shares))
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in ordered if share >= 0.005) or UNKNOWN


def mode_shares(value: Any) -> dict[str, float]:
    """Shares of a layer's cells by mode, 0-1: a bare name is all of them, None is none known."""
    if isinstance(value, Mapping):
        return {str(name): share for name, share in ((n, number(s)) for n, s in value.items()) if share is not None and share > 0}
    return {str(value): 1.0} if value else {}


def _table(title: str, caption: str) -> Table:
    return Table(
        title=Text(title) if title else None,
        caption=Text(caption, style="dim"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,  # the box has a space between columns, and 80 of them must do
        pad_edge=False,
    )
