"""What every check is given: a network, its images, and rows about what was made of it."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from weight_judge import Judge, folder  # noqa: E402

from tensorpress import weights  # noqa: E402
from tensorpress.blocks.forms import Form, Grid  # noqa: E402
from tensorpress.core.errors import InputError  # noqa: E402
from tensorpress.pytorch.weight_problem import Method, Problem, common_step  # noqa: E402

CALIBRATION = 256  # images, where a check does not say
SHOWN = ("top1", "top1_reference", "drop_points", "agreement", "kl")
Row = dict[str, Any]


class Bench:
    """`network`: in eval mode, never to be changed. Calibration takes the first training images, rows judge the 500 test images and the last 2,000 training ones."""

    def __init__(self, network: str = "resnet20", seed: int = 0) -> None:
        self.judge, self.seed = Judge(network, folder(os.environ.get("TENSORPRESS_DATA"))), seed
        self.network: nn.Module = self.judge.network()

    def images(self, count: int = CALIBRATION) -> Tensor:
        return self.judge.inputs.calibration[:count]

    def labels(self, count: int = CALIBRATION) -> Tensor:
        return self.judge.inputs.calibration_labels[:count]

    def problem(self, count: int = CALIBRATION, *, labels: bool = False) -> Problem:
        torch.manual_seed(self.seed)
        return Problem(self.network, self.images(count), self.labels(count) if labels else None, self.seed)

    def whole(self, forms: Mapping[str, Form], **facts: Any) -> Row:
        """The row of the whole file with these forms; what has none is kept at 16 bits."""
        data = weights.assemble(self.network, forms, {}).to_bytes()
        return self.row(weights.Compressed(data, self.network).model(), len(data), **facts)

    def meet(self, method: str | Method, budget: str | float, /, *, count: int = CALIBRATION, labels: bool = False, options: Mapping[str, Any] | None = None, **facts: Any) -> Row:
        """The row of the best file of `method` within `budget`."""
        torch.manual_seed(self.seed)
        started = time.perf_counter()
        given = self.labels(count) if labels else None
        made = weights.compress(self.network, self.images(count), budget=budget, recipe=method, options=options, labels=given, seed=self.seed)
        seconds = time.perf_counter() - started
        return {**self.row(made.model(), made.nbytes, **facts), "seconds": round(seconds, 1)}

    def row(self, network: nn.Module, nbytes: int | None = None, **facts: Any) -> Row:
        """`kl` is that of the unlabelled images, all else of the test images. `nbytes` None: a network that was not made into a file."""
        found = self.judge.row(network, nbytes or 0)
        row: Row = {**facts, **({"nbytes": nbytes, "bits_per_param": found["bits_per_param"]} if nbytes else {})}
        row |= {key: found[key] for key in SHOWN} | {"kl": found["kl_unlabelled"], "agreement_unlabelled": found["agreement_unlabelled"]}
        say("  " + ", ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if v is not None))
        return row

    def copy(self) -> nn.Module:
        return copy.deepcopy(self.network)


class Nearest:
    """The baseline: all weights rounded to multiples of one step, or of one in units of each tensor's root mean square, without data."""

    def __init__(self, relative: bool = False) -> None:
        self.relative = relative

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        names, tensors = list(problem.matrices), list(problem.matrices.values())
        scales = [float(t.double().square().mean().sqrt()) if self.relative else 1.0 for t in tensors]
        step = common_step(tensors, bits, scales)
        return {name: Grid.nearest(t.float().numpy(), step * scale) for name, t, scale in zip(names, tensors, scales)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


__all__ = ["Bench", "InputError", "Nearest", "Row", "say"]
