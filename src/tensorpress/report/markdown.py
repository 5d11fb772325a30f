"""Result rows as a Markdown table; the columns, words and numbers here also fill the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

Row = Mapping[str, Any]

UNKNOWN = "–"
REFERENCE = (
    "Ratios are total bytes against 8 bits a value, headers included; 'with shared' adds, once for the run, what a decoder must already hold. "
    "Drop, agreement and KL are against the float network on the same images."
)


def number(value: Any) -> float | None:
    """`value` where it is a finite number, else None: what null, NaN and text become."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None


def fixed(value: Any, digits: int, unit: str = "") -> str:
    """A number with `digits` decimals and a true minus sign; a dash where it is unknown."""
    known = number(value)
    if known is None:
        return UNKNOWN
    text = f"{known:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")  # -0.001 must not read as minus nothing
    return text.replace("-", "−") + unit


def significant(value: Any) -> str:
    """Three significant digits; a dash where unknown."""
    known = number(value)
    return UNKNOWN if known is None else f"{known:.3g}".replace("-", "−")


def ratio(value: Any) -> str:
    return fixed(value, 2, "×")


def whole(value: Any) -> str:
    known = number(value)
    return UNKNOWN if known is None else f"{known:,.0f}"


def size(value: Any) -> str:
    """Bytes in decimal units: 1 kB is 1000 bytes."""
    known = number(value)
    if known is None:
        return UNKNOWN
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(known) >= scale * 0.9995:
            return f"{known / scale:.3g} {unit}" if known < 999.5 * scale else f"{known / scale:,.0f} {unit}"
    return f"{known:.0f} B"


def interval(value: Any, digits: int = 2) -> str:
    """[low, high]; empty where unknown."""
    if not isinstance(value, Sequence) or len(value) != 2 or None in (number(value[0]), number(value[1])):
        return ""
    return f"[{fixed(value[0], digits)}, {fixed(value[1], digits)}]"


def with_interval(value: Any, bounds: Any) -> str:
    return f"{fixed(value, 2)} {interval(bounds)}".rstrip()


def text(value: Any) -> str:
    """One line of text; a dash where there is none."""
    return UNKNOWN if value is None or value == "" else " ".join(str(value).split())


def ratio_with_shared(row: Row) -> float | None:
    """The row's own figure, or what its bytes say."""
    given, raw, coded, shared = (number(row.get(key)) for key in ("ratio_with_shared", "raw_nbytes", "nbytes", "shared_nbytes"))
    if given is None and raw is not None and coded is not None and shared is not None and coded + shared > 0:
        return raw / (coded + shared)
    return given


@dataclass(frozen=True)
class Column:
    title: str  # a line break stands where a narrow table may break
    cell: Callable[[Row], str]
    numeric: bool = True


CODEC = Column("codec", lambda row: text(row.get("codec")), numeric=False)
RUN = (  # what usually holds for all rows of a table, and then stands in its caption
    Column("network", lambda row: text(row.get("arch")), numeric=False),
    Column("images", lambda row: whole(row.get("images"))),
    Column("scale", lambda row: text(row.get("scale")), numeric=False),
)
FIGURES = (
    Column("ratio", lambda row: ratio(row.get("ratio"))),
    Column("with\nshared", lambda row: ratio(ratio_with_shared(row))),
    Column("layer\nmean", lambda row: ratio(row.get("ratio_mean_of_layers"))),
    Column("worst\nlayer", lambda row: ratio(row.get("ratio_worst_layer"))),
    Column("bits/\nvalue", lambda row: fixed(row.get("bits_per_value"), 2)),
    Column("top-1\n%", lambda row: fixed(row.get("top1"), 2)),
    Column("drop, points\n[95 %]", lambda row: with_interval(row.get("drop_points"), row.get("drop_ci95"))),
    Column("agree-\nment", lambda row: fixed(row.get("agreement"), 3)),
    Column("KL,\nnats", lambda row: significant(row.get("kl"))),
)


def columns(rows: Sequence[Row]) -> list[Column]:
    """What a table of `rows` shows: of network, images and scale only what differs between them."""
    return [c for c in RUN[:1] if _differs(c, rows)] + [CODEC] + [c for c in RUN[1:] if _differs(c, rows)] + list(FIGURES)


def caption(rows: Sequence[Row]) -> str:
    """What holds for all `rows`: network, images, accuracy of the uncompressed network, scale rule of the 8-bit maps."""
    shared = {c.title: c.cell(rows[0]) for c in RUN if rows and not _differs(c, rows)}
    parts = []
    if shared.get("network", UNKNOWN) != UNKNOWN:
        parts.append(shared["network"])
    if shared.get("images", UNKNOWN) != UNKNOWN:
        parts.append(f"{shared['images']} images")
    for key, name in (("top1_float", "float"), ("top1_reference", "8-bit maps")):
        found = {fixed(row.get(key), 2) for row in rows}
        if len(found) == 1 and found != {UNKNOWN}:
            parts.append(f"top-1 {name} {found.pop()} %")
    if shared.get("scale", UNKNOWN) != UNKNOWN:
        parts.append(f"8-bit reference scaled by {shared['scale']}")
    return ", ".join(parts)


def markdown_table(rows: Iterable[Row], *, commands: bool = False) -> str:
    """The Markdown table of result rows (the JSON objects), with its conditions below it, ending in a newline.

    `commands` adds each row's command. Unknown values are a dash.
    """
    shown = list(rows)
    cells = columns(shown)
    titles = [c.title.replace("-\n", "").replace("\n", " ") for c in cells]
    lines = [_line(titles), _line("---:" if c.numeric else "---" for c in cells)]
    lines += [_line(_escape(c.cell(row)) for c in cells) for row in shown]
    conditions = caption(shown)
    lines += ["", (f"{_escape(conditions)}. " if conditions else "") + REFERENCE]
    written = list(dict.fromkeys(str(row["command"]) for row in shown if row.get("command")))
    if commands and written:
        lines += ["", *(f"    {line}" for command in written for line in command.splitlines())]  # indented: no fence to break out of
    return "\n".join(lines) + "\n"


def _differs(column: Column, rows: Sequence[Row]) -> bool:
    return len({column.cell(row) for row in rows}) > 1


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(cell: str) -> str:
    for special in "\\|`*_<>[]":
        cell = cell.replace(special, "\\" + special)
    return cell
