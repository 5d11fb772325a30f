"""HAWQ and AdaQuant give finer steps to what the answers hang on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tensorpress import weights
from tensorpress.blocks.forms import Grid
from tensorpress.core.errors import InputError
from tensorpress.pytorch.weight_problem import Problem


class Branches(nn.Module):
    """One branch counts sixteen times as much as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.quiet = nn.Linear(24, 12), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.loud(x) + 0.125 * self.quiet(x)


@pytest.fixture(scope="module")
def problem() -> Problem:
    torch.manual_seed(10)
    return Problem(Branches().eval(), torch.randn(48, 24))


@pytest.mark.parametrize(("method", "options"), [("hawq", {}), ("hawq", {"curvature": "eigenvalue", "solver": "milp"}), ("adaquant", {"fit": False, "solver": "dp"})])
def test_what_counts_more_gets_more_bits(problem: Problem, method: str, options: dict) -> None:  # type: ignore[type-arg]
    forms = weights.build(method, **options).represent(problem, 2.5)
    loud, quiet = forms["loud.weight"], forms["quiet.weight"]
    assert isinstance(loud, Grid) and isinstance(quiet, Grid)
    assert int(loud.steps.mean()) <= int(quiet.steps.mean()) - 32, "an octave at least"
    assert loud.nbytes() > 1.5 * quiet.nbytes()


def test_without_the_program_steps_are_the_same(problem: Problem) -> None:
    forms = weights.build("adaquant", fit=False, program=False).represent(problem, 2.5)
    loud, quiet = forms["loud.weight"], forms["quiet.weight"]
    assert isinstance(loud, Grid) and isinstance(quiet, Grid)
    assert abs(float(loud.steps.mean() - quiet.steps.mean())) < 6 and len(loud.steps) == 12


def test_a_fitted_network_answers_better(problem: Problem) -> None:
    assert isinstance(problem.inputs, Tensor)
    errors = []
    for fit in (False, True):
        forms = weights.build("adaquant", fit=fit, program=False, batch=24).represent(problem, 2.0)
        state = {n: torch.from_numpy(f.values()) for n, f in forms.items()}
        with torch.no_grad():
            change = torch.func.functional_call(problem.model, state, (problem.inputs,)) - problem.model(problem.inputs)
        errors.append(float(change.square().mean()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(("method", "options", "reason"), [("hawq", {"curvature": "norm"}, "norm"), ("hawq", {"probes": 0}, "probes"), ("adaquant", {"solver": "magic"}, "magic"), ("adaquant", {"steps": 0}, "steps")])
def test_wrong_options_are_refused(method: str, options: dict, reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=reason):
        weights.build(method, **options)
