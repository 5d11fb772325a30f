"""Rounding that is learned beats rounding to the nearest where it is measured, and the nudge moves inputs towards what norms know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tensorpress import weights
from tensorpress.core.errors import InputError
from tensorpress.pytorch.weight_problem import Problem
from tensorpress.systems.weights.pd_quant import Config, PDQuant


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Two blocks whose inputs hang together, as images do, and a classifier that is sure of some."""
    torch.manual_seed(0)
    mix = torch.randn(16, 6)
    net = nn.Sequential(
        nn.Sequential(nn.Linear(16, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU()),
        nn.Sequential(nn.Linear(24, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU()),
        nn.Linear(24, 8),
    )
    with torch.no_grad():
        for _ in range(50):
            net(torch.randn(256, 6) @ mix.T)
        net[2].weight.mul_(4)
    return Problem(net.eval(), torch.randn(256, 6) @ mix.T)


def lost(problem: Problem, **options: Any) -> tuple[float, Mapping[str, Any]]:
    """KL of the predictions, and the forms."""
    forms = weights.build("pd_quant", **options).represent(problem, 1.5)
    net = weights.Compressed(weights.assemble(problem.model, forms, {}).to_bytes(), problem.model).model()
    with torch.no_grad():
        before, after = (F.log_softmax(n(problem.inputs), 1) for n in (problem.model, net))
    return float(F.kl_div(after, before, log_target=True, reduction="batchmean")), forms


def test_learned_rounding_predicts_better_than_the_nearest_and_stays_beside_it(problem: Problem) -> None:
    nearest, plain = lost(problem, steps=0, correction=False, prediction=0.0)
    by_block, learned = lost(problem, steps=150, correction=False, prediction=0.0)
    by_prediction, _ = lost(problem, steps=150, correction=False)
    assert by_block < 0.7 * nearest and by_prediction < 0.7 * nearest
    for name, weight in problem.matrices.items():
        exact = weight / torch.from_numpy(learned[name].values()).abs()[torch.from_numpy(learned[name].levels).abs() == 1][0]
        assert torch.equal(torch.from_numpy(plain[name].levels), exact.round().int())
        assert float((torch.from_numpy(learned[name].levels) - exact).abs().max()) <= 1.0 + 1e-4


def test_the_prediction_has_a_say(problem: Problem) -> None:
    levels = [lost(problem, steps=60, prediction=share)[1]["0.0.weight"].levels for share in (0.0, 50.0)]
    assert (levels[0] != levels[1]).any()


def test_the_nudge_brings_means_and_variances_nearer(problem: Problem) -> None:
    block = problem.model[0]
    x = problem.inputs[:64] * 1.5 + 0.3

    def off(x: torch.Tensor) -> float:
        y = block[0](x)
        return float(((y.mean(0) - block[1].running_mean).square().mean() + (y.var(0, correction=0) - block[1].running_var).square().mean()).detach())

    moved = PDQuant(Config(nudge_steps=50, nudge_lr=0.02)).nudged(block, x)
    assert off(moved) < 0.5 * off(x) and float((moved - x).abs().mean()) < 1.0
    still = PDQuant(Config(nudge_steps=0)).nudged(block, x)
    assert torch.equal(still, x)
    assert torch.equal(PDQuant(Config()).nudged(problem.model[2], x[:, :8]), x[:, :8])  # no norm, no nudge


def test_options_that_cannot_be_are_named() -> None:
    with pytest.raises(InputError, match="temperature is above 0"):
        weights.build("pd_quant", temperature=0.0)
