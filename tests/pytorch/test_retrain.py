"""Training from a given network: what it changes, what it leaves, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.retrain import Once, Schedule, rest, retrain, untied
from tensorpress.pytorch.weight_problem import Problem


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 3)).eval()


def problem(labels: bool = True) -> Problem:
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
    return Problem(network(), x, (x[:, :3].argmax(1) if labels else None), 7)


def error(net: nn.Module, given: Problem) -> float:
    assert isinstance(given.inputs, Tensor) and given.labels is not None
    return float(F.cross_entropy(net(given.inputs), given.labels).detach())


def test_the_loss_falls_and_neither_the_network_nor_the_global_generator_changes() -> None:
    given = problem()
    before = copy.deepcopy(given.model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = retrain(given, "test", Schedule(epochs=20, batch=32, rate=0.05), copy.deepcopy(given.model))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(v, before[k]) for k, v in given.model.state_dict().items()) and not given.model.training and not found.training
    assert error(found, given) < 0.5 * error(given.model, given)
    again = retrain(given, "test", Schedule(epochs=20, batch=32, rate=0.05), copy.deepcopy(given.model))
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), again.state_dict().values()))


def test_without_labels_it_comes_nearer_to_the_teacher() -> None:
    given = problem(labels=False)
    start = copy.deepcopy(given.model)
    with torch.no_grad():
        start[4].weight.mul_(-1)
    found = retrain(given, "test", Schedule(epochs=20, batch=32, rate=0.02), copy.deepcopy(start))
    assert isinstance(given.inputs, Tensor)
    wanted = given.model(given.inputs).softmax(1)
    assert (found(given.inputs).softmax(1) - wanted).abs().mean() < 0.3 * (start.eval()(given.inputs).softmax(1) - wanted).abs().mean()


def test_steps_are_bounded_by_the_inputs() -> None:
    assert Schedule(epochs=3, batch=10).steps(problem(), "test") == 30 and Schedule(epochs=0.1, batch=64).steps(problem(), "test") == 1


def test_what_cannot_be_trained_is_refused() -> None:
    given = problem()
    with pytest.raises(InputError, match="calib"):
        retrain(Problem(network()), "test", Schedule(), network())
    with pytest.raises(InputError, match="cannot train"):
        retrain(Problem(network(), torch.randn(8, 5), None), "test", Schedule(), copy.deepcopy(given.model))
    with pytest.raises(InputError, match="rate"):
        retrain(given, "test", Schedule(rate=0), copy.deepcopy(given.model))
    with pytest.raises(InputError, match="smaller learning rate"):
        retrain(Problem(network(), torch.full((8, 6), 1e38), None), "test", Schedule(), copy.deepcopy(given.model))


def test_maps_are_compared_by_their_squared_error() -> None:
    given = Problem(nn.Conv2d(2, 3, 3).eval(), torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0)))
    start = nn.Conv2d(2, 3, 3)
    before = float((start(given.inputs).detach() - given.model(given.inputs)).square().mean())
    found = retrain(given, "test", Schedule(epochs=300, rate=0.05), start)
    assert float((found(given.inputs) - given.model(given.inputs)).square().mean()) < 0.1 * before


def test_every_tensor_that_training_has_changed_gets_a_form() -> None:
    given = problem()
    found = retrain(given, "test", Schedule(epochs=3), copy.deepcopy(given.model))
    forms = rest(given, found, {})
    assert {"1.bias", "1.running_mean", "1.num_batches_tracked", "4.weight"} <= set(forms)
    assert rest(given, given.model, {}) == {}
    assert "0.bias" not in forms  # batch normalisation takes its gradient away
    for name, value in ((n, v) for n, v in found.state_dict().items() if n in forms):
        assert torch.allclose(torch.from_numpy(forms[name].values()).to(value.dtype), value, rtol=2.0**-7, atol=0)


def test_once_trains_anew_for_another_problem_or_a_far_setting_only() -> None:
    once, made = Once(), []

    def train() -> nn.Module:
        made.append(1)
        return nn.Identity()

    first, second = problem(), problem()
    for given, setting, count in ((first, 1.0, 1), (first, 1.4, 1), (first, 0.6, 2), (second, 0.6, 3)):
        once(given, setting, train, 1.5)
        assert len(made) == count


def test_tied_weights_are_not_to_be_parted() -> None:
    tied = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20, bias=False), nn.Linear(20, 8))
    tied[1].weight = tied[0].weight
    assert set(untied(Problem(tied))) == {"2.weight"}
