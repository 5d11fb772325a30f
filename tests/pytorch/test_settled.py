"""The last stage of systems that train: zeros stay, and what rounding breaks is made up for."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tensorpress.blocks.forms import Grid
from tensorpress.pytorch.retrain import rest
from tensorpress.pytorch.settled import LOOKED_AT, looked_at, rounded, settled
from tensorpress.pytorch.weight_problem import Problem, common_step


def trained() -> tuple[Problem, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 8)).eval()
    found = copy.deepcopy(network)
    with torch.no_grad():
        for p in found.parameters():
            if p.ndim > 1:
                p.mul_(torch.rand_like(p) < 0.4)
            else:
                p.add_(0.1)
    return Problem(network, torch.randn(300, 3, 8, 8)), found


def error(problem: Problem, network: nn.Module, forms: dict) -> float:  # type: ignore[type-arg]
    filled = copy.deepcopy(problem.model)
    with torch.no_grad():
        for name, form in forms.items():
            {**dict(filled.named_parameters()), **dict(filled.named_buffers())}[name].copy_(torch.from_numpy(form.values()))
        return float((filled(problem.inputs) - network(problem.inputs)).square().mean())


def test_zeros_stay_and_feedback_and_corrections_are_better_than_the_nearest() -> None:
    problem, network = trained()
    weights = {n: network.get_parameter(n).detach() for n in problem.matrices}
    step = common_step(list(weights.values()), 1.5)
    nearest = {n: Grid.nearest(w.numpy(), step) for n, w in weights.items()}
    found = rounded(problem, network, 1.5)
    for name, weight in weights.items():
        form = found[name]
        assert isinstance(form, Grid) and form.steps == nearest[name].steps
        assert not form.levels[(weight == 0).numpy()].any() and form.levels.any()
    plain, corrected = error(problem, network, rest(problem, network, nearest)), error(problem, network, settled(problem, network, dict(nearest)))
    assert error(problem, network, found) < 0.9 * plain and corrected < plain


def test_vectors_that_training_has_changed_have_forms() -> None:
    problem, network = trained()
    found = rounded(problem, network, 8.0)
    assert {"0.bias", "1.weight", "1.bias", "3.bias", "6.bias"} <= set(found)
    assert error(problem, network, found) < 1e-3 * float(network(problem.inputs).square().mean())


def test_a_pass_sees_the_first_inputs_alone() -> None:
    problem, network = trained()
    given = looked_at(problem, network)
    assert isinstance(given.inputs, torch.Tensor) and len(given.inputs) == LOOKED_AT and given.model is network
    pair = looked_at(Problem(network, (torch.randn(300, 2), torch.randn(300, 4))), network).inputs
    assert isinstance(pair, tuple) and [len(x) for x in pair] == [LOOKED_AT] * 2
