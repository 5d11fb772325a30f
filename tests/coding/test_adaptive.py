"""The adaptive coder of weights: round trips, its twin byte for byte, hostile strings, and what it saves on weights as they are."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from tensorpress.blocks.prices import bits_by_magnitude
from tensorpress.coding import adaptive, adaptive_fast_reference, adaptive_reference
from tensorpress.core.errors import InputError, StreamError

TWINS = {"small": adaptive_reference, "fast": adaptive_fast_reference}
FORMS = pytest.mark.parametrize("form", TWINS)
LIMITS = np.iinfo(np.int32)
EDGES = np.array([LIMITS.min, LIMITS.max, 0, 1, -1, 2, 13, 14, 15, -14, 16, 255, 256, -257, 1 << 20, LIMITS.min + 1, 0], np.int32)
BYTES = ["5172", "addb0fad21b77916", "5221", "14220a49c6aea85b"]  # lengths and digests of what the two forms write
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


SCRIPT = """
import hashlib
from tensorpress.coding import adaptive
from tests.coding.test_adaptive import whole_numbers
for form in adaptive.FORMS:
    data = adaptive.encode(whole_numbers(), form)
    assert all((a == b).all() for a, b in zip(adaptive.decode(data, [t.shape for t in whole_numbers()]), whole_numbers()))
    print(len(data), hashlib.sha256(data).hexdigest()[:16])
"""


def whole_numbers() -> list[np.ndarray]:
    """The same on every machine: no float is in them."""
    found = []
    for number, shape in enumerate([(40, 24, 3, 3), (70, 130), (9, 4, 5, 5), (500,), (6, 7, 11)]):
        bits = np.frombuffer(hashlib.shake_256(bytes([number])).digest(4 * int(np.prod(shape))), np.uint8).reshape(*shape, 4)
        small = (bits & 1).sum(-1, dtype=np.int32) - 2
        found.append(small * (1 + (bits[..., 0] >> 7) * (bits[..., 1] >> 2) * (number == 3)))
    return found


def decode(data: bytes, tensors: list[np.ndarray]) -> list[np.ndarray]:
    return adaptive.decode(data, [t.shape for t in tensors])


def assert_equal(found: list[np.ndarray], tensors: list[np.ndarray]) -> None:
    for one, other in zip(found, tensors, strict=True):
        assert one.dtype == np.int32 and one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@FORMS
@pytest.mark.parametrize("seed", range(6))
def test_tensors_come_back(form: str, seed: int) -> None:
    tensors = weights(seed)
    data = adaptive.encode(tensors, form)
    assert data[0] == adaptive.FORMS.index(form)
    assert_equal(decode(data, tensors), tensors)
    assert adaptive.encoded_nbytes(tensors, form) == len(data)


@FORMS
@pytest.mark.parametrize("seed", range(3))
def test_native_equals_twin(form: str, seed: int) -> None:
    tensors = [adaptive.whole(t) for t in weights(seed)]
    data = adaptive.encode(tensors, form)
    assert TWINS[form].encode(tensors) == data
    assert_equal(TWINS[form].decode(data, [adaptive.view(t.shape) for t in tensors]), tensors)


@pytest.mark.parametrize("isa", ["scalar", "avx2", ""])
def test_the_bytes_are_the_same_on_every_machine(isa: str) -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, "TENSORPRESS_ISA": isa}, capture_output=True, text=True, check=True)
    assert run.stdout.split() == BYTES


@FORMS
@pytest.mark.parametrize("shape", SHAPES)
def test_one_tensor_of_extremes(form: str, shape: tuple[int, ...]) -> None:
    tensors = [np.random.default_rng(1).integers(LIMITS.min, LIMITS.max, shape, np.int32, endpoint=True)]
    assert_equal(decode(adaptive.encode(tensors, form), tensors), tensors)


@FORMS
def test_no_tensors(form: str) -> None:
    assert decode(adaptive.encode([], form), []) == []
    assert len(adaptive.encode([np.zeros((0, 3), np.int32)], form)) == 1
    for bad in (adaptive.encode([], form) + b"\0", b"", b"\2"):
        with pytest.raises(StreamError):
            decode(bad, [])


def test_many_values_are_coded_in_the_fast_form_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tensors = [np.rint(rng.laplace(0, 0.7, shape)).astype(np.int32) for shape in [(64, 32, 3, 3), (601, 900), (1, 1_100_000), (513, 1025), (31, 5)]]
    data = adaptive.encode(tensors, "fast")
    assert_equal(decode(data, tensors), tensors)
    monkeypatch.setattr(adaptive, "SMALL_VALUES", sum(t.size for t in tensors))
    assert adaptive.encode(tensors)[0] == 0
    monkeypatch.setattr(adaptive, "SMALL_VALUES", tensors[0].size + 5)
    assert adaptive.encode(tensors) == data


def test_what_is_put_may_change_afterwards() -> None:
    values = np.arange(-40, 40, dtype=np.int32).reshape(8, 10)
    encoder = adaptive.AdaptiveEncoder()
    encoder.put(values)
    kept = values.copy()
    values[:] = 0
    assert_equal(decode(encoder.finish(), [kept]), [kept])


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
    with pytest.raises(InputError, match="form"):
        adaptive.AdaptiveEncoder("quick")
    encoder.put(np.array([5]))
    data = encoder.finish()
    assert adaptive.decode(data, [(1,)])[0] == 5
    with pytest.raises(InputError, match="finished"):
        encoder.put(np.array([5]))
    with pytest.raises(InputError, match="finished"):
        encoder.finish()


@FORMS
@pytest.mark.parametrize("seed", range(4))
def test_a_string_that_ends_early_or_late_is_refused(form: str, seed: int) -> None:
    """What lacks its last few bytes alone may be the string of other values, as any string may."""
    tensors = weights(seed)
    data = adaptive.encode(tensors, form)
    for cut in range(0, len(data) - 16, max(len(data) // 40, 1)):
        with pytest.raises(StreamError):
            decode(data[:cut], tensors)
    for more in (b"\0", b"\0\0\0\0\0", b"\1", b"\xff"):
        with pytest.raises(StreamError):
            decode(data + more, tensors)


@FORMS
def test_the_place_where_a_string_ends_is_named(form: str) -> None:
    tensors = [np.arange(400, dtype=np.int32).reshape(20, 20) for _ in range(2)]
    with pytest.raises(StreamError, match=r"tensor 1, value \d+ of 400"):
        decode(adaptive.encode(tensors, form)[:-200], tensors)


@FORMS
def test_whatever_is_decoded_is_encoded_to_the_same_bytes(form: str) -> None:
    """Random and damaged strings: most are refused, and those that are not are what an encoder writes."""
    rng = np.random.default_rng(0)
    good = 0
    for number in range(600):
        tensors = weights(number % 5)[:3]
        front = bytes([adaptive.FORMS.index(form)])
        data = bytearray(adaptive.encode(tensors, form) if number % 2 else front + rng.integers(0, 256, int(rng.integers(0, 40)), np.uint8).tobytes())
        for _ in range(number % 3):
            if len(data) > 1:
                data[int(rng.integers(1, len(data)))] ^= 1 << int(rng.integers(8))
        shapes = [t.shape for t in tensors] if number % 2 else [(int(rng.integers(1, 6)),)]
        try:
            found = adaptive.decode(data, shapes)
        except StreamError:
            continue
        good += 1
        assert adaptive.encode(found, form) == data
    assert 90 < good < 590


@FORMS
def test_values_beyond_32_bits_are_refused(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins can write them; no encoder does."""
    if form == "small":
        mix = adaptive_reference.Mix()
        mix.walk(np.array([[[(1 << 32) - 1]]], object))
        data = b"\0" + mix.interval.finish()
    else:
        fast = adaptive_fast_reference.Fast()
        with pytest.raises(StreamError, match="beyond 32 bits"):
            fast.walk(np.array([[[(1 << 31) + 3]]], object))
        fast.lanes.end()
        data = b"\1" + bytes(fast.lanes.out)
    with pytest.raises(StreamError, match="value 0 of 1: beyond 32 bits"):
        adaptive.decode(data, [(1,)])
    with pytest.raises(StreamError, match="beyond 32 bits"):
        TWINS[form].decode(data, [(1, 1, 1)])
    decoder = adaptive.AdaptiveDecoder(data)
    with pytest.raises(StreamError):
        decoder.take((1,))
    with pytest.raises(StreamError):
        decoder.done()


def test_more_values_than_a_string_can_hold_take_no_memory() -> None:
    with pytest.raises(StreamError, match="cannot hold"):
        adaptive.AdaptiveDecoder(b"\0\2").take((1 << 20, 1 << 20, 3, 3))


@FORMS
def test_a_decoder_that_failed_can_be_asked_again(form: str) -> None:
    decoder = adaptive.AdaptiveDecoder(bytes([adaptive.FORMS.index(form)]) + b"\x9d\x5a" * 20)
    for _ in range(200):
        with pytest.raises(StreamError):
            decoder.take((4000, 3))
    with pytest.raises(StreamError):
        decoder.done()


def test_a_shape_is_refused_that_no_tensor_has() -> None:
    with pytest.raises(InputError, match="shape"):
        adaptive.AdaptiveDecoder(adaptive.encode([])).take((-1, -1))


@FORMS
def test_a_vector_takes_little_more_memory_than_its_values(form: str) -> None:
    """Of a vector no columns are remembered: nothing is below them."""
    pytest.importorskip("resource")
    data = adaptive.encode([np.zeros(1 << 22, np.int32)], form)
    script = f"""
import resource
from tensorpress.coding import adaptive
adaptive.AdaptiveDecoder({data[:1]!r} + bytes(40))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
adaptive.decode({data!r}, [(1 << 22,)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 2.5 * (4 << 22) / 1024  # KiB


def test_zeros_cost_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    values = np.rint(rng.laplace(0, 1, (64, 64, 3, 3))).astype(np.int32)
    assert adaptive.encoded_nbytes([np.zeros((64, 64, 3, 3), np.int32)]) < 40
    halved = values.copy()
    halved[:, rng.permutation(64)[:32]] = 0  # input channels that are gone
    assert adaptive.encoded_nbytes([halved]) < 0.55 * adaptive.encoded_nbytes([values])


def test_rows_and_columns_of_their_own_scale_are_learned() -> None:
    rng = np.random.default_rng(0)  # and the fast form's contexts, which are fewer, learn them as well
    scale = np.exp(rng.normal(0, 0.7, (64, 1, 1, 1)) + rng.normal(0, 0.7, (1, 64, 1, 1)))
    values = np.rint(rng.normal(0, 1, (64, 64, 3, 3)) * scale).astype(np.int32)
    counts = np.unique(values, return_counts=True)[1] / values.size
    entropy_nbytes = values.size * -(counts * np.log2(counts)).sum() / 8
    assert adaptive.encoded_nbytes([values], "small") < 0.87 * entropy_nbytes
    assert adaptive.encoded_nbytes([values], "fast") < 0.9 * entropy_nbytes


@FORMS
def test_signs_that_go_on_are_learned(form: str) -> None:
    """Smooth kernels: the sign of a value is that of its neighbours, mostly."""
    rng = np.random.default_rng(0)
    values = np.rint(rng.normal(0, 2, (64, 64, 1, 1)) + rng.normal(0, 1, (64, 64, 3, 3))).astype(np.int32)
    rough = values * rng.choice([-1, 1], values.shape)
    assert adaptive.encoded_nbytes([values], form) < 0.88 * adaptive.encoded_nbytes([rough.astype(np.int32)], form)


def test_bits_by_magnitude_add_up_to_the_string() -> None:
    rng = np.random.default_rng(0)
    tensors = [np.rint(rng.laplace(0, scale, (32, 16, 3, 3))).astype(np.int32) for scale in (0.5, 1)]
    bits = bits_by_magnitude(tensors)
    assert bits.shape == (16,) and bits.dtype == np.float64 and (bits > 0).all()
    counts = sum(np.bincount(np.minimum(np.abs(t), 15).reshape(-1), minlength=16) for t in tensors)
    assert abs((bits * counts).sum() / 8 - adaptive.encoded_nbytes(tensors, "small")) < 8
    assert bits[0] < bits[1] < bits[2] < bits[3]
    assert (np.diff(bits)[counts[1:] == 0] >= 1).all()
    assert np.isfinite(bits_by_magnitude([])).all()
