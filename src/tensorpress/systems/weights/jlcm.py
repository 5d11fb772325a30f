"""JLCM: codebooks for groups of rows, learned together with who takes which entry, layer by layer.

    rows ─► groups of like distributions ─► a codebook each ─► who takes what, and the entries, learned on  |W x' - Wq x|^2
                                                               an assignment moves to a neighbouring entry, never further

A row's group is known by quantiles of its weights. Entries and latent weights follow the gradient of the layer's reconstruction; after each step an
assignment may go one entry towards its latent weight (proximal), where a plain straight-through gradient lets it jump.
The error is that of second moments, |W x' - Wq x|^2 = tr(D H D^T) + a constant with H = E[x x^T], so no step needs the inputs again.
Books are entropy coded here, and fitted with a price on bits that takes the place of the paper's fixed 2^b entries.

"Joint learning of codebook and mapping" after JLCM, 2023: reconstructed from its description, constants are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorpress.blocks.forms import Form
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.lockstep import Layer, lockstep
from tensorpress.pytorch.moments import matrix, moments
from tensorpress.pytorch.parametrize import CodebookWeights
from tensorpress.pytorch.rounding import Settle
from tensorpress.pytorch.row_groups import Books
from tensorpress.pytorch.weight_problem import Problem

CARD = Card(
    id="jlcm",
    family="weights",
    title="codebooks of row groups, learned with their assignments",
    paper="Joint learning of codebook and mapping (JLCM), 2023; no code was published",
    claim="Llama-7B in 2 GB; better than uniform and table-based post-training quantisation at equal bits",
    measured="results/weights/systems.json",
    fidelity="reconstruction",
    makes="method",
    needs="inputs",
    portability="a decoder looks entries up",
)


@dataclass(frozen=True)
class Config:
    groups: int = 4  # of rows, at the most; each with a codebook of its own
    least: int = 4096  # weights of a group, on average: what a codebook costs must pay
    entries: int = 64  # of a codebook, at the most: fewer where bits are dear
    steps: int = 150  # of Adam, for each layer; 0: k-means
    lr: float = 0.03  # in median distances between entries
    proximal: bool = True  # assignments move to neighbours only
    trade: float = 0.2  # of the price on bits that the first codebooks were fitted at: what it has in the loss
    repair: float = 0.5  # how much of the prefix's errors a layer tries to undo, 0 to 1
    damping: float = 0.01  # added to the diagonal of H, as a share of its mean
    settled: bool = True  # means and deviations of channels are put right, by biases and norms
    vector_bits: int = 7  # of mantissa, for biases, norms and statistics


def build(config: Config) -> JLCM:
    if config.groups < 1 or config.least < 1 or not 2 <= config.entries <= 4096 or config.steps < 0:
        raise InputError("jlcm: groups and least are 1 or more, entries 2 to 4096, steps 0 or more")
    return JLCM(config)


@dataclass(frozen=True)
class JLCM:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        inputs = problem.needed("jlcm")
        books = Books({name: w.float() for name, w in problem.matrices.items()}, self.config.groups, self.config.least, self.config.entries)
        price = books.price(bits)
        visitor = Joint(self.config, problem, price, {name: books.start(name, price) for name in problem.matrices})
        lockstep(problem.model, inputs, visitor)
        rest = {name: first.form() for name, first in visitor.first.items() if name not in visitor.forms}
        return {**visitor.forms, **rest}


class Joint(Settle):
    """Learns each layer's codebooks and assignments when the pass reaches it. `first`: k-means, by weight."""

    def __init__(self, config: Config, problem: Problem, price: float, first: Mapping[str, CodebookWeights]) -> None:
        super().__init__({}, first.keys(), vector_bits=config.vector_bits, correct=config.settled)
        self.config, self.problem, self.first, self.price = config, problem, first, price * config.trade
        self.generator = problem.generator()

    def enter(self, layer: Layer, state: dict[str, Tensor]) -> None:
        name = layer.tensors.get("weight")
        if name is None or name in self.forms or name not in self.first:
            return
        self.problem.progress(f"codebooks of {name}", len(self.forms), len(self.first))
        found = moments(layer, state[name], self.generator) if self.config.steps else None
        if found is not None and found.samples:
            with torch.enable_grad():
                self.learn(self.first[name], layer, found.hessian, found.shift)
        self.put(name, self.first[name].form(), state)

    def learn(self, weights: CodebookWeights, layer: Layer, hessian: Tensor, shift: Tensor) -> None:
        """Moves entries and assignments to the least error of the layer's output, with bits at their price, that comes by."""
        config, eye = self.config, torch.eye(hessian.shape[-1], dtype=hessian.dtype)
        mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp(min=1e-12)
        stiff = hessian + config.damping * mean * eye
        wanted = matrix(weights.latent.detach().double(), layer)
        wanted = (wanted + config.repair * torch.linalg.solve(stiff, (wanted @ shift).mT).mT).float()
        stiff = (stiff / mean).float()
        gaps = weights.books.detach().diff(dim=1)
        gap = float(gaps[gaps > 0].median()) if bool((gaps > 0).any()) else 1.0
        with torch.no_grad():
            weights.latent.copy_(wanted.reshape(weights.latent.shape))
        if config.proximal:
            weights.fixed = weights.nearest()
        optimiser = torch.optim.Adam(weights.parameters(), config.lr * gap)
        best, least = (weights.books.detach().clone(), weights.index()), float("inf")
        for step in range(config.steps + 1):
            error = matrix(weights.decoded(), layer) - wanted
            loss = (error @ stiff * error).sum() + self.price * weights.bits()
            if float(loss.detach()) < least:
                best, least = (weights.books.detach().clone(), weights.index()), float(loss.detach())
            if step == config.steps:
                break
            for group in optimiser.param_groups:
                group["lr"] = config.lr * gap * (1 - step / config.steps)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if weights.fixed is not None:
                weights.fixed = weights.fixed + (weights.nearest() - weights.fixed).clamp(-1, 1)
        with torch.no_grad():
            weights.books.copy_(best[0])
        weights.fixed = best[1]
