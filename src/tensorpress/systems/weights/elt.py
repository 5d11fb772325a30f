"""Transform quantisation: a layer's weights as vectors, decorrelated in the end that matters, their components on one grid under one water level.

    W [n, m] ─► C = W W^T / m ─┐
    G = E[g g^T] / m ──────────┴► eigenvalues of C G ─► A = C^1/2 U L^-1/2 ─► A on a grid ─► theta: least squares in G ─► grid
                                   under the water: dropped                    W = A theta: two factors in the file, both counted

W is taken along its outputs or its inputs; g = d outputs/dw. In the units of A^-1 w each component
has the variance L and the same sensitivity, so reverse water-filling over all layers is one common step, and no component under it. With G = 1 (times a
number for the layer) this is the KLT. A layer whose transform costs more than it saves stays as it is, with a step of its own.

Young, Wang, Taubman, Girod: Transform Quantization for CNN Compression, IEEE TPAMI, 2021 (arXiv:2009.01174).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tensorpress.blocks.forms import Factors, Form, Grid
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.planning.water import water_fill
from tensorpress.pytorch.curvature import sides
from tensorpress.pytorch.rounding import settle
from tensorpress.pytorch.weight_problem import Problem

CARD = Card(
    id="elt",
    family="weights",
    title="end-to-end learned transform, reverse water-filling",
    paper="Young, Wang, Taubman, Girod, Transform Quantization for CNN Compression, IEEE TPAMI, 2021, arXiv:2009.01174",
    claim="better than other quantisation after training at a given rate; with retraining 1 to 2 bits a weight of AlexNet, ResNet and DenseNet on ImageNet",
    measured="results/weights/systems.json",
    fidelity="reconstruction",
    makes="method",
    needs="inputs",
    portability="a decoder multiplies two integer matrices exactly, and once by a float32",
)


@dataclass(frozen=True)
class Config:
    transform: str = "elt"  # elt, klt or none
    sensitivity: str = "outputs"  # of these, or of the loss (labels are drawn from the network's answers where none are given)
    always: bool = False  # transforms every layer, whether it pays or not
    damping: float = 1.0  # added to the diagonal of G, as a share of its mean; the paper has none, which is worse at 2 bits and below
    examples: int = 256  # calibration inputs whose gradients are taken
    longest: int = 1024  # values of a vector; longer axes are not transformed
    correct: bool = True  # means and deviations of channels, in biases and BN statistics


@dataclass(frozen=True, eq=False)
class Side:
    """A weight as m vectors of n values along one axis; `sensitivity` is what a squared change of a vector costs."""

    axis: int
    vectors: Tensor  # [n, m]
    lengths: tuple[int, ...]  # of the other axes: m in all
    sensitivity: Tensor  # G [n, n]
    basis: Tensor  # A [n, n], columns by falling variance: A^T G A = 1
    variances: Tensor  # L [n], of A^-1 w

    @classmethod
    def of(cls, weight: Tensor, axis: int, fisher: Tensor, config: Config, least: float) -> Side:
        turned = weight.movedim(axis, 0).double()
        vectors, lengths = turned.flatten(1), tuple(turned.shape[1:])
        sensitivity, eye = fisher / vectors.shape[1], torch.eye(len(vectors), dtype=torch.float64)
        mean = max(float(sensitivity.diagonal().mean()), least)
        sensitivity = sensitivity + config.damping * mean * eye if config.transform == "elt" else mean * eye
        values, rotation = torch.linalg.eigh(vectors @ vectors.T / vectors.shape[1])
        root = (rotation * values.clamp(min=0).sqrt()) @ rotation.T
        variances, basis = torch.linalg.eigh(root @ sensitivity @ root)
        variances, basis = variances.flip(0).clamp(min=0), basis.flip(1)
        floor = variances[0].clamp(min=1e-300) * 1e-12
        return cls(axis, vectors, lengths, sensitivity, root @ basis / variances.clamp(min=floor).sqrt(), variances)

    def coded(self, level: float) -> Factors | None:
        """A and theta at the water level; None where everything is under it."""
        rank = int((self.variances > level).sum())
        if not rank:
            return None
        spread = self.vectors.shape[1] * float(self.sensitivity.diagonal().mean() * self.variances[:rank].mean())
        basis = Grid.nearest(self.basis[:, :rank].numpy(), np.sqrt(12 * level / spread))  # an error in A and one in theta cost the same
        a = torch.from_numpy(basis.values()).double()
        pull = a.T @ self.sensitivity
        theta = torch.linalg.lstsq(pull @ a, pull @ self.vectors, driver="gelsd").solution  # A's rounding is made good where it can be
        every = "oihwd"[: 1 + len(self.lengths)]
        own = every[self.axis]
        coded = Grid.nearest(theta.reshape(rank, *self.lengths).numpy(), np.sqrt(12 * level))
        return Factors(f"{own}r,r{every.replace(own, '')}->{every}", (basis, coded))

    def loss(self, change: Tensor) -> float:
        rows = change.movedim(self.axis, 0).flatten(1).double()
        return float((rows * (self.sensitivity @ rows)).sum())


def build(config: Config) -> Elt:
    if config.transform not in ("elt", "klt", "none") or config.sensitivity not in ("outputs", "loss"):
        raise InputError(f"transform {config.transform!r} is none of elt, klt and none, or sensitivity {config.sensitivity!r} is neither outputs nor loss")
    if not config.damping > 0 or config.examples < 1 or config.longest < 1:
        raise InputError("damping is above 0, examples and longest are at least 1")
    return Elt(config)


@dataclass(frozen=True)
class Elt:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        matrices, layers = problem.matrices, self.fitted(problem)
        shortest = [min(found, key=lambda s: len(s.vectors)) for found in layers.values()]
        variances = np.concatenate([s.variances.numpy() for s in shortest])
        counts = np.concatenate([np.full(len(s.variances), s.vectors.shape[1]) for s in shortest])
        level = max(water_fill(variances, counts, max_bits=bits * sum(s.vectors.numel() for s in shortest)).level, 1e-300)
        forms = {name: self._form(matrices[name], found, level) for name, found in layers.items()}
        problem.notes["transformed"] = sum(isinstance(f, Factors) for f in forms.values())
        return settle(problem, forms, correct=self.config.correct)

    def fitted(self, problem: Problem) -> dict[str, list[Side]]:
        """Each matrix along its first two axes, where these are not too long. It hangs on the network alone: found once."""
        if self not in problem.memory:
            matrices = problem.matrices
            axes = {n: [a for a in (0, 1) if 1 < w.shape[a] <= self.config.longest] or [int(w.shape[0] > w.shape[1])] for n, w in matrices.items()}
            fisher = sides(problem, list(matrices), lambda n: axes[n], of=self.config.sensitivity, limit=self.config.examples)
            mean = {n: float(next(iter(g.values())).diagonal().sum()) / matrices[n].numel() for n, g in fisher.items()}
            least = max(1e-6 * max(mean.values()), 1e-300)
            problem.memory[self] = {n: [Side.of(w, a, fisher[n][a], self.config, least) for a in axes[n]] for n, w in matrices.items()}
        return problem.memory[self]  # type: ignore[no-any-return]

    def _form(self, weight: Tensor, found: list[Side], level: float) -> Form:
        """Of the weight as it is and its transforms along each axis what has the least loss and bits, at the price that the water level sets."""
        mean = float(found[0].sensitivity.diagonal().mean())
        plain: Form = Grid.nearest(weight.float().numpy(), np.sqrt(12 * level / mean))
        if self.config.transform == "none":
            return plain
        forms = [f for f in (s.coded(level) for s in found if len(s.vectors) <= self.config.longest) if f is not None]

        def price(form: Form) -> float:
            change = torch.from_numpy(form.values()) - weight.float()
            return float(np.mean([s.loss(change) for s in found])) + 2 * np.log(2) * level * 8 * form.nbytes()

        return min(forms if self.config.always and forms else [plain, *forms], key=price)
