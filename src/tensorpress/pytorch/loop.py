"""A codec in the loop of training: what `dct_cm` does to a map and what it pays for it, with gradients.

    x -> 8-bit levels -> [DCT over channels, mask] -> step, dead zone -> words -> levels -> x'        gradients straight through
                                                                     `-> bits, modelled

Two models of the bits. 'cells' counts as the cell codec does: for each plane of 8 x 8 values nothing, or a bitmap and
its non-zeros at the plane's width, or all values at that width; counts and widths are those of the real words, and
their gradients those of a / (a + k) and log2. 'entropy' is the order-0 entropy of each channel as a zero flag and a
geometric magnitude: what context coders (and CAT, TECO in aim) start from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.core.errors import InputError

DEAD_ZONE = 0.36  # rounding offset, as in the codec
TOP = 255.0
FINEST, COARSEST = 1.05, 128.0  # steps, in levels
RATES = ("cells", "paper", "entropy")
OPEN = 2.0  # where the logit of a mask bit starts


@dataclass(frozen=True)
class Start:
    """One site before training: the scale of its 8-bit levels, its step in levels, the length of its DCT (0: none)."""

    scale: float
    zero: int
    step: float
    length: int = 0


def straight(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` with the gradient of `soft`."""
    return soft + (hard - soft).detach()


def dct_matrix(length: int) -> Tensor:
    """[length, length] orthonormal DCT-II, rows are basis vectors: the codec's integer matrix up to 1 %."""
    n = torch.arange(length, dtype=torch.float64)
    rows = torch.cos(math.pi / length * (n[None, :] + 0.5) * n[:, None]) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows.float()


def along_channels(x: Tensor, matrix: Tensor) -> Tensor:
    """`matrix` over every whole group of channels of (N, C, …); channels that fill no group stay."""
    length = len(matrix)
    whole = x.shape[1] - x.shape[1] % length
    groups = x[:, :whole].reshape(x.shape[0], whole // length, length, -1)
    y = torch.einsum("kn,bgna->bgka", matrix, groups).reshape(x.shape[0], whole, *x.shape[2:])
    return y if whole == x.shape[1] else torch.cat([y, x[:, whole:]], 1)


class MapLoop(nn.Module):
    """One site. `forward(x)` gives the map that the decoder would and the modelled bits a value."""

    def __init__(self, start: Start, rate: str) -> None:
        super().__init__()
        if rate not in RATES:
            raise InputError(f"rate is one of {', '.join(RATES)}, not {rate!r}")
        self.scale, self.zero, self.length, self.rate = start.scale, start.zero, start.length, rate
        self.log_step = nn.Parameter(torch.tensor(math.log(min(max(start.step, FINEST), COARSEST))))
        self.gate = nn.Parameter(torch.full((start.length,), OPEN))
        self.register_buffer("shift", torch.zeros(4))  # of magnitudes 0, 1, 2, >= 3, in levels: centroids
        self.register_buffer("matrix", dct_matrix(start.length) if start.length else torch.zeros(0, 0), persistent=False)

    def step(self) -> Tensor:
        """In levels; 1 where the paper's bitmaps keep levels exact."""
        if self.rate == "paper" and not self.length:
            return torch.ones_like(self.log_step)
        return self.log_step.clamp(math.log(FINEST), math.log(COARSEST)).exp()

    def mask(self, channels: int) -> Tensor:
        """[channels, 1, 1] 1 where a coefficient is kept; its gradient is that of a sigmoid. The mean is always kept."""
        soft = torch.sigmoid(self.gate)
        bits = straight((self.gate > 0).float(), soft)
        bits = torch.cat([torch.ones_like(bits[:1]), bits[1:]])
        whole = channels - channels % self.length
        row = torch.cat([bits.repeat(whole // self.length), bits.new_ones(channels - whole)])
        return row[:, None, None]

    def forward(self, x: Tensor, counted: int | None = None) -> tuple[Tensor, Tensor]:
        """`counted`: of how many images of the batch the bits are counted; None: of all."""
        shape = x.shape
        if x.ndim == 2:
            x = x[:, :, None, None]
        step = self.step()
        d = (x / self.scale).clamp(-self.zero, TOP - self.zero)
        d = straight(torch.round(d), d)
        transformed = bool(self.length) and x.shape[1] >= self.length
        y = along_channels(d, self.matrix) if transformed else d
        mask = self.mask(x.shape[1]) if transformed else None
        a = y / step
        magnitude = a.abs()
        offset = 0.5 if self.rate == "paper" else DEAD_ZONE
        hard = torch.floor(magnitude.detach() + offset)
        if mask is not None:
            magnitude, hard = magnitude * mask, hard * mask.detach()
        bits = self.bits(magnitude[:counted], hard[:counted], mask, signed=transformed or self.zero > 0)
        q = straight(hard * a.detach().sign(), a)
        value = q * step
        if self.training:
            self.watch(y.detach().abs(), hard, step.detach())
        if offset != 0.5:
            value = value + self.shift[hard.clamp_max(3).long()] * a.detach().sign()
        if mask is not None:
            value = value * mask
            value = along_channels(value, self.matrix.T)
        value = value.clamp(-self.zero, TOP - self.zero)
        value = straight(torch.round(value), value)
        return (value * self.scale).reshape(shape), bits

    @torch.no_grad()
    def watch(self, magnitude: Tensor, hard: Tensor, step: Tensor) -> None:
        """Let the centroids follow: a running mean of how far the values of magnitude 1, 2 and >= 3 lie from their word."""
        part = slice(None, None, max(magnitude.shape[0] // 4, 1))  # some of the batch says enough
        excess, classes = magnitude[part] - hard[part] * step, hard[part].clamp_max(3)
        for k in (1, 2, 3):
            there = classes == k
            mean = (excess * there).sum() / there.sum().clamp_min(1)
            self.shift[k] += 0.1 * (mean - self.shift[k])

    # --- the models of the rate ---

    def bits(self, magnitude: Tensor, hard: Tensor, mask: Tensor | None, signed: bool) -> Tensor:
        """Bits a value of |values| in steps: `magnitude` continuous, `hard` as coded."""
        near = 8.0 if self.rate == "paper" else 1 - DEAD_ZONE
        nonzero = straight((hard > 0).float(), magnitude / (magnitude + near))
        if self.rate == "entropy":
            return entropy_bits(nonzero, straight(hard, magnitude), signed)
        if self.rate == "paper":  # a bitmap of all that is kept, 8 bits for each non-zero
            return 8 * nonzero.mean() + (1.0 if mask is None else mask.mean())
        return cell_bits(nonzero, magnitude, hard, signed)


def cell_bits(nonzero: Tensor, magnitude: Tensor, hard: Tensor, signed: bool) -> Tensor:
    """Bits a value as `blocks.cells.pack_planes` would pay, header of a cell included."""
    rows, columns = min(nonzero.shape[2], 8), min(nonzero.shape[3], 8)
    window = {"kernel_size": (rows, columns), "ceil_mode": True}
    count = F.avg_pool2d(nonzero, **window, divisor_override=1)
    area = F.avg_pool2d(torch.ones_like(nonzero[:1, :1]), **window, divisor_override=1)
    largest, coded = F.max_pool2d(magnitude, **window), F.max_pool2d(hard, **window)
    sign = 2.0 if signed else 1.0
    top = straight(coded, largest)
    width = straight(torch.ceil(torch.log2((sign * coded).clamp_min(1))), torch.log2((sign * top).clamp_min(1)))
    dense = straight(torch.ceil(torch.log2(sign * coded + 1)).clamp_min(3), torch.log2(sign * top + 1))
    used = straight((coded > 0).float(), largest / (largest + 1 - DEAD_ZONE))
    plane = used * torch.minimum(area + count * width, area * dense)
    return (plane.sum() + 4 * plane.numel()) / nonzero.numel() + 24 / 2048


def entropy_bits(nonzero: Tensor, q: Tensor, signed: bool) -> Tensor:
    """Entropy in bits a value, channel by channel: a zero flag, and magnitudes that fall off geometrically."""
    n = nonzero.mean((0, 2, 3)).clamp(1e-4, 1 - 1e-4)
    mean = ((q * nonzero).mean((0, 2, 3)) / n).clamp_min(1.01)
    flag = -(n * torch.log2(n) + (1 - n) * torch.log2(1 - n))
    size = mean * torch.log2(mean) - (mean - 1) * torch.log2(mean - 1)
    return (flag + n * (size + (1.0 if signed else 0.0))).mean()
