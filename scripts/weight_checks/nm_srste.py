"""N:M training from scratch: what the pull on dropped weights does to accuracy and to how often the mask changes, and what the mask costs in a file."""

from __future__ import annotations

import copy
import math

import numpy as np
from small_networks import Digits, cnn, decoded, mean

from tensorpress import weights
from tensorpress.blocks.forms import Grid
from tensorpress.pytorch.retrain import Schedule, retrain
from weight_checks.bench import Bench, Row, say

CLAIM = "the pull of SR-STE makes masks change less (SAD) and networks right more often than plain straight-through training, for 1:4 and 2:4 (small networks on 14 x 14 MNIST)"
WIDTH, EPOCHS, SEEDS, INPUTS = 8, 6, 2, 4_000
VARIANTS = {"straight-through": {"pull": 0.0}, "pull 2e-4": {"pull": 2e-4}, "pull 2e-3": {"pull": 2e-3}, "one shot and fine-tuning": {"fixed": True}}
TRAINING = {"rate": 0.05, "decay": 5e-4}


def run(bench: Bench) -> tuple[bool, list[Row]]:
    digits, rows = Digits(INPUTS), []
    for seed in range(bench.seed, bench.seed + SEEDS):
        fresh = digits.problem(cnn(WIDTH, seed), seed)
        half = Schedule(EPOCHS / 2, **TRAINING)
        dense = retrain(fresh, "training", Schedule(EPOCHS, **TRAINING), copy.deepcopy(fresh.model))
        first = digits.problem(retrain(fresh, "training", half, copy.deepcopy(fresh.model)), seed)
        rows.append({"seed": seed, "pattern": "dense", "variant": "dense", "top1": digits.top1(dense)})
        for n in (1, 2):
            for name, options in VARIANTS.items():
                given = first if "fixed" in options else digits.problem(fresh.model, seed)
                method = weights.build("nm_srste", n=n, m=4, epochs=EPOCHS / 2 if "fixed" in options else float(EPOCHS), **TRAINING, **options)
                trained = method.train(given)
                masks = [p.detach() != 0 for key, p in trained.named_parameters() if key in given.matrices and p.shape[1] % 4 == 0]
                values = sum(m.numel() for m in masks)
                nbytes, network = decoded(given, method.represent(given, 3.0))
                coded = {"as_stored": masks, "groups_together": [m.movedim(1, -1).contiguous() for m in masks]}
                row = {"seed": seed, "pattern": f"{n}:4", "variant": name, "top1": digits.top1(trained), "sad": given.notes["sad"], "nbytes_at_3_bits": nbytes, "top1_at_3_bits": digits.top1(network)}
                row |= {f"mask_bits_{k}": 8 * sum(Grid(m.numpy().astype(np.int32), np.zeros(1, np.int32)).nbytes() for m in kept) / values for k, kept in coded.items()}
                rows.append(row | {"mask_bits_by_count": math.log2(math.comb(4, n)) / 4})
                say("  " + ", ".join(f"{k} {v}" for k, v in rows[-1].items()))
    means = [_mean([r for r in rows if (r["pattern"], r["variant"]) == key]) for key in dict.fromkeys((r["pattern"], r["variant"]) for r in rows)]
    found = {(r["pattern"], r["variant"]): r for r in means}
    shown = all(
        found[p, "pull 2e-3"]["sad"] < found[p, "straight-through"]["sad"] and found[p, "pull 2e-3"]["top1"] > found[p, "straight-through"]["top1"] for p in ("1:4", "2:4")
    )
    return shown, means + rows


def _mean(rows: list[Row]) -> Row:
    return {"mean_of_seeds": len(rows)} | {k: v if isinstance(v, str) else mean([r[k] for r in rows]) for k, v in rows[0].items() if k != "seed"}
