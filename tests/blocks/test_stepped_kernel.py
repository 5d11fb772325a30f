"""The native front of the stepped codecs gives what its chain of stages gives: every type, every rounding, every refusal."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.blocks.stepped import rules
from tensorpress.core import registry
from tensorpress.core.errors import InputError


def same_both_ways(codec, x: np.ndarray) -> np.ndarray:
    payload = codec.encode_payload(x)
    assert payload == codec.encode_payload(x, fused=False)
    fast, slow = codec.decode_payload(payload), codec.decode_payload(payload, fused=False)
    assert fast.dtype == slow.dtype == x.dtype and fast.tobytes() == slow.tobytes()
    return fast


@pytest.mark.parametrize("step", [1.0, 2.5, 6.0, 100.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.uint8, np.int8, np.bool_])
def test_every_type_and_layout(dtype, step):
    rng = np.random.default_rng(1)
    x = (rng.integers(-100, 100, (13, 10, 9)) * (rng.random((13, 10, 9)) < 0.6)).astype(dtype)
    codec = registry.build("zvc", {"step": step}).fit([x])
    for same in (x, np.asfortranarray(x), x[:, ::-1], x[::2, 1:, ::3], x.reshape(13, 90), x[0, 0, :1].reshape(()), x[:0]):
        found = same_both_ways(codec, same)
        if step == 1 and x.dtype.kind != "f":
            assert np.array_equal(found, same)
        out = np.zeros((*same.shape, 2), dtype)[..., 0]  # strided
        assert np.array_equal(codec.decode_payload(codec.encode_payload(same), out=out), found)


def test_halves_go_to_even_and_ends_are_clamped():
    grid = np.concatenate([np.arange(-1100, 1101) / 4, np.float32([1e-45, -1e-45, -0.0, 3e38, -3e38, 254.50002, 254.49998])]).astype(np.float32)
    for zero in (0, 1, 100, 255):
        codec = registry.build("zvc", {"scale": 1.0, "reciprocal": 1.0, "zero_point": zero})
        found = same_both_ways(codec, grid)
        assert np.array_equal(found, np.clip(np.rint(grid), -zero, 255 - zero))
    huge = registry.build("zvc", {"scale": 1e-30, "reciprocal": 1e30, "zero_point": 128})
    assert same_both_ways(huge, np.float32([1e30, -1e30, 0]))[2] == 0  # products beyond float32 are clamped


def test_values_that_are_no_numbers_are_named_wherever_they_stand():
    codec = registry.build("zvc", {"scale": 1.0, "reciprocal": 1.0})
    for at in (0, 1023, 1024, 2999):
        for bad in (np.nan, np.inf, -np.inf):
            x = np.zeros((3, 1000), np.float32)
            x.reshape(-1)[at] = bad
            with pytest.raises(InputError, match=rf"index \({at // 1000}, {at % 1000}\)"):
                codec.encode_payload(x)
    with pytest.raises(InputError, match="finite"):
        codec.encode_payload(np.float64([1e300]))
    with pytest.raises(InputError, match="not fitted"):
        registry.build("zvc").encode_payload(np.zeros(3, np.float32))


def test_wide_integers_take_the_chain():
    x = np.arange(-500, 500, dtype=np.int32).reshape(10, 10, 10)
    codec = registry.build("zvc").fit([x])
    assert not codec.kernel.accepts(x.dtype, x.shape) and np.array_equal(same_both_ways(codec, x), x)


def test_rules_of_a_step_of_one_lose_nothing():
    for zero in range(256):
        table = rules(registry.build("zvc", {"zero_point": zero}).config, zero)
        assert np.array_equal(table.level_of[table.symbol_of], np.arange(256)) and table.symbol_of[zero] == 0
