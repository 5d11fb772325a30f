"""A folder of finished layers, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tensorpress.core.atomic import make_folder, write_atomically
from tensorpress.core.binary import crc32c, digest

OWN = "levels-*.npy"


@dataclass(frozen=True)
class Work:
    """Levels by what they depend on. Nothing is made before the first `put`."""

    folder: Path

    def get(self, key: str) -> NDArray[Any] | None:
        """What was put under `key`; None where there is nothing, or it cannot be read."""
        try:
            return np.load(self._path(key), allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError, EOFError):
            return None

    def put(self, key: str, levels: NDArray[Any]) -> None:
        out = io.BytesIO()
        np.save(out, levels, allow_pickle=False)
        make_folder(self.folder)
        write_atomically(self._path(key), out.getvalue())

    def clear(self) -> None:
        """Only what is its own goes; the folder as well where it is empty then."""
        for path in self.folder.glob(OWN):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)

    def _path(self, key: str) -> Path:
        return self.folder / OWN.replace("*", key)


def fingerprint(facts: Any, tensors: list[Tensor]) -> str:
    """A key for what is computed from these JSON values and tensors."""
    checks = [
        [list(t.shape), crc32c(memoryview(np.ascontiguousarray(t.detach().cpu().to(torch.float32).numpy()).reshape(-1).view(np.uint8)))]
        for t in tensors
    ]
    return digest({"facts": facts, "tensors": checks}, {})[:32]
