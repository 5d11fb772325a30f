"""The context codec: kernel and twin, predictions from a reference, rate caps, cells, and models that are refused."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from tensorpress.blocks import context_max_twin as max_twin
from tensorpress.blocks import context_twin as twin
from tensorpress.blocks.context_max_model import whole_stripes
from tensorpress.blocks.context_model import Alphabet, magnitude_token, steps_of
from tensorpress.core import registry
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, stripe_count
from tests.conftest import feature_map

OPTIONS = [{}, {"step": 6.0}, {"backend": "fast"}, {"backend": "fast", "step": 6.0}]


def fitted(x, options, reference=None):
    codec = registry.build("context", options)
    return codec.fit([x]) if reference is None else codec.fit([x], [reference])


def stripes_of(payload):
    src = Reader(payload)
    return [bytes(src.stripe()) for _ in range(stripe_count(src.shape))]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())) or "default")
@pytest.mark.parametrize("signed", [False, True], ids=["relu", "signed"])
@pytest.mark.parametrize("shape", [(33, 9, 10), (40, 3, 2), (3, 8, 17)])
@pytest.mark.parametrize("referred", [False, True], ids=["alone", "reference"])
def test_kernel_equals_its_twin(options, signed, shape, referred):
    x = feature_map(shape, signed=signed)
    before = (x + 0.3 * feature_map(shape, signed=signed, seed=5)).astype(np.float32) if referred else None
    codec = fitted(x, options, before)
    model = codec.stage.model
    lagrangian = 0.0 if codec.config.step == 1 else codec.config.lagrangian
    payload = codec.encode_payload(x, reference=before)
    decoded = codec.decode_payload(payload, reference=before)
    for number, data in enumerate(stripes_of(payload)):
        rows = slice(8 * number, 8 * number + 8)
        part, beside = x[:, rows], None if before is None else before[:, rows]
        out = np.empty(part.shape, np.float32)
        if options.get("backend") == "fast":
            assert twin.encode_fast(model, part, beside, lagrangian, shape[1]) == data
            twin.decode_fast(model, data, beside, out, shape[1])
        else:
            whole = number < whole_stripes(stripe_count(shape))
            assert max_twin.encode(model, part, beside, whole, lagrangian) == data
            max_twin.decode(model, data, beside, whole, out)
        assert np.array_equal(out, decoded[:, rows])


def test_lossless_on_levels_and_integers():
    x = feature_map((20, 12, 9))
    for backend in ("max", "fast"):
        codec = fitted(x, {"backend": backend})
        levels = np.rint(x * np.float32(codec.config.reciprocal)) * np.float32(codec.config.scale)
        assert np.array_equal(codec.decode_payload(codec.encode_payload(x)), levels)
        for dtype in (np.uint8, np.int8):
            whole = np.clip(feature_map((20, 12, 9), signed=True) * 30, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
            codec = fitted(whole, {"backend": backend})
            assert np.array_equal(codec.decode_payload(codec.encode_payload(whole)), whole)


def test_a_good_reference_saves_bytes_and_is_needed():
    before = feature_map((64, 16, 16), seed=3)
    x = np.maximum(before + 0.1 * feature_map((64, 16, 16), signed=True, seed=4), 0).astype(np.float32)
    alone, referred = fitted(x, {"step": 4.0}), fitted(x, {"step": 4.0}, before)
    payload = referred.encode_payload(x, reference=before)
    assert len(payload) < 0.8 * len(alone.encode_payload(x))
    for call in (lambda: referred.encode_payload(x), lambda: referred.decode_payload(payload), lambda: referred.encode(x)):
        with pytest.raises(InputError, match="reference"):
            call()
    with pytest.raises(InputError, match="shape"):
        referred.decode_payload(payload, reference=before[:, :8])
    with pytest.raises(InputError, match="takes no references"):
        registry.build("zvc").fit([x], [before])


@pytest.mark.parametrize("backend", ["max", "fast"])
def test_a_cap_is_kept_by_every_stripe(backend):
    x = feature_map((48, 20, 19), signed=True)
    free = fitted(x, {"backend": backend, "step": 4.0})
    for cap in (3.0, 6.0, 40.0):
        codec = registry.build("context", {**free.params, "cap": cap}, free.state)
        payload = codec.encode_payload(x)
        for number, data in enumerate(stripes_of(payload)):
            assert len(data) + 8 <= x[:, 8 * number : 8 * number + 8].size / cap
        assert len(payload) + 12 <= x.size / cap
        y, nbytes = codec.simulate(x)
        assert np.array_equal(y, codec.decode_payload(payload)) and nbytes == len(payload)
    assert np.square(codec.decode_payload(payload) - x).mean() > np.square(free.decode_payload(free.encode_payload(x)) - x).mean()


def test_cells_never_exceed_a_byte_a_value_and_two():
    quiet, noise = feature_map((64, 16, 16)), np.random.default_rng(0).uniform(-9, 9, (64, 16, 16)).astype(np.float32)
    codec = fitted(quiet, {"backend": "fast"})
    for data in stripes_of(codec.encode_payload(noise)):
        assert len(data) <= 64 * 8 * 16 + 2 * 4


@pytest.mark.parametrize("shape", [(70, 20, 19), (40, 3, 3), (2100, 1, 1)])
def test_every_cell_decodes_alone(shape):
    x, before = feature_map(shape), feature_map(shape, seed=2)
    for reference in (None, before):
        codec = fitted(x, {"backend": "fast", "step": 3.0}, reference)
        payload = codec.encode_payload(x, reference=reference)
        whole, seen = codec.decode_payload(payload, reference=reference), np.zeros(shape, bool)
        cell = 0
        while not seen.all():
            box, values = codec.stage.decode_cell(payload, cell, reference)
            assert np.array_equal(values, whole[box]) and not seen[box].any()
            seen[box] = True
            cell += 1
        for bad in (cell, -1):
            with pytest.raises(InputError, match="does not exist"):
                codec.stage.decode_cell(payload, bad, reference)
    damaged = bytearray(codec.encode_payload(x, reference=before))
    damaged[-1] ^= 1
    if shape[1] > 8:
        assert codec.stage.decode_cell(damaged, 0, before)[1].size  # another stripe's damage does not matter
    with pytest.raises(StreamError, match=r"stripe \d+ .*: its check fails"):
        codec.stage.decode_cell(damaged, cell - 1, before)
    with pytest.raises(InputError, match="whole stripes"):
        fitted(x, {}).stage.decode_cell(payload, 0)


def test_another_size_than_the_fitted_one():
    codec = fitted(feature_map((32, 14, 14)), {"step": 4.0})
    for shape in ((32, 7, 7), (32, 30, 3), (32, 1, 1)):
        x = feature_map(shape, seed=9)
        assert np.abs(codec.decode_payload(codec.encode_payload(x)) - x).max() < 8 * 4 * codec.config.scale
    with pytest.raises(InputError, match="31 channels"):
        codec.encode_payload(feature_map((31, 14, 14)))


def test_steps_by_channel():
    x = feature_map((16, 16, 16), signed=True)
    exponents = tuple(8 if c % 2 else -8 for c in range(16))
    codec = fitted(x, {"step": 3.0, "exponents": exponents, "lagrangian": 0.0, "centroids": False})
    error = np.abs(codec.decode_payload(codec.encode_payload(x)) - x).max((1, 2)) / (3.0 * codec.config.scale)
    assert 0.5 < error[1::2].max() <= 1.001 and 0.1 < error[::2].max() <= 0.2501
    step, reciprocal = steps_of(1.0, np.arange(-16, 17, dtype=np.int8))
    assert np.allclose(step, 2.0 ** (np.arange(-16, 17) / 8), rtol=1e-6) and np.array_equal(reciprocal, np.float32(1) / step)


def test_tokens_cover_every_value_once():
    for low, high in ((0, 0), (0, 1), (0, 255), (128, 127), (3, 40), (40, 3), (200, 55)):
        alphabet = Alphabet(low, high)
        a = alphabet.arrays
        values = a["token_first"][a["token"]] + a["token_sign"][a["token"]].astype(int) * a["extra"]
        assert np.array_equal(values, np.arange(-low, high + 1))
    assert [magnitude_token(m)[0] for m in (0, 15, 16, 17, 18, 255)] == [0, 15, 16, 16, 17, 47]


@pytest.mark.parametrize("backend", ["max", "fast"])
def test_damaged_models_are_refused(backend):
    x = feature_map((33, 9, 9))
    codec = fitted(x, {"backend": backend, "step": 4.0})
    packed = codec.state["model"]
    payload = codec.encode_payload(x)
    inside, model = bytearray(zlib.decompress(packed)), type(codec.stage.model)
    for end in (0, 5, len(packed) - 1):
        with pytest.raises(InputError):
            model.from_bytes(packed[:end])
    with pytest.raises(InputError, match="followed"):
        model.from_bytes(packed + b"\0")
    with pytest.raises(InputError):
        model.from_bytes(zlib.compress(bytes(inside[:-1])))
    random = np.random.default_rng(1)
    for _ in range(300):  # any content that passes as a model decodes within bounds
        damaged = bytearray(inside)
        for at in random.integers(0, len(damaged), random.integers(1, 4)):
            damaged[at] = random.integers(256)
        try:
            other = registry.build("context", codec.params, {"model": zlib.compress(bytes(damaged), 1)})
            other.decode_payload(payload)
        except (InputError, StreamError):
            continue


def test_options_that_make_no_sense_are_refused():
    for options in ({"backend": "slow"}, {"step": 0.5}, {"earlier": 17}, {"classes": -1}, {"cap": -1.0}, {"exponents": (1, 2), "step": 2.0}):
        with pytest.raises(InputError):
            registry.build("context", options).fit([feature_map((4, 4, 4))])
    codec = fitted(feature_map((4, 4, 4)), {})
    with pytest.raises(InputError, match="back-end"):
        registry.build("context", {**codec.params, "backend": "fast"}, codec.state)
    assert replace(codec.config).exponents == ()
