"""Masks and the sparsity index, against what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorpress.core.errors import InputError
from tensorpress.pytorch.pruning import by_magnitude, density_at, largest, pq_index, pq_kept


def test_largest_keeps_exactly_as_many_and_none_smaller_than_what_it_drops() -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    mask = largest(x, 11)
    assert int(mask.sum()) == 11 and x[mask].abs().min() >= x[~mask].abs().max()
    assert largest(torch.ones(6), 2).tolist() == [True, True, False, False, False, False]


def test_everywhere_compares_tensors_and_each_does_not() -> None:
    weights = {"a": torch.full((4, 4), 10.0), "b": torch.full((4, 4), 0.1)}
    both = by_magnitude(weights, 0.5)
    assert bool(both["a"].all()) and not bool(both["b"].any())
    each = by_magnitude(weights, 0.5, everywhere=False)
    assert int(each["a"].sum()) == int(each["b"].sum()) == 8
    with pytest.raises(InputError, match="density"):
        by_magnitude(weights, 1.5)


def test_pq_index_is_zero_for_equals_and_greatest_for_one() -> None:
    assert pq_index(torch.ones(50)) == pytest.approx(0)
    one = torch.zeros(50)
    one[3] = -2.0
    assert pq_index(one) == pytest.approx(1 - 1 / 50)
    assert pq_index(torch.zeros(4)) == 0
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert pq_index(x) == pytest.approx(pq_index(1e-12 * x.double()))
    assert pq_index(x.sign() * x.abs() ** 3) > pq_index(x) > 0
    with pytest.raises(InputError, match="PQ"):
        pq_index(x, 1.0, 0.5)


def test_pq_keeps_what_the_bound_says() -> None:
    assert pq_kept(0.0, 80) == 80
    assert pq_kept(1 - 1 / 80, 80) == 1  # one value holds all: q p / (q - p) is 1 for p = 1/2, q = 1
    assert pq_kept(0.25, 80) == 60 and pq_kept(0.25, 80, eta=1.0) == 15


def test_the_bound_holds_for_what_is_pruned() -> None:
    """Theorem 2: keeping r largest loses at most eta of |w|_p^p, where r is the bound's for that eta … so the reverse: r is no more than what that loss needs."""
    x = torch.randn(400, generator=torch.Generator().manual_seed(5)).abs().double().sort(descending=True).values
    for eta in (0.01, 0.1, 0.5):
        needed = next(r for r in range(1, 401) if float((x[r:] ** 0.5).sum()) <= eta * float((x[:r] ** 0.5).sum()))
        assert pq_kept(pq_index(x), 400, eta=eta) <= needed


def test_density_at_costs_the_bits_that_it_is_asked_for() -> None:
    for bits in (0.2, 0.7, 1.5, 3.0):
        d = density_at(bits, 4.5)
        assert -d * np.log2(d) - (1 - d) * np.log2(1 - d) + 4.5 * d == pytest.approx(bits, abs=1e-6)
    assert density_at(6, 4.5) == 1.0 and density_at(0.0, 4.5) == pytest.approx(1 / 256)
