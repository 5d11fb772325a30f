"""Sensitivities against what is known of linear networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.curvature import Hessian, gradients, sides
from tensorpress.pytorch.weight_problem import Problem


@pytest.fixture(scope="module")
def linear() -> Problem:
    torch.manual_seed(0)
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.4, 0.0], [0.0, 0.0, 3.0]])
    return Problem(nn.Linear(3, 4, bias=False).eval(), torch.randn(4096, 3) @ mix.T)


def test_of_outputs_it_is_the_inputs_second_moment(linear: Problem) -> None:
    inputs = linear.inputs
    assert isinstance(inputs, torch.Tensor)
    found = sides(linear, ["weight"], lambda name: [0, 1], of="outputs", limit=4096)["weight"]
    moment = (inputs.T @ inputs).double() / len(inputs)
    assert torch.allclose(found[1], 4 * moment, atol=0.12 * float(4 * moment.max()))
    assert torch.allclose(found[0], torch.eye(4, dtype=torch.float64) * moment.trace(), atol=0.12 * float(moment.trace()))


def test_of_the_loss_it_is_fishers_matrix(linear: Problem) -> None:
    inputs, weight = linear.inputs, linear.tensors["weight"]
    assert isinstance(inputs, torch.Tensor)
    p = (inputs @ weight.T).softmax(1).double()
    rows = inputs.double().square().sum(1)
    wanted = torch.einsum("n,no,op->op", rows, p, torch.eye(4, dtype=torch.float64)) - torch.einsum("n,no,np->op", rows, p, p)
    found = sides(linear, ["weight"], lambda name: [0], limit=4096)["weight"][0]
    assert torch.allclose(found, wanted / len(inputs), atol=0.1 * float(wanted.max()) / len(inputs))


def test_labels_are_used_where_they_are_given(linear: Problem) -> None:
    inputs = linear.inputs
    assert isinstance(inputs, torch.Tensor)
    few = Problem(linear.model, inputs[:1], torch.tensor([2]))
    (found, count), *rest = gradients(few, ["weight"])
    assert count == 1 and not rest
    x = inputs[:1]
    wanted = ((x @ linear.tensors["weight"].T).softmax(1) - torch.eye(4)[2]).T @ x
    assert torch.allclose(found["weight"].abs(), wanted.abs(), atol=1e-5)


def test_networks_without_a_tensor_are_refused() -> None:
    class Pair(nn.Linear):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return x, x

    with pytest.raises(InputError, match="tuple"):
        next(gradients(Problem(Pair(3, 3), torch.randn(4, 3)), ["weight"]))


def test_networks_whose_gradients_cannot_be_taken_are_refused() -> None:
    class Cut(nn.Linear):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return super().forward(x).detach()

    with pytest.raises(InputError, match="gradients"):
        next(gradients(Problem(Cut(3, 3), torch.randn(4, 3)), ["weight"]))


def test_half_floats_are_derived_in_single() -> None:
    network = nn.Linear(3, 2).half()
    (found, _), *_ = gradients(Problem(network, torch.randn(4, 3).half()), ["weight"])
    assert found["weight"].dtype == torch.float32 and found["weight"].abs().sum() > 0


def two_layers() -> Problem:
    torch.manual_seed(2)
    return Problem(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval(), torch.randn(20, 5))


def blocks(problem: Problem) -> dict[str, torch.Tensor]:
    """Each weight's block of the Hessian, by brute force."""
    inputs = problem.inputs
    assert isinstance(inputs, torch.Tensor)
    target = problem.model(inputs).argmax(1)
    found = {}
    for name in ("0.weight", "2.weight"):

        def loss(w: torch.Tensor, name: str = name) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(torch.func.functional_call(problem.model, {name: w}, (inputs,)), target)

        weight = problem.tensors[name]
        found[name] = torch.func.hessian(loss)(weight).reshape(weight.numel(), weight.numel()).detach()
    return found


def test_hutchinson_finds_the_traces() -> None:
    given = two_layers()
    found = Hessian(given, ["0.weight", "2.weight"], batch=7).traces(600)
    for name, block in blocks(given).items():
        assert found[name] == pytest.approx(float(block.trace()), rel=0.15), name


def test_power_iteration_finds_the_greatest_eigenvalues() -> None:
    given = two_layers()
    found = Hessian(given, ["0.weight", "2.weight"], batch=7).largest(60)
    for name, block in blocks(given).items():
        values = torch.linalg.eigvalsh(block)
        assert found[name] == pytest.approx(float(values[values.abs().argmax()]), rel=0.02), name
