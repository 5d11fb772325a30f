"""ELT: its basis, and that it pays where weights hang together and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tensorpress import weights
from tensorpress.blocks.forms import Factors, Grid
from tensorpress.core.errors import InputError
from tensorpress.pytorch.weight_problem import Problem


def problem(*, correlated: bool) -> Problem:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(64, 256, bias=False), nn.ReLU(), nn.Linear(256, 5))
    with torch.no_grad():
        if correlated:
            network[0].weight.copy_(torch.randn(256, 4) @ torch.randn(4, 64) / 16 + 0.002 * torch.randn(256, 64))
    return Problem(network.eval(), torch.randn(32, 64))


@pytest.mark.parametrize("transform", ["elt", "klt"])
def test_components_have_one_sensitivity_and_no_correlation(transform: str) -> None:
    for side in weights.build("elt", transform=transform).fitted(problem(correlated=False))["0.weight"]:
        a, g = side.basis, side.sensitivity
        rank = int((side.variances > 1e-9 * side.variances[0]).sum())
        assert torch.allclose((a.T @ g @ a)[:rank, :rank], torch.eye(rank, dtype=torch.float64), atol=1e-5)
        theta = a[:, :rank].T @ g @ side.vectors
        wanted = torch.diag(side.variances[:rank])
        assert torch.allclose(theta @ theta.T / theta.shape[1], wanted, atol=1e-6 * float(wanted.max()))


def test_low_rank_weights_become_factors_of_that_rank() -> None:
    forms = weights.build("elt").represent(problem(correlated=True), 0.25)
    form = forms["0.weight"]
    assert isinstance(form, Factors) and form.factors[0].levels.shape[1] == 4
    plain = weights.build("elt", transform="none").represent(problem(correlated=True), 0.25)["0.weight"]
    assert form.nbytes() < plain.nbytes() / 2


def test_a_transform_that_does_not_pay_is_left_out() -> None:
    form = weights.build("elt").represent(problem(correlated=False), 3.0)["0.weight"]
    assert isinstance(form, Grid)
    assert isinstance(weights.build("elt", always=True).represent(problem(correlated=False), 3.0)["0.weight"], Factors)


@pytest.mark.parametrize("correlated", [True, False])
def test_many_bits_give_the_weights_back(correlated: bool) -> None:
    given = problem(correlated=correlated)
    values = weights.build("elt", always=True).represent(given, 12.0)["0.weight"].values()
    wanted = given.tensors["0.weight"].numpy()
    assert np.abs(values - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_wrong_options_are_refused() -> None:
    with pytest.raises(InputError, match="dct"):
        weights.build("elt", transform="dct")
    with pytest.raises(InputError, match="damping"):
        weights.build("elt", damping=0.0)
