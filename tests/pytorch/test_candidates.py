"""What a weight may become, and what the choice of all costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tensorpress.pytorch.candidates import RATIOS, choose, grids, one_at_a_time, spread
from tensorpress.pytorch.weight_problem import Problem


@pytest.fixture(scope="module")
def problem() -> Problem:
    torch.manual_seed(4)
    return Problem(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 6)).eval(), torch.randn(24, 16))


def test_spreads_of_rows_and_of_all() -> None:
    weight = torch.tensor([[3.0, -3.0], [0.0, 0.0], [1.0, 1.0]])
    assert spread(weight)[0] == pytest.approx((20 / 6) ** 0.5)
    assert spread(weight, rows=True).tolist() == pytest.approx([3.0, (20 / 6) ** 0.5, 1.0])
    assert spread(torch.zeros(2, 2)).tolist() == [1.0]


def test_finer_grids_take_more_and_lose_less(problem: Problem) -> None:
    forms = {name: grids(weight) for name, weight in problem.matrices.items()}
    losses = one_at_a_time(problem, forms, limit=24, batch=10)
    for name, options in forms.items():
        assert [f.nbytes() for f in options] == sorted((f.nbytes() for f in options), reverse=True)
        assert losses[name][0] < 0.02 * losses[name][-1]
    name = "2.weight"
    inputs = problem.inputs
    assert isinstance(inputs, torch.Tensor)
    changed = torch.func.functional_call(problem.model, {name: torch.from_numpy(forms[name][7].values())}, (inputs,)).log_softmax(1).detach()
    before = problem.model(inputs).log_softmax(1).detach()
    assert losses[name][7] == pytest.approx(float((before.exp() * (before - changed)).sum(1).mean()), rel=1e-4)


@pytest.mark.parametrize("bits", [1.0, 2.0, 3.5])
def test_integer_and_dynamic_programming_agree(problem: Problem, bits: float) -> None:
    forms = {name: grids(weight) for name, weight in problem.matrices.items()}
    losses = list(one_at_a_time(problem, forms).values())
    found = {}
    for method in ("milp", "dp"):
        choice = choose(losses, list(forms.values()), bits, method)  # type: ignore[arg-type]
        assert sum(8 * options[at].nbytes() for options, at in zip(forms.values(), choice)) <= bits * sum(w.numel() for w in problem.matrices.values())
        found[method] = sum(row[at] for row, at in zip(losses, choice))
    assert found["milp"] == pytest.approx(found["dp"], rel=1e-6)
    cost = np.array([[8 * f.nbytes() for f in options] for options in forms.values()])
    limit = bits * sum(w.numel() for w in problem.matrices.values())
    best = min(
        losses[0][i] + losses[1][j] + losses[2][k]
        for i in range(len(RATIOS))
        for j in range(len(RATIOS))
        for k in range(len(RATIOS))
        if cost[0][i] + cost[1][j] + cost[2][k] <= limit
    )
    assert found["dp"] == pytest.approx(best, rel=1e-6)
