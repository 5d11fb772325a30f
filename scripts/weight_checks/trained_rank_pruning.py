"""Low rank without training, with training after the cut, and trained rank pruning, in equal bytes of the whole file."""

from __future__ import annotations

from small_networks import Digits, cnn, decoded, mean, within

from tensorpress import weights
from weight_checks.bench import Bench, Row, say

CLAIM = "in equal bytes, trained rank pruning is ahead of the direct SVD, and of as much training without it that ends in the SVD (small networks on 14 x 14 MNIST)"
WIDTH, SEEDS, EPOCHS, INPUTS = 12, 2, 5, 4_000
SHARES, VALUE_BITS = (0.5, 0.3), 5.0  # of the dense network's numbers in its factors, and bits that each of them gets
TRAINING = {"epochs": float(EPOCHS), "rate": 0.02, "layout": "channel"}
VARIANTS = {
    "direct SVD": {"epochs": 0.01, "rate": 1e-9, "period": 0, "layout": "channel"},
    "training, then SVD": {**TRAINING, "period": 0, "nuclear": 0.0},
    "SVD every step": {**TRAINING, "period": 1, "nuclear": 0.0},  # low rank throughout: fine-tuning after the cut
    "trained rank pruning": {**TRAINING, "period": 20},
    "without the norm": {**TRAINING, "period": 20, "nuclear": 0.0},
    "ten times the norm": {**TRAINING, "period": 20, "nuclear": 3e-3},
    "spatial": {**TRAINING, "period": 20, "layout": "spatial"},
}


def run(bench: Bench) -> tuple[bool, list[Row]]:
    digits, rows = Digits(INPUTS), list[Row]()
    for seed in range(bench.seed, bench.seed + SEEDS):
        problem = digits.problem(digits.learned(cnn(WIDTH, seed), EPOCHS, seed), seed)
        rows.append({"seed": seed, "share": 1.0, "variant": "dense, in floats", "top1": digits.top1(problem.model), "nbytes": 4 * sum(p.numel() for p in problem.model.parameters())})
        for share in SHARES:
            budget = 0
            for name, options in VARIANTS.items():
                method = weights.build("trained_rank_pruning", share=share, **options)
                if not budget:
                    budget = decoded(problem, method.represent(problem, share * VALUE_BITS))[0]
                nbytes, network = within(method, problem, budget, 7)
                ranks = list(problem.notes["ranks"].values())
                rows.append({"seed": seed, "share": share, "variant": name, "top1": digits.top1(network), "nbytes": nbytes, "ranks": ranks})
                say("  " + ", ".join(f"{k} {v}" for k, v in rows[-1].items()))
    keys = dict.fromkeys((r["share"], r["variant"]) for r in rows)
    means = {key: {c: mean([r[c] for r in rows if (r["share"], r["variant"]) == key]) for c in ("top1", "nbytes")} for key in keys}
    for (share, name), row in means.items():
        say(f"  mean: {share} of the numbers, {name}: {row['top1']:.2f} %, {row['nbytes']:.0f} B")
    ours = [means[share, "trained rank pruning"]["top1"] for share in SHARES]
    others = [max(means[share, v]["top1"] for v in ("direct SVD", "training, then SVD")) for share in SHARES]
    return all(a > b for a, b in zip(ours, others)), [{"mean_of_seeds": SEEDS, "share": s, "variant": v, **row} for (s, v), row in means.items()] + rows
