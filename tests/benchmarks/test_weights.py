"""Rows of weight compression: what is counted, how rows of a run replace older ones, which file counts as no worse, and the figure."""

from __future__ import annotations

import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks import NETWORKS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scripts(monkeypatch):
    """Modules that lie beside each other, as Python finds them when one is run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent in (ROOT / "benchmarks", ROOT / "scripts"):
            del sys.modules[name]


def row(method: str, nbytes: int, agreement: float, kl: float, **more: object) -> dict[str, object]:
    kept = {"network": "resnet20", "method": method, "setting": "s", "nbytes": nbytes, "agreement": agreement, "kl_unlabelled": kl, "raw_nbytes": 10 * nbytes}
    return {**kept, "images_unlabelled": 2000, "seconds": 1.5, **more}


def test_a_tied_tensor_and_counters_are_kept_once_or_not_at_all(scripts):
    subjects = scripts("weight_subjects")
    state = subjects.state_of(NETWORKS["characters"]())
    assert "tokens.weight" in state and "head.weight" not in state
    network = NETWORKS["cifar_resnet20"]()
    assert sum(value.numel() for value in subjects.state_of(network).values()) == 271_098
    twice = subjects.with_state(NETWORKS["characters"](), {key: torch.full_like(value, 0.5) for key, value in state.items()})
    assert float(twice.head.weight.detach()[3, 4]) == 0.5
    with pytest.raises(InputError, match=r"do not fit the network: tokens\.weight"):
        subjects.with_state(NETWORKS["characters"](), {key: value for key, value in state.items() if key != "tokens.weight"})


def test_what_generic_tools_are_given_decodes_to_what_is_judged(scripts):
    anchors = scripts("weight_anchors")
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.arange(6).view(-1, 1, 1, 1)
    state = {"weight": weight, "bias": torch.tensor([0.1, -2.0])}
    for make, most in ((anchors.as_float, 0.0), (anchors.as_half, 2e-3), (anchors.as_int8, 0.5 / 127)):
        file, decoded = make(state)
        worst = (decoded["weight"] - weight).flatten(1).abs().amax(1) / weight.flatten(1).abs().amax(1).clamp_min(1)
        assert float(worst.max()) <= most * 1.01
        kept = safetensors.torch.load(file)
        again = kept["weight"].float() * (kept["weight.scale"].view(-1, 1, 1, 1) if "weight.scale" in kept else 1)
        assert torch.equal(again, decoded["weight"]) and torch.equal(kept["bias"].float(), decoded["bias"])
    assert len(anchors.packers()["xz"](bytes(100_000))) < 500


def test_rows_of_a_run_replace_those_it_measured_anew(scripts, tmp_path):
    judge = scripts("weight_judge")
    path = tmp_path / "rows.json"
    judge.write(path, "first", [row("zstd", 30, 1, 0), row("xz", 20, 1, 0)], [{"network": "resnet20", "method": "torchao", "setting": "", "error": "gone"}], lambda r: False)
    judge.write(path, "second", [row("zstd", 25, 1, 0)], [], lambda r: r["method"] == "zstd")
    found = json.loads(path.read_text())
    assert [(r["method"], r["nbytes"]) for r in found["rows"]] == [("xz", 20), ("zstd", 25)]
    assert found["command"] == "second" and found["seconds"] == 3.0 and found["left_out"][0]["error"] == "gone"
    assert {"commit", "machine"} <= set(found) and "commit" in found["rows"][0]


def test_the_smallest_file_that_is_no_worse_in_either_figure(scripts):
    curves = scripts("weight_curves")
    other = row("nncodec", 100, 0.95, 0.01)
    mine = [row("o", 40, 0.96, 0.02), row("o", 50, 0.94, 0.005), row("o", 60, 0.95, 0.01), row("o", 55, 0.97, 0.009)]
    assert curves.smallest(mine, other)["nbytes"] == 55
    assert curves.smallest(mine[:2], other) is None
    assert curves.target_of([row("o", 40, 1, 1, bits=1.0), row("o", 80, 1, 1, bits=2.0), row("o", 5, 1, 1)], 60) == 1.5
    low, high = row("o", 100, 0.9, 0.04), row("o", 400, 0.95, 0.01)
    assert curves.between(low, high, 0.02 / 0.97) == pytest.approx(200) and curves.between(row("o", 100, 0.9, 0.01), high, 0.02) == 200  # here agreement fails
    assert curves.beside("resnet20", {**dict.fromkeys(curves.SHOWN, 0.0), **other, "data": "none"}, None)["percent_of_nncodec"] is None


def test_goals_are_met_by_files_not_by_hopes(scripts):
    curves = scripts("weight_curves")
    theirs = [{**row("nncodec", 110_360, 0.964, 0.0127), "setting": "qp -22", "percent_of_nncodec": 55.0}]
    mine = [row("o", 61_000, 0.966, 0.012), row("o", 49_000, 0.949, 0.03), row("o", 52_000, 0.951, 0.02)]
    found = curves.goals("resnet20", mine, theirs)
    assert [goal["met"] for goal in found] == [True, True, False] and found[0]["measured"].startswith("52,000 B")
    theirs = [{**row("nncodec", 239_694, 0.95, 0.0129), "setting": "qp -20", "percent_of_nncodec": 50.0}]
    found = curves.goals("resnet56", mine, theirs)
    assert [goal["met"] for goal in found] == [True, False, False, False]


def test_the_picture_is_xml_and_holds_every_row(scripts):
    picture = scripts("weight_picture")
    rows = [row("second_order", 40_000, 0.9, 0.05), row("second_order", 90_000, 0.99, 0.001), row("nncodec", 110_000, 0.96, 0.01), row("nncodec+bnf", 105_000, 0.97, 0.012)]
    rows += [row("zstd", 250_000, 0.99, 1e-4), row("xz", 1_000_000, 1.0, 0.0, setting="float32 <a&b>")]
    text = picture.picture("resnet20", "ResNet-20", rows)
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f"{space}circle")
    assert len(circles) == 5 and "xz float32 &lt;a&amp;b&gt;: 1,000 kB" in text
    place = {c.find(f"{space}title").text.split(":")[0]: (float(c.get("cx")), float(c.get("cy"))) for c in circles}
    assert place["nncodec s"][0] > place["nncodec+bnf s"][0] and place["zstd s"][1] > place["nncodec s"][1]  # more bytes to the right, less KL below
    assert all(picture.LEFT <= x <= picture.WIDTH - picture.RIGHT and picture.TOP <= y <= picture.HEIGHT - picture.BOTTOM for x, y in place.values())
    names = [t.text for t in root.findall(f"{space}text")]
    assert "ours: second_order" in names and "nncodec + bnf" in names


def test_networks_are_built_and_judged_on_inputs_that_do_not_overlap(scripts, data, tmp_path):
    subjects, judge = scripts("weight_subjects"), scripts("weight_judge")
    held = judge.Judge("resnet20", data)
    assert (held.raw_nbytes, held.parameters) == (4 * 271_098, 269_722)
    inputs = held.inputs
    assert [len(x) for x in (inputs.calibration, inputs.test, inputs.unlabelled)] == [1024, 500, 2000]
    seen = {bytes(x.numpy()) for x in inputs.calibration} & {bytes(x.numpy()) for x in inputs.unlabelled}
    assert not seen
    found = held.row(held.network(), 1000, method="m", setting="s")
    assert (found["agreement"], found["kl_unlabelled"], found["top1"], found["images_unlabelled"]) == (1, 0, found["top1_reference"], 2000)
    assert 90 < found["top1"] < 92 and found["bits_per_param"] == pytest.approx(8000 / 269_722)
    with pytest.raises(InputError, match="train them by"):
        subjects.build("characters", data)
    broken = tmp_path / "broken.safetensors"
    safetensors.torch.save_file({"tokens.weight": torch.zeros(65, 128)}, broken)
    with pytest.raises(InputError, match="does not fit characters: missing"):
        subjects.build("characters", data, broken)
    assert isinstance(held.with_state(held.state), nn.Module)


def test_the_script_that_trains_characters_trains_and_says_what_is_missing(scripts, tmp_path, monkeypatch, capsys):
    train = scripts("train_characters")
    text = tmp_path / "text.txt"
    text.write_text("to be, or not to be: that is the question. " * 200, encoding="utf-8")
    out = tmp_path / "sub" / "characters.safetensors"
    monkeypatch.setattr(sys, "argv", ["train_characters.py", str(out), "--text", str(text), "--steps", "12", "--batch", "4", "--rate", "0.02"])
    monkeypatch.setattr(train, "WARMUP", 2)
    train.main()
    with safetensors.safe_open(out, "pt") as file:
        facts = json.loads(file.metadata()["tensorpress"])
        assert torch.equal(file.get_tensor("head.weight"), file.get_tensor("tokens.weight"))
    assert facts["steps"] == 12 and facts["bits_per_character"] < 4.5 and facts["seed"] == 0  # 6.02 before any step
    assert facts["validation_characters"] == 768 and "machine" in facts
    monkeypatch.setattr(sys, "argv", ["train_characters.py", str(out)])
    monkeypatch.delenv("TENSORPRESS_DATA", raising=False)
    with pytest.raises(SystemExit, match="TENSORPRESS_DATA is not set"):
        train.main()
    monkeypatch.setattr(sys, "argv", ["train_characters.py", str(out), "--text", str(tmp_path / "none.txt")])
    with pytest.raises(SystemExit, match=r"none\.txt: no such file"):
        train.main()
    assert train.rate_at(1.0, 5000, 1.0) == pytest.approx(0.05) and train.rate_at(0.0, 0, 1.0) < train.rate_at(0.0, 1, 1.0)
