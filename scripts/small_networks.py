"""Small networks for checks of training methods: 14 x 14 MNIST digits, 10,000 to train and 2,000 to judge, and networks that learn them in seconds."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tensorpress import weights
from tensorpress.blocks.forms import Form
from tensorpress.core.errors import InputError
from tensorpress.pytorch.retrain import Schedule, retrain
from tensorpress.pytorch.weight_problem import Method, Problem

TRAINED = 10_000  # images; the rest of the file is judged


class Digits:
    """`inputs`, `labels`: to train on, the first `count`; `test_inputs`, `test_labels`: the last 2,000, which no training sees."""

    def __init__(self, count: int = TRAINED) -> None:
        folder = os.environ.get("TENSORPRESS_DATA")
        path = Path(folder or ".") / "mnist" / "train_12k.npz"
        if folder is None or not path.exists():
            raise InputError("TENSORPRESS_DATA names no folder with mnist/train_12k.npz")
        with np.load(path, allow_pickle=False) as found:
            images, labels = torch.from_numpy(found["images"]), torch.from_numpy(found["labels"].astype(np.int64))
        pictures = F.avg_pool2d(images[:, None].float() / 255, 2) / 0.3 - 0.43
        self.inputs, self.labels = pictures[:count].clone(), labels[:count].clone()
        self.test_inputs, self.test_labels = pictures[TRAINED:].clone(), labels[TRAINED:].clone()

    def problem(self, network: nn.Module, seed: int, labels: bool = True) -> Problem:
        return Problem(network.eval(), self.inputs, self.labels if labels else None, seed)

    def learned(self, network: nn.Module, epochs: float, seed: int, rate: float = 0.05) -> nn.Module:
        """The network after `epochs` on the labels: SGD with momentum, a cosine."""
        return retrain(self.problem(network, seed), "training", Schedule(epochs=epochs, rate=rate, decay=1e-4), copy.deepcopy(network))

    @torch.no_grad()
    def top1(self, network: nn.Module) -> float:
        """Percent right of the test images."""
        found = torch.cat([network.eval()(x) for x in self.test_inputs.split(500)])
        return 100 * float((found.argmax(1) == self.test_labels).double().mean())


def cnn(width: int, seed: int) -> nn.Module:
    """[n, 1, 14, 14] -> logits [n, 10]: three 3 x 3 convolutions of `width`, 2 `width` and 2 `width` channels."""
    torch.manual_seed(seed)
    stages: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate([(1, width), (width, 2 * width), (2 * width, 2 * width)]):
        stages += [nn.Conv2d(inputs, outputs, 3, 1 if i == 0 else 2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def mlp(hidden: int, seed: int) -> nn.Module:
    """[n, 1, 14, 14] -> logits [n, 10]: two hidden layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(196, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def nonzero(network: nn.Module, names: object) -> int:
    """Values other than 0 of the parameters called `names`."""
    return sum(int(p.count_nonzero()) for n, p in network.named_parameters() if n in names)  # type: ignore[operator]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def decoded(problem: Problem, forms: Mapping[str, Form]) -> tuple[int, nn.Module]:
    """Bytes of the whole file with these forms, and the network that it decodes to."""
    data = weights.assemble(problem.model, forms, {}).to_bytes()
    return len(data), weights.Compressed(data, problem.model).model()


def within(method: Method, problem: Problem, nbytes: int, rounds: int = 9) -> tuple[int, nn.Module]:
    """The largest file of at most `nbytes` that bisection on bits finds, and its network. One problem throughout: what was trained serves again."""
    low, high, best = 0.02, 16.0, None
    for _ in range(rounds):
        bits = (low * high) ** 0.5
        found = decoded(problem, method.represent(problem, bits))
        low, high = (bits, high) if found[0] <= nbytes else (low, bits)
        best = found if found[0] <= nbytes and (best is None or found[0] > best[0]) else best
    if best is None:
        raise InputError(f"no file within {nbytes} bytes was found")
    return best
