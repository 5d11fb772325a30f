"""The adaptive coder of weights: round trips, its twin byte for byte, hostile strings, and what it saves on weights as they are."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.coding import adaptive, adaptive_reference
from tensorpress.core.errors import InputError, StreamError

LIMITS = np.iinfo(np.int32)
EDGES = np.array([LIMITS.min, LIMITS.max, 0, 1, -1, 2, 13, 14, 15, -14, 16, 255, 256, -257, 1 << 20, LIMITS.min + 1, 0], np.int32)
SHAPES = [(), (1,), (0,), (7,), (3, 0, 5), (0, 4), (4, 3, 3, 3), (16, 7), (3, 2, 5), (6, 2, 7, 7), (300,), (40, 9), (1, 30), (30, 1), (3, 5, 2), (12, 8, 3, 3), (2, 3, 1, 1, 4)]


def weights(seed: int) -> list[np.ndarray]:
    """Tensors of all `SHAPES`: most values small, some large, some rows and columns of zeros."""
    rng = np.random.default_rng(seed)
    found = []
    for shape in rng.permutation(np.array(SHAPES, object)):
        values = np.rint(rng.laplace(0, rng.choice([0.1, 0.5, 1, 3, 40]), shape)).astype(np.int32)
        if values.ndim > 1:
            values[rng.random(values.shape[0]) < 0.2] = 0
            values[:, rng.random(values.shape[1]) < 0.2] = 0
        found.append(values)
    return [*found, EDGES, EDGES.reshape(1, -1, 1), np.repeat(EDGES, 9).reshape(-1, 1, 3, 3)]


def decode(data: bytes, tensors: list[np.ndarray]) -> list[np.ndarray]:
    return adaptive.decode(data, [t.shape for t in tensors])


def assert_equal(found: list[np.ndarray], tensors: list[np.ndarray]) -> None:
    for one, other in zip(found, tensors, strict=True):
        assert one.dtype == np.int32 and one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(8))
def test_tensors_come_back(seed: int) -> None:
    tensors = weights(seed)
    data = adaptive.encode(tensors)
    assert_equal(decode(data, tensors), tensors)
    assert adaptive.encoded_nbytes(tensors) == len(data)


@pytest.mark.parametrize("seed", range(4))
def test_native_equals_twin(seed: int) -> None:
    tensors = [adaptive.whole(t) for t in weights(seed)]
    data = adaptive.encode(tensors)
    assert adaptive_reference.encode(tensors) == data
    assert_equal(adaptive_reference.decode(data, [adaptive.view(t.shape) for t in tensors]), tensors)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_tensor_of_extremes(shape: tuple[int, ...]) -> None:
    tensors = [np.random.default_rng(1).integers(LIMITS.min, LIMITS.max, shape, np.int32, endpoint=True)]
    assert_equal(decode(adaptive.encode(tensors), tensors), tensors)


def test_no_tensors() -> None:
    assert decode(adaptive.encode([]), []) == []
    with pytest.raises(StreamError):
        decode(adaptive.encode([]) + b"\0", [])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_other_integers(kind: type) -> None:
    values = np.arange(60).astype(kind).reshape(5, 4, 3)
    assert_equal(decode(adaptive.encode([values]), [values]), [values.astype(np.int32)])


def test_what_lies_in_another_order_is_coded_in_its_own() -> None:
    values = np.random.default_rng(0).integers(-3, 4, (6, 5, 3, 3)).astype(np.int32)
    for seen in (values.transpose(1, 0, 3, 2), values[::2, ::-1], np.asfortranarray(values)):
        assert adaptive.encode([seen]) == adaptive.encode([np.ascontiguousarray(seen)])


def test_input_errors_name_the_reason() -> None:
    encoder = adaptive.AdaptiveEncoder()
    for bad in (np.zeros(3), np.zeros(3, bool), np.array(["1"])):
        with pytest.raises(InputError, match="integers"):
            encoder.put(bad)
    with pytest.raises(InputError, match="32 bits"):
        encoder.put(np.array([0, 1 << 31]))
    with pytest.raises(InputError, match="32 bits"):
        encoder.put(np.array([(1 << 64) - 1], np.uint64))
    encoder.put(np.array([5]))
    data = encoder.finish()
    assert adaptive.decode(data, [(1,)])[0] == 5
    with pytest.raises(InputError, match="finished"):
        encoder.put(np.array([5]))
    with pytest.raises(InputError, match="finished"):
        encoder.finish()


@pytest.mark.parametrize("seed", range(4))
def test_a_string_that_ends_early_or_late_is_refused(seed: int) -> None:
    """What lacks its last few bytes alone may be the string of other values, as any string may."""
    tensors = weights(seed)
    data = adaptive.encode(tensors)
    for cut in range(0, len(data) - 16, max(len(data) // 40, 1)):
        with pytest.raises(StreamError):
            decode(data[:cut], tensors)
    for more in (b"\0", b"\0\0\0\0\0", b"\1", b"\xff"):
        with pytest.raises(StreamError):
            decode(data + more, tensors)


def test_the_place_where_a_string_ends_is_named() -> None:
    tensors = [np.arange(400, dtype=np.int32).reshape(20, 20) for _ in range(2)]
    with pytest.raises(StreamError, match=r"tensor 1, value \d+ of 400"):
        decode(adaptive.encode(tensors)[:-200], tensors)


def test_whatever_is_decoded_is_encoded_to_the_same_bytes() -> None:
    """Random and damaged strings: most are refused, and those that are not are what an encoder writes."""
    rng = np.random.default_rng(0)
    good = 0
    for number in range(600):
        tensors = weights(number % 5)[:3]
        data = bytearray(adaptive.encode(tensors) if number % 2 else rng.integers(0, 256, int(rng.integers(0, 40)), np.uint8).tobytes())
        for _ in range(number % 3):
            if data:
                data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        shapes = [t.shape for t in tensors] if number % 2 else [(int(rng.integers(1, 6)),)]
        try:
            found = adaptive.decode(data, shapes)
        except StreamError:
            continue
        good += 1
        assert adaptive.encode(found) == data
    assert 100 < good < 600


def test_values_beyond_32_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin writes an escape of 33 bits; no encoder does."""
    values = np.array([[[(1 << 32) - 1]]], object)
    mix = adaptive_reference.Mix()
    mix.walk(values)
    data = mix.interval.finish()
    with pytest.raises(StreamError, match="value 0 of 1: beyond 32 bits"):
        adaptive.decode(data, [(1,)])
    with pytest.raises(StreamError, match="value 0 of 1: beyond 32 bits"):
        adaptive_reference.decode(data, [(1, 1, 1)])


def test_more_values_than_a_string_can_hold_take_no_memory() -> None:
    with pytest.raises(StreamError, match="cannot hold"):
        adaptive.AdaptiveDecoder(b"\1\2").take((1 << 20, 1 << 20, 3, 3))


def test_zeros_cost_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    values = np.rint(rng.laplace(0, 1, (64, 64, 3, 3))).astype(np.int32)
    assert adaptive.encoded_nbytes([np.zeros((64, 64, 3, 3), np.int32)]) < 40
    halved = values.copy()
    halved[:, rng.permutation(64)[:32]] = 0  # input channels that are gone
    assert adaptive.encoded_nbytes([halved]) < 0.55 * adaptive.encoded_nbytes([values])


def test_rows_and_columns_of_their_own_scale_are_learned() -> None:
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(0, 0.7, (64, 1, 1, 1)) + rng.normal(0, 0.7, (1, 64, 1, 1)))
    values = np.rint(rng.normal(0, 1, (64, 64, 3, 3)) * scale).astype(np.int32)
    counts = np.unique(values, return_counts=True)[1] / values.size
    assert 8 * adaptive.encoded_nbytes([values]) < 0.9 * values.size * -(counts * np.log2(counts)).sum()
