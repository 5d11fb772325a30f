"""Calibration: ranges, sensitivities, and plans of every codec on the packaged network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tensorpress import features
from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.demo import digits, network
from tensorpress.pytorch.calibration import Calibration, relative_steps
from tensorpress.pytorch.networks.pixels import preprocessing
from tensorpress.pytorch.pictures import prepare
from tensorpress.pytorch.statistics import Observed, fisher


@pytest.fixture(scope="module")
def net():
    return network.load()


@pytest.fixture(scope="module")
def pictures(net):
    return [prepare(x, preprocessing(net)) for x in digits.load("calibration")[0][:10]]


def test_percentiles_are_those_of_all_values():
    rng = np.random.default_rng(0)
    parts = [rng.laplace(size=(8, 40, 40)).astype(np.float32) for _ in range(6)]
    seen = Observed()
    for n, part in enumerate(parts):
        seen.add(part, keep=n == 0)
    everything = np.concatenate([p.reshape(-1) for p in parts])
    low, high = seen.range("p99.99")
    assert high == pytest.approx(np.percentile(everything, 99.99), rel=0.05) and low == pytest.approx(np.percentile(everything, 0.01), rel=0.05)
    assert seen.range("max") == (everything.min(), everything.max())
    assert len(seen.samples) == 1 and seen.count == everything.size
    with pytest.raises(InputError, match="NaN"):
        seen.add(np.array([np.nan], np.float32), False)


def test_sensitivity_is_the_fisher_information():
    """For logits W x the score at x is W^T (e_y - p), whose mean square over y ~ p is known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(6, 4)).eval()
    x = torch.rand(1, 6) + 0.1
    from tensorpress.pytorch.sites import find_sites

    sites = find_sites(model, x)
    found = fisher(model, sites, ["output"] * len(sites), [x] * 800)
    w, p = model[2].weight.detach().double(), model(x).detach().double().softmax(1)[0]
    scores = (torch.eye(4, dtype=torch.float64) - p) @ w
    assert found[0] == pytest.approx((p[:, None] * scores**2).sum(0).numpy(), rel=0.2)
    assert found[0].mean() == pytest.approx(float((p[:, None] * scores**2).sum(0).mean()), rel=0.1)
    assert all(q.grad is None for q in model.parameters())


def test_steps_balance_sensitivity():
    g2, ranges = np.array([4.0, 1.0, 0.0]), [(0.0, 255.0)] * 3
    steps = relative_steps(g2, ranges, [10, 10, 10])
    assert steps[1] / steps[0] == pytest.approx(2.0) and steps[2] == 1.0
    assert np.log(steps[:2]).mean() == pytest.approx(0.0)


@pytest.mark.parametrize("codec", [c.id for c in registry.cards().values() if c.family == "features"])
def test_real_bytes_and_simulation_agree_in_a_network(net, pictures, codec):
    calibration = Calibration.measure(net, pictures[:4], codec)
    card = registry.card(codec)
    quality = (card.quality_fine * card.quality_coarse) ** 0.5 if card.quality else None
    plan = features.Plan.from_bytes(calibration.plan_at(quality).to_bytes())
    results = []
    for exact in (True, False):
        with plan.attach(net, exact=exact) as run, torch.inference_mode():
            results.append((net(torch.cat(pictures[4:6])), run.calls, run.nbytes))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1:] == results[1][1:]
    assert len(results[0][1]) == 2 * 13
    with torch.inference_mode():
        assert not torch.equal(net(torch.cat(pictures[4:6])), results[0][0])  # the network is as it was, and the codec was lossy


@pytest.mark.parametrize("codec", ["klt", "zvc"])
def test_gradients_pass_through_in_place_activations(codec):
    """klt stands before the activation, which here overwrites what it is given."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 64, 4))
    images = [torch.randn(1, 3, 12, 12) for _ in range(3)]
    plan = features.calibrate(model.eval(), images, codec, quality=9.0 if codec == "klt" else 1.0)
    model(images[0]).sum().backward()
    plain = model[0].weight.grad.clone()
    model.zero_grad()
    with plan.attach(model) as run:
        model(images[0]).sum().backward()
    assert run.nbytes and torch.nn.functional.cosine_similarity(plain.reshape(-1), model[0].weight.grad.reshape(-1), 0) > 0.95


@pytest.mark.parametrize("target", [{"max_kl": 0.02}, {"max_drop": 1.0}, {"ratio": 2.5}, {"bits": 3.0}])
def test_targets_are_met_on_the_calibration_pictures(net, pictures, target):
    plan = features.calibrate(net, pictures, "uniform_rans", **target)
    chosen = next(t for t in plan.meta["tried"] if t["quality"] == plan.meta["quality"])
    assert plan.meta["target_met"] and plan.meta["target"] == target
    limits = {"max_kl": chosen["kl_bound"] <= 0.02, "max_drop": chosen["expected_drop"] <= 1.0, "ratio": chosen["ratio"] >= 2.5, "bits": 8 / chosen["ratio"] <= 3.0}
    assert limits[next(iter(target))]


def test_calibration_is_reproducible(net, pictures):
    plans = [features.calibrate(net, pictures[:4], "dct_cm", quality=5.0) for _ in range(2)]
    assert plans[0].to_bytes() == plans[1].to_bytes()


def test_a_compiled_network_is_told_what_to_do(net, pictures):
    plan = features.calibrate(net, pictures[:2], "raw")
    with pytest.raises(InputError, match="_orig_mod"):
        plan.attach(torch.compile(net))
