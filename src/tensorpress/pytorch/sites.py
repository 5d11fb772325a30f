"""Sites: which tensors of a network an accelerator would store when conv, BN, add and activation are fused.

One forward pass of the network's own code on an example records every torch operation and which tensors flow where
(storage and in-place writes included), so it works for any control flow; a branch that the example does not take is
not seen. Of that graph, as far as it reaches the outputs:

- the output of an activation is a site;
- the output of a convolution, transposed convolution or linear map (with a batch norm or a constant scale and shift
  behind it) or of an add of two computed tensors is a site, unless one activation or one add is all that reads it:
  then it is computed in the same go. Two readers force it to be stored, hence `relu(bn(y))` beside a skip that takes
  `y` itself leaves `y` a site;
- what reads a tensor is looked up behind concatenation, pooling, reshaping, dropout and normalisation, which add no
  site. A tensor that reaches only the network's outputs that way holds the logits and is no site, also where an
  activation made it (SqueezeNet's last ReLU, which is pooled into the logits; a segmentation network's last sigmoid);
- a tensor times a function of itself alone, `x * sigmoid(x)`, is one activation; other products of two computed
  tensors add no site. Attention is a linear map and so is a product with a parameter, softmax is normalisation, and
  two activations in a row are two sites.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from tensorpress.core.errors import InputError
from tensorpress.core.site import Site
from tensorpress.pytorch.taps import ACTIVATIONS, Key, Operation, Watched, operation_name, words

_RESHAPES = words(
    "flatten unflatten reshape reshape_as view view_as permute transpose swapaxes swapdims movedim moveaxis t squeeze unsqueeze unfold fold "
    "adjoint ravel repeat_interleave get"  # 'get' is x.T and its like
)
_PASSES = _RESHAPES | words(
    "cat concat concatenate stack hstack vstack dstack chunk split split_with_sizes tensor_split unbind narrow select index_select getitem "
    "setitem slice gather roll flip expand expand_as repeat tile contiguous clone detach to type float half bfloat16 double cpu cuda alias "
    "copy dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout softmax log_softmax softmin mean amax amin "
    "pad interpolate upsample upsample_nearest upsample_bilinear pixel_shuffle pixel_unshuffle channel_shuffle grid_sample layer_norm "
    "group_norm instance_norm rms_norm local_response_norm normalize"
)
_CHANNELS_FIRST = ("conv", "batch_norm", "group_norm", "instance_norm", "local_response_norm", "pixel_", "upsample", "interpolate")
_CHANNELS_LAST = ("linear", "layer_norm", "rms_norm", "multi_head", "matmul", "addmm")


@dataclass(eq=False)
class _Node:
    """One operation of the pass, by what it makes. `first`: channels on the first axis of an image, if that is known."""

    kind: str  # 'source', 'activation', 'add', 'linear', 'fold' (scale and shift), 'pass', 'reader'
    inputs: list[_Node] = field(default_factory=list)
    key: Key | None = None
    rank: int = 0
    first: bool | None = None
    stored: bool = False  # a float tensor with a batch axis
    readers: list[_Node] = field(default_factory=list)


def _tensors(values: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _kind(name: str, what: str | None, computed: int, constants: int) -> str:
    if what in ACTIVATIONS:
        return "activation"
    if what == "add":
        return "add" if computed > 1 else "fold"
    if what == "linear":
        return "fold" if name == "batch_norm" else "linear"
    if what == "matmul":
        return "linear" if constants else "reader"
    if what in ("mul", "sub", "div"):
        return "reader" if computed > 1 else "fold"
    return "pass" if name in _PASSES or "pool" in name else "reader"


def _channels_first(name: str, inputs: list[_Node], rank: int) -> bool | None:
    if name.startswith(_CHANNELS_FIRST) or "pool" in name:
        return True
    if name.startswith(_CHANNELS_LAST):
        return False
    known = [node.first for node in inputs if node.first is not None and node.rank == rank]
    return None if name in _RESHAPES or not known else known[0]


class _Recorder:
    """The graph of one pass: which operation made each tensor that depends on the network's input."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.maker: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def visit(self, key: Key | None, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = list(_tensors((args, kwargs)))
        versions = [None if t.is_inference() else t._version for t in operands]
        result = func(*args, **kwargs)
        inputs = [self.maker[t] for t in operands if t in self.maker]
        made = list(_tensors(result))
        written = [t for t, version in zip(operands, versions) if version is not None and t._version != version]
        if not inputs or not (made or written):
            return result
        name, shown = operation_name(func), (made or written)[0]
        node = _Node(_kind(name, key and key[2], len(inputs), len(operands) - len(inputs)), inputs, key, shown.ndim)
        node.first = _channels_first(name, inputs, shown.ndim)
        node.stored = shown.ndim >= 2 and shown.is_floating_point() and shown.numel() > 0
        self.nodes.append(node)
        for tensor in (*made, *written):
            self.maker[tensor] = node
        for tensor in written:  # whatever looks at the same memory now sees the new values
            place = tensor.untyped_storage().data_ptr()
            for other in [t for t in self.maker if t.untyped_storage().data_ptr() == place]:
                self.maker[other] = node
        return result

    def link(self, outputs: Any) -> None:
        """Fill in the readers, as far as they reach the outputs."""
        leaves = list(_tensors(outputs)) or list(_tensors(list(vars(outputs).values()) if hasattr(outputs, "__dict__") else []))
        reached = {self.maker[t] for t in leaves if t in self.maker}
        if not reached:
            raise InputError("the network returns no tensor that was computed from its input")
        for node in reversed(self.nodes):
            if node in reached:
                reached.update(node.inputs)
                for source in node.inputs:
                    source.readers.append(node)
        for node in self.nodes:
            _join_gate(node)


def _join_gate(node: _Node) -> None:
    """Make one activation of `x * sigmoid(x)`, `x * relu6(x + 3)` and the like, written out by hand."""
    if node.kind != "reader" or node.key is None or node.key[2] != "mul":
        return
    for start, other in (node.inputs[:2], node.inputs[1::-1]):
        gate, steps = start, []
        while gate.kind in ("activation", "fold") and len(gate.inputs) == len(gate.readers) == 1:
            steps.append(gate)
            gate = gate.inputs[0]
        if gate is other and any(step.kind == "activation" for step in steps):
            node.kind = "activation"
            for step in steps:
                step.kind = "fold"
            return


def _final_readers(node: _Node) -> set[_Node]:
    """The operations that read this tensor, behind all that merely passes it on."""
    found: set[_Node] = set()
    seen: set[_Node] = set()
    todo = list(node.readers)
    while todo:
        reader = todo.pop()
        if reader in seen:
            continue
        seen.add(reader)
        if reader.kind in ("pass", "fold"):
            todo += reader.readers
        else:
            found.add(reader)
    return found


def _site_node(node: _Node) -> _Node | None:
    """The node whose output is the site that this operation asks for; None where it asks for none."""
    if node.kind not in ("activation", "add", "linear"):
        return None
    readers = _final_readers(node)
    fused = node.kind != "activation" and len(readers) == 1 and next(iter(readers)).kind in ("activation", "add")
    if not readers or fused:
        return None
    while node.kind in ("linear", "fold") and len(set(node.readers)) == 1 and node.readers[0].kind == "fold":
        node = node.readers[0]
    return node if node.stored else None


def _view(node: _Node) -> str:
    if node.rank == 2 or node.first:
        return "chw"
    return "tokens" if node.first is False or node.rank == 3 else "chw"


def find_sites(model: nn.Module, example: Tensor | tuple[Any, ...]) -> tuple[Site, ...]:
    """The sites of `model` in the order of execution, from one pass over `example`: a batch (N, 3, H, W), or the arguments.

    The pass runs in eval mode without gradients and leaves the model as it was. A site's `call` counts the operations
    of its kind, sites or not, which the module at `path` makes in one pass. InputError where the network does not
    accept the example, or where it has no activation and no other site.
    """
    arguments = example if isinstance(example, tuple) else (example,)
    recorder = _Recorder()
    for tensor in _tensors(arguments):
        recorder.maker[tensor] = _Node("source", rank=tensor.ndim)
    training = [(module, module.training) for module in model.modules()]
    with Watched(model, recorder.visit), torch.inference_mode(False), torch.no_grad():
        for module, _ in training:
            module.training = False  # not .eval(): what a class does in train() must not happen here
        try:
            outputs = model(*arguments)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            shapes = ", ".join(str(tuple(t.shape)) for t in _tensors(arguments))
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{type(model).__name__} does not run on an input of shape {shapes}: {reason}") from error
        finally:
            for module, flag in training:
                module.training = flag
    recorder.link(outputs)
    chosen = {node for node in map(_site_node, recorder.nodes) if node is not None}
    sites = tuple(Site(*_place(node), _view(node), max(len(set(node.readers)), 1)) for node in recorder.nodes if node in chosen)
    if not sites:
        raise InputError(f"{type(model).__name__} has no activation and no other tensor to compress between its input and its output")
    return sites


def _place(node: _Node) -> Key:
    if node.key is None:
        raise AssertionError(f"a {node.kind} that is not counted cannot be a site")
    return node.key
