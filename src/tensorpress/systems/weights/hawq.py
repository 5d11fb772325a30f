"""Bits by the Hessian: a layer whose loss bends more gets a finer grid, and all of them the least sum of Omega within the bytes.

    network ─► power iteration or Hutchinson: lambda or trace / n of each layer's block of H ─┐
    W ─► grids of half-octaves: ||Q(W) - W||^2, coded bytes ───────────────────────────────────┴─► Omega(layer, grid) ─► integer programming

V1 ranks by the greatest eigenvalue, V2 by the mean of the trace, V3 adds the integer program, which all of them are given here. Labels are the caller's, or the network's own
answers. The papers fine-tune the chosen network; this is the choice of bits, with the vectors beside the weights corrected.

Dong, Yao, Gholami, Mahoney, Keutzer: HAWQ, ICCV 2019 (arXiv:1905.03696); HAWQ-V2, NeurIPS 2020 (arXiv:1911.03852); Yao et al.: HAWQ-V3, ICML 2021 (arXiv:2011.10680).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tensorpress.blocks.forms import Form, Grid
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.candidates import choose, grids
from tensorpress.pytorch.curvature import Hessian
from tensorpress.pytorch.rounding import settle
from tensorpress.pytorch.weight_problem import Problem

CARD = Card(
    id="hawq",
    family="weights",
    title="bits by the Hessian's trace, integer programming",
    paper="Dong et al., HAWQ, ICCV 2019, arXiv:1905.03696; HAWQ-V2, NeurIPS 2020, arXiv:1911.03852; Yao et al., HAWQ-V3, ICML 2021, arXiv:2011.10680",
    claim="ResNet-20 on CIFAR-10 at 8 times smaller activations as accurate as DNAS or better; SqueezeNext in 1 MB over 68 % top-1 on ImageNet; both fine-tuned",
    measured="results/weights/systems.json",
    fidelity="reconstruction",
    makes="method",
    needs="inputs",
    portability="a decoder sees integers and one float32 multiply",
)


@dataclass(frozen=True)
class Config:
    curvature: str = "trace"  # 'trace' (V2, V3) or 'eigenvalue' (V1)
    probes: int = 8  # random vectors of the trace, or rounds of power iteration
    examples: int = 64  # calibration inputs
    solver: str = "auto"  # of planning.allocate: auto, lagrange, dp, milp
    rows: bool = False  # a step for each output channel
    correct: bool = True  # means and deviations of channels, in biases and BN statistics


def build(config: Config) -> Hawq:
    if config.curvature not in ("trace", "eigenvalue") or config.solver not in ("auto", "lagrange", "dp", "milp"):
        raise InputError(f"curvature {config.curvature!r} is neither trace nor eigenvalue, or solver {config.solver!r} is none of auto, lagrange, dp, milp")
    if config.probes < 1 or config.examples < 1:
        raise InputError("probes and examples are at least 1")
    return Hawq(config)


@dataclass(frozen=True)
class Hawq:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        forms, omega = self.table(problem)
        choice = choose(list(omega.values()), list(forms.values()), bits, self.config.solver)  # type: ignore[arg-type]
        return settle(problem, {name: options[at] for (name, options), at in zip(forms.items(), choice)}, correct=self.config.correct)

    def table(self, problem: Problem) -> tuple[dict[str, list[Grid]], dict[str, list[float]]]:
        """Each matrix's grids and their Omega. Found once: it hangs on the network alone."""
        if self not in problem.memory:
            matrices, config = problem.matrices, self.config
            problem.needed("hawq")
            hessian = Hessian(problem, list(matrices), limit=config.examples)
            if config.curvature == "trace":
                bend = {n: t / matrices[n].numel() for n, t in hessian.traces(config.probes).items()}
            else:
                bend = hessian.largest(config.probes)
            least = max(0.1 * float(np.median([abs(b) for b in bend.values()])), 1e-30)  # a block of a saddle may bend downwards, which is no leave to break it
            forms = {n: grids(w, rows=config.rows) for n, w in matrices.items()}
            errors = {n: [float(np.square(f.values().astype(np.float64) - matrices[n].float().numpy()).sum()) for f in options] for n, options in forms.items()}
            problem.notes["curvature"] = bend
            problem.memory[self] = forms, {n: [max(bend[n], least) * e for e in errors[n]] for n in forms}
        return problem.memory[self]  # type: ignore[no-any-return]
