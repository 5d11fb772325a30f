"""Where tensors enter and leave PyTorch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorpress.pytorch.saved import compress_saved

__all__ = ["compress_saved"]


def __getattr__(name: str) -> Any:
    if name == "compress_saved":
        return importlib.import_module("tensorpress.pytorch.saved").compress_saved
    raise AttributeError(f"module 'tensorpress.pytorch' has no attribute {name!r}")
