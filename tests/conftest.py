"""Maps that look like feature maps, made by integers and seeds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


def feature_map(shape: tuple[int, ...], *, signed: bool = False, seed: int = 0) -> np.ndarray:
    """float32 Laplace values with channels of different range; rectified unless `signed`."""
    rng = np.random.default_rng(seed)
    x = rng.laplace(size=shape)
    if len(shape) >= 3:
        x = (x + 0.8 * rng.laplace(size=(*shape[:-3], 1, *shape[-2:]))) * rng.gamma(1, 1, size=(*shape[:-2], 1, 1))
    return (x if signed else np.maximum(x - 0.2, 0)).astype(np.float32)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real networks and pictures."""
    folder = os.environ.get("TENSORPRESS_DATA")
    if not folder:
        pytest.skip("TENSORPRESS_DATA is not set: no real networks and pictures here")
    return Path(folder)
