"""Steps follow what layers are worth, whatever their scales."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tensorpress import weights
from tensorpress.core.errors import InputError
from tensorpress.pytorch.steps import ALLOCATIONS, feedback_left, steps_of
from tensorpress.pytorch.weight_problem import Problem


def network(scale: float) -> Problem:
    """Two layers and ReLU: the first `scale` times as large, the second as much smaller. The function is the same."""
    torch.manual_seed(8)
    found = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 12))
    with torch.no_grad():
        found[0].weight.mul_(scale), found[0].bias.mul_(scale), found[2].weight.div_(scale)
    return Problem(found.eval(), torch.randn(64, 12))


@pytest.mark.parametrize("allocation", ["relative", "sensitive", "measured"])
def test_scales_of_layers_do_not_matter(allocation: str) -> None:
    plain, scaled = steps_of(network(1.0), 2.5, allocation), steps_of(network(64.0), 2.5, allocation)
    near = 0.02 if allocation != "measured" else 0.42  # grids lie half an octave apart
    assert scaled["0.weight"] / plain["0.weight"] == pytest.approx(64.0, rel=near)
    assert scaled["2.weight"] / plain["2.weight"] == pytest.approx(1 / 64.0, rel=near)


def test_the_common_step_is_the_same_everywhere() -> None:
    assert len(set(steps_of(network(64.0), 2.5, "common").values())) == 1


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_fewer_bits_are_larger_steps(allocation: str) -> None:
    given = network(1.0)
    total = [sum(math.log(s) for s in steps_of(given, bits, allocation).values()) for bits in (1.0, 2.0, 4.0)]
    assert total[0] > total[1] > total[2]


def test_feedback_leaves_little_where_inputs_hang_together() -> None:
    torch.manual_seed(9)
    layer, free = nn.Linear(16, 8).eval(), torch.randn(4096, 16)
    bound = free[:, :2] @ torch.randn(2, 16) + 0.05 * free
    assert feedback_left(Problem(layer, free))["weight"] > 0.9
    assert feedback_left(Problem(layer, bound))["weight"] < 0.2


def test_unknown_allocations_are_refused() -> None:
    with pytest.raises(InputError, match="evenly"):
        steps_of(network(1.0), 2.0, "evenly")
    with pytest.raises(InputError, match="evenly"):
        weights.build("second_order", allocation="evenly")


def test_auto_takes_what_answers_better() -> None:
    given = network(64.0)
    made = weights.compress(given.model, given.inputs, budget=700)
    assert made.notes["allocation"]["chosen"] == "sensitive"
    common = weights.compress(given.model, given.inputs, budget=700, options={"allocation": "common"})
    assert isinstance(given.inputs, torch.Tensor)
    with torch.no_grad():
        error = [float((m.model()(given.inputs) - given.model(given.inputs)).square().mean()) for m in (made, common)]
    assert error[0] < 0.5 * error[1]


def test_auto_does_without_gradients_where_there_are_none() -> None:
    class Cut(nn.Linear):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return super().forward(x).detach()

    made = weights.compress(Cut(16, 24).eval(), torch.randn(32, 16), budget=600)
    assert made.notes["allocation"]["chosen"] == "common"
