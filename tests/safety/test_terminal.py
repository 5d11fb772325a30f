"""Names from files reach the terminal as text: no markup, no escape sequence, no line of their own."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from tensorpress import cli, cli_parts
from tensorpress.console import Console, one_line, visible
from tensorpress.core import registry
from tensorpress.core.container import BUNDLE, Container
from tensorpress.core.site import Site
from tensorpress.planning.plan import Entry, Plan

HOSTILE = "\x1b]0;owned\x07[red]x[/] [/nothing] :key: \x9b2J\u202egnp\ud83d\r\nfaked: 1"
DANGEROUS = set("\x1b\x07\x9b\u202e\ud83d\r")


def call(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["tensorpress", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        cli.main()
    told = capsys.readouterr()
    return int(done.value.code or 0), told.out, told.err


def test_what_is_printed_is_what_was_there():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="truecolor", width=200)
    console.print(HOSTILE, style="red")
    told = re.sub("\x1b\\[[0-9;]*m", "", file.getvalue())  # rich's own colours
    assert told != file.getvalue()
    assert not DANGEROUS & set(told)
    assert "\\x1b]0;owned" in told and "[red]x[/] [/nothing] :key: \\x9b2J\\u202egnp\\ud83d" in told
    assert visible("tab\tline\nö→") == "tab\tline\nö→" and one_line("a\nb\x1b") == "a b\\x1b"
    told.encode()


def test_json_says_exactly_what_was_there():
    file = io.StringIO()
    Console(file=file, width=40).print_json(data={"name": HOSTILE})
    assert json.loads(file.getvalue()) == {"name": HOSTILE} and not DANGEROUS & set(file.getvalue())


def test_progress_takes_any_name():
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_parts, "err", console)
        with cli_parts.Bar() as bar:
            bar(f"site {HOSTILE}", 1, 2)
            bar.progress.refresh()
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/] [/nothing]" in told and not {"\x07", "\x9b", "\u202e"} & set(told) and "\x1b]0" not in told


def test_a_plan_and_a_bundle_with_hostile_names(tmp_path, monkeypatch, capsys):
    name = HOSTILE.replace("\ud83d", "")
    (tmp_path / "b").write_bytes(Container(BUNDLE, {name: name, "parts": 5, "kind": "[/]", "nbytes": name}, {name: b"12"}).to_bytes())
    codec = registry.build("zvc").fit([np.ones((1, 4, 4), np.float32)])
    plan = Plan("features", name, (Entry(Site(name, what="output"), codec, (1, 4, 4)),), {name: name, "target_met": False, "tried": [], "target": name})
    plan.save(tmp_path / "p")
    for file in ("b", "p"):
        code, out, err = call(monkeypatch, capsys, "inspect", tmp_path / file)
        assert code == 0, err
        assert not DANGEROUS & set(out + err) and "[red]x[/]" in out and "[/nothing]" in out
        code, out, _ = call(monkeypatch, capsys, "inspect", tmp_path / file, "--json")
        assert code == 0 and not DANGEROUS & set(out)
        assert json.loads(out)["nbytes"] == (tmp_path / file).stat().st_size
    np.save(tmp_path / "x.npy", np.ones((2, 4, 4), np.float32))
    code, _, err = call(monkeypatch, capsys, "encode", tmp_path / "x.npy", "--plan", tmp_path / "p", "-o", tmp_path / "x.tp")
    assert code == 2 and len(err.splitlines()) == 1 and not DANGEROUS & set(err) and "[red]x[/]" in err
    cli.tell_target(replace(plan, meta={"target_met": False}))
    assert "not how nearly" in capsys.readouterr().err


def test_file_names_that_look_like_markup(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", np.ones((1, 4, 4), np.float32))
    for name in ("[bold]x.tp", "[red].tp", ":key:.tp", b"\xff\x1b.tp".decode(errors="surrogateescape")):
        code, out, err = call(monkeypatch, capsys, "encode", tmp_path / "x.npy", "-o", tmp_path / name)
        assert code == 0 and not DANGEROUS & set(out), err
        code, out, err = call(monkeypatch, capsys, "inspect", tmp_path / name)
        assert code == 0 and not DANGEROUS & set(out), err
        told = "".join(out.split())  # a long path is wrapped and centred
        assert visible(name) in told and "\\[" not in told
