"""Rows of a weight that are alike: clustered by the shape of their distributions, so that each group can have a codebook of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tensorpress.pytorch.parametrize import CodebookWeights
from tensorpress.pytorch.parametrize.codebook import books_of
from tensorpress.pytorch.weight_problem import solve

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


class Books:
    """Groups of rows of all `weights`, and a codebook for each, fitted at one price on bits. A tensor has at most `groups`, of `least` weights on average; a book at most `entries`."""

    def __init__(self, weights: Mapping[str, Tensor], groups: int, least: int, entries: int) -> None:
        self.weights, self.entries = weights, entries
        self.groups = {n: row_groups(w, max(1, min(groups, round(w.numel() / least)))) for n, w in weights.items()}
        self.values = {n: [w[self.groups[n] == g].flatten().numpy() for g in range(int(self.groups[n].max()) + 1)] for n, w in weights.items()}

    def price(self, bits: float) -> float:
        """In squared weights a bit, at which the entropy of all is `bits` a weight."""
        count = sum(w.numel() for w in self.weights.values())
        power = sum(float(w.double().square().sum()) for w in self.weights.values()) / max(count, 1)

        def measured(price: float) -> float:
            return sum(books_of(v, self.entries, price)[2] for parts in self.values.values() for v in parts) / count

        return solve(measured, bits, 1e-7 * power, 1e2 * power, 16) if power > 0 else 1.0

    def start(self, name: str, price: float) -> CodebookWeights:
        """The weight `name` by its groups' codebooks at this price."""
        found = [books_of(v, self.entries, price) for v in self.values[name]]
        most = max(len(centres) for centres, _, _ in found)
        beyond = 4 * max(float(np.abs(v).max()) for v in self.values[name]) + 1e-6
        books, parts = np.zeros((len(found), most), np.float32), np.ones((len(found), most - 1), np.float32)
        for book, part, (centres, ends, _) in zip(books, parts, found):  # books of one tensor are of one size: what is more lies beyond all weights, at one place, so that it costs little
            book[: len(centres)], book[len(centres) :] = centres, beyond
            part[: len(ends)] = ends
        return CodebookWeights(self.weights[name], torch.from_numpy(books), self.groups[name], parts=torch.from_numpy(parts))
