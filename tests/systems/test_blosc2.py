"""Chunks of every kind that Blosc2 writes are read; those that would run a plugin are refused before the library sees them."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import Reader, Writer

pytest.importorskip("blosc2")


@pytest.mark.parametrize("compressor", ["zstd", "lz4"])
@pytest.mark.parametrize("count", [1, 15, 16, 31, 32, 33, 300])
def test_few_words_and_words_of_one_value(compressor, count):
    noise = np.random.default_rng(count)
    for dtype in ("uint8", "int16", "uint64"):
        for x in (noise.integers(0, 120, count).astype(dtype), np.zeros(count, dtype), np.full(count, 7, dtype)):
            codec = registry.build("blosc2", {"compressor": compressor}).fit([x])
            assert np.array_equal(codec.decode(codec.encode(x)), x)


def changed(codec: Codec, x: np.ndarray, at: int, byte: int) -> bytes:
    """The payload with a byte of its one chunk set, and right checks."""
    src = Reader(codec.encode_payload(x))
    chunk = bytearray(src.stripe())
    chunk[at] = byte
    out = Writer(x.dtype, x.shape)
    out.stripe(bytes(chunk))
    return out.finish()


@pytest.mark.parametrize("count", [9, 300])
def test_other_compressors_and_filters_are_refused(count):
    x = np.arange(count, dtype=np.uint8)
    codec = registry.build("blosc2").fit([x])
    head = bytes(Reader(codec.encode_payload(x)).stripe()[:32])
    assert bool(head[2] & 2) == (count == 9)  # copied, or compressed
    for at, byte in [(2, head[2] & 31 | 6 << 5), (2, head[2] & 31 | 2 << 5), (16, 35), (21, 160)]:
        with pytest.raises(StreamError, match="another compressor or filter"):
            codec.decode_payload(changed(codec, x, at, byte))
