"""The benchmark runs, checks what it times and writes what it measured, to the byte; how fast is never asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.stream import write_frame

FOLDER = Path(__file__).parents[1] / "benchmarks"
CONTRACT = {"subject", "op", "threads", "gb_per_s", "ratio", "nbytes", "tensor", "spread"}
GOAL_SUBJECTS = {"zvc", "dct_cm", "rans", "context-fast", "context-max"}
NBYTES = 70_000  # the maps of one picture of the demo network


def benchmark(*arguments, data=None):
    env = {k: v for k, v in os.environ.items() if k != "TENSORPRESS_DATA"} | ({"TENSORPRESS_DATA": str(data)} if data else {})
    return subprocess.run([sys.executable, FOLDER / "run.py", *map(str, arguments)], env=env, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def parts():
    """The benchmark's own modules."""
    sys.path.insert(0, str(FOLDER))
    try:
        import goals
        import maps
        import measure
        import plot
        import process
        import subjects
        import tensors

        yield {"maps": maps, "measure": measure, "goals": goals, "tensors": tensors, "subjects": subjects, "plot": plot, "process": process}
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    done = benchmark("--quick", "--rounds", 1, "--nbytes", NBYTES, "--json", folder / "rows.json")
    assert done.returncode == 0, done.stderr
    assert "demo-all" in done.stdout and "goals" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["rows.facts.json", "rows.html", "rows.json"]
    return {name: (folder / f"rows{name}").read_text() for name in (".json", ".facts.json", ".html")}


@pytest.fixture(scope="module")
def rows(written):
    return json.loads(written[".json"])


@pytest.fixture(scope="module")
def facts(written):
    return json.loads(written[".facts.json"])


def test_every_row_keeps_the_contract(rows):
    assert len({(r["subject"], r["op"], r["threads"], r["tensor"]) for r in rows}) == len(rows)
    for row in rows:
        assert set(row) >= CONTRACT
        assert row["op"] in ("encode", "decode", "copy") and (row["op"] == "copy") == (row["subject"] == "memcpy")
        assert row["threads"] in (1, 2) and row["rounds"] >= 1 and row["spread"] >= 0
        assert row["gb_per_s"] > 0 and row["ratio"] == row["raw_nbytes"] / row["nbytes"]
        assert math.isclose(row["gb_per_s"] * row["seconds"] * 1e9, row["raw_nbytes"], rel_tol=1e-12)


def test_every_subject_is_there(rows):
    one = {(r["subject"], r["op"]): r for r in rows if r["threads"] == 1 and r["tensor"] in ("demo-all", "demo-some")}
    cards = {c.id for c in registry.cards().values() if c.family == "features"} - {"context", "uniform_rans", "zstd", "lz4", "blosc2", "zfp"}
    peers = [name for name, module in {"zstd-1": "zstandard", "zstd-19": "zstandard", "lz4": "lz4", "constriction": "constriction"}.items() if find_spec(module)]
    assert {(name, op) for name in {*cards, *GOAL_SUBJECTS, *peers} for op in ("encode", "decode")} <= set(one)
    assert {one[name, "encode"]["tensor"] for name in ("zvc", "dct_cm", "rans")} == {"demo-all"}
    assert len({r["raw_nbytes"] for r in one.values() if r["tensor"] == "demo-all"}) == 1
    for tensor in ("demo-tall", "synthetic-4096", "synthetic-65536"):
        assert GOAL_SUBJECTS | {"memcpy"} == {r["subject"] for r in rows if r["tensor"] == tensor and r["threads"] == 1}


def test_sizes_are_those_of_the_streams(rows, parts):
    made = parts["maps"].tensors_of(parts["maps"].demo(), NBYTES, lambda *what: None)
    nbytes = {r["subject"]: r["nbytes"] for r in rows if r["tensor"] == "demo-all" and r["threads"] == 1}
    assert nbytes["memcpy"] == made.nbytes >= NBYTES
    for name, codec in (("zvc", "zvc"), ("rans", "uniform_rans")):  # fitted on the samples, which are other pictures
        fitted = [registry.build(codec).fit(samples) for samples in made.samples]
        assert nbytes[name] == sum(len(write_frame(fitted[site].encode_payload(x), site, 1)) for site, x in zip(made.sites, made.arrays))
    assert not any(np.array_equal(x, y) for site, x in zip(made.sites, made.arrays) for y in made.samples[site])


def test_facts_and_goals(facts, rows):
    assert facts["machine"] and facts["networks"] == ["demo"]
    assert {(c["subject"], c["op"]) for c in facts["calls"]} == {(name, op) for name in GOAL_SUBJECTS for op in ("encode", "decode")}
    assert all(c["call_us"] > 0 and c["kernel_us"] > 0 for c in facts["calls"])  # the kernels of every codec are found
    assert {f["subject"] for f in facts["forward"]} == {"plain", "zvc", "dct_cm"} and all(f["seconds"] > 0 for f in facts["forward"])
    speeds = {(r["subject"], r["op"]): r["gb_per_s"] for r in rows if r["tensor"] == "demo-all" and r["threads"] == 1}
    by_name = {goal["goal"]: goal for goal in facts["goals"]}
    goal = by_name["zvc encode / memcpy"]
    assert math.isclose(goal["measured"], speeds["zvc", "encode"] / speeds["memcpy", "copy"]) and goal["met"] == (goal["measured"] >= 0.9)
    assert by_name["zvc attached to ResNet-50: forward / plain"]["met"] is None  # another network was measured


def test_the_page_asks_nobody(written):
    page = written[".html"]
    assert "Ratio against speed" in page and "context-fast" in page and "default-src 'none'" in page


def test_a_subject_that_gives_other_bytes_is_found(parts):
    measure, tensors = parts["measure"], parts["tensors"]
    made = tensors.synthetic_tensors("synthetic-4096", (16, 16, 16))

    class Liar:
        def encode(self, x, room):
            return x.tobytes()

        def decode(self, data, out):
            return data[:-1] + bytes([data[-1] ^ 1])

    subject = parts["subjects"].Subject("liar", lambda site, samples: Liar())
    with pytest.raises(AssertionError, match="liar: an array came back with other bytes"):
        measure.measure(made, [(subject, measure.Pace(1, 1, 1))], 1, lambda *what: None)


def test_no_subject_begins_late(parts):
    measure, ours = parts["measure"], parts["subjects"].ready
    made = parts["tensors"].synthetic_tensors("synthetic-4096", (16, 16, 16))
    found = measure.measure(made, [(ours("zvc"), measure.Pace(3, 1, 1))], 1, lambda *what: None, seconds=-1)
    assert [(row["subject"], row["rounds"]) for row in found] == [("memcpy", 1)]


def sleep(seconds, tell):
    tell("sleeping", 0, 1)
    time.sleep(seconds)
    return seconds


def test_a_process_that_takes_too_long_is_ended(parts):
    apart, told = parts["process"].apart, []
    assert apart(lambda *what: told.append(what), 1, 60, sleep, 0.01) == 0.01 and told == [("sleeping", 0, 1)]
    with pytest.raises(TimeoutError, match="sleep took longer than 1 s"):
        apart(lambda *what: None, 1, 1, sleep, 60)


def test_two_threads_copy_every_byte(parts):
    tensors = parts["tensors"]
    made = tensors.synthetic_tensors("odd", (3, 17, 5))
    out = np.zeros_like(made.arrays[0])
    parts["measure"].Copy(made, [out], 2).round()
    assert np.array_equal(out, made.arrays[0])


def test_tall_tensors_stack_one_site(parts):
    tensors = parts["tensors"]
    pictures = [tensors.synthetic(4, 6, 5, seed) for seed in range(3)]
    made = tensors.Tensors("x-all", (pictures[0], pictures[1][:, :3], pictures[1], pictures[2][:, :3]), (0, 1, 0, 1), ((), ()))
    first = tensors.tall(made, "x-tall", 100, 10_000).arrays[0]
    assert np.array_equal(first, np.concatenate(pictures[:2], axis=1)) and first.nbytes > 100


def test_labels_do_not_cover_each_other(parts):
    plot = parts["plot"]
    assert plot.label_places(["alone"], [(400, 200)]) == ["middle right"]
    assert plot.label_places(["at the edge"], [(plot.WIDTH - 5, 200)]) == ["middle left"]
    assert plot.label_places(["first", "second"], [(400, 200), (420, 200)])[0] != "middle right"


def test_missing_data_is_one_line(tmp_path):
    done = benchmark("--quick", "--rounds", 1, data=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "resnet50_pqf.npz" in done.stderr


def test_a_path_that_cannot_be_written_is_told_first(tmp_path):
    done = benchmark("--json", tmp_path / "absent" / "rows.json")
    assert done.returncode == 2 and "there is no folder" in done.stderr and not done.stdout


def test_unknown_subject_is_one_line():
    done = benchmark("--subjects", "zcv")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "zcv" in done.stderr and "zvc" in done.stderr
