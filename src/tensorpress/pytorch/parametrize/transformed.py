"""Weights on a grid in a better basis: KLT or ELT with its matrix in the file, DCT and Hadamard by rule.

Young, Wang, Taubman, Girod: Transform quantization for CNN compression, TPAMI 2021 (arXiv:2009.01174). ELT is the basis in which errors of
the weights and of the output part together: with C = E[w w^T] and G the output's sensitivity, U from C^(1/2) G C^(1/2), basis C^(1/2) U.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tensorpress.blocks.forms import Fixed
from tensorpress.core.errors import InputError
from tensorpress.pytorch.parametrize.product import Product, letters, matrix, on_grids
from tensorpress.pytorch.parametrize.uniform import Uniform

MATRIX_STEP = 1 / 8  # of a basis, in the mean size of its entries: coefficients are fitted to what is stored, so it can be coarse
DAMPING = 0.01  # of the mean sensitivity, added to all


def klt(weight: Tensor, step: float, *, matrix_step: float = MATRIX_STEP, learn: bool = False) -> Product:
    """Rows mixed by the eigenvectors of their covariance: [o r][r i …]."""
    return _by_matrix(weight, torch.linalg.eigh(_covariance(weight))[1].flip(1), step, matrix_step, learn)


def elt(weight: Tensor, sensitivity: Tensor, step: float, *, matrix_step: float = MATRIX_STEP, learn: bool = False) -> Product:
    """As `klt`, for outputs that do not matter alike: `sensitivity` [O, O] is E[g g^T] of the outputs' gradients. Basis vectors have the lengths at which one step suits all."""
    values, vectors = torch.linalg.eigh(_covariance(weight))
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    middle = sensitivity.double() / sensitivity.double().diagonal().mean().clamp(min=1e-30) + DAMPING * torch.eye(len(root), dtype=torch.float64)
    basis = root @ torch.linalg.eigh(root @ middle @ root)[1].flip(1)
    basis = basis / (basis * (middle @ basis)).sum(0).clamp(min=1e-12 * float(values.mean())).sqrt()  # an error in any coefficient hurts the output the same
    return _by_matrix(weight, basis, step, matrix_step, learn)


def by_rule(weight: Tensor, kind: str, axes: Sequence[int], step: float, *, learn: bool = False) -> Product:
    """The 'dct' or 'hadamard' of the given axes, of lengths that Fixed takes; nothing but coefficients is stored."""
    names, table = letters(weight), weight.detach().double()
    fixed, terms, inner = [], [], names
    for axis, letter in zip(axes, "pqrs"):
        fixed.append(Fixed(kind, weight.shape[axis]))
        terms.append(letter + names[axis])
        inverse = torch.linalg.inv(torch.from_numpy(matrix(fixed[-1])).double())
        table = torch.movedim(torch.movedim(table, axis, -1) @ inverse, -1, axis)
        inner = inner.replace(names[axis], letter)
    if not fixed:
        raise InputError("name the axes that are transformed")
    return on_grids(",".join([inner, *terms]) + f"->{names}", [table.float(), *fixed], step, learn=learn)


def _covariance(weight: Tensor) -> Tensor:
    table = weight.detach().double().flatten(1)
    return table @ table.T / table.shape[1] + 1e-12 * torch.eye(len(table), dtype=torch.float64)


def _by_matrix(weight: Tensor, basis: Tensor, step: float, matrix_step: float, learn: bool) -> Product:
    """Coefficients are those of the basis as it is stored."""
    axes = letters(weight)
    kept = Uniform(basis.float(), matrix_step * float(basis.norm(dim=0).mean()) / len(basis) ** 0.5)
    table = torch.linalg.lstsq(kept.decoded().detach().double(), weight.detach().double().flatten(1)).solution
    return Product(f"or,r{axes[1:]}->{axes}", [kept, Uniform(table.float().reshape(len(basis), *weight.shape[1:]), step, learn=learn)])
