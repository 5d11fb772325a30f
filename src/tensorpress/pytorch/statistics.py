"""What calibration measures at each site: the range of its values, sample maps, and how sensitive the task is to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.core.site import Site
from tensorpress.pytorch.taps import tapped
from tensorpress.pytorch.tensors import images as arrays

SHIFT = 13  # float32 bits dropped: bins of 1/1024 of an octave, so a percentile is good to 0.1 %
BINS = 0x7F800000 >> SHIFT


@dataclass
class Observed:
    """One site's statistics, gathered image by image."""

    shape: tuple[int, ...] = ()
    count: int = 0
    low: float = 0.0
    high: float = 0.0
    positive: dict[int, int] = field(default_factory=dict)  # bin of the magnitude -> how many
    negative: dict[int, int] = field(default_factory=dict)
    samples: list[NDArray[Any]] = field(default_factory=list)

    def add(self, x: NDArray[Any], keep: bool) -> None:
        flat = np.ascontiguousarray(x, np.float32).reshape(-1)
        if not np.isfinite(flat).all():
            raise InputError("the tensor holds NaN or infinity")
        self.shape = x.shape
        self.count += flat.size
        if flat.size:
            self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        words = flat.view(np.uint32)
        for sign, bins in ((0, self.positive), (1, self.negative)):
            part = words[(words >> 31 == sign) & (flat != 0)] & np.uint32(0x7FFFFFFF)
            # only the largest thousandth can matter to a percentile of 99.9 or more
            if part.size > 4096:
                k = max(flat.size // 1000, 1)
                part = np.partition(part, part.size - min(k, part.size))[-k:] if k < part.size else part
            for index, number in zip(*np.unique(part >> np.uint32(SHIFT), return_counts=True), strict=True):
                bins[int(index)] = bins.get(int(index), 0) + int(number)
        if keep:
            self.samples.append(np.array(x, np.float32))

    def range(self, rule: str) -> tuple[float, float]:
        """[low, high] that 8-bit levels should cover: 'max', or 'pN' with N >= 99.9, a percentile of each sign."""
        if rule == "max":
            return self.low, self.high
        beyond = self.count * (100 - float(rule.removeprefix("p"))) / 100
        return max(-_tail(self.negative, beyond), self.low), min(_tail(self.positive, beyond), self.high)


def _tail(bins: dict[int, int], beyond: float) -> float:
    """The magnitude that about `beyond` values exceed."""
    passed = 0
    for index in sorted(bins, reverse=True):
        passed += bins[index]
        if passed > beyond:
            return float(np.uint32(index + 1 << SHIFT).view(np.float32))
    return 0.0


def observe(
    model: nn.Module, sites: Sequence[Site], at: Sequence[str], images: Iterable[Tensor], samples: int, total: int, values: int = 0
) -> list[Observed]:
    """One forward pass an image. `samples` of the `total` images, evenly spread, are kept as maps; more where they hold fewer than `values`."""
    found = [Observed() for _ in sites]
    number = 0

    def kept(size: int) -> bool:
        wanted = min(max(samples, values // max(size, 1)) if samples else 0, total)
        return number in np.linspace(0, max(total - 1, 0), wanted).round().astype(int)

    def see(index: int, x: Tensor) -> Tensor:
        for image in arrays(x, sites[index].view):
            try:
                found[index].add(image, kept(image.size))
            except InputError as error:
                raise InputError(f"site {sites[index].name}: {error}") from None
        return x

    with torch.inference_mode(), tapped(model, sites, see, at):
        for x in images:
            model(x)
            number += 1
    return found


def fisher(
    model: nn.Module, sites: Sequence[Site], at: Sequence[str], images: Iterable[Tensor], seed: int = 0
) -> list[NDArray[np.float64]]:
    """For each site [channels] E[g^2]: mean squared gradient of the log-likelihood at a value, labels drawn from the network itself.

    The diagonal of the Fisher information: half of it times a squared error estimates the KL of the output. Empty
    where no gradient reached the site. InputError where the output holds nothing that depends on the input.
    """
    generator = torch.Generator().manual_seed(seed)
    total: list[Any] = [np.zeros(0) for _ in sites]
    count = np.zeros(len(sites))

    def watch(index: int, x: Tensor) -> Tensor:
        channels = x.ndim - 1 if sites[index].view == "tokens" else 1

        def add(gradient: Tensor) -> None:
            squares = gradient.detach().double().pow(2)
            sums = squares.sum([a for a in range(squares.ndim) if a != channels]).numpy(force=True)
            total[index] = sums if not total[index].size else total[index] + sums
            count[index] += gradient.numel() / gradient.shape[channels]

        y = x.clone()
        if y.requires_grad:
            y.register_hook(add)
        return y

    with torch.enable_grad(), tapped(model, sites, watch, at):
        for x in images:
            start = x.clone().requires_grad_()
            likelihood = drawn_likelihood(model(start), generator)
            torch.autograd.grad(likelihood, start)  # of the input alone: the network's own .grad stays as it was
    return [t / max(n, 1) for t, n in zip(total, count)]


def drawn_likelihood(output: Any, generator: torch.Generator) -> Tensor:
    """Log-likelihood of what is drawn from `output`, up to a constant: a class where it is one tensor of logits, else every
    value of every tensor in it (dicts, lists: detectors and the like), each as the mean of a Gaussian of unit variance."""
    if isinstance(output, Tensor):
        logits = output.reshape(output.shape[0], -1)
        labels = torch.multinomial(logits.detach().float().softmax(1).cpu(), 1, generator=generator).to(logits.device)
        return logits.log_softmax(1).gather(1, labels).sum()
    found = [t for t in tensors_in(output) if t.requires_grad]
    if not found:
        raise InputError(f"the network returns {type(output).__name__} without a tensor that depends on its input: use steps 'equal'")
    return torch.stack([(torch.randn(t.shape, generator=generator).to(t) * t).sum() for t in found]).sum()


def tensors_in(output: Any) -> list[Tensor]:
    """Every float tensor in nested dicts, lists and tuples."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [t for part in parts for t in tensors_in(part)]
