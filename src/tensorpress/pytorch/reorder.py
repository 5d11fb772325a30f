"""Channel order by likeness, folded into the weights: a transform over adjacent channels then finds what to remove.

Channels of a layer have no order of their own. Those of one channel space (a layer's, or a whole residual stream's)
are paired by the likeness of their maps, pairs with pairs, and so on up to groups of 32: each aligned group of 4, 8, 16
or 32 is then as much alike as greedy pairing gets. The permutation is applied to every parameter axis that counts
these channels, so it costs nothing at run time and leaves the network's outputs as they were.
After US 11,580,402 (offline order of channels for coding by differences) in aim; the pairing is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.core.site import Site
from tensorpress.pytorch.channels import Space, channel_spaces
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.taps import tapped

GROUP = 32  # channels of the longest DCT


@dataclass(frozen=True)
class Order:
    """One permuted space: new channel k is old channel `order[k]`, on every axis of `axes`."""

    axes: tuple[tuple[str, int], ...]  # (name in the state dict, axis)
    order: tuple[int, ...]
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Reordering:
    orders: tuple[Order, ...]
    left: tuple[tuple[str, str], ...]  # (site, why its channels stay as they are)


def likeness(model: nn.Module, sites: Sequence[Site], spaces: Sequence[Space], images: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    """For each space [size, size]: the cosine of every two channels' values, averaged over its sites; no mean is taken
    off, since a DCT takes none off either."""
    space_of = {site: number for number, space in enumerate(spaces) for site in space.sites}
    moments = [torch.zeros(space.size, space.size, dtype=torch.float64) for space in spaces]
    sums: dict[int, Tensor] = {}

    def see(index: int, x: Tensor) -> Tensor:
        if index in space_of:
            flat = x.detach().transpose(0, 1).flatten(1).float()
            product = (flat @ flat.T).double()
            sums[index] = sums[index] + product if index in sums else product
        return x

    with torch.inference_mode(), tapped(model, sites, see):
        for x in images:
            model(x)
    for index, product in sums.items():
        norm = product.diagonal().sqrt().clamp_min(1e-30)
        moments[space_of[index]] += product / norm[:, None] / norm[None, :]
    return [m.numpy() / max(len(space.sites), 1) for m, space in zip(moments, spaces)]


def paired(alike: NDArray[np.float64], group: int = GROUP) -> NDArray[np.int64]:
    """An order in which aligned groups of 2, 4, … `group` are alike: greedy pairing, level by level; ends are turned to meet."""
    nodes = [[i] for i in range(len(alike))]
    between = alike.copy()
    while len(nodes[0]) < group and len(nodes) > 1:
        size = len(nodes[0])
        whole = sum(len(n) == size for n in nodes)  # an odd one out stays at the end, unpaired
        rows, columns = np.triu_indices(whole, 1)
        free = np.ones(whole, bool)
        merged: list[tuple[int, int]] = []
        for k in np.argsort(-between[rows, columns], kind="stable"):
            i, j = int(rows[k]), int(columns[k])
            if free[i] and free[j]:
                free[i] = free[j] = False
                merged.append((i, j))
        if not merged:
            break
        rest = [int(i) for i in np.flatnonzero(free)] + list(range(whole, len(nodes)))
        members = [(i, j) for i, j in merged] + [(i,) for i in rest]
        nodes = [turned(nodes[m[0]], nodes[m[1]], alike) if len(m) == 2 else nodes[m[0]] for m in members]
        spread = np.zeros((len(members), len(between)))
        for row, m in enumerate(members):
            spread[row, list(m)] = 1 / len(m)
        between = spread @ between @ spread.T
    return np.array([channel for node in nodes for channel in node])


def turned(a: list[int], b: list[int], alike: NDArray[np.float64]) -> list[int]:
    """`a` and `b` in a row, each turned so that the two ends that meet are the most alike."""
    ways = [(left, right) for left in (a, a[::-1]) for right in (b, b[::-1])]
    left, right = max(ways, key=lambda way: alike[way[0][-1], way[1][0]])
    return left + right


def reordering(model: nn.Module, images: Sequence[Tensor], sites: Sequence[Site] | None = None) -> Reordering:
    """Orders for every channel space of `model` that may be permuted, from `images` (each float32 (1, C, H, W)).

    Streams whose channels are cut, padded or joined (the shortcut of CIFAR's ResNets, concatenations) stay as they
    are, and `left` names their sites.
    """
    if not len(images):
        raise InputError("an order needs at least one image")
    with torch.inference_mode():
        sites = tuple(sites) if sites is not None else find_sites(model, images[0])
    spaces = channel_spaces(model, images[0].clone(), sites)
    free = [space for space in spaces if not space.pinned and space.sites and space.size > 2]
    named = {site for space in free for site in space.sites}
    why = {site: str(space.pinned) for space in spaces if space.pinned for site in space.sites}
    orders = [
        Order(tuple(sorted(space.axes)), tuple(paired(alike).tolist()), tuple(sites[i].name for i in sorted(set(space.sites))))
        for space, alike in zip(free, likeness(model, sites, free, images))
    ]
    left = tuple((site.name, why.get(index, "not followed")) for index, site in enumerate(sites) if index not in named)
    return Reordering(tuple(orders), left)


def fold(model: nn.Module, found: Reordering) -> None:
    """Permute the parameters and buffers of `model` in place."""
    state = model.state_dict()
    with torch.no_grad():
        for order in found.orders:
            index = torch.tensor(order.order)
            for name, axis in order.axes:
                tensor = state[name]
                tensor.copy_(tensor.index_select(axis, index.to(tensor.device)))
