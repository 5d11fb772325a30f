"""The lanes of the fast coder write and read what the walk through one value after another does."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.errors import StreamError
from tests.conftest import feature_map

SHAPES = [(70, 24, 21), (33, 9, 10), (64, 14, 14), (96, 7, 7), (5, 8, 5), (40, 40, 33)]


def levels(shape, dtype, seed=0):
    x = feature_map(shape, signed=dtype == np.int8, seed=seed)
    if dtype in (np.float32, np.float16):
        return x.astype(dtype)
    top = 127 if dtype == np.int8 else 255
    return np.rint(x * (top / np.abs(x).max())).astype(dtype)


def both_ways(codec, x, reference=None):
    if not codec.kernel.accepts(x.dtype, x.shape):
        pytest.skip("this machine has no lanes (AVX-512)")
    payload = codec.encode_payload(x, reference=reference)
    assert bytes(payload) == codec.encode_payload(x, reference=reference, fused=False)
    decoded = codec.decode_payload(payload, reference=reference)
    assert np.array_equal(decoded, codec.decode_payload(payload, reference=reference, fused=False))
    return payload, decoded


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32, np.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("options", [{}, {"step": 4.0, "lagrangian": 0.0}, {"step": 3.0}], ids=["lossless", "rounded", "chosen"])
def test_lanes_equal_the_walk(shape, dtype, options):
    x = levels(shape, dtype)
    x[: shape[0] // 3, :8] = 0  # cells of zeros
    codec = registry.build("context", {"backend": "fast", **options}).fit([levels(shape, dtype, 1)])
    _, decoded = both_ways(codec, x)
    if not options and x.dtype.kind in "iu":
        assert np.array_equal(decoded, x)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32], ids=lambda d: d.__name__)
def test_references_and_raw_cells(dtype):
    random = np.random.default_rng(0)
    x, before = levels((64, 17, 20), dtype), levels((64, 17, 20), dtype, 3)
    codec = registry.build("context", {"backend": "fast"}).fit([x], [before])
    both_ways(codec, x, before)
    noise = random.integers(0, 256, x.shape).astype(np.uint8).astype(dtype)  # takes a byte a value
    payload, _ = both_ways(codec, noise, before)
    assert len(payload) >= 0.9 * x.size


def test_more_threads_change_nothing(monkeypatch):
    x = levels((96, 56, 56), np.uint8)
    codec = registry.build("context", {"backend": "fast"}).fit([x])
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("TENSORPRESS_THREADS", threads)
        payload = bytes(codec.encode_payload(x))
        found.append(payload)
        assert np.array_equal(codec.decode_payload(payload), x)
    assert len(set(found)) == 1


def test_damage_behind_the_checks_is_survived():
    """Stripes whose checks were made right again: the kernel must refuse them, or read values, and nothing else."""
    from tensorpress.core.binary import crc32c
    from tensorpress.core.container import section_seed
    from tensorpress.core.payload import Reader

    random = np.random.default_rng(1)
    x = levels((64, 16, 24), np.uint8)
    codec = registry.build("context", {"backend": "fast"}).fit([x])
    payload = bytes(codec.encode_payload(x))
    src = Reader(payload)
    refused = 0
    for _ in range(300):
        data = bytearray(payload)
        for at in random.integers(src.index_nbytes, len(data), random.integers(1, 6)):
            data[at] = random.integers(0, 256)
        at = src.index_nbytes
        for stripe in range(src.stripes):
            entry = src.head_nbytes + 8 * stripe
            nbytes = int.from_bytes(data[entry : entry + 4], "little")
            check = crc32c(bytes(data[at : at + nbytes]), section_seed(crc32c(payload[: src.head_nbytes]), stripe))
            data[entry + 4 : entry + 8] = check.to_bytes(4, "little")
            at += nbytes
        try:
            codec.decode_payload(bytes(data))
        except StreamError:
            refused += 1
    assert refused > 150
