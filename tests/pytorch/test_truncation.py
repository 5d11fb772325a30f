"""Layouts, truncated singular value decompositions and steps down the nuclear norm."""

from __future__ import annotations

import pytest
import torch

from tensorpress.core.errors import InputError
from tensorpress.pytorch.truncation import Split, common_energy, cost, equation, fold, unfold

X = torch.randn(6, 4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("layout", ["channel", "spatial"])
def test_fold_undoes_unfold(layout: str) -> None:
    assert torch.equal(fold(unfold(X, layout), tuple(X.shape), layout), X)
    assert unfold(X, layout).shape == {"channel": (6, 24), "spatial": (12, 12)}[layout]
    flat = X[:, :, 0, 0]
    assert torch.equal(fold(unfold(flat, layout), tuple(flat.shape), layout), flat)


def test_a_kernel_of_columns_and_rows_has_the_rank_of_its_products_in_the_spatial_layout() -> None:
    columns, rows = torch.randn(6, 2, 2, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)  # O r w, r I h
    kernel = torch.einsum("orw,rih->oihw", columns, rows)
    s = Split.of(unfold(kernel, "spatial")).s
    assert s[1] > 1e-6 and s[2] < 1e-9 * s[0]


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(InputError, match="layout"):
        unfold(X, "other")


def test_rank_holds_the_energy_and_one_less_does_not() -> None:
    split = Split.of(unfold(X))
    squares = split.s.square()
    for energy in (0.3, 0.9, 0.999):
        rank = split.rank(energy)
        assert squares[:rank].sum() >= energy * squares.sum() * (1 - 1e-9)
        assert rank == 1 or squares[: rank - 1].sum() < energy * squares.sum()
    assert split.rank(1.0) == 6 and torch.allclose(split.matrix(), unfold(X))


def test_factors_multiply_to_the_matrix() -> None:
    split = Split.of(unfold(X)).cut(2)
    u, v = split.factors()
    assert torch.allclose(u @ v, split.matrix()) and torch.allclose(u.norm(dim=0), v.norm(dim=1))


def test_shrinking_is_a_step_down_the_nuclear_norm() -> None:
    matrix = unfold(X).clone().requires_grad_(True)
    torch.linalg.svdvals(matrix).sum().backward()  # type: ignore[no-untyped-call]
    split = Split.of(matrix)
    step = float(split.s.min()) / 2
    assert torch.allclose(split.shrunk(step).matrix(), unfold(X) - step * matrix.grad, atol=1e-8)
    assert int((split.shrunk(float(split.s[2])).s > 0).sum()) == 2


def test_cost_is_never_more_than_the_matrix() -> None:
    assert cost((10, 40), 3) == 150 and cost((10, 40), 9) == 400


def test_the_common_energy_is_the_most_that_the_numbers_allow() -> None:
    matrices = [torch.randn(12, 30, generator=torch.Generator().manual_seed(i), dtype=torch.float64) * (1 + i) for i in range(3)]
    splits = [Split.of(m) for m in matrices]

    def numbers(energy: float) -> int:
        return sum(cost(m.shape, s.rank(energy)) for m, s in zip(matrices, splits))

    for share in (0.3, 0.6, 0.9):
        energy = common_energy(splits, share)
        assert numbers(energy) <= share * 1080 and (energy > 0.999 or numbers(energy + 1e-6) > share * 1080)


@pytest.mark.parametrize("layout", ["channel", "spatial"])
def test_the_equation_makes_the_weight(layout: str) -> None:
    for weight in (X, X[:, :, 0, 0]):
        split = Split.of(unfold(weight, layout))
        text, shapes = equation(tuple(weight.shape), layout, len(split.s))
        left, right = split.factors()
        assert torch.allclose(torch.einsum(text, left.reshape(shapes[0]), right.reshape(shapes[1])), weight)
