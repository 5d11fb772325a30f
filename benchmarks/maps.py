"""What is measured: the post-activation maps of one picture, float32, as a network hands them over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.demo import digits, network
from tensorpress.pytorch.networks.pixels import preprocessing
from tensorpress.pytorch.pictures import open_pictures, prepare
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.taps import tapped
from tensorpress.pytorch.weights import load_network

Map = np.ndarray[Any, np.dtype[np.float32]]


def demo_maps() -> list[Map]:
    """The maps of the packaged network for one held-out digit; no data is needed."""
    net = network.load()
    return outputs(net, prepare(digits.load("test")[0][0], preprocessing(net)))


def resnet50_maps(data: Path) -> list[Map]:
    """The 49 maps of ResNet-50 for the first picture of `data`. InputError where weights or pictures are missing."""
    net = load_network(arch="resnet50", weights=data / "imagenet" / "resnet50_pqf.npz")
    return outputs(net, open_pictures(data / "imagenet" / "images").tensor(0, preprocessing(net)))


def outputs(net: nn.Module, x: Tensor) -> list[Map]:
    """A copy of what each site makes, (C, H, W) and contiguous, for a batch of one."""
    found: list[Map] = []

    def keep(_: int, tensor: Tensor) -> Tensor:
        found.append(tensor[0].numpy().copy())
        return tensor

    with torch.inference_mode():
        sites = find_sites(net, x)
        with tapped(net, sites, keep):
            net(x)
    return found
