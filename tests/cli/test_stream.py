"""`tensorpress weights encode` and `decode` as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tensorpress import cli

library = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def call(capsys, monkeypatch):
    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tensorpress", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def model(tmp_path) -> Path:
    x = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32)
    library.save_file({"w": x, "tied": x, "bias": x[0], "steps": np.arange(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path / "model.safetensors"


def test_there_and_back(call, model, tmp_path):
    code, out, _ = call("weights", "encode", model, "-o", tmp_path / "m.tpw", "--json", tmp_path / "e.json")
    row = json.loads((tmp_path / "e.json").read_text())
    assert code == 0 and row["nbytes"] == (tmp_path / "m.tpw").stat().st_size and f"{row['nbytes']:,} bytes" in out
    assert row["forms"] == {"planes": 3, "=": 1} and row["step_rms"] is None and row["source"] == "model.safetensors"
    code, out, _ = call("weights", "decode", tmp_path / "m.tpw", "-o", tmp_path / "o.safetensors", "--json", tmp_path / "d.json")
    assert code == 0 and "4 tensors" in out and (tmp_path / "o.safetensors").read_bytes() == model.read_bytes()
    assert json.loads((tmp_path / "d.json").read_text())["tensors"] == 4
    lossless = call("weights", "encode", model, "-o", tmp_path / "n.tpw", "--lossless")[0]
    assert lossless == 0 and (tmp_path / "n.tpw").read_bytes() == (tmp_path / "m.tpw").read_bytes()


def test_quantised(call, model, tmp_path):
    for options in (["--bits", "3"], ["--step-rms", "0.5", "--by", "row"]):
        code, out, _ = call("weights", "encode", model, "-o", tmp_path / "m.tpw", *options)
        assert code == 0 and "of the root mean square" in out
        assert call("weights", "decode", tmp_path / "m.tpw", "-o", tmp_path / "o.safetensors")[0] == 0
        before, after = library.load_file(model), library.load_file(tmp_path / "o.safetensors")
        assert np.array_equal(after["w"], after["tied"]) and np.array_equal(after["bias"], before["bias"])
        assert 0 < np.square(after["w"] - before["w"]).mean() < 0.1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encode", "MODEL", "--bits", "4", "--lossless"], "--lossless leaves nothing"),
        (["encode", "MODEL", "--bits", "4", "--step-rms", "1"], "bits or step_rms"),
        (["encode", "MODEL", "--bits", "99"], "bits = 99"),
        (["encode", "/etc/hostname"], "safetensors"),
        (["encode", "absent.safetensors"], "No such file"),
        (["decode", "MODEL"], "not a TensorPress file of weights"),
        (["decode", "absent.tpw"], "No such file"),
    ],
)
def test_mistakes_end_in_one_line(call, model, tmp_path, arguments, says):
    words = [str(model) if a == "MODEL" else a for a in arguments]
    code, _, err = call("weights", *words, "-o", tmp_path / "out")
    assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "out").exists()
