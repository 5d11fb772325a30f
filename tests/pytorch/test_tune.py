"""The codec in the loop of training is the codec: same values, nearly the same bytes; and training goes on where it stopped."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tensorpress import cli, features
from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.pytorch.loop import MapLoop, Start
from tensorpress.pytorch.networks.pixels import Preprocessing
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.tune import Options, Pixels, begin, from_file, to_bytes, train
from tensorpress.pytorch.tuned import plan_of
from tests.conftest import feature_map

SCALE = 0.0625


def loop_at(step: float, length: int = 0, zero: int = 0, rate: str = "cells") -> MapLoop:
    loop = MapLoop(Start(SCALE, zero, step, length), rate).eval()
    loop.shift.copy_(torch.tensor([0, -0.5, 0.25, 0.25]))
    return loop


def codec_like(loop: MapLoop, **more: object):
    params = {"scale": SCALE, "reciprocal": 1 / SCALE, "zero_point": loop.zero, "step": loop.step().item(), "length": loop.length}
    params["lagrangian"] = float(np.log(2) / 6 * (loop.step().item() ** 2 - 1))  # as the codec sets it
    return registry.build("dct_cm", {**params, "centroid": loop.shift.tolist()[1:], "dct_centroid": loop.shift.tolist()[1:], **more})


@pytest.mark.parametrize(("step", "zero"), [(4.0, 0), (11.0, 0), (6.0, 100)])
def test_decoded_values_are_the_codecs_and_bits_are_close(step, zero):
    x = feature_map((64, 28, 28), signed=zero > 0)
    loop = loop_at(step, zero=zero)
    coded, nbytes = codec_like(loop, transform="none").simulate(x)
    y, bits = loop(torch.from_numpy(x)[None])
    assert np.array_equal(y[0].detach().numpy(), coded)
    assert bits.item() == pytest.approx(8 * nbytes / x.size, rel=0.04)


def test_transformed_values_are_the_codecs_within_its_integers():
    x = feature_map((32, 16, 16))
    loop = loop_at(6.0, length=8)
    with torch.no_grad():
        loop.gate[[6, 7]] = -1.0
    assert loop.keep() == (1, 1, 1, 1, 1, 1, 0, 0)
    coded, nbytes = codec_like(loop, transform="dct", keep=loop.keep(), lagrangian=50.0).simulate(x)
    y, bits = loop(torch.from_numpy(x)[None])
    differ = np.abs(y[0].detach().numpy() - coded) / SCALE
    assert np.quantile(differ, 0.98) <= 1 and differ.max() <= 8  # a coefficient at the edge of its step may fall on either side
    assert bits.item() == pytest.approx(8 * nbytes / x.size, rel=0.1)


@pytest.mark.parametrize("rate", ["cells", "entropy"])
def test_gradients_by_tables_are_those_of_autograd(rate):
    x = torch.randn(4, 16, 20, 12, generator=torch.Generator().manual_seed(0)).clamp(-4, 4).requires_grad_()
    tables, plain = loop_at(9.0, zero=100, rate=rate), loop_at(9.0, 4, zero=100, rate=rate)
    plain.matrix.copy_(torch.eye(4))  # a transform that does nothing, all of it kept
    with torch.no_grad():
        plain.gate.fill_(50)
    found = []
    for loop in (tables, plain):
        x.grad = None
        y, bits = loop(x, 3)
        ((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum() * 1e-3 + bits).backward()
        found.append((y.detach(), bits.detach(), x.grad.clone(), loop.log_step.grad))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_entropy_is_that_of_the_model():
    """Geometric magnitudes with zeros: the modelled bits are the entropy of what is there."""
    rng = np.random.default_rng(0)
    q = rng.geometric(0.4, size=(1, 4, 64, 64)) * (rng.random((1, 4, 64, 64)) < 0.3)
    loop = MapLoop(Start(1.0, 0, 4.0), "entropy").eval()
    _, bits = loop(torch.from_numpy(4.0 * q).float())
    p = np.bincount(q.reshape(-1)) / q.size
    p = p[p > 0]
    assert bits.item() == pytest.approx(float(-(p * np.log2(p)).sum()), rel=0.01)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    ).eval()


def pixels(count: int = 12) -> Pixels:
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return Pixels(list(images), Preprocessing(resize=0, crop=0), torch.device("cpu"))


def started(options: Options):
    model = network()
    sites = find_sites(model, torch.zeros(1, 3, 16, 16))
    return begin(model, sites, [Start(0.01, 0, 6.0, 8), Start(0.01, 0, 6.0)], options)


def silent(what: str, done: int, total: int) -> None:
    pass


def test_lambda_lowers_the_bits_and_the_codec_alone_leaves_weights():
    cheap, dear = (Options(lagrangian=v, epochs=6, batch=4, learning_rate=1e-3, codec_learning_rate=0.05) for v in (0.0, 1.0))
    states = [started(o) for o in (cheap, dear)]
    for state in states:
        train(state, network(), pixels(), silent)
    assert states[1].history[-1]["bits"] < 0.8 * states[0].history[-1]["bits"]
    assert states[0].history[-1]["kl"] < states[1].history[-1]["kl"]
    alone = started(Options(lagrangian=1.0, epochs=1, batch=4, learn="codec"))
    train(alone, network(), pixels(), silent)
    assert all(torch.equal(a, b) for a, b in zip(alone.model.state_dict().values(), network().state_dict().values()))
    assert alone.loops[0].step().item() != pytest.approx(6.0, abs=1e-4)


def test_resuming_is_going_on(tmp_path):
    options = Options(epochs=3, batch=4, learning_rate=1e-3)
    whole = started(options)
    train(whole, network(), pixels(), silent)
    part = started(options)

    class Stop(Exception):
        pass

    def save(state):
        (tmp_path / "c").write_bytes(to_bytes(state))
        if state.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(part, network(), pixels(), silent, save)
    again = from_file(tmp_path / "c", network(), options)
    assert again.epoch == 2 and again.history == part.history
    train(again, network(), pixels(), silent)
    assert to_bytes(again) == to_bytes(whole)
    with pytest.raises(InputError, match="another lagrangian"):
        from_file(tmp_path / "c", network(), Options(lagrangian=0.5, epochs=3, batch=4, learning_rate=1e-3))
    with pytest.raises(InputError, match="another network"):
        from_file(tmp_path / "c", nn.Sequential(nn.Linear(2, 2)))
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:100])
    with pytest.raises(InputError, match="not a checkpoint"):
        from_file(tmp_path / "c", network())


@pytest.mark.parametrize("codec", ["dct_cm", "zvc", "uniform_rans"])
def test_what_was_learned_goes_into_codecs(codec):
    state = started(Options(epochs=1, batch=4))
    with torch.no_grad():
        state.loops[0].gate[3] = -1.0
        state.loops[1].log_step.fill_(np.log(9.0))
    images = [torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    plan = plan_of(state, images, codec)
    first, second = (entry.codec.config for entry in plan.entries)
    if codec == "dct_cm":
        assert (first.transform, first.length, first.keep) == ("dct", 8, (1, 1, 1, 0, 1, 1, 1, 1)) and second.length == 0
    if codec == "uniform_rans":
        assert second.step == pytest.approx(0.09) and second.levels == 29
    else:
        assert second.step == pytest.approx(9.0) and second.scale == pytest.approx(0.01)
    row = features.evaluate(state.model, plan, images, against=copy.deepcopy(state.model))
    assert row["ratio"] > 1 and row["kl"] < 0.1


def test_codecs_without_a_step_are_refused():
    with pytest.raises(InputError, match="no step"):
        plan_of(started(Options()), [torch.zeros(1, 3, 16, 16)], "raw")


@pytest.mark.parametrize(
    ("wrong", "says"), [({"rate": "x"}, "rate is"), ({"learn": "x"}, "learn is"), ({"epochs": 0}, "at least 1"), ({"lagrangian": -1.0}, "at least 0")]
)
def test_options_are_checked(wrong, says):
    with pytest.raises(InputError, match=says):
        Options(**wrong)


@pytest.fixture
def call(capsys, monkeypatch):
    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tensorpress", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_command_line(call, tmp_path):
    from tensorpress.demo import digits

    images, labels = digits.load("test")
    np.savez(tmp_path / "digits.npz", images=images[:60], labels=labels[:60])
    net = ["--model", "tensorpress.demo.network:load", "--images", tmp_path / "digits.npz"]
    tuned, plan = tmp_path / "tuned.safetensors", tmp_path / "tuned.tpp"
    ask = ["features", "tune", *net, "--out", tuned, "--plan", plan, "--limit", 20, "--batch", 8, "--quality", 12, "--lambda", 0.1]
    code, out, err = call(*ask, "--epochs", 1)
    assert code == 0, err
    assert "epoch 1: KL" in out and tuned.is_file() and plan.is_file()
    code, out, err = call(*ask, "--epochs", 2, "--resume")
    assert code == 0 and "epoch 2: KL" in out and "epoch 1:" not in out
    assert call(*ask, "--epochs", 2, "--resume", "--seed", 5)[0] == 2  # not as it began
    from tensorpress.demo.network import load

    original, row = tmp_path / "original.safetensors", tmp_path / "row.json"
    safetensors.torch.save_file(load().state_dict(), original)
    here = ["--model", "tensorpress.demo.network:digits_resnet", "--images", tmp_path / "digits.npz"]
    code, out, err = call("features", "evaluate", *here, "--weights", tuned, "--plan", plan, "--against", original, "--json", row)
    assert code == 0, err
    found = json.loads(row.read_text())
    assert found["images"] == 40 and found["ratio"] > 2  # none of those that it was tuned on
    code, out, err = call("features", "tune", *net, "--out", tmp_path / "none.safetensors", "--resume")
    assert code == 2 and "there is no" in err
    assert call("features", "tune", *net, "--out", tuned, "--split", "odd")[0] == 2
