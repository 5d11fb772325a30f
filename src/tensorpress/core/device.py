"""Tensors of PyTorch: which of them a codec codes where they lie, and how the others come to the host.

A tensor on a GPU stays there where triton is installed and the codec has kernels for it. TENSORPRESS_TRITON=0 sends all
to the host; 1 keeps tensors of the host as well, for Triton's interpreter. Neither torch nor triton is imported before it must be.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.binary import Buffer
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader

FRONT_NBYTES = 1 << 16  # of a payload on a GPU, fetched for its head and stripe table


def is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def stays(x: Any) -> bool:
    """Whether tensor `x` is to be coded where it lies."""
    wanted = os.environ.get("TENSORPRESS_TRITON", "")
    return wanted != "0" and (x.is_cuda or wanted == "1") and importlib.util.find_spec("triton") is not None


def launching_beside(x: Any) -> Any:
    """A context in which kernels are launched on the GPU of tensor `x`, of several."""
    return sys.modules["torch"].cuda.device_of(x)


def to_host(x: Any) -> NDArray[Any]:
    """The values of tensor `x` as an array, fetched where it is not on the host; bfloat16, which NumPy lacks, as float32."""
    torch = sys.modules["torch"]
    x = x.detach()
    return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()  # type: ignore[no-any-return]


def to_device(payload: Buffer, device: Any) -> Any:
    """Host bytes as a uint8 tensor of `device`."""
    torch = sys.modules["torch"]
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(device)


def dtype_of(x: Any) -> np.dtype[Any]:
    """The type that a payload of tensor `x` declares. InputError for types that NumPy does not know."""
    name = str(x.dtype).removeprefix("torch.")
    try:
        return np.dtype("float32" if name == "bfloat16" else name)
    except TypeError:
        raise InputError(f"tensors of type {name} cannot be encoded") from None


def blank(src: Reader, device: Any) -> Any:
    """An unfilled tensor for the payload of `src`."""
    torch = sys.modules["torch"]
    return torch.empty(src.shape, dtype=getattr(torch, src.dtype.name), device=device)


def from_host(values: NDArray[Any], out: Any) -> None:
    """Fill tensor `out` with `values`."""
    out.copy_(sys.modules["torch"].from_numpy(np.ascontiguousarray(values)))


def index_of(payload: Any, max_nbytes: int) -> Reader:
    """Head and stripe table of a payload that is a uint8 tensor. StreamError as from `Reader`."""
    front: Buffer = memoryview(payload[:FRONT_NBYTES].cpu().numpy())
    try:
        return Reader(front, max_nbytes=max_nbytes, nbytes=len(payload))
    except StreamError:
        if len(payload) <= FRONT_NBYTES:
            raise
        return Reader(memoryview(payload.cpu().numpy()), max_nbytes=max_nbytes)
