"""Writes the tables of the README and the documents from the committed rows: `python scripts/readme_tables.py [--check]`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tensorpress.core.atomic import write_atomically
from tensorpress.evaluate.board import ABLATIONS
from tensorpress.report.board import at, board_markdown

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {
    "resnet50": "ResNet-50",
    "resnet18": "ResNet-18",
    "mobilenet_v2": "MobileNetV2 (TF)",
    "squeezenet1_1": "SqueezeNet 1.1",
    "cifar_resnet20": "ResNet-20 (CIFAR-10)",
    "cifar_resnet56": "ResNet-56 (CIFAR-10)",
}
CODECS = {
    "dct_cm": "`dct_cm`, extended",
    "dct_cm-max": "`dct_cm`, extended, scale = max",
    "dct_cm-paper": "`dct_cm`, paper profile",
    "uniform_rans": "`uniform_rans`",
    "klt": "`klt`",
    "zvc": "`zvc`",
    "raw": "`raw`",
}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def results() -> str:
    head = ["network, codec", "ratio", "with shared state", "mean of layers", "worst layer", "drop, points [95 %]", "smoothed", "agreement", "KL, nats [95 %]"]
    rows = []
    for network, title in NETWORKS.items():
        for codec, name in CODECS.items():
            path = ROOT / "results" / "features" / f"{network}-{codec}.json"
            if not path.exists():
                continue
            r = json.loads(path.read_text())
            low, high = r["drop_ci95"]
            kl_low, kl_high = r["kl_ci95"]
            rows.append(
                [
                    f"{title}, {name}" + (" †" if r["target_met"] is False else ""),
                    f"**{r['ratio']:.2f}**",
                    f"{r['ratio_with_shared']:.2f}",
                    f"{r['ratio_mean_of_layers']:.2f}",
                    f"{r['ratio_worst_layer']:.2f}",
                    f"{r['drop_points']:+.1f} [{low:+.1f}, {high:+.1f}]",
                    f"{r['drop_smoothed']:+.2f}",
                    f"{r['agreement']:.3f}",
                    f"{r['kl']:.4f} [{kl_low:.4f}, {kl_high:.4f}]",
                ]
            )
    return table(head, rows)


def parts() -> str:
    blocks = []
    for arch in ("resnet50", "resnet18"):
        path = ROOT / "results" / f"curves-{arch}.json"
        if not path.exists():
            continue
        r: dict[str, Any] = json.loads(path.read_text())
        steps = [p["quality"] for p in r["curves"][0]["points"]]
        head = [f"{NETWORKS[arch]}, {r['images']} pictures"] + [f"step {s:g}" for s in steps]
        rows = [[c["name"]] + [f"{p['ratio']:.2f} @ {p['kl']:.3f}" for p in c["points"]] for c in r["curves"]]
        blocks.append(table(head, rows))
    return "\n\n".join(blocks)


def speed() -> str:
    rows = [r for r in json.loads((ROOT / "results" / "bench-resnet50.json").read_text()) if r["tensor"].startswith("resnet50-") and r["threads"] == 1]
    rows = [r for r in rows if r["tensor"] in ("resnet50-all", "resnet50-some")]
    by = {(r["subject"], r["op"]): r for r in rows}
    copy, zstd = by["memcpy", "copy"]["gb_per_s"], {op: by["zstd-1", op]["gb_per_s"] for op in ("encode", "decode")}
    lines = []
    for subject in sorted({r["subject"] for r in rows}, key=lambda name: (name != "memcpy", not by.get((name, "encode"), {"ours": False})["ours"], name)):
        found = {op: by.get((subject, op)) or by.get((subject, "copy")) for op in ("encode", "decode")}
        first = found["encode"] or found["decode"]
        assert first is not None
        cells = ["-" if r is None else f"{r['gb_per_s']:.3f}, {r['gb_per_s'] / copy:.2f}×, {r['gb_per_s'] / zstd[op]:.2f}×" for op, r in found.items()]
        lines.append([subject + (" *" if first["tensor"].endswith("some") else ""), f"{first['ratio']:.2f}", *cells])
    return table(["one core", "ratio", "encode: GB/s, of memcpy, of zstd-1", "decode"], lines)


def goals() -> str:
    """Of calls and of memory, where every codec has a goal, the worst."""
    facts = json.loads((ROOT / "results" / "bench-resnet50.facts.json").read_text())["goals"]
    verdict = {True: "met", False: "not met", None: "not measured"}
    shown = [g for g in facts if not g["goal"].endswith(("over kernel", "peak memory / tensor"))]
    for end in ("over kernel", "peak memory / tensor"):
        some = [g for g in facts if g["goal"].endswith(end) and g["measured"] is not None]
        if some:
            worst = max(some, key=lambda g: g["measured"])
            shown.append({**worst, "goal": f"worst of {len(some)}: {worst['goal']}"})
    lines = [
        [g["goal"], f"{'≤' if g['most'] else '≥'} {g['bound']:g} {g['unit']}", "-" if g["measured"] is None else f"{g['measured']:.2f}", verdict[g["met"]]]
        for g in shown
    ]
    return table(["", "wanted", "measured", ""], lines)


def board(ablations: bool = False) -> str:
    """The leaderboard by network; or what each part of `context` brings, in the order in which the parts are added."""
    names = [v.name for v in ABLATIONS]
    blocks = []
    for network, title in NETWORKS.items():
        path = ROOT / "results" / "board" / f"{'ablations-' if ablations else ''}{network}.json"
        if not path.exists():
            continue
        rows = json.loads(path.read_text())
        chosen = [r for name in names for r in rows if r["name"] == name] if ablations else [r for r in rows if r["name"] not in names]
        if not chosen:
            continue
        text = ablation_table(chosen) if ablations else board_markdown(chosen)
        blocks.append(f"**{title}**, {chosen[0]['images']} pictures\n\n{text}")
    return "\n\n".join(blocks)


def ablation_table(rows: list[dict[str, Any]]) -> str:
    """Ratio at three KLs; the last column says how many bytes the part saves of those of the line above, at KL .025."""
    lines, last = [], None
    for row in rows:
        cells, here = [at(row["at_kl"][kl]) for kl in ("0.0125", "0.025", "0.05")], row["at_kl"]["0.025"]
        saved = f"{100 * (1 - last['ratio'] / here['ratio']):.1f} %" if last and last["reached"] == here["reached"] == "yes" and row["name"].startswith("+") else ""
        lines.append([row["name"], *cells, saved])
        last = here
    return table(["part", "at KL .0125", "at KL .025", "at KL .05", "bytes saved"], lines)


def cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 100 else f"{value:.3g}" if isinstance(value, float) else str(value)


def field(row: Any, path: str) -> Any:
    """What stands at `a.b_c` in a row: under "a", then under "b_c" or "b c"; None where nothing does."""
    for key in path.split("."):
        row = row.get(key, row.get(key.replace("_", " "))) if isinstance(row, dict) else None
    return row


def rows_of(found: re.Match[str]) -> str:
    """`<!-- rows:begin FILE ?filter key=title key … -->`: those columns of a record's rows, and below them how to make it again.

    `_` stands for a space, `?key` for rows that have it, `?key=value` for those in which it is that.
    """
    path = ROOT / "results" / found["file"]
    if not path.exists():
        return f"{found['begin']}Not recorded yet.\n{found['end']}"
    record = json.loads(path.read_text())
    words = [word.partition("=") for word in found["columns"].split()]
    rows = record["rows"]
    for key, _, value in [w for w in words if w[0].startswith("?")]:
        rows = [row for row in rows if (str(field(row, key[1:])) == value.replace("_", " ") if value else field(row, key[1:]) is not None)]
    columns = [(key, (title or key).replace("_", " ")) for key, _, title in words if not key.startswith("?")]
    text = table([title for _, title in columns], [[cell(field(row, key)) for key, _ in columns] for row in rows])
    return f"{found['begin']}{text}\n\n`{record['command']}`: {record['seconds']:,.0f} s on {record['machine']}.\n{found['end']}"


def golden() -> str:
    """How many golden files there are, by version of the format, form, and release that wrote them first."""
    counts: dict[tuple[str, ...], list[int]] = {}
    forms = {".tp": "self-contained stream", ".tpp": "plan", ".tpb": "bundle", ".tpf": "plan-bound stream", ".tpw": "file of weights"}
    for manifest in sorted((ROOT / "tests" / "golden" / "streams").glob("v*/MANIFEST.json")):
        for name, row in json.loads(manifest.read_text()).items():
            count = counts.setdefault((manifest.parent.name, forms[Path(name).suffix], row["released"] or "not released"), [0, 0])
            count[0] += 1
            count[1] += (manifest.parent / name).stat().st_size
    return table(["format", "form", "since", "files", "bytes"], [[*key, cell(n), cell(nbytes)] for key, (n, nbytes) in counts.items()]).replace("---: | ---: |", "--- | --- |", 1)


def recovered() -> str:
    found = json.loads((ROOT / "results" / "reliability" / "integrity.json").read_text())["recovered"]
    return f"With `recover`, {found['streams']:,} streams with one changed byte behind their header came back: {100 * found['intact'] / found['values']:.1f} % of their values were given as intact, and all of those were right."


def checks() -> str:
    """Of each weight system what was checked of its paper's claim, and whether it showed."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results" / "weights" / "checks").glob("*.json"))}
    return table(["system", "what was checked", "its direction shows"], [[f"`{name}`", row["claim"], cell(row["direction_shown"])] for name, row in found.items()])


ROWS = re.compile(r"(?P<begin><!-- rows:begin (?P<file>\S+) (?P<columns>[^>]*?) -->\n).*?(?P<end><!-- rows:end -->)", re.S)


def main() -> None:
    makers = {"results": results, "parts": parts, "speed": speed, "goals": goals, "board": board, "ablations": lambda: board(ablations=True)}
    makers |= {"golden": golden, "recovered": recovered, "checks": checks}
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = text = document.read_text()
        for name, make in makers.items():
            text = re.sub(rf"(<!-- {name}:begin[^>]*-->\n).*?(<!-- {name}:end -->)", lambda m, f=make: m[1] + f() + "\n" + m[2], text, flags=re.S)
        text = ROWS.sub(rows_of, text)
        if "--check" in sys.argv[1:] and text != old:
            sys.exit(f"the tables of {document.name} differ from the rows: run python scripts/readme_tables.py")
        if text != old:
            write_atomically(document, text.encode())


if __name__ == "__main__":
    main()
