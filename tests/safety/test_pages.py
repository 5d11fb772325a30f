"""Every text of a result row reaches the HTML page as text: no element, no attribute, no script of its own."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tensorpress.report import page as pages
from tensorpress.report.board import write_board
from tests.report.conftest import made_up_row

HOSTILE = "</script><script>owned()</script><img src=x onerror=owned()>\"' onload='owned()\" &lt;b&gt; <!-- <a href='javascript:owned()'>"


def hostile(value: Any) -> Any:
    """The same row with every text made hostile."""
    if isinstance(value, dict):
        return {k: hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v) for v in value]
    return HOSTILE + value if isinstance(value, str) else value


class Elements(HTMLParser):
    """The elements of a page, their attributes, and what its JSON says."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.links: list[str] = []
        self.events: list[str] = []
        self.tags: set[str] = set()
        self.inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.events += [name for name, _ in attributes if name.startswith("on")]
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "action", "srcset", "data")]
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def check(source: str) -> None:
    found = Elements(source)
    assert len(found.scripts) == 3 and "owned" not in found.scripts[1] + found.scripts[2]
    told = json.loads(found.scripts[0])
    assert "owned" in json.dumps(told)  # the charts do say it
    assert "<script" not in json.dumps(told) and "<img" not in json.dumps(told), "plotly reads a little HTML in labels"
    assert not found.events and all(link.startswith("data:image/png;base64,") for link in found.links)
    assert "a" not in found.tags and "&lt;img src=x onerror=owned()&gt;" in source
    assert "default-src 'none'" in source


@pytest.fixture
def without_plotly(monkeypatch):
    monkeypatch.setattr(pages, "plotly_source", lambda: "var Plotly = {}")
    monkeypatch.setattr("tensorpress.report.board.plotly_source", lambda: "var Plotly = {}")


def test_a_page_of_hostile_names(tmp_path, without_plotly):
    row = hostile(made_up_row("dct_cm", 2.0))
    for layer in row["layers"]:
        layer["mode"] = {HOSTILE + name: share for name, share in layer["mode"].items()}
    values = np.arange(2 * 6 * 6, dtype=np.uint8).reshape(2, 6, 6)
    curves = [{"name": HOSTILE, "points": [{"ratio": 2.0, "kl": 0.01}, {"ratio": 3.0, "kl": 0.05}]}]
    pages.write_page(tmp_path / "p.html", [row, hostile(made_up_row("zvc", 1.0))], curves, [{"site": HOSTILE, "before": values, "after": values}])
    check((tmp_path / "p.html").read_text())


def test_a_board_of_hostile_names(tmp_path, without_plotly):
    at = {"ratio": 2.0, "reached": "yes", "ci95": [1.9, 2.1]}
    points = [{"kl": 0.01, "ratio": 2.0, "shared_nbytes": 5}, {"kl": 0.05, "ratio": 3.0, "shared_nbytes": 5}]
    row = {**made_up_row("zvc", 1.0), "name": HOSTILE, "points": points, "at_kl": dict.fromkeys(("0.0125", "0.025", "0.05"), at), "at_drop": {"0.5": at}}
    write_board(tmp_path / "b.html", [{**row, "arch": HOSTILE, "command": HOSTILE, "machine": HOSTILE}])
    check((tmp_path / "b.html").read_text())


def test_no_figure_closes_the_script_that_it_stands_in():
    found = Elements(pages.document("t", [], {"layers": [{"x": HOSTILE}]}, "var Plotly = {}"))
    assert len(found.scripts) == 3 and json.loads(found.scripts[0]) == {"layers": [{"x": HOSTILE}]} and not found.events and not found.links
