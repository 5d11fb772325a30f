"""The leaderboard: readings off curves, work that stops and goes on, and the same rows from one process or two."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tensorpress.core.errors import InputError
from tensorpress.demo import digits, network
from tensorpress.evaluate import board as boards
from tensorpress.evaluate.board import Board, Variant, against, at_limit, jobs_of, run, save, variants
from tensorpress.pytorch.networks.pixels import preprocessing
from tensorpress.pytorch.pictures import prepare
from tensorpress.report.board import board_markdown, cells, write_board


@pytest.fixture(scope="module")
def net():
    return network.load()


@pytest.fixture(scope="module")
def inputs(net):
    (few, _), (images, labels) = digits.load("calibration"), digits.load("test")
    wanted = preprocessing(net)
    return [prepare(x, wanted) for x in few[:6]], [prepare(x, wanted) for x in images[:24]], [int(n) for n in labels[:24]]


ENTRIES = [Variant("zvc", "zvc"), Variant("uniform_rans", "uniform_rans"), Variant("fast", "context", {"backend": "fast"}, "channel")]


def stable(rows):
    return [{k: v for k, v in {**row, "points": [{k: v for k, v in p.items() if "seconds" not in k and "per_second" not in k} for p in row["points"]]}.items() if k not in ("machine", "mb_per_second")} for row in rows]


@pytest.fixture(scope="module")
def measured(net, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    calibration, test, labels = inputs
    return folder, run(Board(folder, net, calibration, test, labels), ENTRIES, 3, 1, {"arch": "digits", "command": "test"})


def test_rows_hold_every_reading(measured):
    _, (rows, troubles) = measured
    assert not troubles and [r["name"] for r in rows] == [v.name for v in ENTRIES]
    for row in rows:
        assert len(row["points"]) == 3 and row["images"] == 24 and row["calib_images"] == 6
        assert all(p["raw_nbytes"] / p["nbytes"] == pytest.approx(p["ratio"]) for p in row["points"])
        assert set(row["at_kl"]) == {"0.0125", "0.025", "0.05"} and set(row["at_drop"]) == {"0.1", "0.5", "1"}
        assert row["mb_per_second"]["encode"] > 0 and row["mb_per_second"]["decode"] > 0
        assert set(row["energy"]) == {"ddr3", "ddr4", "lpddr4", "lpddr5", "hbm2"}
    zvc, uniform, fast = rows
    assert set(zvc["lossless"]) == set(fast["lossless"]) == {"max", "p99.99"} and uniform["lossless"] == {}
    assert fast["lossless"]["max"]["ratio"] > zvc["lossless"]["max"]["ratio"] > 1
    assert uniform["saved_percent"]["bd_rate"] == pytest.approx(0.0)
    for scale in ("max", "p99.99"):  # lossless is lossless: the levels are those of the 8-bit reference, whoever codes them
        assert fast["lossless"][scale]["kl"] == pytest.approx(zvc["lossless"][scale]["kl"])


def test_it_goes_on_where_it_stopped_and_two_processes_agree(net, inputs, measured, tmp_path, monkeypatch):
    folder, (rows, _) = measured
    calibration, test, labels = inputs
    early, _ = run(Board(tmp_path, net, calibration, test, labels), ENTRIES, 3, 1, {"arch": "digits", "command": "test"}, seconds=0.0)
    assert early == []
    again, _ = run(Board(tmp_path, net, calibration, test, labels), ENTRIES, 3, 2, {"arch": "digits", "command": "test"})
    assert stable(again) == stable(rows)
    monkeypatch.setattr(boards.Calibration, "measure", None)  # everything is there: nothing is measured again
    third, _ = run(Board(folder, net, calibration, test, labels), ENTRIES, 3, 1, {"arch": "digits", "command": "test"})
    assert stable(third) == stable(rows)


def test_a_curve_is_read_between_its_points_and_never_beyond():
    losses = np.array([[0.01] * 4, [0.04] * 4])
    sizes = np.array([[[10, 20]] * 4, [[10, 80]] * 4])
    found = at_limit(losses, sizes, 0.02)
    assert found["ratio"] == pytest.approx(4.0) and found["reached"] == "yes"  # half way in log KL, half way in log ratio
    assert found["ci95"] == pytest.approx([4.0, 4.0])
    assert at_limit(losses, sizes, 0.005)["ratio"] is None
    assert at_limit(losses, sizes, 0.1) == {"ratio": 8.0, "ci95": [8.0, 8.0], "reached": "its coarsest point loses less"}
    noisy = at_limit(np.array([[0.0, 0.02] * 50, [0.0, 0.08] * 50]), np.repeat(sizes[:, :1], 100, 1), 0.02)
    assert noisy["ci95"][0] < 4.0 < noisy["ci95"][1]
    # a coarser point that loses less by chance proves nothing: the loss before it stands
    assert at_limit(np.array([[0.03] * 4, [0.01] * 4]), sizes, 0.02)["ratio"] is None


def test_savings_are_in_bytes():
    def row(ratios):
        points = [{"kl": k, "ratio": r} for k, r in zip((0.01, 0.1), ratios)]
        return {"points": points, "at_kl": {"0.025": {"ratio": ratios[0], "reached": "yes"}, "0.05": {"ratio": None, "reached": "no"}}}

    found = against(row((2.0, 3.0)), row((4.0, 6.0)))
    assert found["bd_rate"] == pytest.approx(-50.0) and found["0.025"] == pytest.approx(50.0) and found["0.05"] is None


def test_entries_by_name():
    every = variants()
    assert len({v.name for v in every}) == len(every) == len({v.slug for v in every})
    assert {"zvc", "dct_cm", "context", "ebpc", "zstd"} <= {v.codec for v in every} and "raw" not in {v.codec for v in every}
    assert [v.name for v in variants(["zvc", "context max"])] == ["zvc", "context max"]
    assert len(variants(["context"])) == 4 and len(variants(["ablations"])) == 10
    with pytest.raises(InputError, match="no entry 'best'"):
        variants(["best"])
    jobs = jobs_of(Variant("zvc", "zvc"), 2)
    assert [j.quality for j in jobs] == [1.7, 2.4, 1.0, 1.0] and [j.lossless for j in jobs] == [False, False, True, True]
    assert [j.quality for j in jobs_of(Variant("fixed", "zvc", {"step": 2.0}), 4)] == [None]


def test_files_of_others_are_left_alone(tmp_path, measured):
    path = tmp_path / "rows.json"
    path.write_text('[{"codec": "zvc"}]')
    with pytest.raises(InputError, match="no leaderboard"):
        save(path, measured[1][0])
    assert path.read_text() == '[{"codec": "zvc"}]'
    path.unlink()
    save(path, measured[1][0][:2])
    save(path, measured[1][0][1:])
    assert [r["name"] for r in json.loads(path.read_text())] == ["zvc", "uniform_rans", "fast"]


def test_a_missing_library_leaves_one_entry_out(net, inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    calibration, test, _ = inputs
    rows, troubles = run(Board(tmp_path, net, calibration, test[:2], None), [Variant("zvc", "zvc"), Variant("zstd", "zstd")], 1, 1, {})
    assert [r["name"] for r in rows] == ["zvc"] and troubles and all("zstandard" in t for t in troubles)


def test_page_and_markdown(measured, tmp_path):
    rows = measured[1][0]
    write_board(tmp_path / "b.html", rows)
    page = (tmp_path / "b.html").read_text()
    assert all(cell in page for cell in ("Every codec, one counting rule", "uniform_rans", "fast"))
    table = board_markdown(rows)
    assert table.count("\n") == 4 and table.count("|") == 5 * (len(cells(rows[0])) + 1)
