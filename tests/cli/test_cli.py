"""The command line, as a user meets it: files in, files out, one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tensorpress import cli
from tensorpress.demo import digits, network
from tensorpress.planning.plan import Plan

NET = ["--model", "tensorpress.demo.network:load"]
KEYS = ["codec", "arch", "images", "calib_images", "sites", "raw_nbytes", "nbytes", "shared_nbytes", "ratio", "ratio_with_shared", "ratio_mean_of_layers", "ratio_worst_layer", "bits_per_value", "scale", "top1_float", "top1_reference", "top1", "drop_points", "drop_ci95", "drop_smoothed", "agreement", "kl", "kl_ci95", "seconds", "layers", "command", "machine"]
LAYER_KEYS = set(["site", "shape", "density", "mode", "nbytes", "ratio", "mse"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of digits, labels, a calibrated plan and arrays."""
    here = tmp_path_factory.mktemp("files")
    images, labels = digits.load("test")
    (here / "pictures").mkdir()
    lines = ["file,class_index"]
    for n in range(20):
        Image.fromarray(images[n]).save(here / "pictures" / f"{n:02}.png")
        lines.append(f"{n:02}.png,{labels[n]}")
    (here / "labels.csv").write_text("\n".join(lines) + "\n")
    np.savez(here / "digits.npz", images=images[:20], labels=labels[:20])
    np.save(here / "x.npy", np.maximum(np.random.default_rng(0).normal(size=(16, 12, 12)), 0).astype(np.float32))
    return here


def run(capsys, monkeypatch, *args: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `tensorpress args`, through the console entry."""
    monkeypatch.setattr(sys, "argv", ["tensorpress", *map(str, args)])
    monkeypatch.setenv("COLUMNS", "200")
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def call(capsys, monkeypatch):
    return lambda *args: run(capsys, monkeypatch, *args)


@pytest.fixture
def refused(call):
    def check(*args: object, says: str) -> None:
        code, _, err = call(*args)
        assert code == 2, err
        assert len(err.strip().splitlines()) == 1 and "Traceback" not in err, err
        assert says in err, err

    return check


def evaluate(folder: Path, *more: object) -> list[object]:
    return ["features", "evaluate", *NET, "--images", folder / "pictures", "--labels", folder / "labels.csv", "--calib-limit", 8, *more]


@pytest.fixture(scope="module")
def plan(folder) -> Path:
    path = folder / "plan.tpp"
    command = ["features", "calibrate", *NET, "--images", folder / "pictures", "--calib-limit", 8, "--codec", "zvc", "--quality", 3, "-o", path]
    subprocess.run([sys.executable, "-m", "tensorpress", *map(str, command)], check=True, capture_output=True)
    return path


def test_help_teaches(call):
    for command in ([], ["features"], ["features", "evaluate"], ["encode"], ["demo"]):
        code, out, _ = call(*command, "--help")
        assert code == 0 and "Usage" in out


@pytest.mark.parametrize("codec", ["dct_cm", "klt", "uniform_rans"])
def test_evaluate_writes_the_row_of_the_contract(call, folder, tmp_path, codec):
    code, out, err = call(*evaluate(folder, "--codec", codec, "--max-kl", 0.05, "--json", tmp_path / "r.json"))
    assert code == 0, err
    row = json.loads((tmp_path / "r.json").read_text())
    assert not set(KEYS) - set(row) and all(not LAYER_KEYS - set(layer) for layer in row["layers"])
    assert (row["codec"], row["images"], row["calib_images"], row["sites"]) == (codec, 12, 8, 13)
    assert row["nbytes"] == sum(layer["nbytes"] for layer in row["layers"]) and row["ratio"] == row["raw_nbytes"] / row["nbytes"]
    assert row["ratio_with_shared"] == row["raw_nbytes"] / (row["nbytes"] + row["shared_nbytes"])
    assert row["target_met"] and row["kl"] < 0.2 and 1 < row["ratio"] < 12 and codec in out


def test_without_labels_accuracy_is_null(call, folder, tmp_path):
    code, _, err = call("features", "evaluate", *NET, "--images", folder / "pictures", "--calib-limit", 8, "--codec", "raw", "--json", tmp_path / "r.json")
    row = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and row["top1"] is row["drop_points"] is row["drop_ci95"] is row["drop_smoothed"] is None, err
    assert row["kl"] > 0 and row["agreement"] == 1 and 0.98 < row["ratio"] < 1


def test_a_plan_gives_the_row_that_calibration_gives(call, folder, plan, tmp_path):
    rows = []
    for more in (["--codec", "zvc", "--quality", 3], ["--plan", plan]):
        code, _, err = call(*evaluate(folder, *more, "--json", tmp_path / "r.json"))
        assert code == 0, err
        rows.append(json.loads((tmp_path / "r.json").read_text()))
    for key in ("seconds", "command"):
        rows[0].pop(key), rows[1].pop(key)
    assert rows[0] == rows[1]


def test_an_npz_and_a_page(call, folder, tmp_path):
    code, _, err = call(
        "features", "evaluate", *NET, "--images", folder / "digits.npz", "--calib-limit", 8, "--limit", 6, "--bits", 3,
        "--curve", 2, "--html", tmp_path / "p.html", "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0, err
    page, row = (tmp_path / "p.html").read_text(), json.loads((tmp_path / "r.json").read_text())
    assert row["images"] == 6 and row["bits_per_value"] < 3.3
    assert "<html" in page and "http://" not in page.split("<script")[0] and 'src="http' not in page and "dct_cm" in page


def test_calibration_pictures_are_never_evaluated(call, refused, folder, plan, tmp_path):
    assert Plan.load(plan).meta["calib_pictures"] == [f"{n:02}.png" for n in range(8)]
    for n in range(8):
        (tmp_path / "seen").mkdir(exist_ok=True)
        (tmp_path / "seen" / f"{n:02}.png").write_bytes((folder / "pictures" / f"{n:02}.png").read_bytes())
    refused("features", "evaluate", *NET, "--images", tmp_path / "seen", "--plan", plan, says="calibrated on")
    call(*evaluate(folder, "--calib-images", folder / "pictures", "--codec", "raw", "--json", tmp_path / "r.json"))
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 12


def test_a_target_out_of_reach_says_how_near(call, folder):
    code, _, err = call(*evaluate(folder, "--max-kl", 1e-12))
    assert code == 0 and "not met" in err and "KL" in err


@pytest.mark.parametrize("codec", ["raw", "zvc", "dct_cm", "uniform_rans"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integers_through_files(call, tmp_path, codec, dtype):
    x = np.random.default_rng(1).integers(-9, 100, (6, 9, 5)).clip(0 if dtype == "uint8" else -9).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    assert call("encode", tmp_path / "x.npy", "-o", tmp_path / "x.tp", "--codec", codec)[0] == 0
    assert call("decode", tmp_path / "x.tp", "-o", tmp_path / "y.npy")[0] == 0
    y = np.load(tmp_path / "y.npy")
    assert y.dtype == x.dtype and np.array_equal(x, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensor_files(call, tmp_path, dtype):
    torch.save(torch.relu(torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(0))).to(dtype), tmp_path / "x.pt")
    assert call("encode", tmp_path / "x.pt", "-o", tmp_path / "x.tp", "--codec", "raw")[0] == 0
    assert call("decode", tmp_path / "x.tp", "-o", tmp_path / "y.pt")[0] == 0
    x, y = (torch.load(tmp_path / n, weights_only=True).float() for n in ("x.pt", "y.pt"))
    assert (x - y).abs().max() < x.max() / 255


def test_a_plan_bound_stream(call, refused, folder, plan, tmp_path):
    assert Plan.load(plan).entries[0].shape == (16, 32, 32)
    x = np.maximum(np.random.default_rng(0).normal(size=(16, 32, 32)), 0).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    assert call("encode", tmp_path / "x.npy", "-o", tmp_path / "x.tp", "--plan", plan, "--site", "0")[0] == 0
    assert call("decode", tmp_path / "x.tp", "-o", tmp_path / "y.npy", "--plan", plan)[0] == 0
    assert np.abs(np.load(tmp_path / "y.npy") - np.minimum(x, np.load(tmp_path / "y.npy").max())).max() < 0.2
    _, out, _ = call("inspect", tmp_path / "x.tp", "--json")
    found = json.loads(out)
    assert sum(found["parts"].values()) == found["nbytes"] == (tmp_path / "x.tp").stat().st_size and found["parts"]["frame"] == 12
    refused("decode", tmp_path / "x.tp", "-o", tmp_path / "z.npy", says="--plan")
    refused("encode", tmp_path / "x.npy", "-o", tmp_path / "z.tp", "--plan", plan, says="--site")
    refused("encode", tmp_path / "x.npy", "-o", tmp_path / "z.tp", "--plan", plan, "--site", "layer9", says="layer9")
    assert not (tmp_path / "z.tp").exists() and not (tmp_path / "z.npy").exists()


def test_limits_and_names_from_files(call, folder, tmp_path):
    """A limit reaches `inspect` and `decode`; what stands in a file is never taken for markup."""
    from tensorpress.core.container import STREAM, Container
    from tensorpress.core.stream import Stream

    stream = tmp_path / "x.tp"
    assert call("encode", folder / "x.npy", "-o", stream, "--codec", "raw")[0] == 0
    needed = 4 * 16 * 12 * 12
    for verb in (["inspect", stream], ["decode", stream, "-o", tmp_path / "y.npy"]):
        assert call(*verb, "--max-nbytes", needed)[0] == 0
        code, _, err = call(*verb, "--max-nbytes", needed - 1)
        assert code == 2 and "over the limit" in err
    found = Stream.from_bytes(stream.read_bytes())
    wild = Stream(found.codec, {**found.params, "scale_rule": "[/wild]"}, found.sections, {"[/wild]": b"1"})
    stream.write_bytes(wild.to_bytes())
    code, out, _ = call("inspect", stream)
    assert code == 0 and out.count("[/wild]") == 2 and Container.from_bytes(stream.read_bytes(), STREAM)


def test_damaged_streams_are_recovered(call, refused, folder, plan, tmp_path):
    np.save(tmp_path / "x.npy", np.abs(np.load(folder / "x.npy")))
    assert call("encode", tmp_path / "x.npy", "-o", tmp_path / "x.tp", "--codec", "zvc")[0] == 0
    assert call("decode", tmp_path / "x.tp", "-o", tmp_path / "whole.npy")[0] == 0
    data = (tmp_path / "x.tp").read_bytes()
    (tmp_path / "x.tp").write_bytes(data[:-9])
    refused("decode", tmp_path / "x.tp", "-o", tmp_path / "y.npy", says="section 'payload' ends at")
    refused("decode", tmp_path / "x.tp", "-o", tmp_path / "y.npy", "--lost", tmp_path / "lost.npy", says="--lost belongs to --recover")
    code, told, faults = call("decode", tmp_path / "x.tp", "-o", tmp_path / "y.npy", "--recover", "--lost", tmp_path / "lost.npy")
    assert code == 0 and "768 of 2,304 values lost" in told and "stripe 1 (payload bytes" in faults and "is cut" in faults
    lost, found, whole = (np.load(tmp_path / f"{name}.npy") for name in ("lost", "y", "whole"))
    assert lost[:, 8:].all() and not lost[:, :8].any() and np.array_equal(found[:, :8], whole[:, :8]) and not found[:, 8:].any()


def test_damaged_plan_bound_streams_are_recovered(call, refused, folder, plan, tmp_path):
    shape = Plan.load(plan).entries[0].shape
    np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
    assert call("encode", tmp_path / "x.npy", "-o", tmp_path / "x.tp", "--plan", plan, "--site", 0)[0] == 0
    data = (tmp_path / "x.tp").read_bytes()
    (tmp_path / "x.tp").write_bytes(data[:-1])
    refused("decode", tmp_path / "x.tp", "-o", tmp_path / "y.npy", "--plan", plan, says="its head promised")
    code, told, faults = call("decode", tmp_path / "x.tp", "-o", tmp_path / "y.npy", "--plan", plan, "--recover")
    assert code == 0 and "values lost" in told and "is cut" in faults


def test_inspect_list_show(call, folder, plan, tmp_path):
    call("encode", folder / "x.npy", "-o", tmp_path / "x.tp", "--codec", "klt")
    for path in (tmp_path / "x.tp", plan):
        found = json.loads(call("inspect", path, "--json")[1])
        assert sum(found["parts"].values()) == found["nbytes"] == path.stat().st_size
        assert call("inspect", path)[0] == 0
    ids = [card["id"] for card in json.loads(call("list", "--json")[1])]
    assert {"raw", "zvc", "dct_cm", "klt", "uniform_rans"} <= set(ids)
    for codec in ids:
        found = json.loads(call("show", codec, "--json")[1])
        assert found["id"] == codec and all(row["help"] for row in found["options"])
        assert call("show", codec)[0] == 0


def test_mistakes_with_codecs_and_targets(refused, folder, tmp_path):
    refused(*evaluate(folder, "--codec", "dct-cm"), says="did you mean 'dct_cm'")
    refused(*evaluate(folder, "--set", "stepp=3"), says="no option 'stepp'")
    refused(*evaluate(folder, "--set", "step"), says="key=value")
    refused(*evaluate(folder, "--set", "profile=best"), says="'best'")
    refused(*evaluate(folder, "--max-kl", 1, "--ratio", 2), says="one target")
    refused(*evaluate(folder, "--ratio", -2), says="above 0")
    refused(*evaluate(folder, "--scale", "p5"), says="p99.99")
    refused(*evaluate(folder, "--mean", "1,2"), says="three numbers")
    refused("show", "nothing", says="unknown codec")


def test_mistakes_with_networks(refused, folder, tmp_path):
    pictures = ["--images", folder / "pictures", "--calib-limit", 8]
    refused("features", "evaluate", "--arch", "resnet5", "--weights", folder / "digits.npz", *pictures, says="resnet5")
    refused("features", "evaluate", "--arch", "resnet50", *pictures, says="--weights")
    refused("features", "evaluate", "--arch", "resnet50", "--weights", tmp_path / "none.npz", *pictures, says="none.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    refused("features", "evaluate", "--arch", "resnet50", "--weights", tmp_path / "torn.npz", *pictures, says="torn.npz")
    (tmp_path / "plain.py").write_text("import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))\n")
    small = [*pictures, "--resize", 0, "--crop", 0]
    refused("features", "evaluate", "--model", f"{tmp_path}/plain.py:build", *pictures, says="does not run on an input of shape (1, 3, 224, 224)")
    refused("features", "evaluate", "--model", f"{tmp_path}/plain.py:build", *small, says="activation")
    (tmp_path / "broken.py").write_text("def build():\n    raise ValueError('no\\nweights')\n")
    refused("features", "evaluate", "--model", f"{tmp_path}/broken.py:build", *pictures, says="broken.py")
    refused("features", "evaluate", "--model", f"{tmp_path}/broken.py:make", *pictures, says="make")
    (tmp_path / "nan.py").write_text(
        "import torch\nclass N(torch.nn.Module):\n    def __init__(s):\n        super().__init__(); s.c = torch.nn.Conv2d(3, 4, 3); s.f = torch.nn.Linear(4, 10)\n"
        "    def forward(s, x):\n        return s.f((torch.relu(s.c(x)) / 0).mean((2, 3)))\n"
        "def build():\n    n = N(); torch.nn.init.constant_(n.c.weight, float('nan')); return n.eval()\n"
    )
    refused("features", "evaluate", "--model", f"{tmp_path}/nan.py:build", *small, says="relu")


def test_mistakes_with_pictures_and_labels(refused, folder, tmp_path):
    refused("features", "evaluate", *NET, "--images", tmp_path / "none", says="none")
    (tmp_path / "empty").mkdir()
    refused("features", "evaluate", *NET, "--images", tmp_path / "empty", says="no picture")
    (tmp_path / "bad").mkdir()
    for n in range(4):
        (tmp_path / "bad" / f"{n}.png").write_bytes(b"not a picture")
    refused("features", "evaluate", *NET, "--images", tmp_path / "bad", "--calib-limit", 2, says="0.png")
    refused(*evaluate(folder)[:-1], 20, says="leave none")
    (tmp_path / "few.csv").write_text("file,class_index\n19.png,3\n")
    images = ["--images", folder / "pictures", "--calib-limit", 8]
    refused("features", "evaluate", *NET, *images, "--labels", tmp_path / "few.csv", says="no label")
    (tmp_path / "far.csv").write_text((folder / "labels.csv").read_text().replace("19.png,", "19.png,9"))
    refused("features", "evaluate", *NET, *images, "--labels", tmp_path / "far.csv", says="19.png")
    (tmp_path / "odd.csv").write_text("file,class_index\n00.png,cat\n")
    refused("features", "evaluate", *NET, *images, "--labels", tmp_path / "odd.csv", says="line 2")


def test_mistakes_with_plans(refused, folder, plan, tmp_path):
    refused(*evaluate(folder, "--plan", tmp_path / "none.tpp"), says="none.tpp")
    refused(*evaluate(folder, "--plan", plan, "--max-kl", 1), says="--plan")
    data = plan.read_bytes()
    for name, content, says in [
        ("cut", data[:200], "cut.tpp"),
        ("flip", data[:90] + bytes([data[90] ^ 1]) + data[91:], "damaged"),
        ("version", data[:4] + b"\x07" + data[5:], "version 7"),
        ("empty", b"", "empty.tpp"),
    ]:
        (tmp_path / f"{name}.tpp").write_bytes(content)
        refused(*evaluate(folder, "--plan", tmp_path / f"{name}.tpp"), says=says)
    (tmp_path / "other.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 10, 30), torch.nn.Flatten())\n"
    )
    images = ["--images", folder / "pictures", "--calib-limit", 8]
    refused("features", "evaluate", "--model", f"{tmp_path}/other.py:build", *images, "--resize", 0, "--crop", 0, "--plan", plan, says="another network")


def test_mistakes_with_streams(call, refused, folder, tmp_path):
    call("encode", folder / "x.npy", "-o", tmp_path / "x.tp")
    data = (tmp_path / "x.tp").read_bytes()
    old = tmp_path / "y.npy"
    old.write_bytes(b"old")
    for name, content in [("cut", data[:-5]), ("flip", data[:-9] + b"\0" + data[-8:]), ("long", data + b"1"), ("empty", b""), ("text", b"hello, this is text")]:
        (tmp_path / f"{name}.tp").write_bytes(content)
        refused("decode", tmp_path / f"{name}.tp", "-o", old, says=f"{name}.tp")
        if name != "text":
            refused("inspect", tmp_path / f"{name}.tp", says=f"{name}.tp")
    refused("decode", tmp_path / "x.tp", "-o", old, "--max-nbytes", 5000, says="limit")
    assert old.read_bytes() == b"old"
    refused("decode", tmp_path / "x.tp", "-o", tmp_path / "no" / "y.npy", says="cannot write")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_mistakes_with_arrays(refused, tmp_path):
    for name, array, says in [
        ("nan", np.array([1.0, np.nan], np.float32), "nan"),
        ("complex", np.zeros(3, np.complex64), "complex64"),
        ("wide", np.zeros((3, 3), np.int32), "int32"),
    ]:
        np.save(tmp_path / f"{name}.npy", array)
        refused("encode", tmp_path / f"{name}.npy", "-o", tmp_path / "z.tp", says=says)
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    refused("encode", tmp_path / "pickle.npy", "-o", tmp_path / "z.tp", says="pickle.npy")
    refused("encode", tmp_path / "none.npy", "-o", tmp_path / "z.tp", says="none.npy")
    assert not (tmp_path / "z.tp").exists()


def test_a_page_needs_plotly(refused, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    refused(*evaluate(folder, "--html", "p.html"), says="tensorpress[report]")


def test_the_demo_network_is_what_it_says():
    assert len(dict(network.load().named_modules())) > 10


def test_a_real_network(call, data, tmp_path):
    code, _, err = call(
        "features", "evaluate", "--arch", "cifar_resnet20", "--weights", data / "cifar10/resnet20.safetensors", "--images", data / "cifar10/test_500.npz",
        "--calib-images", data / "cifar10/train_10k.npz", "--calib-limit", 16, "--limit", 40, "--max-kl", 0.05, "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0, err
    row = json.loads((tmp_path / "r.json").read_text())
    assert row["sites"] == 19 and row["ratio"] > 1.8 and row["kl"] < 0.3 and "$TENSORPRESS_DATA" in row["command"]


def test_demo(call, tmp_path, monkeypatch):
    from tensorpress.demo import run as demo

    for name, small in (("CALIBRATION", 4), ("TEST", 6), ("CURVE", 2)):
        monkeypatch.setattr(demo, name, small)
    code, out, err = call("demo", "--html", tmp_path / "d.html", "--json", tmp_path / "d.json")
    assert code == 0, err
    rows = json.loads((tmp_path / "d.json").read_text())
    assert [row["codec"] for row in rows] == list(demo.CODECS) and all(row["images"] == 6 for row in rows)
    assert all(row["codec"] in (tmp_path / "d.html").read_text() and row["codec"] in out for row in rows)
