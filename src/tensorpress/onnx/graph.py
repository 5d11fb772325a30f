"""Sites of an ONNX graph, by the rules of `tensorpress.pytorch.sites`: what an accelerator with fused operators would store.

The output of an activation is a site; so is that of a convolution, a linear map (scale and shift behind it included) or an
add of two computed tensors, unless one activation or one add is all that reads it. Concatenation, pooling and reshaping
pass on what is stored already. `x * sigmoid(x)` is one activation. A tensor that only reaches the outputs is no site.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorpress.core.errors import InputError

ACTIVATIONS = frozenset(
    [
        "Relu",
        "Clip",
        "LeakyRelu",
        "PRelu",
        "ThresholdedRelu",
        "Elu",
        "Selu",
        "Celu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Swish",
        "Mish",
        "Gelu",
        "Tanh",
        "Softplus",
        "Softsign",
        "Shrink",
    ]
)
LINEAR = frozenset(["Conv", "ConvTranspose", "ConvInteger", "DeformConv", "Gemm", "QLinearConv"])
MATMUL = frozenset(["MatMul", "MatMulInteger", "QLinearMatMul", "Einsum"])
PASSES = frozenset(
    [
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "GatherElements",
        "GatherND",
        "Pad",
        "Resize",
        "Upsample",
        "Expand",
        "Tile",
        "Identity",
        "Dropout",
        "Cast",
        "CastLike",
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "LpNormalization",
        "LRN",
        "MeanVarianceNormalization",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "DepthToSpace",
        "SpaceToDepth",
        "GridSample",
        "QuantizeLinear",
        "DequantizeLinear",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GlobalLpPool",
    ]
)
RESHAPES = frozenset(["Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"])
CHANNELS_FIRST = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "DeformConv",
        "QLinearConv",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "LRN",
    ]
)
CHANNELS_LAST = frozenset(["Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "LayerNormalization", "RMSNormalization"])
STANDARD = ("", "ai.onnx")
RUNTIME = ("com.microsoft", "com.microsoft.nchwc", "ai.onnx.ml")  # domains that onnxruntime may know


@dataclass(frozen=True)
class OnnxSite:
    tensor: str  # that would be stored
    before: str  # what enters the activation; `tensor` itself where there is none
    op: str
    node: str
    first: bool | None  # channels on the first axis of an image, if that is known


@dataclass(frozen=True)
class Skipped:
    op: str  # domain.Type
    node: str
    reason: str


@dataclass(eq=False)
class _Node:
    kind: str
    op: str
    name: str
    output: str
    inputs: list[_Node] = field(default_factory=list)
    first: bool | None = None
    readers: list[_Node] = field(default_factory=list)
    before: str = ""


def load(path: Path) -> Any:
    """The ModelProto of a file, external data beside it included.

    InputError where it is missing, cut or no ONNX model, or where it asks for data that is no plain file in its own folder: a model
    from elsewhere reads nothing else of this machine.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("ONNX files need onnx and onnxruntime: pip install 'tensorpress[onnx]'") from None
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        for tensor in _external(model):
            _beside(path, tensor)
        onnx.load_external_data_for_model(model, str(path.parent))
        left = next(_external(model), None)
        if left is not None:  # in a place that onnx does not look into: onnxruntime must not go and find it
            raise InputError(f"{path}: tensor {left.name!r} has external data where none may be")
    except InputError:
        raise
    except Exception as error:  # protobuf, missing external data: each has its own
        raise InputError(f"{path}: not a readable ONNX model: {first_line(error)}") from None
    if not model.graph.node or not model.opset_import:
        raise InputError(
            f"{path}: not a readable ONNX model: it has {len(model.graph.node)} operators and {len(model.opset_import)} operator sets"
        )
    return model


def _external(message: Any) -> Iterator[Any]:
    """Every tensor in a protobuf message, at any depth, whose data lies in a file of its own."""
    if message.DESCRIPTOR.name == "TensorProto":
        if message.data_location == message.EXTERNAL:
            yield message
        return
    for kind, value in message.ListFields():
        if kind.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _external(part)


def _beside(path: Path, tensor: Any) -> None:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    file = path.parent / location
    if not (file.is_file() and file.resolve().is_relative_to(path.parent.resolve())):
        raise InputError(f"{path}: data of tensor {tensor.name!r} is to be in {location[:200]!r}, which is no file in the model's folder")


def first_line(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())[:200]


def op_name(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in STANDARD else str(node.op_type)


def reads(node: Any) -> Iterator[str]:
    """The tensors that a node reads, those of its branches and loop bodies included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            for inner in graph.node:
                yield from reads(inner)


def without_unknown(model: Any, runtime_domains: bool) -> tuple[list[Skipped], list[str]]:
    """Take out of `model` every operator that cannot run here, and all that needs its output; also the tensors that these read.

    `runtime_domains`: keep the operators of RUNTIME.
    """
    import onnx

    functions = {(f.domain, f.name) for f in model.functions}
    lost: set[str] = set()
    skipped, kept, read = [], [], []
    for node in model.graph.node:
        known = (node.domain, node.op_type) in functions or (
            onnx.defs.has(node.op_type, "") if node.domain in STANDARD else runtime_domains and node.domain in RUNTIME
        )
        gone = next((name for name in reads(node) if name in lost), None)
        if known and gone is None:
            kept.append(node)
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                skipped.append(Skipped(op_name(node), node.name or next(iter(node.output), ""), "its branches are not looked into"))
            continue
        lost.update(node.output)
        read += list(reads(node))
        skipped.append(
            Skipped(op_name(node), node.name or next(iter(node.output), ""), "unknown operator" if not known else f"needs {gone!r}")
        )
    if lost:
        del model.graph.node[:]
        model.graph.node.extend(kept)
        outputs = [output for output in model.graph.output if output.name not in lost]
        del model.graph.output[:]
        model.graph.output.extend(outputs)
    return skipped, read


def constants_of(graph: Any) -> set[str]:
    """Initialisers, and everything that is computed from nothing else."""
    found = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        if node.op_type == "Constant" or (node.input and all(name in found for name in reads(node))):
            found.update(node.output)
    return found


def _kind(op: str, computed: int, constants: int) -> str:
    if op in ACTIVATIONS:
        return "activation"
    if op in ("Add", "Sum"):
        return "add" if computed > 1 else "fold"
    if op in LINEAR:
        return "linear"
    if op in MATMUL:
        return "linear" if constants else "reader"
    if op == "BatchNormalization":
        return "fold"
    if op in ("Mul", "Sub", "Div"):
        return "fold" if computed == 1 else "mul" if op == "Mul" else "reader"
    return "pass" if op in PASSES else "reader"


def _channels_first(op: str, inputs: Iterable[_Node]) -> bool | None:
    if op in CHANNELS_FIRST or "Pool" in op:
        return True
    if op in CHANNELS_LAST:
        return False
    known = [node.first for node in inputs if node.first is not None]
    return None if op in RESHAPES or not known else known[0]


def find_sites(model: Any, read: Iterable[str] = ()) -> list[OnnxSite]:
    """The sites of `model`, in order of execution; empty where it has none. `read`: tensors that operators read which were taken out."""
    graph = model.graph
    constant = constants_of(graph)
    maker: dict[str, _Node] = {x.name: _Node("source", "", x.name, x.name) for x in graph.input if x.name not in constant}
    nodes: list[_Node] = []
    for proto in graph.node:
        operands = [name for name in dict.fromkeys(reads(proto)) if name]
        inputs = [maker[name] for name in operands if name in maker]
        if not inputs:
            continue
        op = op_name(proto)
        node = _Node(_kind(op, len(inputs), len(operands) - len(inputs)), op, proto.name, next(iter(proto.output), ""), inputs)
        node.first = _channels_first(op, inputs)
        node.before = proto.input[0] if node.kind == "activation" else node.output
        nodes.append(node)
        for name in proto.output:
            maker[name] = node
    nodes += [_Node("reader", "", "", "", [maker[name]]) for name in read if name in maker]
    outputs = [maker[output.name] for output in graph.output if output.name in maker]
    reached = {*outputs, *(node for node in nodes if not node.output)} or set(nodes)
    for node in reversed(nodes):
        if node in reached:
            reached.update(node.inputs)
            for source in node.inputs:
                source.readers.append(node)
    for node in nodes:
        _join_gate(node)
    chosen: Mapping[_Node, _Node] = {site: node for node in nodes if (site := _site_node(node)) is not None}
    return [OnnxSite(n.output, n.before or n.output, chosen[n].op, n.name or n.output, n.first) for n in nodes if n in chosen and n.output]


def _join_gate(node: _Node) -> None:
    """Make one activation of `x * sigmoid(x)`, `x * clip(x + 3) / 6` and the like."""
    if node.kind != "mul":
        return
    node.kind = "reader"
    if len(node.inputs) != 2:
        return
    for start, other in (node.inputs, node.inputs[::-1]):
        gate, steps = start, []
        while gate.kind in ("activation", "fold") and len(gate.inputs) == len(gate.readers) == 1:
            steps.append(gate)
            gate = gate.inputs[0]
        found = next((step.op for step in steps if step.kind == "activation"), None)
        if gate is other and found:
            node.kind, node.op, node.before = "activation", f"{found}*x", other.output
            for step in steps:
                step.kind = "fold"
            return


def _final_readers(node: _Node) -> set[_Node]:
    """The operators that read this tensor, behind all that merely passes it on."""
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
    """The node whose output is the site that this operator asks for; None where it asks for none."""
    if node.kind not in ("activation", "add", "linear"):
        return None
    readers = _final_readers(node)
    fused = node.kind != "activation" and len(readers) == 1 and next(iter(readers)).kind in ("activation", "add")
    if not readers or fused:
        return None
    while node.kind in ("linear", "fold") and len(set(node.readers)) == 1 and node.readers[0].kind == "fold":
        node = node.readers[0]
    return node
