"""Zeros by rule: single weights, N of every M along the input, or whole rows; over any other parametrisation.

Where gradients go: to kept weights alone, or to all (`dense`), so that what was dropped can return. `decay` pulls the dropped ones
to zero: Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch (SR-STE), ICLR 2021 (arXiv:2102.04010).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensorpress.blocks.forms import Codebook, Form, Grid, Rounded
from tensorpress.core.errors import InputError
from tensorpress.pytorch.parametrize.parametrisation import Parametrisation
from tensorpress.pytorch.parametrize.rate import rate

Rule = Callable[[Tensor], Tensor]  # a weight -> what is kept of it, bool, in its shape


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, dense: bool, decay: float) -> Tensor:
        ctx.save_for_backward(x, keep)
        ctx.dense, ctx.decay = dense, decay
        return torch.where(keep, x, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        x, keep = ctx.saved_tensors
        found = grad if ctx.dense else torch.where(keep, grad, 0.0)
        return found + ctx.decay * torch.where(keep, 0.0, x) if ctx.decay else found, None, None, None


class Mask(Parametrisation):
    """`inner` where `keep` (bool, the weight's shape), zero elsewhere. `rule` makes `keep` out of the inner weight: once, at `refresh`, or, where `live`, at every use."""

    keep: Tensor

    def __init__(self, inner: Parametrisation, rule: Rule | None = None, *, keep: Tensor | None = None, live: bool = False, dense: bool = False, decay: float = 0.0) -> None:
        super().__init__()
        self.inner, self.rule, self.live, self.dense, self.decay = inner, rule, live, dense, decay
        if (rule is None) == (keep is None):
            raise InputError("a mask has a rule, or what it keeps: one of them")
        self.register_buffer("keep", torch.ones(0, dtype=torch.bool) if keep is None else keep.bool())
        if rule is not None:
            self.refresh()

    @torch.no_grad()
    def refresh(self, rule: Rule | None = None) -> None:
        """`keep` anew out of the weight as it is now, by `rule` from here on where it is given."""
        self.rule = rule or self.rule
        if self.rule is not None:
            self.keep = self.rule(self._dense_weight())

    def _dense_weight(self) -> Tensor:
        """What the rule looks at: values before they are rounded, so that no two are equal for their level's sake."""
        latent = getattr(self.inner, "latent", None)
        return latent.detach() if isinstance(latent, Tensor) else self.inner.decoded().detach()

    def decoded(self) -> Tensor:
        if self.live and self.training:
            self.refresh()
        return _Masked.apply(self.inner.decoded(), self.keep, self.dense, self.decay)  # type: ignore[no-any-return]

    def positions(self) -> Tensor:
        return torch.where(self.keep, self.inner.positions(), 0.0)

    def symbols(self) -> dict[str, np.ndarray]:
        form = self.form()
        return {"code": form.code} if isinstance(form, Rounded) else super().symbols()

    def form(self) -> Form:
        return masked(self.inner.form(), self.keep.cpu().numpy())

    def bits(self) -> Tensor:
        try:
            found = self.positions()
        except InputError:
            share = float(self.keep.float().mean())
            entropy = sum(-p * math.log2(p) for p in (share, 1 - share) if p)
            return self.inner.bits() * share + entropy * self.keep.numel()
        return rate(found) + self.inner.bits() - rate(self.inner.positions())  # the rest: steps, entries


def masked(form: Form, keep: np.ndarray) -> Form:
    """`form` with zeros where not `keep`. InputError where it cannot hold them."""
    if isinstance(form, Grid):
        return dataclasses.replace(form, levels=np.where(keep, form.levels, 0))
    if isinstance(form, Rounded):
        return dataclasses.replace(form, code=np.where(keep, form.code, 0).astype(np.int32))
    if isinstance(form, Codebook):
        zeros = np.abs(form.books.astype(np.float32)).argmin(1)
        if form.books[np.arange(len(zeros)), zeros].any():
            raise InputError("a mask over a codebook needs an entry that is zero: CodebookWeights(zero=True)")
        return dataclasses.replace(form, index=np.where(keep, form.index, zeros[form.groups].reshape(-1, *[1] * (form.index.ndim - 1))))
    raise InputError(f"a mask over the form {form.id!r} is no form: mask its factors")


def elements(share: float) -> Rule:
    """Drops the `share` (0 to 1) of the weights that are smallest in magnitude."""
    return lambda weight: _largest(weight.abs(), share)


def rows(share: float) -> Rule:
    """Drops whole rows (axis 0), those of the least norm."""
    return lambda weight: _largest(weight.reshape(len(weight), -1).norm(dim=1), share).reshape(-1, *[1] * (weight.ndim - 1)).expand(weight.shape).clone()


def n_of_m(n: int, m: int) -> Rule:
    """Keeps the `n` largest of every `m` weights that follow each other along the input axis; a rest shorter than `m` keeps its `n` largest."""
    if not 0 < n <= m:
        raise InputError(f"{n} of {m} weights cannot be kept")

    def rule(weight: Tensor) -> Tensor:
        lines = weight.abs().movedim(1, -1)  # [..., input]
        short = -lines.shape[-1] % m
        groups = torch.nn.functional.pad(lines, (0, short), value=-1.0).reshape(*lines.shape[:-1], -1, m)
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter(-1, torch.argsort(groups, dim=-1, descending=True, stable=True)[..., :n], True)
        return kept.reshape(*lines.shape[:-1], -1)[..., : lines.shape[-1]].movedim(-1, 1).contiguous()

    return rule


def _largest(scores: Tensor, share: float) -> Tensor:
    """All but the `share` of the least; of equal ones the first are dropped."""
    dropped = round(min(max(share, 0.0), 1.0) * scores.numel())
    keep = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    keep[scores.flatten().argsort(stable=True)[:dropped]] = False
    return keep.reshape(scores.shape)
