"""The table of a network's options, and plans that the allocator makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorpress import features
from tensorpress.core.errors import InputError
from tensorpress.demo import digits, network
from tensorpress.evaluate import measure
from tensorpress.evaluate.score import score
from tensorpress.pytorch.calibration import Calibration
from tensorpress.pytorch.networks.pixels import preprocessing
from tensorpress.pytorch.pictures import prepare


@pytest.fixture(scope="module")
def net():
    return network.load()


@pytest.fixture(scope="module")
def pictures(net):
    return [prepare(x, preprocessing(net)) for x in digits.load("calibration")[0][:12]]


@pytest.fixture(scope="module")
def calibration(net, pictures):
    return Calibration.measure(net, pictures, "dct_cm", scale="max")


def test_costs_are_real_bytes_and_distortions_rise(net, pictures, calibration):
    scored = score(calibration, net, pictures)
    assert len(scored.table) == len(calibration.sites) and scored.qualities[0] == 1.0 and scored.qualities[-1] == pytest.approx(8.0)
    for distortion, cost in zip(scored.table.distortion, scored.table.cost, strict=True):
        assert distortion[-1] > distortion[0] and cost[-1] < cost[0]
    plan = scored.plan([0] * len(scored.table))
    with plan.attach(net) as run, torch.inference_mode():
        for x in pictures:
            net(x)
    assert run.nbytes / len(pictures) == pytest.approx(sum(row[0] for row in scored.table.cost), rel=0.1)


def test_each_way_of_scoring_ranks_by_what_it_says(net, pictures, calibration):
    fisher, mse, alone = (score(calibration, net, pictures, how, qualities=(2.0, 8.0)) for how in ("fisher", "mse", "measured"))
    assert all(f[1] / m[1] != pytest.approx(fisher.table.distortion[0][1] / mse.table.distortion[0][1]) for f, m in zip(fisher.table.distortion[1:], mse.table.distortion[1:]))
    before = measure.outputs(net, pictures, "", lambda *a: None)
    for site in (0, len(alone.table) - 1):
        entry = alone.entries[site][1]
        one = features.Plan("features", calibration.model, (entry,), {})
        assert alone.table.distortion[site][1] == pytest.approx(measure.quick(net, one, pictures, before)["kl"])
    # on so few images the two are of one order, no more
    ratio = np.log(np.maximum([d[1] for d in fisher.table.distortion], 1e-9) / np.maximum([d[1] for d in alone.table.distortion], 1e-9))
    assert abs(np.median(ratio)) < np.log(10)


def test_allocated_plans_keep_their_targets(net, pictures):
    made = features.calibrate(net, pictures, "dct_cm", max_kl=0.01, score="fisher", scale="max")
    assert made.meta["target_met"] and made.meta["measured"] <= 0.01
    assert made.meta["gap"] == pytest.approx(made.meta["measured"] - made.meta["predicted"])
    assert len({e.codec.config.step for e in made.entries}) > 2
    sized = features.calibrate(net, pictures, "dct_cm", ratio=2.2, score="fisher", scale="max")
    with sized.attach(net) as run, torch.inference_mode():
        for x in pictures:
            net(x)
    assert run.raw_nbytes / run.nbytes == pytest.approx(2.2, rel=0.1)
    hopeless = features.calibrate(net, pictures, "dct_cm", ratio=1000.0, score="mse", scale="max")
    assert hopeless.meta["target_met"] is False


def test_references_are_scored_too(net, pictures):
    found = Calibration.measure(net, pictures, "context", scale="max")
    scored = score(found, net, pictures[:4], "measured", qualities=(2.0, 6.0))
    assert any(e[0].reference is not None for e in scored.entries)
    assert all(row[1] >= 0 for row in scored.table.distortion)


def test_a_site_may_have_another_codec(net, pictures):
    made = features.calibrate(net, pictures, "uniform_rans", max_kl=0.01, score="fisher", also=["dct_cm"], scale="max")
    assert made.meta["target_met"] and sum(made.meta["codecs"].values()) == len(made.entries)
    assert {e.codec.id for e in made.entries} == set(made.meta["codecs"])
    alone = features.calibrate(net, pictures, "zvc", max_kl=0.01, score="fisher", scale="max")
    both = features.calibrate(net, pictures, "zvc", max_kl=0.01, score="fisher", also=["dct_cm"], scale="max")
    sizes = [measure.quick(net, plan, pictures, measure.outputs(net, pictures, "", lambda *a: None))["ratio"] for plan in (alone, both)]
    assert sizes[1] > 1.2 * sizes[0] and both.meta["codecs"]["dct_cm"] > len(both.entries) / 2
    with pytest.raises(InputError, match="give score"):
        features.calibrate(net, pictures, "zvc", also=["klt"])


def test_mistakes(net, pictures, calibration):
    with pytest.raises(InputError, match="score is one of"):
        score(calibration, net, pictures, "guess")
    with pytest.raises(InputError, match="nothing to allocate"):
        features.calibrate(net, pictures, "raw", score="fisher", ratio=2.0)
    with pytest.raises(InputError, match="nothing to allocate"):
        features.calibrate(net, pictures, "dct_cm", score="fisher", quality=2.0)
