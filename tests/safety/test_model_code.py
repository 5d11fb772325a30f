"""Whoever gives --model is told whose code runs, before it runs, where no one parses it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tensorpress import cli
from tensorpress.demo import network
from tensorpress.pytorch.networks.factory import source

CODE = "import sys\nprint('it runs', file=sys.stderr)\nfrom tensorpress.demo.network import load as make\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a network's file, a package that holds it too, and pictures."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "apackage").mkdir()
    (tmp_path / "apackage" / "__init__.py").write_text("")
    (tmp_path / "apackage" / "net.py").write_text(CODE)
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("mine", "apackage") or name.startswith("tensorpress_model_mine")]:
        del sys.modules[name]


def call(monkeypatch, capsys, *words: object) -> tuple[str, list[str]]:
    monkeypatch.setattr(sys, "argv", ["tensorpress", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    told = capsys.readouterr()
    assert not done.value.code, told.err
    return told.out, told.err.splitlines()


@pytest.mark.parametrize(("model", "file"), [("mine.py:make", "mine.py"), ("mine:make", "mine.py"), ("apackage.net:make", "apackage/net.py")])
def test_one_line_on_stderr_names_the_file_before_it_runs(here, monkeypatch, capsys, model, file):
    out, told = call(monkeypatch, capsys, "features", "dump", "--model", model, "--images", "x.npz", "-o", "d.zarr", "--json")
    json.loads(out)  # nothing else stands there
    assert told[:2] == [f"tensorpress: --model {model} runs the code of {here / file}", "it runs"]


def test_every_command_that_takes_a_model_says_so(here, monkeypatch, capsys):
    line = f"tensorpress: --model mine.py:make runs the code of {here / 'mine.py'}"
    common = ["--model", "mine.py:make", "--images", "x.npz"]
    few = ["--calib-limit", 1, "--codec", "zvc", "--quality", 3]
    assert line in call(monkeypatch, capsys, "features", "calibrate", *common, *few, "-o", "p.tpp")[1]
    assert line in call(monkeypatch, capsys, "features", "evaluate", *common, *few)[1]
    assert line in call(monkeypatch, capsys, "features", "tune", *common, "--epochs", 1, "--out", "w.safetensors", "--learn", "codec", "--no-order", "--crop", 8)[1]
    board = ["--codecs", "zvc", "--calib-limit", 1, "--points", 2, "--jobs", 1, "--json", "b.json", "--seconds", 0]
    assert line in call(monkeypatch, capsys, "features", "leaderboard", *common, *board)[1]
    # dump is above; a command with --model that is missing here fails this
    commands = {c.name or c.callback.__name__ for c in cli.features_app.registered_commands if "model" in c.callback.__annotations__}
    assert commands == {"calibrate", "evaluate", "tune", "leaderboard", "dump", "profile"}


def test_the_help_says_so(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    for command in ("calibrate", "evaluate", "tune", "leaderboard", "dump"):
        out, _ = call(monkeypatch, capsys, "features", command, "--help")
        assert "This runs that file's code" in out


def test_looking_for_the_file_runs_nothing(here, capsys):
    assert source("apackage.net:make") == str(here / "apackage" / "net.py")
    assert source("mine:make") == str(here / "mine.py")
    assert not {"mine", "apackage", "apackage.net"} & set(sys.modules) and "it runs" not in capsys.readouterr().err
    assert source("no.such.place:make") == "no.such.place"
    assert source("tensorpress.demo.network:load") == str(Path(network.__file__))
    assert source(":") == "" and source("") == "" and source("sys:exit") == "sys"


def test_from_python_nothing_is_printed(here, capsys):

    from tensorpress.pytorch.weights import load_network

    load_network(model="mine.py:make")
    assert capsys.readouterr().err == "it runs\n"
