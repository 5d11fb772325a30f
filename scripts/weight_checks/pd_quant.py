"""What the prediction difference and the distribution correction bring to learned rounding, on one grid."""

from __future__ import annotations

import time
from itertools import pairwise

from tensorpress import weights
from weight_checks.bench import Bench, Nearest, Row

CLAIM = "at no more bytes of the whole file: learned rounding has less KL than rounding to the nearest, the prediction difference less again, the distribution correction less again"
BITS = 1.5  # coded, a weight
PARTS = {
    "learned rounding by block (AdaRound)": {"prediction": 0.0, "correction": False},
    "and prediction difference": {"correction": False},
    "and distribution correction": {},
}


def run(bench: Bench) -> tuple[bool, list[Row]]:
    rows = []
    for name, options in PARTS.items():
        started = time.perf_counter()
        forms = weights.build("pd_quant", **options).represent(bench.problem(), BITS)
        seconds = time.perf_counter() - started
        rows.append({**bench.whole(forms, variant=name), "seconds": round(seconds, 1)})
    room = max(row["nbytes"] for row in rows)  # what is beside them gets as many bytes as the largest of them
    plain = {"steps": 0, "prediction": 0.0, "correction": False}
    beside = [
        bench.meet(Nearest(), room, variant="rounded to the nearest"),
        bench.meet("pd_quant", room, options=plain, variant="rounded to the nearest, channels settled"),
        bench.meet("second_order", room, variant="second_order, for comparison"),
    ]
    kl = [beside[1]["kl"], *(row["kl"] for row in rows)]
    return all(later < earlier for earlier, later in pairwise(kl)), [*beside, *rows]
