"""A plan that is attached to a network whose maps live on a GPU: the same outputs, bytes and account as on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tensorpress import features


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 20, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(20 * 7 * 7, 10)).eval()


@pytest.mark.parametrize("options", [{}, {"memory_format": torch.channels_last}], ids=["plain", "channels_last"])
@pytest.mark.parametrize("codec", [("zvc", {}), ("dct_cm", {"profile": "paper"})], ids=lambda c: c[0])
def test_attached_on_device(device, monkeypatch, codec, options):
    model = network()
    images = [torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    plan = features.calibrate(model, images, codec[0], options=codec[1], quality=4.0)
    batch = torch.cat(images).to(**options)
    found = []
    for switch in ("0", "1"):
        monkeypatch.setenv("TENSORPRESS_TRITON", switch)
        model.to(device if switch == "1" else "cpu")
        with torch.no_grad(), plan.attach(model, keep=True) as run:
            if switch == "1":
                monkeypatch.setattr("tensorpress.core.codec.to_host", None)
                monkeypatch.setattr("tensorpress.pytorch.attach.images", None)
            y = model(batch.to(device if switch == "1" else "cpu"))
        found.append((run.frames, [(c.site, c.image, c.shape, c.raw_nbytes, c.nbytes) for c in run.calls], y))
    if device.type == "cpu":  # on a GPU the maps themselves differ in their last bits
        assert found[0][0] == found[1][0] and found[0][1] == found[1][1] and torch.equal(found[0][2], found[1][2])
    assert [c[:4] for c in found[0][1]] == [c[:4] for c in found[1][1]]
    assert np.allclose(found[0][2], found[1][2].cpu(), atol=0.05)
