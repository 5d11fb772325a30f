"""Tables and the page: every figure of a row is there, nothing is fetched, nothing breaks on unknown values."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from tensorpress.core.errors import InputError
from tensorpress.report.markdown import markdown_table
from tensorpress.report.page import write_page
from tensorpress.report.terminal import layer_table, result_table
from tests.report.conftest import made_up_row


def printed(table) -> str:
    console = Console(width=220, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_terminal_tables():
    row = made_up_row("dct_cm", 2.0)
    text = printed(result_table([row, made_up_row("zvc", 1.0)]))
    assert "dct_cm" in text and "zvc" in text and f"{row['ratio']:.2f}" in text and "8 bits" in text
    text = printed(layer_table(row))
    assert row["layers"][0]["site"] in text and "zvc" in text


def test_markdown():
    text = markdown_table([made_up_row("dct_cm", 2.0), made_up_row("raw", 1.0)])
    assert text.count("\n|") >= 3 and "dct" in text


@pytest.mark.parametrize("labelled", [True, False])
def test_page_is_self_contained(tmp_path, labelled):
    row = made_up_row("dct_cm", 2.0)
    row["layers"][0]["site"] = "<script>alert(1)</script>"
    if not labelled:
        for key in ("top1", "top1_float", "top1_reference", "drop_points", "drop_ci95", "drop_smoothed", "kl_ci95", "machine", "command"):
            row[key] = None
    values = np.arange(2 * 6 * 6, dtype=np.uint8).reshape(2, 6, 6)
    curves = [{"name": "dct_cm", "points": [{"ratio": 2.0, "kl": 0.01}, {"ratio": 3.0, "kl": 0.05}]}]
    write_page(tmp_path / "p.html", [row, made_up_row("zvc", 1.0)], curves, [{"site": "a", "before": values, "after": values}])
    page = (tmp_path / "p.html").read_text()
    assert "<script>alert(1)" not in page and "data:image/png;base64" in page and "Plotly" in page
    assert 'src="http' not in page and "@import" not in page and '<link rel="stylesheet" href="http' not in page
    assert f"{row['ratio']:.2f}" in page


def test_a_page_needs_a_row(tmp_path):
    with pytest.raises(InputError):
        write_page(tmp_path / "p.html", [])
    assert not (tmp_path / "p.html").exists()
