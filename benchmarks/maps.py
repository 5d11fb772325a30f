"""The real tensors: the 8-bit maps of a network's sites, picture after picture, at batch 1.

A site's scale comes from its calibration pictures, by the library's own rule, so values of the measured pictures may be cut off
at 255, as in use. Sites that are never negative give uint8; others int8, with 0 in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tensors import Array, Tensors
from torch import Tensor, nn

from tensorpress.blocks.levels import scale_and_zero
from tensorpress.blocks.uniform import quantise
from tensorpress.demo import digits, network
from tensorpress.pytorch.networks.pixels import preprocessing
from tensorpress.pytorch.pictures import open_pictures, prepare
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.taps import tapped
from tensorpress.pytorch.weights import load_network

CALIBRATION = 2  # pictures that codecs are fitted to
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """A network and its pictures; the last `CALIBRATION` of them are for calibration."""

    name: str
    net: nn.Module
    count: int
    picture: Callable[[int], Tensor]


def demo() -> Source:
    """The packaged network and its held-out digits; no data is needed."""
    net = network.load()
    pixels, wanted = digits.load("test")[0], preprocessing(net)
    return Source("demo", net, len(pixels), lambda n: prepare(pixels[n], wanted))


def resnet50(data: Path) -> Source:
    return imagenet("resnet50", load_network(arch="resnet50", weights=data / "imagenet" / "resnet50_pqf.npz"), data)


def mobilenet_v2(data: Path) -> Source:
    folder = data / "imagenet"
    half = (0.5, 0.5, 0.5)
    weights = folder / "mobilenet_v2_tf.safetensors"
    return imagenet("mobilenet_v2", load_network(model=f"{folder / 'mobilenet_v2_tf.py'}:load", weights=weights, mean=half, std=half), data)


def imagenet(name: str, net: nn.Module, data: Path) -> Source:
    pictures, wanted = open_pictures(data / "imagenet" / "images"), preprocessing(net)
    return Source(name, net, len(pictures), lambda n: pictures.tensor(n, wanted))


def tensors_of(source: Source, nbytes: int, tell: Tell) -> Tensors:
    """The maps of as many pictures as hold at least `nbytes` bytes; pictures come round again where there are too few."""
    calibration = [outputs(source.net, source.picture(source.count - 1 - n)) for n in range(CALIBRATION)]
    grids = [grid(maps) for maps in zip(*calibration)]
    samples = tuple(tuple(levels(x, *grids[site]) for x in maps) for site, maps in enumerate(zip(*calibration)))
    arrays: list[Array] = []
    held = 0
    for number in repeated(source.count - CALIBRATION):
        tell(f"maps of {source.name}", held, nbytes)
        found = [levels(x, *grids[site]) for site, x in enumerate(outputs(source.net, source.picture(number)))]
        arrays += found
        held += sum(x.nbytes for x in found)
        if held >= nbytes:
            break
    tell(f"maps of {source.name}", nbytes, nbytes)
    sites = len(grids)
    return Tensors(f"{source.name}-all", tuple(arrays), tuple(n % sites for n in range(len(arrays))), samples)


def repeated(count: int) -> Iterator[int]:
    while True:
        yield from range(count)


def grid(maps: tuple[Array, ...]) -> tuple[float, bool]:
    """(reciprocal of the scale, signed) of a site's 8-bit levels, from floats (C, H, W)."""
    low, high = min(float(x.min()) for x in maps), max(float(x.max()) for x in maps)
    signed = low < 0
    _, reciprocal, _ = scale_and_zero(-max(-low, high), max(-low, high)) if signed else scale_and_zero(0.0, high)
    return reciprocal, signed


def levels(x: Array, reciprocal: float, signed: bool) -> Array:
    """float32 -> int8 or uint8, through the one rounding that every codec uses."""
    low, high, dtype = (-128, 127, np.int8) if signed else (0, 255, np.uint8)
    return quantise(x, np.float32(reciprocal), low, high).astype(dtype)


def outputs(net: nn.Module, x: Tensor) -> list[Array]:
    """A copy of what each site makes, float32 (C, H, W) and contiguous, for a batch of one."""
    found: list[Array] = []

    def keep(_: int, tensor: Tensor) -> Tensor:
        found.append(np.array(tensor[0].numpy(), np.float32, order="C"))
        return tensor

    with torch.inference_mode():
        sites = find_sites(net, x)
        with tapped(net, sites, keep):
            net(x)
    return found
