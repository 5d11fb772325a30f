"""Large and sparse against small and dense: at the same number of nonzero weights, and in the same bytes of the whole file, places included."""

from __future__ import annotations

import math

from small_networks import Digits, cnn, decoded, mean, nonzero, within

from tensorpress import weights
from weight_checks.bench import Bench, Row, say

CLAIM = "a network of twice the width, pruned gradually, is right more often than a dense one of as many nonzero weights (small networks on 14 x 14 MNIST; bytes are compared as well)"
WIDTH, SEEDS, EPOCHS, INPUTS = 6, 4, 4, 10_000  # channels of the dense network; epochs dense, and as many again while it is pruned, or not
FINE = 6.0  # bits a kept weight, without its place: where nonzero weights are compared
BUDGETS = (1300, 1800, 2600)  # bytes
VARIANTS = ((1, 1.0), (2, 1.0), (2, 0.6), (4, 0.6))  # width, and nonzero weights, as shares of those of the dense network


def run(bench: Bench) -> tuple[bool, list[Row]]:
    digits, rows = Digits(INPUTS), []
    for seed in range(bench.seed, bench.seed + SEEDS):
        starts = {times: digits.learned(cnn(times * WIDTH, seed), EPOCHS, seed) for times in (1, 2, 4)}
        counts = {times: sum(p.numel() for p in digits.problem(start, seed).matrices.values()) for times, start in starts.items()}
        for times, share in VARIANTS:
            density = share * counts[1] / counts[times]
            problem = digits.problem(starts[times], seed)
            method = weights.build("gradual_pruning", density=density, epochs=float(EPOCHS), rate=0.05)
            places = 0.0 if density == 1 else -density * math.log2(density) - (1 - density) * math.log2(1 - density)
            nbytes, network = decoded(problem, method.represent(problem, places + FINE * density))
            row = {"seed": seed, "width": times * WIDTH, "density": round(density, 4), "nonzero": nonzero(network, problem.matrices), "nbytes": nbytes, "top1": digits.top1(network)}
            for budget in BUDGETS:
                nbytes, network = within(method, problem, budget)
                row |= {f"nbytes_{budget}": nbytes, f"top1_{budget}": digits.top1(network)}
            rows.append(row)
            say("  " + ", ".join(f"{k} {v}" for k, v in row.items()))
    means: list[Row] = []
    for times, share in VARIANTS:
        chosen = [r for i, r in enumerate(rows) if i % len(VARIANTS) == VARIANTS.index((times, share))]
        columns = ["nonzero", "nbytes", "top1", *[f"{k}_{b}" for b in BUDGETS for k in ("nbytes", "top1")]]
        means.append({"mean_of_seeds": SEEDS, "width": times * WIDTH, "share_of_nonzero": share} | {k: round(mean([r[k] for r in chosen]), 2) for k in columns})
        say("  " + ", ".join(f"{k} {v}" for k, v in means[-1].items()))
    return means[1]["top1"] > means[0]["top1"], means + rows
