"""Two networks in one pass: the first half of the batch goes through the original weights, the second through those that are being compressed.

The network's own code runs once on the calibration batch, twice over. Every operation that reads a weight sees what the original feeds it
and what the compressed prefix feeds it, side by side, may replace the weight there and then, and goes on. No graph is needed, no
activation is kept, and a pass over all layers costs two forward passes whatever the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tensorpress.core.errors import InputError

LAYERS: Mapping[Any, str] = {
    F.linear: "linear",
    F.conv1d: "conv1d",
    F.conv2d: "conv2d",
    F.conv3d: "conv3d",
    F.conv_transpose1d: "conv_transpose1d",
    F.conv_transpose2d: "conv_transpose2d",
    F.conv_transpose3d: "conv_transpose3d",
    F.embedding: "embedding",
    F.batch_norm: "batch_norm",
    F.layer_norm: "layer_norm",
    F.group_norm: "group_norm",
    **({F.rms_norm: "rms_norm"} if hasattr(F, "rms_norm") else {}),
}
# the arguments that may be parameters or buffers, by operation; all others have a weight and a bias behind their input
TENSORS = {"batch_norm": ("running_mean", "running_var", "weight", "bias"), "embedding": ("weight",), "layer_norm": ("normalized_shape", "weight", "bias"),
           "rms_norm": ("normalized_shape", "weight"), "group_norm": ("num_groups", "weight", "bias")}  # fmt: skip
CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass
class Layer:
    """One operation that reads weights: `tensors` names them by role ('weight', 'bias', 'running_mean' …); `options` are its other arguments by name."""

    kind: str
    tensors: Mapping[str, str]
    options: Mapping[str, Any]
    before: Tensor  # what the original network feeds it
    after: Tensor  # what the compressed one feeds it


class Visitor(Protocol):
    def enter(self, layer: Layer, state: dict[str, Tensor]) -> None:
        """Before the operation: may replace entries of `state`, the compressed network's tensors by name."""

    def leave(self, layer: Layer, before: Tensor, after: Tensor, state: dict[str, Tensor]) -> bool:
        """After it, with both outputs: whether it changed `state`, so that the operation is to run again."""


class _Mode(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str], original: Mapping[str, Tensor], state: dict[str, Tensor], visitor: Visitor) -> None:
        super().__init__()
        self.names, self.original, self.state, self.visitor = names, original, state, visitor

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        kind = LAYERS.get(function)
        if kind is None:
            return function(*args, **kwargs)
        place = {id(v): self.names[id(v)] for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and id(v) in self.names}
        if not place or not isinstance(args[0], Tensor) or args[0].shape[:1].numel() % 2:
            return function(*args, **kwargs)
        roles = ("input", *TENSORS[kind]) if kind in TENSORS else CONVOLUTION
        named = dict(zip(roles, args)) | kwargs
        tensors = {role: place[id(v)] for role, v in named.items() if isinstance(v, Tensor) and id(v) in place}
        half = args[0].shape[0] // 2
        first, second = args[0][:half], args[0][half:]
        layer = Layer(kind, tensors, {k: v for k, v in named.items() if k not in tensors and k != "input"}, first, second)

        def run(x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
            def swap(v: Any) -> Any:
                return values[place[id(v)]] if isinstance(v, Tensor) and id(v) in place else v

            result: Tensor = function(x, *[swap(v) for v in args[1:]], **{k: swap(v) for k, v in kwargs.items()})
            return result

        before = run(first, self.original)
        self.visitor.enter(layer, self.state)
        after = run(second, self.state)
        if self.visitor.leave(layer, before, after, self.state):
            after = run(second, self.state)
        return torch.cat([before, after])


@contextmanager
def unfused() -> Iterator[None]:
    """Attention as single operations: its fused form hides its weights."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


Inputs = Tensor | Sequence[Tensor]


def twice(inputs: Inputs, rows: slice = slice(None)) -> tuple[Tensor, ...]:
    found = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return tuple(torch.cat([x[rows], x[rows]]) for x in found)


@torch.no_grad()
def lockstep(model: nn.Module, inputs: Inputs, visitor: Visitor, call: Callable[..., Any] | None = None) -> dict[str, Tensor]:
    """The compressed tensors by name, after `visitor` has seen every layer that the network runs on `inputs` (batch first).

    `model` itself is not changed. Operations that are hidden (scripted, compiled, sparse) and weights that are computed before they are
    used are not seen. InputError where the network mixes the images of a batch, or does not take the input.
    """
    original = tensors_of(model)
    state = dict(original)
    names = {id(tensor): name for name, tensor in original.items()}
    training = model.training
    model.eval()
    try:
        with unfused(), _Mode(names, original, state, visitor):
            (call or model)(*twice(inputs))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the network does not run on the calibration inputs: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        ) from error
    finally:
        model.train(training)
    return state
