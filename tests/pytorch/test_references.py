"""Sites that are predicted from an earlier site's decoded tensor: plans, running networks, bundles, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tensorpress import features
from tensorpress.core.container import PLAN, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.planning.bundle import read_bundle, write_bundle
from tensorpress.pytorch.calibration import Calibration, channel_exponents
from tensorpress.pytorch.statistics import Observed


class Stream(nn.Module):
    """A residual stream that two blocks add a little to, so that each output is much like the one before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = (x + 0.1 * block(x)).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Stream().eval()


@pytest.fixture(scope="module")
def pictures() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [nn.functional.interpolate(torch.randn(1, 3, 5, 5), 20, mode="bilinear") for _ in range(8)]


@pytest.fixture(scope="module")
def plan(net, pictures):
    calibration = Calibration.measure(net, pictures, "context", steps="channel")
    assert calibration.references == (None, 0, 1)
    return features.Plan.from_bytes(calibration.plan_at(3.0).to_bytes())


def test_each_block_is_predicted_from_the_one_before(net, pictures, plan):
    assert [e.reference for e in plan.entries] == [None, 0, 1] and plan.referenced == {0, 1}
    alone = Calibration.measure(net, pictures, "context", steps="channel", references=False).plan_at(3.0)
    assert all(e.reference is None for e in alone.entries)
    nbytes = []
    for p in (plan, alone):
        with p.attach(net) as run, torch.inference_mode():
            net(pictures[0])
        nbytes.append(sum(call.nbytes for call in run.calls if call.site))
    assert nbytes[0] < 0.8 * nbytes[1]


def test_real_bytes_simulation_and_bundle_agree(net, pictures, plan):
    x = torch.cat(pictures[:3])
    decoded = []
    with plan.attach(net, keep=True, watch=lambda i, a, b, p, n: decoded.append((i, b.copy()))) as run, torch.inference_mode():
        net(pictures[4])  # a pass before: its tensors are forgotten
        decoded.clear()
        real = net(x)
    found = read_bundle(run.bundle(), plan)
    assert [i for i, _ in found] == [i for i, _ in decoded] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all((a == b).all() for (_, a), (_, b) in zip(found, decoded, strict=True))
    with plan.attach(net, exact=False) as simulated, torch.inference_mode():
        assert torch.equal(net(x), real)
    assert simulated.calls == run.calls[3:]
    assert not torch.equal(net(x), real)


def test_a_bundle_without_its_reference_is_refused(net, pictures, plan):
    with plan.attach(net, keep=True) as run, torch.inference_mode():
        net(pictures[0])
    with pytest.raises(StreamError, match="comes before its reference"):
        read_bundle(write_bundle(plan, run.frames[1:]), plan)


def test_a_network_that_skips_the_reference_is_told(net, pictures, plan):
    other = replace(plan, entries=(plan.entries[0], plan.entries[1], replace(plan.entries[2], reference=0)))
    with other.attach(net), torch.inference_mode():
        net(pictures[0])  # another earlier one of the same shape does

    class Resized(Stream):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).relu()
            for block in self.blocks:
                x = (nn.functional.avg_pool2d(x, 2) + 0.1 * block(x)[:, :, ::2, ::2]).relu()
            return self.head(x.mean((2, 3)))

    resized = Resized().eval()
    resized.load_state_dict(net.state_dict())
    with plan.attach(resized), torch.inference_mode(), pytest.raises(InputError, match="has shape"):
        resized(pictures[0])


def test_plans_with_impossible_references_are_refused(plan):
    box = Container.from_bytes(plan.to_bytes(), PLAN)
    for number, value, message in ((1, 1, "not one before it"), (1, -1, "not one before it"), (0, 0, "not one before"), (1, None, "no int"), (1, "none", "needs a reference")):
        entries = [dict(row) for row in box.header["entries"]]
        entries[number]["reference"] = value
        if value == "none":
            del entries[number]["reference"]
        data = Container(PLAN, {**box.header, "entries": entries}, box.sections).to_bytes()
        with pytest.raises(StreamError, match=message):
            features.Plan.from_bytes(data)


def test_calibration_meets_a_target(net, pictures):
    made = features.calibrate(net, pictures, "context", max_kl=0.002, scale="max", steps="channel")
    assert made.meta["target_met"] and made.meta["quality"] > 1
    drafts = [bool(t.get("draft")) for t in made.meta["tried"]]
    assert drafts == sorted(drafts, reverse=True) and drafts[0] and not drafts[-1]  # a draft searches, the codec itself confirms
    assert made.meta["tried"][-1]["kl_bound"] <= 0.002 and made.entries[0].codec.config.backend == "max"
    with pytest.raises(InputError, match="no steps by channel"):
        features.calibrate(net, pictures, "dct_cm", quality=2.0, steps="channel")


def test_exponents_balance_channels():
    import numpy as np

    assert channel_exponents(np.array([1.0, 4.0, 0.25])) == tuple(round(8 * 0.5 * np.log2(1.75 / g)) for g in (1.0, 4.0, 0.25))
    assert channel_exponents(np.array([1.0, 0.0])) == (-4, 16) and channel_exponents(np.zeros(2)) == (0, 0)
    assert Observed().samples == []
