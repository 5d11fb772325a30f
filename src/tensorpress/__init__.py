"""TensorPress: the codec layer for neural networks, always to real bytes.

`encode` and `decode` turn one array into a self-contained stream and back. `features` compresses what a CNN computes, `weights` what any network stores; `load` opens
the latter's files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tensorpress.core.errors import InputError, StreamError, TensorPressError

if TYPE_CHECKING:
    from tensorpress import features, weights
    from tensorpress.facade import decode, encode

__version__ = "0.2.0"
__all__ = ["InputError", "StreamError", "TensorPressError", "__version__", "decode", "encode", "features", "load", "weights"]


def __getattr__(name: str) -> Any:  # PyTorch takes seconds to import; who only decodes an array should not wait for it
    if name in ("encode", "decode"):
        return getattr(importlib.import_module("tensorpress.facade"), name)
    if name in ("features", "weights"):
        return importlib.import_module(f"tensorpress.{name}")
    if name == "load":
        return importlib.import_module("tensorpress.weights").load
    raise AttributeError(f"module 'tensorpress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
