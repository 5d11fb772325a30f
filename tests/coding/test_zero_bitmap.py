"""The native zero bitmap and its slow twin: equal bytes, equal refusals."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress import _native
from tensorpress.coding.reference import zero_bitmap_decode, zero_bitmap_encode
from tensorpress.core.errors import StreamError


def native_encode(words: np.ndarray) -> bytes:
    raw = words.view(np.uint8)
    out = np.empty(-(-words.size // 8) + raw.size + words.itemsize, np.uint8)
    return out[: _native.zero_bitmap_encode(raw, words.itemsize, out)].tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 200])
def test_equal_bytes_and_refusals(dtype, count):
    rng = np.random.default_rng(count)
    words = (rng.integers(0, np.iinfo(dtype).max, count, dtype=dtype, endpoint=True) * (rng.random(count) < 0.5)).astype(dtype)
    data = native_encode(words)
    assert data == zero_bitmap_encode(words.tolist(), words.itemsize)
    assert zero_bitmap_decode(data, count, words.itemsize) == words.tolist()
    for hostile in (data, b"", data[:-1], data + b"\0", *(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(min(len(data), 40)))):
        out = np.zeros(count, dtype)
        fine = _native.zero_bitmap_decode(np.frombuffer(hostile, np.uint8), words.itemsize, out.view(np.uint8))
        if fine:
            assert out.tolist() == zero_bitmap_decode(hostile, count, words.itemsize)
        else:
            with pytest.raises(StreamError):
                zero_bitmap_decode(hostile, count, words.itemsize)
