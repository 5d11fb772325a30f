"""Rounding after training, quantised training, and both ways of quantised distillation, of a small student whose teacher has four times its width."""

from __future__ import annotations

from small_networks import Digits, cnn, decoded, mean

from tensorpress.blocks.forms import Grid
from tensorpress.pytorch.settled import settled
from tensorpress.pytorch.weight_problem import common_step
from tensorpress.systems.weights.quantized_distillation import Config, QuantizedDistillation
from weight_checks.bench import Bench, Row, say

CLAIM = "quantised training with a teacher (QD) is ahead of that without, and both of rounding; learned levels (DQ) are ahead of rounding (small networks on 14 x 14 MNIST)"
WIDTH, TEACHER, SEEDS, EPOCHS, INPUTS = 6, 24, 3, 5, 5_000
BITS = (1.0, 2.0, 4.0)  # of entropy a weight; the paper has 2 and 4 a level
TRAINING = {"epochs": float(EPOCHS), "rate": 0.02}
VARIANTS = {
    "quantised training": Config(teacher=0.0, **TRAINING),
    "quantised distillation": Config(teacher=0.7, **TRAINING),
    "learned levels": Config(mode="dq", teacher=0.7, **TRAINING),
    "learned levels, bits by gradient": Config(mode="dq", teacher=0.7, redistribute=True, **TRAINING),
}


def run(bench: Bench) -> tuple[bool, list[Row]]:
    digits, rows = Digits(INPUTS), []
    for seed in range(bench.seed, bench.seed + SEEDS):
        teacher = digits.learned(cnn(TEACHER, seed), 3, seed)
        problem = digits.problem(digits.learned(cnn(WIDTH, seed), EPOCHS, seed), seed)
        rows.append({"seed": seed, "bits": 32.0, "variant": "teacher in floats", "top1": digits.top1(teacher), "nbytes": 4 * sum(p.numel() for p in teacher.parameters())})
        rows.append({"seed": seed, "bits": 32.0, "variant": "student in floats", "top1": digits.top1(problem.model), "nbytes": 4 * sum(p.numel() for p in problem.model.parameters())})
        for bits in BITS:
            weights, step = problem.matrices, common_step(list(problem.matrices.values()), bits)
            found = {"rounded": {name: Grid.nearest(w.numpy(), step) for name, w in weights.items()}}
            found["rounded, vectors corrected"] = settled(problem, problem.model, dict(found["rounded"]))
            found |= {name: QuantizedDistillation(config, teacher).represent(problem, bits) for name, config in VARIANTS.items()}
            for name, forms in found.items():
                nbytes, network = decoded(problem, forms)
                rows.append({"seed": seed, "bits": bits, "variant": name, "top1": digits.top1(network), "nbytes": nbytes})
                say("  " + ", ".join(f"{k} {v}" for k, v in rows[-1].items()))
    keys = dict.fromkeys((r["bits"], r["variant"]) for r in rows)
    means = {key: {c: mean([r[c] for r in rows if (r["bits"], r["variant"]) == key]) for c in ("top1", "nbytes")} for key in keys}
    for (bits, name), row in means.items():
        say(f"  mean: {bits} bits, {name}: {row['top1']:.2f} %, {row['nbytes']:.0f} B")

    def ahead(bits: float, first: str, second: str) -> bool:
        return means[bits, first]["top1"] > means[bits, second]["top1"]

    shown = ahead(2.0, "quantised distillation", "quantised training") and ahead(2.0, "quantised training", "rounded, vectors corrected") and ahead(2.0, "learned levels", "rounded, vectors corrected")
    return shown, [{"mean_of_seeds": SEEDS, "bits": b, "variant": v, **row} for (b, v), row in means.items()] + rows
