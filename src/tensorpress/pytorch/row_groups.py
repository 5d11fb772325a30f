"""Rows of a weight that are alike: clustered by the shape of their distributions, so that each group can have a codebook of its own."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = 9
ROUNDS = 20


def row_groups(weight: Tensor, groups: int) -> Tensor:
    """The group of each row (axis 0), int64, 0 to at most `groups` - 1 without gaps: k-means over the rows' quantiles, from rows spread evenly by their size."""
    count = min(groups, len(weight))
    table = weight.detach().double().flatten(1)
    levels = torch.linspace(0, 1, QUANTILES + 2, dtype=torch.float64)[1:-1]
    described = torch.quantile(table, levels, dim=1).T
    order = torch.argsort(table.square().mean(1), stable=True)
    centres = described[order[((torch.arange(count) + 0.5) * len(weight) / count).long()]]
    found = torch.zeros(len(weight), dtype=torch.int64)
    for _ in range(ROUNDS):
        distance = (described[:, None] - centres[None]).square().sum(2)
        fresh = distance.argmin(1)
        if torch.equal(fresh, found):
            break
        found = fresh
        centres = torch.stack([described[found == g].mean(0) if bool((found == g).any()) else centres[g] for g in range(count)])
    return torch.unique(found, return_inverse=True)[1]
