"""Levels that hold equal shares of the weights: their places, their entropy, and how they learn."""

from __future__ import annotations

import math

import pytest
import torch

from tensorpress.pytorch.levels import equally_filled, shares
from tensorpress.pytorch.weight_problem import entropy

X = torch.randn(32, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [0.3, 0.8, 1.3, math.log2(3), 2.0, 3.0, 5.0])
def test_places_have_the_entropy_that_is_asked_for(bits: float) -> None:
    found = equally_filled(X, bits)
    assert entropy(found.index().numpy()) / X.numel() == pytest.approx(bits, abs=0.02)
    assert sum(shares(bits)) == pytest.approx(1)


def test_each_level_is_the_mean_of_what_it_holds_and_places_rise_with_the_weights() -> None:
    found = equally_filled(X, 2.0)
    index, values = found.index(), torch.from_numpy(found.form().values())
    for place in range(4):
        assert values[index == place][0] == pytest.approx(float(X[index == place].mean()), rel=1e-3)
        assert place == 0 or X[index == place].min() >= X[index == place - 1].max()


def test_levels_learn_and_places_stay() -> None:
    found, wanted = equally_filled(X, 2.0), X * 2 + 1
    places = found.index().clone()
    optimiser = torch.optim.SGD([found.books], 10.0)
    for _ in range(60):
        optimiser.zero_grad()
        ((found.decoded() - wanted) ** 2).mean().backward()
        optimiser.step()
    assert torch.equal(found.index(), places) and found.latent.grad is None
    for place in range(4):
        assert found.decoded().detach()[places == place][0] == pytest.approx(float(wanted[places == place].mean()), abs=0.02)


def test_equal_weights_are_no_fault() -> None:
    found = equally_filled(torch.zeros(8, 8), 3.0)
    assert not found.decoded().any()
    assert torch.equal(torch.from_numpy(found.form().values()), found.decoded())
