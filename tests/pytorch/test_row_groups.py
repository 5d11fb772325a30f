"""Rows that are alike share a group, and codebooks with a price on bits keep to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorpress.pytorch.parametrize import CodebookWeights
from tensorpress.pytorch.parametrize.codebook import books_of, k_means
from tensorpress.pytorch.row_groups import row_groups


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rows_of_one_size_share_a_group() -> None:
    size = torch.tensor([1.0, 5.0, 0.1, 5.0, 1.0, 0.1, 1.0, 5.0])
    found = row_groups(normal(8, 40, 3, 3) * size[:, None, None, None], 3)
    assert sorted(set(found.tolist())) == [0, 1, 2]
    assert len({(float(s), int(g)) for s, g in zip(size, found)}) == 3


def test_skewed_rows_are_told_from_straight_ones_of_the_same_size() -> None:
    skewed = torch.distributions.Exponential(1.0)
    torch.manual_seed(0)
    w = torch.cat([normal(6, 400), skewed.sample((6, 400)) / 2**0.5])
    found = row_groups(w, 2)
    assert len(set(found[:6].tolist())) == len(set(found[6:].tolist())) == 1 and int(found[0]) != int(found[6])


@pytest.mark.parametrize("groups", [1, 2, 9])
def test_groups_have_no_gaps(groups: int) -> None:
    for w in (normal(5, 7), torch.zeros(5, 7)):
        found = row_groups(w, groups)
        assert torch.equal(torch.unique(found), torch.arange(int(found.max()) + 1)) and int(found.max()) < min(groups, 5)


def test_k_means_finds_the_centres_that_there_are() -> None:
    values = np.repeat([-2.0, 0.5, 3.0], [50, 20, 70]) + np.random.default_rng(0).normal(0, 0.01, 140)
    assert k_means(values.astype(np.float32), 3) == pytest.approx([-2.0, 0.5, 3.0], abs=0.02)
    assert len(k_means(np.zeros(5, np.float32), 4)) == 4


def test_a_price_on_bits_trades_error_for_bits() -> None:
    """Each price's books cost least at their own price: sum of squares + price x bits."""
    values = normal(4000).numpy()
    prices, found = (0.003, 0.03, 0.3), []
    for price in prices:
        made = CodebookWeights(*(torch.from_numpy(x) for x in (values[None], books_of(values, 64, price)[0])), parts=torch.from_numpy(books_of(values, 64, price)[1])[None])
        error = float((made() - made.latent).detach().square().sum())
        counts = np.unique(made.index().numpy(), return_counts=True)[1]
        bits = float(-(counts * np.log2(counts / counts.sum())).sum())
        assert bits == pytest.approx(books_of(values, 64, price)[2], rel=0.02)
        found.append((error, bits))
    for own, price in enumerate(prices):
        costs = [error + price * bits for error, bits in found]
        assert costs[own] == min(costs)
    errors, bits = zip(*found)
    assert list(errors) == sorted(errors) and list(bits) == sorted(bits, reverse=True)


def test_at_one_rate_priced_books_have_less_error_than_k_means() -> None:
    values = normal(20000).numpy()
    plain = k_means(values, 4)
    index = np.abs(values[:, None] - plain).argmin(1)
    share = np.bincount(index) / len(values)
    rate = -(share * np.log2(share)).sum()
    for price in np.geomspace(0.001, 1, 60):
        centres, parts, bits = books_of(values, 32, price)
        if bits / len(values) <= rate:
            break
    made = CodebookWeights(torch.from_numpy(values)[None], torch.from_numpy(centres), parts=torch.from_numpy(parts)[None])
    assert float((made() - made.latent).detach().square().mean()) < 0.95 * float(((values - plain[index]) ** 2).mean())
