"""Between a network's state and the tensors of a file: types, ties, and what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.planning.weight_file import DTYPES, WeightReader

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
TYPES = {name: dtype for dtype, name in NAMES.items()}
BITS = {"BF16": torch.int16, "F8_E4M3": torch.uint8, "F8_E5M2": torch.uint8}  # NumPy has no such floats
COUNTER = "num_batches_tracked"


def dtype_of(tensor: Tensor, name: str) -> str:
    """InputError where no file can hold its type."""
    if tensor.dtype not in NAMES or tensor.is_quantized:
        raise InputError(f"tensor {name!r} is of type {str(tensor.dtype).removeprefix('torch.')}, which a file of weights does not hold")
    return NAMES[tensor.dtype]


def array_of(tensor: Tensor) -> NDArray[Any]:
    """Bit for bit; floats that NumPy does not know as the integers of their bits."""
    dtype = NAMES[tensor.dtype]
    plain = tensor.detach().cpu().contiguous()
    return np.asarray((plain.view(BITS[dtype]) if dtype in BITS else plain).numpy()).view(np.dtype(DTYPES[dtype]))


def tensor_of(array: NDArray[Any], dtype: str) -> Tensor:
    """The inverse; a copy."""
    if dtype in BITS:
        return torch.from_numpy(array.view(np.int16 if dtype == "BF16" else np.uint8).copy()).view(TYPES[dtype])
    return torch.from_numpy(np.array(array, copy=True))


def state_of(model: nn.Module) -> dict[str, tuple[Tensor, str]]:
    """Each tensor of the state by name, and the name of the earlier one that it is tied to, or ''."""
    first: dict[int, str] = {}
    own = {id(p): p for p in (*model.parameters(), *model.buffers())}
    every = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    found = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            continue  # extra state of a module is its own affair
        tensor = every.get(name, value)
        if tensor.is_sparse or tensor.is_complex():
            raise InputError(f"tensor {name!r} is {'sparse' if tensor.is_sparse else 'complex'}: files of weights hold dense real tensors")
        same = first.get(id(tensor), "") if id(tensor) in own else ""
        first.setdefault(id(tensor), name)
        found[name] = tensor.detach(), same
    return found


def fill(model: nn.Module, reader: WeightReader, where: str) -> None:
    """Copies a file's tensors into `model`. InputError lists what is missing, unexpected or of another shape, and changes nothing then.

    Counters of batch norms may be missing, as in PyTorch: weights of other origin do not have them, and no inference reads them.
    """
    state = {name: tensor for name, (tensor, _) in state_of(model).items()}
    entries = {e.name: e for e in reader.entries}
    missing, extra = [n for n in state if n not in entries and not n.endswith(COUNTER)], [n for n in entries if n not in state]
    other = [
        f"{n} {list(entries[n].shape)} for {list(state[n].shape)}"
        for n in state
        if n in entries and entries[n].shape != tuple(state[n].shape)
    ]
    faults = [
        f"{what}: {_some(names)}" for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", other)) if names
    ]
    if faults:
        raise InputError(f"{where} is not of this architecture; " + "; ".join(faults))
    arrays = reader.all()
    with torch.no_grad():
        for name in entries:
            state[name].copy_(tensor_of(arrays[name], entries[name].dtype))


def _some(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
