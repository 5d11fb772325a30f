"""FORMAT.md as tests read it: its worked examples and its tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parents[2] / "FORMAT.md").read_text()
GOLDEN = Path(__file__).parents[1] / "golden" / "streams"
EXAMPLES: dict[str, dict[str, Any]] = {name: json.loads(body) for name, body in re.findall(r"```json (\S+)\n(.*?)```", TEXT, re.S)}


def example(name: str) -> bytes:
    """The bytes of the block `hex NAME`: those in the first columns of its lines, before three spaces or the end of the line."""
    block = re.search(rf"```hex {re.escape(name)}\n(.*?)```", TEXT, re.S)
    assert block, f"FORMAT.md has no example {name}"
    return bytes.fromhex(" ".join(re.match(r"(?:[0-9a-f]{2} {0,2})*", line)[0] for line in block[1].splitlines()))


def state(name: str) -> dict[str, bytes]:
    """The shared state of an example: its blocks `hex NAME/STATE`."""
    return {piece: example(f"{name}/{piece}") for piece in re.findall(rf"```hex {re.escape(name)}/(\S+)\n", TEXT)}


def section(number: int) -> str:
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", TEXT, re.S | re.M)
    assert found, f"FORMAT.md has no section {number}"
    return found[0]


def rows(number: int, first: str) -> list[list[str]]:
    """The cells of the table in a section whose head begins with `first`."""
    table = re.search(rf"^\| {re.escape(first)} .*?\n\|[-|]+\n((?:\|.*\n)+)", section(number), re.M)
    assert table, f"section {number} has no table that begins with {first!r}"
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]


def released() -> dict[Path, str]:
    """The golden streams that a release holds, with the codec of each. The document and the second decoder owe them; a new codec may wait for its release."""
    found = {}
    for manifest in sorted(GOLDEN.glob("v*/MANIFEST.json")):
        for name, row in json.loads(manifest.read_text()).items():
            if name.endswith(".tp") and row["released"]:
                found[manifest.parent / name] = json.loads((manifest.parent / name).with_suffix(".json").read_text())["codec"]
    return found


CODECS = sorted(set(released().values()))
