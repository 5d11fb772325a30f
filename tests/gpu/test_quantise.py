"""Levels from a GPU are those of the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorpress.blocks.levels import Levels
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader, Writer
from tests.conftest import feature_map

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def on_host(levels: Levels, x: torch.Tensor) -> np.ndarray:
    array = x.float().cpu().numpy()
    return levels.encode(array, Writer(array.dtype, array.shape)).levels.reshape(array.shape)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 7, 9), (33, 16, 16), (1,), (0, 4), ()], ids=str)
def test_levels_and_values(device, dtype, shape):
    from tensorpress.blocks.gpu.quantise import quantise, restore

    array = feature_map(shape, signed=True)
    levels = Levels(None, None, 0).fit([array])
    x = torch.from_numpy(array).to(device, dtype)
    expected = on_host(levels, x)
    unsigned, signed = quantise(x, levels), quantise(x, levels, torch.int8)
    assert np.array_equal(unsigned.cpu().numpy(), expected)
    assert np.array_equal(signed.cpu().numpy(), (expected.astype(np.int16) - 128).astype(np.int8))
    values = (expected.astype(np.int32) - levels.zero_point).astype(np.float32) * np.float32(levels.scale)
    for coded in (unsigned, signed):
        found = restore(coded, levels, dtype)
        assert found.dtype == dtype and torch.equal(found.cpu(), torch.from_numpy(np.asarray(values)).to(dtype))


def test_float16_is_clamped_to_its_range(device):
    from tensorpress.blocks.gpu.quantise import quantise, restore

    x = torch.tensor([65504.0, -65504.0, 0.0], device=device, dtype=torch.float16)
    levels = Levels(None, None, 0).fit([x.cpu().numpy()])
    assert torch.isfinite(restore(quantise(x, levels), levels, torch.float16)).all()


def test_halves_go_to_even_and_the_range_is_clamped(device):
    from tensorpress.blocks.gpu.quantise import quantise

    x = torch.tensor([-3.0, -2.5, -1.5, -0.5, -0.0, 0.5, 1.5, 2.5, 199.5, 254.6, 1e9, -1e9], device=device)
    for zero in (0, 2, 128, 255):
        levels = Levels(1.0, 1.0, zero)
        assert np.array_equal(quantise(x, levels).cpu().numpy(), on_host(levels, x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(device, bad):
    from tensorpress.blocks.gpu.quantise import quantise

    x = torch.ones(5000, device=device)
    x[4321] = bad
    with pytest.raises(InputError, match="finite"):
        quantise(x, Levels(1.0, 1.0, 0))
    with pytest.raises(InputError, match="fit"):
        quantise(x, Levels(None, None, 0))


def test_a_bfloat16_tensor_declares_float32(device):
    """A bfloat16 tensor declares float32: the type that NumPy would have seen."""
    from tensorpress.core import registry

    array = feature_map((9, 5, 5))
    codec = registry.build("zvc").fit([array])
    assert Reader(codec.encode_payload(torch.from_numpy(array).to(device, torch.bfloat16))).dtype == np.float32
