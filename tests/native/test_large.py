"""Sizes of 2^31 and above: tensors whose rows are one place in memory, and the arithmetic of bounds. No memory of that size is needed."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tensorpress import _native
from tensorpress.coding.tables import Tables
from tensorpress.core import registry
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer, check_size, head_bytes

COLUMNS = (1 << 28) + 64


def rows_in_one_place(row: np.ndarray) -> np.ndarray:
    """(1, 8, columns): eight times the same row."""
    return np.lib.stride_tricks.as_strided(row, (1, 8, row.size), (0, 0, row.itemsize))


@pytest.mark.parametrize("codec_id", ["zvc", "dct_cm"])
def test_a_stripe_of_more_than_two_to_the_31_values(codec_id):
    codec = registry.build(codec_id).fit([np.zeros((1, 8, 8), np.uint8)])
    row = np.zeros(COLUMNS, np.uint8)
    row[[0, 1 << 27, COLUMNS - 1]] = 1, 2, 3
    x = rows_in_one_place(row)
    assert x.size > 1 << 31
    try:
        payload = codec.encode_payload(x)  # its room is set aside, and most of it never touched
    except MemoryError:
        pytest.skip("this machine promises no 2.5 GB")
    assert len(payload) < 1 << 30
    found = np.full(COLUMNS, 9, np.uint8)
    codec.decode_payload(payload, max_nbytes=1 << 34, out=rows_in_one_place(found))
    assert np.array_equal(found, row)
    with pytest.raises(StreamError, match="over the limit"):
        codec.decode_payload(payload)


@pytest.mark.parametrize("shape", [(1, 8, (1 << 31) - 1), (1 << 14, 1 << 14, 1 << 10), (1, 1 << 30, 1), (1 << 20, 8, 1 << 9), (1 << 31, 1, 1)])
@pytest.mark.parametrize("codec_id", ["zvc", "dct_cm"])
def test_bounds_of_outputs_do_not_wrap(codec_id, shape):
    codec = registry.build(codec_id).fit([np.zeros((1, 8, 8), np.uint8)])
    values = int(np.prod(shape, dtype=object))
    if values > 1 << 33:
        assert codec.max_encoded_nbytes(np.dtype(np.uint8), (*shape[:2], 1)) > 0
    try:
        check_size(np.dtype(np.uint8), shape)
    except InputError:
        with pytest.raises(InputError):
            codec.max_encoded_nbytes(np.dtype(np.uint8), shape)
        return
    found = codec.max_encoded_nbytes(np.dtype(np.uint8), shape)
    assert values < found < 2 * values + 9 * (shape[1] // 8 + 1) * 8 + (1 << 16)


def test_lengths_of_stripes_are_added_in_full():
    """Two lengths whose sum is right in 32 bits only."""
    whole = Writer(np.dtype(np.uint8), (1, 16, 4))
    whole.stripe(bytes(32))
    whole.stripe(bytes(32))
    good = whole.finish()
    head = head_bytes(np.dtype(np.uint8), (1, 16, 4))
    bad = bytearray(good)
    struct.pack_into("<I", bad, len(head), 0xFFFFFFFF)
    struct.pack_into("<I", bad, len(head) + 8, 65)
    assert Reader(good).stripes == 2 and (0xFFFFFFFF + 65) % (1 << 32) == 64
    assert _native.read_index(bytes(bad)) is None
    with pytest.raises(StreamError, match="stripes end at"):
        Reader(bytes(bad))


def test_positions_near_two_to_the_64_are_refused():
    tables = Tables.from_counts(np.ones(4, np.int64), 10)
    symbols, states = np.zeros(4, np.uint8), np.full(4, 1 << 16, np.uint32)
    with pytest.raises(ValueError, match="no room"):
        tables.native.encode(symbols, None, 0, states, np.zeros(64, np.uint8), (1 << 64) - 2)
    with pytest.raises(ValueError, match="beyond the data"):
        tables.native.decode(np.zeros(64, np.uint8), (1 << 64) - 2, None, 0, states, symbols)
    codes = _native.HuffmanCodes(np.full((1, 4), 2, np.uint8))
    with pytest.raises(ValueError, match="no room"):
        codes.encode(symbols, None, np.zeros(64, np.uint8), (1 << 64) - 60)
    with pytest.raises(ValueError, match="beyond the data"):
        codes.decode(np.zeros(8, np.uint8), (1 << 64) - 60, None, symbols)


def test_outputs_are_refused_where_they_do_not_suit():
    """Too small, of another type, with gaps, read-only: nothing is written, and nothing converted where nobody sees it."""
    words = np.arange(16, dtype=np.uint8)
    table = np.arange(256, dtype=np.uint8)
    frozen = np.zeros(16, np.uint8)
    frozen.flags.writeable = False
    for out in (np.zeros(16, np.uint64), np.zeros(32, np.uint8)[::2], frozen):
        with pytest.raises(TypeError):
            _native.bytes_to_words(words, table, out)
        with pytest.raises(TypeError):
            _native.ebpc_decode(np.frombuffer(_native.ebpc_encode(words), np.uint8), out)
        assert not out.any()
    for call in (
        lambda out: _native.zero_bitmap_encode(words, 1, out),
        lambda out: _native.zero_runs_encode(words, out),
        lambda out: _native.columns_encode(words.reshape(1, 4, 4), out),
        lambda out: _native.slots_encode(words.reshape(1, 4, 4), 32, 8, False, out),
    ):
        for size in (0, 1, 17):
            out = np.full(size, 5, np.uint8)
            with pytest.raises(ValueError, match="too small"):
                call(out)
            assert (out == 5).all()
