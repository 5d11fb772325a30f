"""Transforms of weights at equal bytes, the transform among them."""

from __future__ import annotations

import math

from tensorpress import weights
from weight_checks.bench import Bench, Nearest, Row

CLAIM = "at equal bytes, transforms included, KL(ELT) <= KL(KLT) < KL(one relative step a layer), at about 2 and 3 bits a weight"
BUDGETS = ("6.5%", "9.5%")
VARIANTS = {
    "KLT": {"transform": "klt"},
    "ELT": {"transform": "elt"},
    "a step for each layer by its sensitivity, no transform": {"transform": "none"},
    "ELT, undamped": {"damping": 1e-3},
    "ELT, Fisher's matrix of the loss": {"damping": 1e-3, "sensitivity": "loss"},
}


def run(bench: Bench) -> tuple[bool, list[Row]]:
    rows, shown = [], True
    for budget in BUDGETS:
        found = [bench.meet(Nearest(relative=True), budget, variant="one relative step a layer", budget=budget)]
        found.append(bench.meet(Nearest(), budget, variant="one step for all layers", budget=budget))
        found += [bench.meet("elt", budget, options=options, variant=name, budget=budget) for name, options in VARIANTS.items()]
        kl = {row["variant"]: row["kl"] for row in found}
        shown &= kl["ELT"] <= kl["KLT"] < kl["one relative step a layer"]
        rows += found
    problem = bench.problem()
    for name in ("klt", "elt"):
        layers = weights.build("elt", transform=name).fitted(problem)
        for layer, found_sides in layers.items():
            for side in found_sides:
                variances = side.variances.clamp(min=float(side.variances.max()) * 1e-9)
                plain = float(side.vectors.square().mean() * side.sensitivity.diagonal().mean())
                gain = 10 * math.log10(plain / float(variances.log().mean().exp()))
                rows.append({"layer": layer, "axis": side.axis, "transform": name, "coding_gain_db": round(gain, 2)})
    return shown, rows
