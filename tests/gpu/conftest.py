"""Where there is no GPU the kernels run in Triton's interpreter, on host tensors. It has to be asked for before they are imported."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def device(monkeypatch) -> torch.device:
    """The device that tensors stay on, once triton is known to be there."""
    pytest.importorskip("triton", reason="triton is not installed: it is the extra 'gpu'")
    monkeypatch.setenv("TENSORPRESS_TRITON", "1")
    return torch.device(DEVICE)
