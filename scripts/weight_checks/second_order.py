"""What each part of the second-order method brings at equal bytes."""

from __future__ import annotations

from itertools import pairwise

from weight_checks.bench import Bench, Nearest, Row

CLAIM = "at equal bytes of the whole file, error feedback has less KL than rounding to the nearest, and each further part no more"
BUDGET = "6%"
PARTS = {
    "error feedback": {"trade": 0.0, "repair": 0.0, "correct": False},
    "and the rate in the loop": {"repair": 0.0, "correct": False},
    "and repair of the prefix": {"correct": False},
    "and corrected vectors": {},
}


def run(bench: Bench) -> tuple[bool, list[Row]]:
    rows = [bench.meet(Nearest(), BUDGET, variant="rounded to the nearest")]
    rows += [bench.meet("second_order", BUDGET, options=options, variant=name) for name, options in PARTS.items()]
    return rows[1]["kl"] < rows[0]["kl"] and all(b["kl"] <= a["kl"] for a, b in pairwise(rows)), rows
