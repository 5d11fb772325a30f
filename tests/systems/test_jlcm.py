"""Codebooks that are learned with their assignments lose less of a layer's output, and a move goes to a neighbour."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from tensorpress import weights
from tensorpress.blocks.forms import Codebook
from tensorpress.core.errors import InputError
from tensorpress.pytorch.parametrize import CodebookWeights
from tensorpress.pytorch.weight_problem import Problem


@pytest.fixture(scope="module")
def problem() -> Problem:
    torch.manual_seed(0)
    mix = torch.randn(48, 12)
    layer = nn.Linear(48, 64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(64, 48) * torch.tensor([0.2, 2.0]).repeat(32)[:, None])
    return Problem(nn.Sequential(layer).eval(), torch.randn(512, 12) @ mix.T)


def made(problem: Problem, bits: float = 2.0, **options: Any) -> tuple[Codebook, float]:
    """The weight's form, and the squared error of the outputs."""
    form = weights.build("jlcm", **{"least": 256, **options}).represent(problem, bits)["0.weight"]
    assert isinstance(form, Codebook)
    with torch.no_grad():
        error = problem.inputs @ (torch.from_numpy(form.values()) - problem.model[0].weight).T
    return form, float(error.square().mean())


def test_learning_loses_less_of_the_output_at_no_more_bytes(problem: Problem) -> None:
    first, before = made(problem, 3.0, steps=0)
    for proximal in (True, False):
        learned, after = made(problem, 2.0, proximal=proximal)
        assert after < before and learned.nbytes() < first.nbytes()


def test_groups_are_rows_that_are_alike(problem: Problem) -> None:
    form, _ = made(problem, steps=0, groups=2)
    assert len(form.books) == 2 and len(set(form.groups[::2].tolist())) == len(set(form.groups[1::2].tolist())) == 1
    assert len(made(problem, steps=0, groups=1)[0].books) == 1
    assert len(made(problem, steps=0, groups=4, least=4096)[0].books) == 1  # a layer too small to pay for more


def test_moves_are_to_neighbours(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far the latent weights run in a step, an assignment goes one entry at the most."""
    seen: list[torch.Tensor] = []
    decoded = CodebookWeights.decoded

    def watched(self: CodebookWeights) -> torch.Tensor:
        if self.fixed is not None:
            seen.append(self.fixed.clone())
        return decoded(self)

    monkeypatch.setattr(CodebookWeights, "decoded", watched)
    made(problem, bits=3.0, steps=10, lr=3.0)
    moves = [int((b - a).abs().max()) for a, b in pairwise(seen)]
    assert len(moves) >= 10 and max(moves) == 1


def test_fewer_bits_are_fewer_bytes_and_more_error(problem: Problem) -> None:
    found = [made(problem, bits) for bits in (1.0, 2.0, 3.0, 4.0)]
    sizes, errors = [f.nbytes() for f, _ in found], [e for _, e in found]
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    for bits in (1.0, 2.0, 4.0):  # what k-means is fitted at is what is asked for, but for its books
        first, values = made(problem, bits, steps=0)[0], problem.model[0].weight.numel()
        assert abs(8 * first.nbytes() / values - bits) < 0.25 + 11 * first.books.size / values


def test_options_that_cannot_be_are_named() -> None:
    with pytest.raises(InputError, match="entries 2 to 4096"):
        weights.build("jlcm", entries=1)
