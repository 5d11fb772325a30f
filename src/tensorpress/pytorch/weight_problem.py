"""What a weight system is given, and what it owes: forms for a network's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Form
from tensorpress.core.errors import InputError
from tensorpress.pytorch.calibration import Progress, silent
from tensorpress.pytorch.lockstep import Inputs, tensors_of
from tensorpress.pytorch.work import Work, fingerprint

MATRIX_VALUES = 64  # a tensor with fewer values is no matter for a system


@dataclass(frozen=True)
class Problem:
    """`model`: the uncompressed network in eval mode, never to be changed. `inputs`: unlabelled calibration inputs, batch first, or None.

    `labels` belong to `inputs`, where a system trains on them.
    """

    model: nn.Module
    inputs: Inputs | None = None
    labels: Tensor | None = None
    seed: int = 0
    progress: Progress = field(default=silent)
    notes: dict[str, Any] = field(default_factory=dict)  # what a system wants to be reported
    memory: dict[Any, Any] = field(default_factory=dict)  # what a system found that does not hang on `bits`, for its next pass
    work: Work | None = None  # where finished layers are kept, for a run that is stopped

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, tied ones once."""
        return {name: tensor.detach() for name, tensor in tensors_of(self.model).items()}

    @property
    def matrices(self) -> dict[str, Tensor]:
        """The float parameters that systems compress: two axes or more, and not tiny."""
        parameters = dict(self.model.named_parameters())
        return {n: p.detach() for n, p in parameters.items() if p.is_floating_point() and p.ndim >= 2 and p.numel() >= MATRIX_VALUES}

    def key(self, facts: Any) -> str:
        """Names a result that depends on the network, the inputs, the seed and these facts (JSON values)."""
        inputs = [] if self.inputs is None else [self.inputs] if isinstance(self.inputs, Tensor) else list(self.inputs)
        return fingerprint([self.seed, facts], [*self.tensors.values(), *inputs])

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def needed(self, system: str) -> Inputs:
        if self.inputs is None:
            raise InputError(f"{system} learns from calibration inputs: give calib")
        return self.inputs


class Method(Protocol):
    """What `build(config)` of a weight system gives."""

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        """Forms by tensor name, at about `bits` coded bits for each value of `problem.matrices`: fewer bits, fewer bytes.

        What has no form here is kept: floats at 16 bits, all else as it is. Forms of vectors (biases, statistics) that the system has corrected belong here as well.
        """
        ...


def entropy(levels: np.ndarray) -> float:
    """Order-0 entropy in bits of all of `levels`: a quick stand-in while a step is searched for, never a size that is reported."""
    if not levels.size:
        return 0.0
    low = int(levels.min())
    if int(levels.max()) - low > 1 << 20:
        return levels.size * 20.0
    counts = np.bincount((levels - low).reshape(-1).astype(np.int64))
    counts = counts[counts > 0]
    return float(levels.size * np.log2(levels.size) - (counts * np.log2(counts)).sum())


def solve(measure: Callable[[float], float], wanted: float, low: float, high: float, rounds: int = 40) -> float:
    """The x in [low, high], in ratio, at which falling `measure` crosses `wanted`."""
    for _ in range(rounds):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if measure(middle) > wanted else (low, middle)
    return float(np.sqrt(low * high))


def common_step(weights: Sequence[Tensor], bits: float, relative: Sequence[float] | None = None) -> float:
    """The step s at which the values of all `weights`, rounded to multiples of s x `relative`, have an entropy of `bits` each on average."""
    arrays = [np.asarray(w.detach().float().cpu().numpy(), np.float64).reshape(-1) for w in weights]
    scales = [1.0] * len(arrays) if relative is None else list(relative)
    total = sum(a.size for a in arrays)
    if not total:
        return 1.0
    if not all(np.isfinite(a).all() for a in arrays):
        raise InputError("weights hold NaN or infinity")
    spread = max(float(np.abs(a).max() / s) for a, s in zip(arrays, scales)) or 1.0
    return solve(
        lambda step: sum(entropy(np.rint(a / (s * step)).astype(np.int64)) for a, s in zip(arrays, scales)) / total,
        bits,
        spread * 2.0**-22,
        4 * spread,
    )
