"""The benchmark runs and writes what it measured, to the byte; how fast is never asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorpress.core import registry
from tensorpress.core.payload import chw, head_bytes, stripe_count
from tensorpress.core.stream import FRAME_NBYTES, write_frame

FOLDER = Path(__file__).parents[1] / "benchmarks"
KEYS = {"subject", "op", "threads", "seconds", "gb_per_s", "ratio", "nbytes", "tensor", "spread", "values", "rounds"}


def benchmark(*arguments, data=None):
    env = {k: v for k, v in os.environ.items() if k != "TENSORPRESS_DATA"} | ({"TENSORPRESS_DATA": str(data)} if data else {})
    return subprocess.run([sys.executable, FOLDER / "run.py", *arguments], env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    done = benchmark("--quick", "--rounds", "1", "--json", folder / "rows.json")
    assert done.returncode == 0, done.stderr
    assert "demo-all, medians of 1 rounds" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["rows.facts.json", "rows.json"]
    return json.loads((folder / "rows.json").read_text()), json.loads((folder / "rows.facts.json").read_text())


@pytest.fixture(scope="module")
def maps():
    sys.path.insert(0, str(FOLDER))
    try:
        from maps import demo_maps
    finally:
        sys.path.remove(str(FOLDER))
    return demo_maps()


def test_every_row(written):
    rows, _ = written
    codecs = {card.id for card in registry.cards().values() if card.family == "features"}
    ops = {(row["subject"], row["op"]) for row in rows}
    assert len(ops) == len(rows) and ("memcpy", "copy") in ops
    assert {(codec, op) for codec in codecs for op in ("encode", "decode")} <= ops
    for row in rows:
        assert set(row) == KEYS and row["tensor"] == "demo-all" and row["threads"] == 1
        assert row["seconds"] > 0 and row["ratio"] > 0 and row["ratio"] == row["values"] / row["nbytes"]
        assert math.isclose(row["gb_per_s"] * row["seconds"] * 1e9, row["values"], rel_tol=1e-12)


def test_sizes_are_those_of_the_streams(written, maps):
    rows, _ = written
    nbytes = {row["subject"]: row["nbytes"] for row in rows}
    assert rows[0]["values"] == nbytes["memcpy"] == sum(x.size for x in maps)
    framing = sum(FRAME_NBYTES + len(head_bytes(x.dtype, x.shape)) + 8 * stripe_count(x.shape) for x in maps)
    assert nbytes["raw"] == nbytes["memcpy"] + framing
    for codec in ("dct_cm", "zvc", "uniform_rans"):  # their ranges are those of the maps, as `fit` finds them
        frames = [write_frame(registry.build(codec).fit([x]).encode_payload(x), n, 1) for n, x in enumerate(maps)]
        assert nbytes[codec] == sum(map(len, frames)), codec


def test_facts(written, maps):
    rows, facts = written
    assert facts["dct_cm_encode_decode_seconds"] == sum(row["seconds"] for row in rows if row["subject"] == "dct_cm, step 4")
    assert facts["call_seconds_4kib"] > 0 and facts["machine"]
    assert chw(facts["peak_memory_shape"])[0] in {len(x) for x in maps}
    if facts["peak_memory"] is not None:
        assert set(facts["peak_memory"]) == {"encode", "decode", "decode_into_new"}
        assert facts["peak_memory"]["decode_into_new"] > 0.9  # the new array itself: what is measured is seen


def test_missing_data_is_one_line(tmp_path):
    done = benchmark("--quick", "--rounds", "1", data=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "resnet50_pqf.npz" in done.stderr
