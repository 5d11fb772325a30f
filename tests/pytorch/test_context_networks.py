"""The context codec in networks that it was not made for: concatenations, tokens, SiLU and GELU, batches, other sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tensorpress.core import registry
from tensorpress.pytorch.calibration import Calibration
from tensorpress.pytorch.statistics import tensors_in
from tests.pytorch.test_sites import SMALL, example, small
from tests.pytorch.test_taps import equal


@pytest.mark.parametrize("backend", ["max", "fast"])
@pytest.mark.parametrize("name", SMALL)
def test_it_runs_in_any_network_and_batch(name, backend):
    model = small(name)
    torch.manual_seed(0)
    pictures = [example() + 0.1 * torch.randn_like(example()) for _ in range(3)]
    calibration = Calibration.measure(model, pictures, "context", options={"backend": backend}, scale="max", steps="channel")
    plan = calibration.plan_at(3.0)
    batch = torch.cat([example() + 0.1 * torch.randn_like(example()) for _ in range(8)])
    with torch.inference_mode():
        plain = model(batch)
        with plan.attach(model) as run:
            coded = model(batch)
        with plan.attach(model, exact=False) as simulated:
            assert equal(model(batch), coded)
    assert run.nbytes == simulated.nbytes
    assert len(run.calls) == 8 * len(plan.entries)
    assert all(torch.isfinite(t).all() for t in tensors_in(coded)) and not equal(coded, plain)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Identity], ids=["gelu", "silu", "linear"])
def test_dense_maps_never_cost_more_than_plain_levels(activation):
    """At no larger error than `uniform_rans`, no more than 1 % more bytes; here they are far fewer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 5, padding=2), activation()).eval()
    with torch.no_grad():
        maps = [net(nn.functional.interpolate(torch.randn(1, 3, 9, 9), 32, mode="bicubic") + 0.1 * torch.randn(1, 3, 32, 32))[0].numpy() for _ in range(7)]
    known, new = maps[:5], maps[5:]

    def cost(codec):
        return sum(len(codec.encode_payload(x)) for x in new), float(np.mean([np.square(codec.simulate(x)[0] - x).mean() for x in new]))

    for levels, step in ((64, 2.0), (16, 6.0)):
        nbytes, error = cost(registry.build("uniform_rans", {"levels": levels}).fit(known))
        for backend in ("max", "fast"):
            ours, loss = cost(registry.build("context", {"backend": backend, "step": step}).fit(known))
            assert loss <= error and ours <= 1.01 * nbytes
