"""The last stage of a system that trains: its weights on grids, zeros where it has put them, and vectors that make up for what rounding breaks."""

from __future__ import annotations

from torch import Tensor, nn

from tensorpress.blocks.forms import Form, Grid
from tensorpress.pytorch.lockstep import lockstep
from tensorpress.pytorch.retrain import rest
from tensorpress.pytorch.rounding import Round, Rule, settle
from tensorpress.pytorch.weight_problem import Problem, common_step

LOOKED_AT = 256  # inputs, the first


class Sparse(Round):
    """Rounds with error feedback; what was zero stays zero."""

    def put(self, name: str, form: Form, state: dict[str, Tensor]) -> None:
        if isinstance(form, Grid) and name in self.steps:
            form = Grid(form.levels * (state[name] != 0).cpu().numpy(), form.steps)
        super().put(name, form, state)


def looked_at(problem: Problem, trained: nn.Module) -> Problem:
    """`trained` and the first inputs, for a pass of the last stage."""
    given = problem.needed("the last stage")
    inputs = given[:LOOKED_AT] if isinstance(given, Tensor) else tuple(x[:LOOKED_AT] for x in given)
    return Problem(trained, inputs, None, problem.seed, problem.progress)


def rounded(problem: Problem, trained: nn.Module, bits: float) -> dict[str, Form]:
    """The matrices of `trained` on grids of one step, at about `bits` a weight before rounding chooses cheap levels; and all else that training has changed."""
    weights = {name: p.detach() for name, p in trained.named_parameters() if name in problem.matrices}
    step = common_step(list(weights.values()), bits)
    given = looked_at(problem, trained)
    assert given.inputs is not None
    visitor = Sparse(Rule(), given, dict.fromkeys(weights, step))
    lockstep(trained, given.inputs, visitor)
    unread = {name: Grid.nearest(w.float().numpy(), step) for name, w in weights.items() if name not in visitor.forms}
    return rest(problem, trained, {**visitor.forms, **unread})


def settled(problem: Problem, trained: nn.Module, forms: dict[str, Form]) -> dict[str, Form]:
    """`forms` of the matrices of `trained`, and all else that training has changed or that makes up for what these forms break."""
    return rest(problem, trained, settle(looked_at(problem, trained), forms))
