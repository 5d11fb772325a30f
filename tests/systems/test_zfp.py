"""ZFP keeps to its tolerance whatever the values' size, or says that it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tests.conftest import feature_map

pytest.importorskip("zfpy")


@pytest.mark.parametrize("step", [0.01, 1.0, 64.0, 128.0])
@pytest.mark.parametrize("size", [1e-42, 1e-36, 1e-32, 1e-30, 1e-29, 1e-27, 1e-25, 1.0, 1e30])
def test_no_error_exceeds_the_tolerance(size, step):
    for shape in ((8, 9, 9), (5,)):
        x = feature_map(shape, signed=True) * np.float32(size)
        codec = registry.build("zfp", {"step": step}).fit([x])
        found = codec.decode(codec.encode(x))
        # the library's own rounding of float32 comes on top: 2^-24 of the largest value
        assert np.abs(found - x).max() <= step * codec.config.scale / 2 + 2e-7 * np.abs(x).max()


def test_a_scale_that_it_cannot_keep_to_is_refused():
    x = feature_map((8, 9, 9)) * np.float32(1e-30)
    codec = registry.build("zfp", {"scale": 1e-33, "reciprocal": 1e33})
    with pytest.raises(InputError, match="a larger scale is needed"):
        codec.encode(x)
    assert not codec.decode(codec.encode(np.zeros_like(x))).any()
