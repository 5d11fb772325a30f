"""The PQ index over rounds of pruning, and how few weights are left at equal accuracy, beside lottery tickets that lose 20 % a round."""

from __future__ import annotations

import copy
import math

import torch
from small_networks import Digits, decoded, mean, mlp, nonzero

from tensorpress.pytorch.pruning import pq_index
from tensorpress.pytorch.retrain import Schedule, held, retrain
from tensorpress.pytorch.settled import rounded
from tensorpress.systems.weights.sap import Config, Sap
from weight_checks.bench import Bench, Row, say

CLAIM = "over rounds of pruning the PQ index falls and rises again; within half a point of the dense network, pruning by it (eta 0 or 0.1) leaves no more weights than losing 20 % a round (MLP on 14 x 14 MNIST)"
HIDDEN, SEEDS, INPUTS = 48, 3, 3_000
TRAINING = {"epochs": 3.0, "rate": 0.1}
METHODS = {"PQ index": ({}, 20), "PQ index, eta 0.1": ({"eta": 0.1}, 14), "lottery ticket": ({"share": 0.2}, 20)}  # options and rounds
KEPT_BITS = 5.0  # of a kept weight in the file, without its place
DROP = 0.5  # points


def run(bench: Bench) -> tuple[bool, list[Row]]:
    digits, rows, found = Digits(INPUTS), list[Row](), list[Row]()
    for seed in range(bench.seed, bench.seed + SEEDS):
        for name, (options, rounds) in METHODS.items():
            problem, method = digits.problem(mlp(HIDDEN, seed), seed), Sap(Config(**options))
            masks = {key: torch.ones_like(w, dtype=torch.bool) for key, w in problem.matrices.items()}
            curve = list[Row]()
            for number in range(rounds + 1):
                network = retrain(problem, "check", Schedule(**TRAINING), copy.deepcopy(problem.model), [held(masks)])  # each round from the initialisation
                weights = {key: p.detach() for key, p in network.named_parameters() if key in masks}
                left, density = nonzero(network, masks), nonzero(network, masks) / sum(m.numel() for m in masks.values())
                places = 0.0 if density >= 1 else -density * math.log2(density) - (1 - density) * math.log2(1 - density)
                nbytes, small = decoded(problem, rounded(problem, network, places + KEPT_BITS * density))
                row = {"seed": seed, "method": name, "round": number, "pq_index": pq_index(torch.cat([w[masks[k]] for k, w in weights.items()])), "nonzero": left}
                curve.append(row | {"top1": digits.top1(network), "nbytes": nbytes, "top1_file": digits.top1(small)})
                masks = method.pruned(weights, masks, left)
            rows += curve
            index, good = [r["pq_index"] for r in curve], [r for r in curve if r["top1"] >= curve[0]["top1"] - DROP]
            lowest = min(range(len(index)), key=index.__getitem__)
            small_file = min((r for r in curve if r["top1_file"] >= curve[0]["top1"] - DROP), key=lambda r: r["nbytes"], default=curve[0])
            row = {"seed": seed, "method": name, "dense_top1": curve[0]["top1"], "least_nonzero": min(r["nonzero"] for r in good), "least_nbytes": small_file["nbytes"]}
            row |= {"index_first": index[0], "index_lowest": index[lowest], "index_highest_after": max(index[lowest:]), "falls_and_rises": lowest > 0 and max(index[lowest:]) > index[lowest] + 0.01}
            found.append(row)
            say("  " + ", ".join(f"{k} {v}" for k, v in row.items()))
    means = {
        name: {k: mean([float(r[k]) for r in found if r["method"] == name]) for k in ("least_nonzero", "least_nbytes", "falls_and_rises")} for name in METHODS
    }
    for name, row in means.items():
        say(f"  mean of {name}: " + ", ".join(f"{k} {v}" for k, v in row.items()))
    by_index = [row for name, row in means.items() if name != "lottery ticket"]
    shown = min(r["least_nonzero"] for r in by_index) <= means["lottery ticket"]["least_nonzero"] and max(r["falls_and_rises"] for r in by_index) > 0.5
    return shown, [{"mean_of_seeds": SEEDS, "method": name, **row} for name, row in means.items()] + found + rows
