"""Channel spaces: which axes of which parameters name the same channels, found by running the network once.

Every tensor of a pass carries the space of its channel axis. A convolution reads one space and makes a new one; batch
norms, activations and pools keep it; an add makes two of them one, so that all convolutions that write to a residual
stream share a space; a depthwise convolution keeps it too. What mixes, cuts or joins channels, and what is unknown
here, pins its spaces: they are left as they are, and `pinned` says by what. A space that is not pinned may be
permuted: the same permutation on every one of its axes leaves the network's outputs as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from tensorpress.core.site import Site
from tensorpress.pytorch.taps import ACTIVATIONS, Key, Operation, Watched, operation_name, words

_KEEPS = (ACTIVATIONS - words("glu prelu rrelu")) | words("dropout dropout2d feature_dropout contiguous clone to float detach")
_JOINS = words("add iadd radd sub isub rsub subtract mul imul rmul multiply div idiv truediv divide")
_LOOKS = words("size dim numel get len shape stride is_contiguous is_floating_point")  # say something of a tensor, make none


@dataclass(eq=False)
class Space:
    """`axes`: (name in the state dict, axis); `sites`: places in the list of sites whose maps have these channels."""

    size: int
    axes: set[tuple[str, int]] = field(default_factory=set)
    sites: list[int] = field(default_factory=list)
    pinned: str | None = None  # what forbids a permutation
    joined: Space | None = None  # the space that this one turned out to be

    def root(self) -> Space:
        space = self
        while space.joined is not None:
            space = space.joined
        return space


class _Finder:
    def __init__(self, model: nn.Module, sites: tuple[Site, ...]) -> None:
        self.names = {id(t): name for name, t in model.state_dict(keep_vars=True).items()}
        self.sites = {(s.path, s.call, s.what): index for index, s in enumerate(sites)}
        self.of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.owner: dict[tuple[str, int], Space] = {}
        self.spaces: list[Space] = []

    def space(self, size: int) -> Space:
        self.spaces.append(Space(size))
        return self.spaces[-1]

    def join(self, a: Space, b: Space) -> Space:
        a, b = a.root(), b.root()
        if a is not b:
            b.joined = a
            a.axes |= b.axes
            a.sites += b.sites
            a.pinned = a.pinned or b.pinned
        return a

    def pin(self, tensors: list[Tensor], why: str) -> None:
        for tensor in tensors:
            space = self.of.get(tensor)
            if space is not None:
                space.root().pinned = space.root().pinned or why

    def own(self, space: Space, tensor: Any, axis: int) -> bool:
        """Say that `axis` of this parameter counts the channels of `space`; False where it is no parameter."""
        if tensor is None:
            return True
        name = self.names.get(id(tensor))
        if name is None or tensor.shape[axis] != space.size:
            return False
        space = space.root()
        space.axes.add((name, axis))
        other = self.owner.setdefault((name, axis), space)
        self.join(space, other)
        return True

    def visit(self, key: Key | None, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        known = [t for t in operands if t in self.of]
        shapes = [t.shape for t in operands]
        result = func(*args, **kwargs)
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        name = operation_name(func)
        if not made and name in _LOOKS:
            return result
        space = self.follow(name, args, kwargs, operands, shapes, known, result) if isinstance(result, Tensor) else None
        if space is None:
            self.pin(known, name)
            if not known or not isinstance(result, Tensor) or result.ndim < 2:
                return result
            space = self.space(result.shape[1])
            space.pinned = next(s.pinned for s in (self.of[t].root() for t in known))
        self.of[result] = space.root()
        if key in self.sites:
            space.root().sites.append(self.sites[key])
        return result

    def follow(
        self, name: str, args: Any, kwargs: Any, operands: list[Tensor], shapes: list[Any], known: list[Tensor], result: Tensor
    ) -> Space | None:
        """The space of the result; None where this operation is not understood."""
        source = self.of.get(operands[0]) if operands else None
        source = source.root() if source is not None else None
        channels = result.shape[1] if result.ndim > 1 else 0
        if name in ("conv1d", "conv2d", "conv3d", "linear"):
            return self.convolution(name, args, kwargs, operands, source, result)
        if name == "batch_norm" and source is not None:
            whole = all(self.own(source, t, 0) for t in operands[1:])
            return source if whole else None
        if name == "prelu" and source is not None:
            whole = operands[1].numel() == 1 or self.own(source, operands[1], 0)
            return source if whole else None
        if source is None and not (name in _JOINS and known):
            return None
        if (name in _KEEPS or "pool" in name) and result.ndim > 1 and source is not None:
            return source if channels == source.size == shapes[0][1] else None
        if name == "mean" and source is not None:
            axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
            axes = (axes,) if isinstance(axes, int) else axes
            over = {a % len(shapes[0]) for a in axes} if axes else {1}
            return source if not over & {0, 1} and channels == source.size else None
        if name == "pad" and source is not None:
            pads = kwargs.get("pad", args[1] if len(args) > 1 else ())
            return source if len(pads) <= 2 * (len(shapes[0]) - 2) else None
        if name in ("flatten", "reshape", "view", "squeeze") and source is not None:  # a pixel a channel: the axis stays
            same = result.ndim > 1 and result.shape[0] == shapes[0][0] and channels == source.size and result.numel() == shapes[0].numel()
            return source if same and shapes[0][1] == channels else None
        if name == "getitem" and source is not None and isinstance(args[1], tuple) and len(args[1]) > 1:
            return source if args[1][1] == slice(None) and all(isinstance(i, slice) for i in args[1]) else None
        if name in _JOINS:
            return self.join_all(operands, shapes, known, channels)
        return None

    def join_all(self, operands: list[Tensor], shapes: list[Any], known: list[Tensor], channels: int) -> Space | None:
        if any(len(s) != max(map(len, shapes)) or s[1] != channels for t, s in zip(operands, shapes) if t in self.of):
            return None
        if any(t not in self.of and t.numel() > 1 for t in operands):
            return None  # a constant with channels of its own
        space: Space = self.of[known[0]]
        for t in known[1:]:
            space = self.join(space, self.of[t])
        return space

    def convolution(self, name: str, args: Any, kwargs: Any, operands: list[Tensor], source: Space | None, result: Tensor) -> Space | None:
        weight = operands[1]
        bias = operands[2] if len(operands) > 2 else None
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1) if name != "linear" else 1
        if name == "linear" and operands[0].ndim != 2:
            return None
        if groups > 1:
            depthwise = source is not None and groups == source.size == weight.shape[0]
            return source if depthwise and source is not None and self.own(source, weight, 0) and self.own(source, bias, 0) else None
        if id(weight) not in self.names or (source is not None and not self.own(source, weight, 1)):
            self.pin(operands[:1], name)
        space = self.space(weight.shape[0])
        if not (self.own(space, weight, 0) and self.own(space, bias, 0)):
            space.pinned = name
        return space


def channel_spaces(model: nn.Module, example: Tensor, sites: tuple[Site, ...]) -> list[Space]:
    """The spaces of `model`, in the order of making, from one pass over `example` (N, C, H, W) in eval mode."""
    finder = _Finder(model, sites)
    finder.of[example] = finder.space(example.shape[1])
    finder.spaces[0].pinned = "the input"
    training = [(module, module.training) for module in model.modules()]
    for module, _ in training:
        module.training = False
    try:
        with Watched(model, finder.visit), torch.inference_mode(False), torch.no_grad():
            outputs = model(example)
    finally:
        for module, flag in training:
            module.training = flag
    finder.pin([t for t in tree_leaves(outputs) if isinstance(t, Tensor)], "the output")
    return [space for space in finder.spaces if space.joined is None]
