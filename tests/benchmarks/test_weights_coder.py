"""The benchmark of the adaptive coder runs on integers of one's own, and its rows say what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import weights_coder

from tensorpress.coding import adaptive


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    layers = {"a": np.rint(rng.laplace(0, 1, (16, 8, 3, 3))).astype(np.int32), "b": np.zeros((4, 3), np.int64)}
    np.savez(tmp_path / "own.npz", **layers)
    monkeypatch.delenv("TENSORPRESS_DATA", raising=False)
    monkeypatch.setattr(weights_coder, "SYNTHETIC", ())
    monkeypatch.setattr("sys.argv", ["weights_coder.py", "--integers", str(tmp_path / "own.npz"), "--json", str(tmp_path / "rows.json"), "--rounds", "1"])
    assert weights_coder.main() == 0
    facts = json.loads((tmp_path / "rows.json").read_text())
    assert {"command", "commit", "machine", "seconds"} < set(facts)
    assert [row["form"] for row in facts["rows"]] == list(adaptive.FORMS)
    counts = np.unique(layers["a"], return_counts=True)[1] / layers["a"].size
    for row in facts["rows"]:
        assert row["nbytes"] == adaptive.encoded_nbytes(list(layers.values()), row["form"]) and row["values"] == 16 * 72 + 12
        assert row["entropy_nbytes"] == round(-(counts * np.log2(counts)).sum() * 16 * 72 / 8)
        assert row["decode_mb_per_s"] > 0 and row["encode_mb_per_s"] > 0


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["weights_coder.py", "--integers", str(tmp_path / "none.npz")])
    with pytest.raises(SystemExit) as exit_:
        weights_coder.main()
    assert exit_.value.code == 2 and "none.npz" in capsys.readouterr().err
