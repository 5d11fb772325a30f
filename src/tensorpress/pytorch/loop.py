"""A codec in the loop of training: what `dct_cm` does to a map and what it pays for it, with gradients.

    x -> 8-bit levels -> [DCT over channels, mask] -> step, dead zone -> words -> levels -> x'        gradients straight through
                                                                     `-> bits, modelled

Three models of the bits. 'cells' counts as the cell codec does: for each plane of 8 x 8 values nothing, or a bitmap and
its non-zeros at the plane's width, or all values at that width. 'paper' is a bitmap and 8 bits a non-zero. 'entropy' is the
order-0 entropy of each channel as a zero flag and a geometric magnitude: what context coders (and CAT, TECO in aim)
start from. Counts and widths are those of the real words; their gradients are those of a / (a + k) and log2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Planes(NamedTuple):
    """Sums over windows of 8 x 8 (or what there is) of each channel, [n, C, windows down, windows across]."""

    count: Tensor  # of non-zero words
    top: Tensor  # largest magnitude, in steps, not rounded
    mass: Tensor  # sum of the words' magnitudes
    area: Tensor  # values, [1, 1, …]
    channels: int  # those that are stored at all


def straight(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` with the gradient of `soft`."""
    return soft + (hard - soft).detach()


def window(x: Tensor) -> dict[str, Any]:
    return {"kernel_size": (min(x.shape[2], 8), min(x.shape[3], 8)), "ceil_mode": True}


def total(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, **window(x), divisor_override=1)


def spread(planes: Tensor, like: Tensor) -> Tensor:
    """The transpose of `total`: every window's value at each of its places."""
    rows, columns = window(like)["kernel_size"]
    return planes.repeat_interleave(rows, 2)[:, :, : like.shape[2]].repeat_interleave(columns, 3)[:, :, :, : like.shape[3]]


class CodedLevels(torch.autograd.Function):
    """x and a step -> (decoded x, count, top, mass), all by tables over the 256 levels; bits are of the first `counted` images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, shift: Tensor, scale: float, zero: int, offset: float, near: float, counted: int) -> Any:
        level = torch.arange(256, device=x.device, dtype=torch.float32) - zero
        a = level.abs() / step
        hard = torch.floor(a + offset)
        value = level.sign() * (hard * step + shift[hard.clamp_max(3).long()] * (offset != 0.5))
        value = value.clamp(-zero, TOP - zero).round() * scale
        index = (x * (1 / scale)).round_().add_(zero).clamp_(0, TOP).to(torch.int32)
        y = value.index_select(0, index.view(-1)).view(x.shape)
        words = a.index_select(0, index[:counted].reshape(-1)).view(index[:counted].shape)
        top, place = F.max_pool2d(words, **window(words), return_indices=True)
        words = words.add_(offset).floor_()
        mass = total(words)
        count = total(words.clamp_(max=1))
        ctx.save_for_backward(index, place, step, a, hard)
        ctx.settings = scale, zero, near, counted
        return y, count, top, mass

    @staticmethod
    def backward(ctx: Any, to_y: Tensor, to_count: Tensor, to_top: Tensor, to_mass: Tensor) -> Any:
        index, place, step, a, hard = ctx.saved_tensors
        scale, zero, near, counted = ctx.settings
        flat = index.view(-1)
        level = torch.arange(256, device=a.device, dtype=torch.float32) - zero
        to_step = to_y.reshape(-1).dot((scale * level.sign() * (hard - a)).index_select(0, flat))
        to_x = to_y.clone()
        some, part = index[:counted].reshape(-1), index[:counted]
        slope = (near / (a + near) ** 2).index_select(0, some).view(part.shape)
        to_a = slope.mul_(spread(to_count, part))
        if to_mass.any():
            to_a += spread(to_mass, part) * (hard > 0).float().index_select(0, some).view(part.shape)
        to_a.flatten(2).scatter_add_(2, place.flatten(2), to_top.flatten(2))
        to_step = to_step - to_a.view(-1).dot(a.index_select(0, some)) / step
        if zero:
            to_a *= level.sign().index_select(0, some).view(part.shape)
        to_x[:counted] += to_a / (scale * step)
        to_x.masked_fill_(index == 255, 0)  # what is clipped learns nothing
        if zero:
            to_x.masked_fill_(index == 0, 0)
        return to_x, to_step, None, None, None, None, None, None


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
    """One site. `forward(x)` gives the map that the decoder would, and the modelled bits a value."""

    def __init__(self, start: Start, rate: str) -> None:
        super().__init__()
        if rate not in RATES:
            raise InputError(f"rate is one of {', '.join(RATES)}, not {rate!r}")
        self.scale, self.zero, self.length, self.rate = start.scale, start.zero, start.length, rate
        self.offset, self.near = (0.5, 8.0) if rate == "paper" else (DEAD_ZONE, 1 - DEAD_ZONE)
        self.log_step = nn.Parameter(torch.tensor(math.log(min(max(start.step, FINEST), COARSEST))))
        self.gate = nn.Parameter(torch.full((start.length,), OPEN))
        self.register_buffer("shift", torch.zeros(4))  # of magnitudes 0, 1, 2, >= 3, in levels: centroids
        self.register_buffer("matrix", dct_matrix(start.length) if start.length else torch.zeros(0, 0), persistent=False)

    def step(self) -> Tensor:
        """In levels; 1 where the paper's bitmaps keep levels exact."""
        if self.rate == "paper" and not self.length:
            return torch.ones_like(self.log_step)
        return self.log_step.clamp(math.log(FINEST), math.log(COARSEST)).exp()

    def keep(self) -> tuple[int, ...]:
        """1 for each coefficient that the mask keeps; empty where all are kept or there is no DCT."""
        bits = [1, *(int(g > 0) for g in self.gate.tolist()[1:])] if self.length else []
        return () if all(bits) else tuple(bits)

    def mask(self, channels: int) -> Tensor:
        """[channels, 1, 1] 1 where a coefficient is kept; its gradient is that of a sigmoid. The mean is always kept."""
        bits = straight((self.gate > 0).float(), torch.sigmoid(self.gate))
        bits = torch.cat([torch.ones_like(bits[:1]), bits[1:]])
        whole = channels - channels % self.length
        return torch.cat([bits.repeat(whole // self.length), bits.new_ones(channels - whole)])[:, None, None]

    def forward(self, x: Tensor, counted: int | None = None) -> tuple[Tensor, Tensor]:
        """`counted`: of how many images of the batch the bits are counted; None: of all."""
        shape = x.shape
        if x.ndim == 2:
            x = x[:, :, None, None]
        counted = len(x) if counted is None else counted
        if self.length and x.shape[1] >= self.length:
            y, bits = self.transformed(x, counted)
            return y.reshape(shape), bits
        step = self.step()
        if self.training:
            d = (x[:: max(len(x) // 4, 1)].detach() * (1 / self.scale)).round_().clamp_(-self.zero, TOP - self.zero).abs_()
            self.watch(d, step.detach())
        y, *planes = CodedLevels.apply(x, step, self.shift, self.scale, self.zero, self.offset, self.near, counted)  # type: ignore[no-untyped-call]
        area = total(torch.ones_like(x[:1, :1]))
        return y.reshape(shape), self.bits(Planes(*planes, area, x.shape[1]), self.zero > 0, x[:counted].numel())

    def transformed(self, x: Tensor, counted: int) -> tuple[Tensor, Tensor]:
        """The same through the DCT over channels, step and mask in its domain."""
        step, mask = self.step(), self.mask(x.shape[1])
        d = (x / self.scale).clamp(-self.zero, TOP - self.zero)
        y = along_channels(straight(torch.round(d), d), self.matrix)
        a = y / step
        hard = torch.floor(a.detach().abs() + self.offset) * mask.detach()
        if self.training:
            self.watch(y.detach().abs()[:: max(len(x) // 4, 1)], step.detach())
        magnitude = (a.abs() * mask)[:counted]
        words = hard[:counted]
        count = total(straight((words > 0).float(), magnitude / (magnitude + self.near)))
        top = F.max_pool2d(magnitude, **window(magnitude))
        area = total(torch.ones_like(x[:1, :1]))
        planes = Planes(count, top, total(straight(words, magnitude * (words > 0))), area, int(mask.detach().sum()))
        bits = self.bits(planes, True, magnitude.numel(), mask)
        sign = a.detach().sign()
        value = straight(hard * sign, a) * step + self.shift[hard.clamp_max(3).long()] * sign * (self.offset != 0.5)
        value = along_channels(value * mask, self.matrix.T).clamp(-self.zero, TOP - self.zero)
        return straight(torch.round(value), value) * self.scale, bits

    @torch.no_grad()
    def watch(self, d: Tensor, step: Tensor) -> None:
        """Let the centroids follow: a running mean of how far the values of magnitude 1, 2 and >= 3 lie from their word."""
        hard = torch.floor(d / step + self.offset)
        classes = hard.clamp(0, 3).to(torch.int64).view(-1)
        sums = torch.zeros(4, device=d.device).scatter_add_(0, classes, (d - hard * step).view(-1))
        counts = torch.zeros(4, device=d.device).scatter_add_(0, classes, torch.ones_like(d).view(-1))
        mean = sums / counts.clamp_min(1)
        mean[0] = 0
        self.shift.add_((0.1 if self.shift.any() else 1.0) * (mean - self.shift))

    def bits(self, planes: Planes, signed: bool, values: int, mask: Tensor | None = None) -> Tensor:
        """Bits a value. The mask's share of a bitmap is what the paper's profile saves by it."""
        if self.rate == "entropy":
            return entropy_bits(planes, signed, values)
        if self.rate == "paper":
            return 8 * planes.count.sum() / values + (1.0 if mask is None else mask.mean())
        return cell_bits(planes, self.offset, signed, values)


def cell_bits(planes: Planes, offset: float, signed: bool, values: int) -> Tensor:
    """Bits a value as `blocks.cells.pack_planes` would pay, header of a cell included."""
    sign = 2.0 if signed else 1.0
    coded = torch.floor(planes.top.detach() + offset)
    top = straight(coded, planes.top)
    width = straight(torch.ceil(torch.log2((sign * coded).clamp_min(1))), torch.log2((sign * top).clamp_min(1)))
    dense = straight(torch.ceil(torch.log2(sign * coded + 1)).clamp_min(3), torch.log2(sign * top + 1))
    near = 1 - offset
    used = straight((coded > 0).float(), planes.top / (planes.top + near))
    plane = used * torch.minimum(planes.area + planes.count * width, planes.area * dense)
    codes = 4 * plane.numel() * planes.channels / plane.shape[1]
    return (plane.sum() + codes) / values + 24 / 2048


def entropy_bits(planes: Planes, signed: bool, values: int) -> Tensor:
    """Entropy in bits a value, channel by channel: a zero flag, and magnitudes that fall off geometrically."""
    channels = planes.count.shape[1]
    n = (planes.count.sum((0, 2, 3)) * channels / values).clamp(1e-4, 1 - 1e-4)
    mean = (planes.mass.sum((0, 2, 3)) * channels / values / n).clamp_min(1.01)
    flag = -(n * torch.log2(n) + (1 - n) * torch.log2(1 - n))
    size = mean * torch.log2(mean) - (mean - 1) * torch.log2(mean - 1)
    return (flag + n * (size + (1.0 if signed else 0.0))).mean()
