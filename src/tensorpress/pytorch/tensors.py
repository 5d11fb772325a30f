"""Between a batch in PyTorch and one array per image for a codec: float32, without a copy where that is possible; on the host, or where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tensorpress.core.errors import InputError

Array = NDArray[Any]


def host(tensor: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """`tensor` detached, as float32 on the CPU (or another `device`), in the same memory format: itself where it is all that already.

    float16, bfloat16 and float64 are converted, CUDA tensors fetched. InputError for quantised, integer and complex
    tensors, and for those without a batch axis.
    """
    if tensor.is_quantized:
        raise InputError("the tensor is quantised; dequantise it first: feature maps are compressed from float values")
    if not tensor.is_floating_point():
        raise InputError(f"the tensor holds {str(tensor.dtype).removeprefix('torch.')} values, not float")
    if tensor.ndim < 2:
        raise InputError(f"the tensor has shape {tuple(tensor.shape)}: no batch axis followed by channels")
    return tensor.detach().to(device, torch.float32)


def images(tensor: Tensor, view: str) -> list[Array]:
    """One float32 array for each image of a batch, channels first, strided over `host(tensor)`'s own memory.

    View 'chw' takes (N, C, H, W), (N, C, L) and (N, C) as they are, also channels_last; 'tokens' takes channels on the
    last axis, (N, T, C), and gives (C, T).
    """
    batch = host(tensor).numpy()
    return [np.moveaxis(image, -1, 0) for image in batch] if view == "tokens" else [batch[i] for i in range(len(batch))]


def images_there(tensor: Tensor, view: str) -> list[Tensor]:
    """The same as tensors on the device of `tensor`, for codecs that have kernels for it."""
    batch = host(tensor, tensor.device)
    return [image.movedim(-1, 0) if view == "tokens" else image for image in batch.unbind(0)]


def blank(tensor: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """An unfilled float32 tensor of `device` in the shape and memory format of `tensor`: write to it through its images."""
    return torch.empty_like(tensor, dtype=torch.float32, device=device, requires_grad=False)


def restored(filled: Tensor, like: Tensor) -> Tensor:
    """`filled` in the type and on the device of `like`."""
    return filled.to(like.device, like.dtype)
