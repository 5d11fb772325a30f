"""A file of weights in the terminal: what became of each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tensorpress.weights import Compressed

MANY = 60  # rows that a terminal is shown; vectors are gathered in one row where there are more


def layer_table(rows: list[dict[str, Any]], nbytes: int, title: str) -> Table:
    """Tensors in the file's order. Bytes are what each would take by itself: together they take less, the whole file `nbytes`."""
    table = Table(title=title, title_justify="left", caption=f"bytes as each tensor takes them by itself; the whole file has {nbytes:,}")
    for name, justify in (
        ("tensor", "left"),
        ("shape", "left"),
        ("form", "left"),
        ("values", "right"),
        ("zeros", "right"),
        ("bytes", "right"),
        ("bits a value", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    shown = rows if len(rows) <= MANY else [r for r in rows if len(r["shape"]) >= 2]
    rest = [r for r in rows if r not in shown]
    if rest:
        shown = [
            *shown,
            {
                "name": f"{len(rest)} vectors and numbers",
                "shape": [],
                "form": "",
                "values": sum(r["values"] for r in rest),
                "nbytes": sum(r["nbytes"] for r in rest),
            },
        ]
    for row in shown:
        zeros = "" if row.get("zeros") is None else f"{100 * row['zeros']:.0f} %"
        rate = f"{8 * row['nbytes'] / row['values']:.2f}" if row["values"] else ""
        shape = "x".join(map(str, row["shape"]))
        form = row["form"] if row["form"] != "same" else f"same as {row['of']}"
        table.add_row(Text(row["name"]), shape, form, f"{row['values']:,}", zeros, f"{row['nbytes']:,}", rate)
    return table


def headline(nbytes: int, raw_nbytes: int, bits: float) -> str:
    return f"{nbytes:,} bytes, {100 * nbytes / max(raw_nbytes, 1):.2f} % of {raw_nbytes:,} (32 bits a value), {bits:.3f} bits a parameter, all included"


def kept_line(kept: tuple[str, ...]) -> str:
    return f"kept at 16 bits, since no layer that is known reads them: {', '.join(kept)}"


def table(small: Compressed) -> str:
    """The whole report as text."""
    import io

    from tensorpress.console import Console

    out = io.StringIO()
    console = Console(file=out, width=120)
    console.print(layer_table(small.layers, small.nbytes, headline(small.nbytes, small.raw_nbytes, small.bits_per_param)))
    if small.kept:
        console.print(kept_line(small.kept), highlight=False, markup=False)
    return out.getvalue()
