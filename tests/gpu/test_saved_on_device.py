"""Saved tensors whose payloads stay on the GPU: the same gradients and bytes as with payloads in host memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorpress.pytorch import compress_saved


@pytest.mark.parametrize("channels_last", [False, True], ids=["plain", "channels_last"])
@pytest.mark.parametrize(
    "options", [{"codec": "zvc"}, {"codec": "zvc", "exact": True}, {"codec": "dct_cm", "profile": "paper", "step": 4.0}], ids=["zvc", "exact", "dct_cm"]
)
def test_gradients_and_account(device, monkeypatch, options, channels_last):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 20, 3), nn.ReLU()).to(device)
    x = torch.randn(2, 3, 14, 14, device=device)
    if channels_last:
        network, x = network.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    found = []
    for on_device in (False, True):
        network.zero_grad()
        with compress_saved(**options, min_values=256, on_device=on_device) as saved:
            loss = network(x).square().mean()
            if on_device:
                monkeypatch.setattr("tensorpress.core.codec.Codec.decode_payload", None)
        sizes = saved.total_held_nbytes, saved.encoded
        loss.backward()
        found.append((sizes, [p.grad.clone() for p in network.parameters()]))
    assert found[0][0] == found[1][0] and found[0][0][1] >= 2
    for one, other in zip(found[0][1], found[1][1]):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6) if device.type == "cuda" else torch.equal(one, other)


def test_codecs_without_kernels_hold_host_memory(device):
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).to(device)
    with compress_saved("rle", min_values=16, on_device=True) as saved:
        network(torch.randn(32, 64, device=device).relu()).sum().backward()
    assert saved.encoded and saved.decoded
