"""The back-end `max` of the context codec: parts of a stripe, threads, layouts, damaged stripes, intervals and rows."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.blocks import context_max_fit as fit
from tensorpress.blocks import context_max_twin as twin
from tensorpress.blocks.context_max_model import MaxModel, cumulative, weight_of, whole_stripes
from tensorpress.core import registry
from tensorpress.core.errors import StreamError
from tests.conftest import feature_map


@pytest.fixture
def in_parts(monkeypatch):
    monkeypatch.setattr(fit, "PART_VALUES", 1)


def fitted(x, **options):
    return registry.build("context", {"backend": "max", **options}).fit([x])


def encoded(model: MaxModel, x, threads: int = 1, lagrangian: float = 0.0):
    count = -(-x.shape[1] // 8)
    return model.native.encode(x, None, whole_stripes(count), [lagrangian] * count, 0.5, threads)


@pytest.mark.parametrize("step", [1.0, 5.0])
def test_parts_equal_their_twin(in_parts, step):
    x = feature_map((6, 20, 25))
    x[:, 16:, 13:] = 0  # the second part of the last stripe has no bytes
    codec = fitted(x, step=step)
    model = codec.stage.model
    assert model.parts == 2
    stripes = encoded(model, x, lagrangian=codec.stage.lagrangian)
    decoded = codec.decode_payload(codec.encode_payload(x))
    for number, data in enumerate(stripes):
        rows, whole = slice(8 * number, 8 * number + 8), number < 1
        assert len(model.columns_of(25, whole)) == (1 if whole else 2)
        out = np.empty(x[:, rows].shape, np.float32)
        twin.decode(model, data, None, whole, out)
        assert twin.encode(model, x[:, rows], None, whole, codec.stage.lagrangian) == data
        assert np.array_equal(out, decoded[:, rows])
        with pytest.raises(StreamError):
            twin.decode(model, data[:-1], None, whole, out)
    assert model.columns_of(23, False) == [slice(0, 23)]


def test_a_cap_is_kept_in_parts(in_parts):
    x = feature_map((20, 30, 26), signed=True)
    codec = fitted(x, step=4.0, cap=7.0)
    y, nbytes = codec.simulate(x)
    payload = codec.encode_payload(x)
    assert np.array_equal(y, codec.decode_payload(payload)) and nbytes == len(payload) <= x.size / 7


def test_bytes_do_not_depend_on_threads_or_layout(in_parts):
    x = np.rint(np.abs(feature_map((24, 40, 26))) * 20).clip(0, 255).astype(np.uint8)
    model = fitted(x).stage.model
    stripes = encoded(model, x)
    for threads in (2, 3, 16):
        assert encoded(model, x, threads) == stripes
    assert encoded(model, np.asfortranarray(x)) == encoded(model, x.astype(np.float32)) == stripes
    for out in (np.zeros_like(x), np.zeros_like(x, order="F"), np.zeros(x.shape, np.float32)):
        views = [np.frombuffer(s, np.uint8) for s in stripes]
        assert model.native.decode(views, None, whole_stripes(5), out, 3) == -1
        assert np.array_equal(out, x)


def test_damaged_stripes_are_refused_within_bounds(in_parts):
    x = feature_map((9, 8, 26), signed=True)
    model = fitted(x).stage.model
    (data,) = encoded(model, x)
    out, random = np.zeros(x.shape, np.float32), np.random.default_rng(0)

    def decode(stripe: bytes) -> int:
        return model.native.decode([np.frombuffer(stripe, np.uint8)], None, 0, out, 1)

    assert decode(data) == -1
    for end in range(1, len(data), 7):
        assert decode(data[:end]) == 0
        assert decode(data + data[:end]) == 0
    for _ in range(500):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 5)):
            damaged[at] ^= 1 << random.integers(8)
        decode(bytes(damaged))
        decode(random.bytes(int(random.integers(1, len(data)))))
    refused = sum(decode(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]) == 0 for at in range(len(data)))
    assert refused > 0.8 * len(data)  # the rest are extra bits of other values


def test_intervals_are_the_cheapest_cut():
    counts = np.zeros((2, 40))
    counts[0, :10], counts[1, 30:] = 3.0 ** np.arange(10, 0, -1), 3.0 ** np.arange(10)
    bits = fit.intervals(counts).astype(int)
    first = np.cumsum(1 << bits, axis=1) - (1 << bits)
    assert (first[:, -1] + (1 << bits[:, -1]) >= 40).all()
    assert set(range(5)) <= set(first[0].tolist()) and set(range(35, 40)) <= set(first[1].tolist())  # what is uneven has symbols of its own
    assert (1 << fit.intervals(np.ones((3, 256))).astype(int)).sum() >= 3 * 256


def test_rows_of_codes():
    assert weight_of(np.array([0, 7, 8, 127])).tolist() == [8, 15, 16, 15 << 15]
    codes = fit.codes_of(np.array([[1.0, 2.0, 4.0] + [1e-9] * 13]))
    assert codes[0, :4].tolist() == [111, 119, 127, 0]
    begin = cumulative(codes)[0]
    assert begin[0] == 0 and (np.diff(begin.astype(int)) >= 0).all() and abs(begin[2] - 3 * 65536 / 7) < 600
