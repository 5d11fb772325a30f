"""Words through a general compressor: another library's bytes, one string for each stripe, bounded before it is opened."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from typing import Any

import numpy as np

from tensorpress.blocks.words import Words, WordStage
from tensorpress.core.errors import InputError, StreamError, StripeError


def library(name: str, codec: str) -> Any:
    """The module `name`. InputError that says what to install where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = "zfp" if name == "zfpy" else "peers"
        raise InputError(f"codec {codec!r} needs the library {name}: pip install 'tensorpress[{extra}]'") from None


class LibraryWords(WordStage):
    """`compress` and `expand` do the work; `declared` says from the data's head how much `expand` would allocate."""

    @abstractmethod
    def compress(self, words: Words) -> bytes: ...

    @abstractmethod
    def declared(self, data: bytes) -> int: ...

    @abstractmethod
    def expand(self, data: bytes, nbytes: int) -> bytes: ...

    def pack(self, words: Words) -> bytes:
        return self.compress(words)

    def unpack(self, data: memoryview, out: Words, stripe: int) -> None:
        try:
            declared = self.declared(bytes(data))
            if declared != out.nbytes:
                raise StripeError(stripe, f"it declares {declared} bytes, its shape needs {out.nbytes}")
            found = self.expand(bytes(data), out.nbytes)
        except StreamError:
            raise
        except Exception as error:  # whatever a library raises on bad data
            raise StripeError(stripe, f"{type(error).__name__}: {error}") from None
        if len(found) != out.nbytes:
            raise StripeError(stripe, f"it holds {len(found)} bytes, its shape needs {out.nbytes}")
        out[...] = np.frombuffer(found, out.dtype)
