"""The parts of AdaQuant at equal bytes, and the two solvers of its integer program beside each other."""

from __future__ import annotations

from tensorpress import weights
from tensorpress.pytorch.candidates import choose
from weight_checks.bench import Bench, Row

CLAIM = "at equal bytes, KL of the nearest grid > with tuned statistics > with AdaQuant > with bits by integer programming; dp and milp agree"
BUDGET, IMAGES = "7%", 128
QUICK = {"steps": 60, "batch": 25}
VARIANTS = {
    "rounded to the nearest": {"fit": False, "program": False, "tune": False},
    "and tuned statistics": {"fit": False, "program": False},
    "and AdaQuant": {"program": False},
    "and integer programming": {},
    "integer programming and tuned statistics, no AdaQuant": {"fit": False},
}


def run(bench: Bench) -> tuple[bool, list[Row]]:
    rows = [bench.meet("adaquant", BUDGET, count=IMAGES, options={**QUICK, **options}, variant=name) for name, options in VARIANTS.items()]
    kl = [row["kl"] for row in rows[:4]]
    problem, method = bench.problem(IMAGES), weights.build("adaquant")
    method.shared(problem, 2.0)
    forms, losses = problem.memory[method]
    agree = True
    for bits in (1.5, 2.5, 3.5):
        found = {s: choose(list(losses.values()), list(forms.values()), bits, s) for s in ("dp", "milp", "lagrange")}  # type: ignore[arg-type]
        total = {s: sum(row[at] for row, at in zip(losses.values(), choice)) for s, choice in found.items()}
        agree &= abs(total["dp"] - total["milp"]) <= 1e-6 * total["dp"]
        rows.append({"bits": bits, **{f"summed_kl_{s}": value for s, value in total.items()}})
    return kl == sorted(kl, reverse=True) and agree, rows
