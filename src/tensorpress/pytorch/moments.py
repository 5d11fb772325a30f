"""What a layer is fed, as second moments: E[x x^T] of the compressed inputs, and how they differ from the original ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorpress.pytorch.lockstep import Layer

SAMPLES, LEAST_SAMPLES = 16, 16384  # places of the batch for each column of the moments, and in all


@dataclass
class Moments:
    """`hessian` [groups, K, K] = E[x x^T]; `shift` [groups, K, K] = E[(x' - x) x^T], x' what the original is fed. K = columns of the weight's matrix in a group."""

    hessian: Tensor
    shift: Tensor
    samples: int


def matrix(weight: Tensor, layer: Layer) -> Tensor:
    """A layer's weight as [groups, O, K]."""
    groups = int(layer.options.get("groups") or 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def moments(layer: Layer, weight: Tensor, generator: torch.Generator) -> Moments | None:
    """Of a linear or convolutional layer; None for others (transposed and three-dimensional convolutions, embeddings, norms)."""
    shape = matrix(weight, layer).shape
    wanted = max(SAMPLES * shape[-1], LEAST_SAMPLES)
    if layer.kind == "linear":
        before, after = (x.reshape(-1, shape[-1]) for x in (layer.before, layer.after))
        chosen = torch.randint(len(after), (wanted,), generator=generator) if wanted < len(after) else slice(None)
        before, after = before[chosen][None], after[chosen][None]
    elif layer.kind in ("conv1d", "conv2d"):
        before, after = _patches(layer, weight, wanted, generator)
    else:
        return None
    before, after = before.float(), after.float()  # [groups, samples, K]
    count = max(after.shape[1], 1)
    return Moments((after.mT @ after).double() / count, ((before - after).mT @ after).double() / count, after.shape[1])


def _patches(layer: Layer, weight: Tensor, wanted: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What a convolution multiplies its kernel with, at `wanted` places of the batch drawn at random, or all: [groups, places, K], twice."""
    flat = layer.kind == "conv1d"
    size = (1, weight.shape[2]) if flat else (weight.shape[2], weight.shape[3])

    def pair(value: int | Sequence[int], first: int) -> tuple[int, int]:
        found = (value,) * 2 if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)
        return (first, found[-1]) if flat else (found[0], found[1])

    stride, dilation = pair(layer.options.get("stride") or 1, 1), pair(layer.options.get("dilation") or 1, 1)
    padding = layer.options.get("padding") or 0
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, size)]
        edges = [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    else:
        rows, columns = pair(padding, 0)
        edges = [columns, columns, rows, rows]
    groups = int(layer.options.get("groups") or 1)
    places: tuple[Tensor, ...] = ()
    found = []
    for x in (layer.before, layer.after):
        x = F.pad(x[:, :, None] if flat else x, edges).contiguous()
        images, channels = x.shape[:2]
        out = [(side - d * (k - 1) - 1) // s + 1 for side, d, k, s in zip(x.shape[2:], dilation, size, stride)]
        a, b, c, d = x.stride()
        view = x.as_strided((images, *out, channels, *size), (a, c * stride[0], d * stride[1], b, c * dilation[0], d * dilation[1]))
        if not places:
            count = images * out[0] * out[1]
            flat_places = torch.randint(count, (wanted,), generator=generator) if wanted < count else torch.arange(count)
            places = torch.unravel_index(flat_places, (images, *out))
        found.append(view[places].reshape(len(places[0]), groups, -1).movedim(1, 0))
    return found[0], found[1]
