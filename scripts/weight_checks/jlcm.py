"""What groups, joint learning and the move to neighbours only bring to codebooks at equal bytes; codebooks and the groups of rows are in the files."""

from __future__ import annotations

from collections.abc import Mapping

from tensorpress.blocks.forms import Form
from tensorpress.pytorch.rounding import settle
from tensorpress.pytorch.weight_problem import Problem
from weight_checks.bench import Bench, Nearest, Row

CLAIM = "at equal bytes of the whole file: codebooks of groups have less KL than one step for all, joint learning less again, and less with moves to neighbours than with plain straight-through"
BUDGET = "5%"
PARTS = {
    "one codebook a tensor by k-means": {"groups": 1, "steps": 0},
    "codebooks of groups by k-means": {"steps": 0},
    "learned jointly, moves to neighbours": {},
    "learned jointly, plain straight-through": {"proximal": False},
    "one codebook a tensor, learned jointly, moves to neighbours": {"groups": 1},
}


class Settled(Nearest):
    """One step for all weights, with the same correction of channels as the rest."""

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        return settle(problem, super().represent(problem, bits))


def run(bench: Bench) -> tuple[bool, list[Row]]:
    rows = [bench.meet(Settled(), BUDGET, variant="one step for all weights")]
    rows += [bench.meet("jlcm", BUDGET, options=options, variant=name) for name, options in PARTS.items()]
    rows.append(bench.meet("second_order", BUDGET, variant="second_order, for comparison"))
    uniform, _, grouped, proximal, plain = (row["kl"] for row in rows[:5])
    return proximal < plain < grouped < uniform, rows
