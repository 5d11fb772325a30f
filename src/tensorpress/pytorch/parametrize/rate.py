"""What integers will cost: their order-0 entropy, with a gradient towards cheaper neighbours. An estimate for losses, never a size."""

from __future__ import annotations

import torch
from torch import Tensor

from tensorpress.pytorch.parametrize.straight import straight

SPAN = 1 << 16  # of integers with a price of their own
STEP_BITS, ENTRY_BITS = 8.0, 11.0  # about what a step and a codebook's entry take


def rate(positions: Tensor) -> Tensor:
    """Bits of all of `positions` once rounded, a scalar; the gradient is the slope between both neighbours' prices."""
    if not positions.numel():
        return positions.sum()
    near = torch.round(positions.detach()).long()
    low = int(near.min()) - 1  # one below and one above have a price as well
    if int(near.max()) - low > SPAN:
        return (1 + 2 * torch.log2(1 + positions.abs())).sum()
    counts = torch.bincount((near - low).flatten(), minlength=int(near.max()) - low + 2).to(positions.dtype)
    price = torch.log2(counts.sum()) - torch.log2(counts.clamp(min=0.5))
    slope = (price[near - low + 1] - price[near - low - 1]) / 2
    return straight(price[near - low], slope * positions).sum()
