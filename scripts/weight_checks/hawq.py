"""HAWQ's Omega against what each layer alone does to the answers, and its choice of bits against others at equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from tensorpress import weights
from tensorpress.blocks.forms import Form
from tensorpress.pytorch.candidates import choose, one_at_a_time
from tensorpress.pytorch.rounding import settle
from tensorpress.pytorch.weight_problem import Problem
from weight_checks.bench import Bench, Row

CLAIM = "Spearman's rho of Omega and the measured KL of one layer at a time is over 0.7; at equal bytes KL(HAWQ) < KL(the same relative step) and < KL(random bits)"
BUDGET, IMAGES = "8%", 128


class Chosen:
    """Grids chosen by any table of losses."""

    def __init__(self, forms: Mapping[str, Sequence[Form]], losses: Mapping[str, Sequence[float]]) -> None:
        self.forms, self.losses = forms, losses

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        choice = choose(list(self.losses.values()), list(self.forms.values()), bits)
        return settle(problem, {name: options[at] for (name, options), at in zip(self.forms.items(), choice)})


def run(bench: Bench) -> tuple[bool, list[Row]]:
    problem, rows = bench.problem(IMAGES), []
    tables = {name: weights.build("hawq", curvature=name, probes=n, examples=32).table(problem) for name, n in (("trace", 8), ("eigenvalue", 6))}
    forms, omega = tables["trace"]
    measured = one_at_a_time(problem, forms, limit=32)
    rho = {}
    for name, (_, table) in tables.items():
        at = [[row[k] for row in table.values()] for k in range(len(next(iter(table.values()))))]
        truth = [[row[k] for row in measured.values()] for k in range(len(at))]
        by_step = [round(float(spearmanr(a, t).statistic), 3) for a, t in zip(at, truth)]
        rho[name] = float(spearmanr(np.ravel(at), np.ravel(truth)).statistic)
        rows.append({"curvature": name, "rho_all": round(rho[name], 3), "rho_over_layers_by_step": by_step})
    error = {name: [float(np.square(f.values() - problem.tensors[name].numpy()).sum()) for f in options] for name, options in forms.items()}
    relative = {name: [e / float(problem.tensors[name].square().sum()) * problem.tensors[name].numel() for e in errors] for name, errors in error.items()}
    found = [bench.meet(Chosen(forms, omega), BUDGET, count=IMAGES, variant="trace (V2, V3)")]
    found.append(bench.meet(Chosen(forms, tables["eigenvalue"][1]), BUDGET, count=IMAGES, variant="greatest eigenvalue (V1)"))
    found.append(bench.meet(Chosen(forms, measured), BUDGET, count=IMAGES, variant="measured one at a time"))
    found.append(bench.meet(Chosen(forms, relative), BUDGET, count=IMAGES, variant="the same relative step"))
    found.append(bench.meet(Chosen(forms, error), BUDGET, count=IMAGES, variant="the same step"))
    for seed in range(3):
        draw = np.exp2(np.random.default_rng(seed).uniform(-5, 5, len(forms)))
        table = {name: [x * d for x in row] for (name, row), d in zip(relative.items(), draw)}
        found.append(bench.meet(Chosen(forms, table), BUDGET, count=IMAGES, variant=f"random bits, seed {seed}"))
    kl = {row["variant"]: row["kl"] for row in found}
    others = [kl["the same relative step"], *(value for name, value in kl.items() if name.startswith("random"))]
    return rho["trace"] > 0.7 and kl["trace (V2, V3)"] < min(others), rows + found
