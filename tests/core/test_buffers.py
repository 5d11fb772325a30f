"""Buffers that are awkward or wrong, for every card: misaligned, overlapping, empty, reversed, read-only, too small, too large."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import head_bytes
from tensorpress.facade import decode
from tests.conftest import feature_map

CARDS = [card.id for card in registry.cards().values()]
SHAPE = (40, 17, 11)


@pytest.fixture(scope="module", params=CARDS)
def codec(request) -> Codec:
    return registry.build(request.param).fit([feature_map(SHAPE)])


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return feature_map(SHAPE)


@pytest.fixture(scope="module")
def payload(codec, x) -> bytes:
    return bytes(codec.encode_payload(x))


@pytest.fixture(scope="module")
def values(codec, payload) -> np.ndarray:
    return codec.decode_payload(payload)


def misaligned(shape: tuple[int, ...], dtype: type = np.float32, by: int = 1) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    found = np.frombuffer(bytearray(size + 64), np.uint8)[by : by + size].view(dtype).reshape(shape)
    assert found.itemsize == 1 or not found.flags.aligned
    return found


@pytest.mark.parametrize("by", [1, 2, 3])
def test_misaligned_arrays(codec, x, payload, values, by):
    odd = misaligned(SHAPE, by=by)
    odd[...] = x
    assert codec.encode_payload(odd) == payload
    odd[...] = -1
    codec.decode_payload(payload, out=odd)
    assert np.array_equal(odd, values)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint16, np.int64])
def test_misaligned_arrays_of_other_types(codec, dtype):
    x = (feature_map(SHAPE) * 8).astype(dtype)
    odd = misaligned(SHAPE, dtype)
    odd[...] = x
    try:
        wanted = codec.encode_payload(x)
    except InputError:
        with pytest.raises(InputError):
            codec.encode_payload(odd)
        return
    assert codec.encode_payload(odd) == wanted
    codec.decode_payload(wanted, out=odd)
    assert np.array_equal(odd, codec.decode_payload(wanted))


def test_payloads_anywhere_in_any_buffer(codec, payload, values):
    for by in range(1, 8):
        whole = bytearray(by) + payload + bytes(by)
        assert np.array_equal(codec.decode_payload(memoryview(whole)[by : by + len(payload)]), values)
    apart = np.zeros((len(payload), 2), np.uint8)
    apart[:, 0] = np.frombuffer(payload, np.uint8)
    assert np.array_equal(codec.decode_payload(memoryview(apart[:, 0])), values)
    assert np.array_equal(codec.decode_payload(memoryview(payload + b"")[::1]), values)
    signed = np.frombuffer(payload, np.int8)
    assert np.array_equal(codec.decode_payload(memoryview(signed)), values)


def test_streams_in_any_buffer(codec, x, values):
    data = codec.encode(x).to_bytes()
    apart = np.zeros((len(data), 2), np.uint8)
    apart[:, 0] = np.frombuffer(data, np.uint8)
    for same in (bytearray(data), memoryview(apart[:, 0]), np.frombuffer(data, np.int8)):
        assert np.array_equal(decode(same), values)


def test_reversed_strided_and_overlapping_arrays(codec, x, payload, values):
    for axes in [(0,), (1,), (2,), (0, 1, 2)]:
        turned = np.flip(np.flip(x, axes).copy(), axes)
        assert min(turned.strides) < 0 and codec.encode_payload(turned) == payload
        out = np.flip(np.zeros(SHAPE, np.float32), axes)
        codec.decode_payload(payload, out=out)
        assert np.array_equal(out, values)
    one = np.broadcast_to(x[:, :1, :1], SHAPE)  # all of a channel is one place in memory
    assert codec.encode_payload(one) == codec.encode_payload(one.copy())
    for shape, strides in [((40, 17, 11), (68, 4, 4)), ((40, 17, 11), (4, 4, 4))]:  # sliding windows over one row
        row = feature_map((1000,))
        windows = np.lib.stride_tricks.as_strided(row, shape, strides)
        assert codec.encode_payload(windows) == codec.encode_payload(windows.copy())


def test_read_only_arrays_are_read_and_never_written(codec, x, payload, values):
    frozen = np.frombuffer(x.tobytes(), np.float32).reshape(SHAPE)
    assert not frozen.flags.writeable and codec.encode_payload(frozen) == payload
    assert frozen.tobytes() == x.tobytes()
    out = np.zeros(SHAPE, np.float32)
    for target in (out, out[..., ::-1], np.broadcast_to(np.float32(0), SHAPE)):
        target.flags.writeable = False
        with pytest.raises(InputError, match="read-only"):
            codec.decode_payload(payload, out=target)
    assert not out.any()


def test_decoding_over_its_own_payload_is_refused(codec, payload):
    memory = np.zeros(max(4 * int(np.prod(SHAPE)), len(payload)) + 4, np.uint8)
    memory[: len(payload)] = np.frombuffer(payload, np.uint8)
    out = memory[: 4 * int(np.prod(SHAPE))].view(np.float32).reshape(SHAPE)
    with pytest.raises(InputError, match="overlaps"):
        codec.decode_payload(memory[: len(payload)], out=out)
    assert memory[: len(payload)].tobytes() == payload


def test_outputs_of_an_encode(codec, x, payload):
    room = codec.max_encoded_nbytes(x.dtype, x.shape)
    out = np.full(room + 32, 7, np.uint8)
    for by in (0, 1, 5):
        found = codec.encode_payload(x, out[by : by + room])
        assert found == payload and np.shares_memory(np.frombuffer(found, np.uint8), out)
        assert (out[by + room :] == 7).all()
    for size in (0, 1, 10, len(payload) - 1):
        with pytest.raises(InputError, match="output"):
            codec.encode_payload(x, np.zeros(size, np.uint8))
    frozen = np.zeros(room, np.uint8)
    frozen.flags.writeable = False
    for wrong in (frozen, bytes(room), np.zeros(2 * room, np.uint8)[::2]):
        with pytest.raises(InputError, match=r"read-only|not contiguous"):
            codec.encode_payload(x, wrong)
    memory = np.zeros(room + x.nbytes, np.uint8)
    for by in range(1, 9):
        inside = memory[room - by : room - by + x.nbytes].view(np.float32).reshape(SHAPE)
        with pytest.raises(InputError, match="overlaps"):
            codec.encode_payload(inside, memory[:room])


def test_outputs_of_a_decode(codec, payload):
    for wrong in (np.zeros((40, 17, 10), np.float32), np.zeros(SHAPE, np.float64), np.zeros((1, *SHAPE), np.float32), np.zeros(SHAPE, ">f4")):
        with pytest.raises(StreamError, match="expected"):
            codec.decode_payload(payload, out=wrong)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (40, 0, 3), (40, 3, 0), (0, 3, 3), (2, 20, 0, 3)])
def test_arrays_without_values(codec, shape):
    x = np.zeros(shape, np.float32)
    payload = codec.encode_payload(x)
    assert payload[: len(head_bytes(x.dtype, shape))] == head_bytes(x.dtype, shape)
    assert codec.decode_payload(payload).shape == shape
    assert codec.decode_payload(payload, out=np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]).shape == shape
    room = codec.max_encoded_nbytes(x.dtype, shape)
    assert codec.encode_payload(x, np.zeros(room, np.uint8)) == payload


def test_types_of_another_byte_order_are_refused(codec, x):
    with pytest.raises(InputError, match="cannot be encoded"):
        codec.encode_payload(x.astype(">f4"))


@pytest.mark.parametrize("shape", [(1 << 31, 1 << 10, 1), (1, 1, 1 << 41), (1 << 20, 1 << 20, 1 << 20), (1 << 33, 1, 1), (1, 8, 1 << 30), (1 << 60,)])
def test_arrays_too_large_for_the_format_are_refused_before_anything_is_allocated(codec, shape):
    with pytest.raises(InputError, match=r"2\^40 values|4 GiB"):
        codec.encode_payload(np.broadcast_to(np.float32(0), shape))
    with pytest.raises(InputError, match=r"2\^40 values|4 GiB"):
        codec.max_encoded_nbytes(np.dtype(np.float32), shape)
