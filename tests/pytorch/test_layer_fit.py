"""Fitting a layer makes its outputs what they were, on a grid that costs no more levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tensorpress.pytorch.candidates import grids
from tensorpress.pytorch.layer_fit import Fit, LayerFit
from tensorpress.pytorch.lockstep import lockstep
from tensorpress.pytorch.weight_problem import Problem


def convolution(bias: bool) -> Problem:
    torch.manual_seed(6)
    inputs = torch.randn(40, 8, 6, 6).cumsum(1) / 3  # channels hang together, so roundings can make each other good
    return Problem(nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=bias, stride=2)).eval(), inputs)


def error(problem: Problem, state: dict[str, Tensor]) -> float:
    assert isinstance(problem.inputs, Tensor)
    changed = torch.func.functional_call(problem.model, state, (problem.inputs,))
    return float((changed - problem.model(problem.inputs)).detach().square().mean())


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_come_nearer_and_levels_stay_in_reach(bias: bool) -> None:
    given = convolution(bias)
    start = grids(given.tensors["0.weight"], [1.0], rows=True)[0]
    losses = {}
    for fit in (None, Fit(batch=20)):
        visitor = LayerFit(given, {"0.weight": start}, fit, correct=False, vector_bits=23)
        losses[fit is None] = error(given, lockstep(given.model, given.inputs, visitor))  # type: ignore[arg-type]
        form = visitor.forms["0.weight"]
        assert np.abs(form.levels).max() <= np.abs(start.levels).max()  # type: ignore[attr-defined]
    assert losses[False] < 0.7 * losses[True]


def test_a_layer_of_zeros_stays() -> None:
    given = convolution(True)
    start = grids(given.tensors["0.weight"], [1e3])[0]
    visitor = LayerFit(given, {"0.weight": start}, Fit())
    lockstep(given.model, given.inputs, visitor)  # type: ignore[arg-type]
    assert not visitor.forms["0.weight"].values().any()
