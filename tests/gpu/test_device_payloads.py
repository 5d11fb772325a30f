"""Codecs on a GPU write the bytes of the host and read them back; what the host refuses they refuse, in the same words."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer, sealed
from tests.conftest import feature_map
from tests.contract.test_contract import resealed

CODECS = [
    ("zvc", {}),
    ("zvc", {"step": 6.0}),
    ("zvc", {"step": 40.0}),
    ("dct_cm", {"profile": "paper", "step": 8.0}),
    ("dct_cm", {"profile": "paper", "step": 5.0, "transform": "dct", "lengths": (16,)}),
    ("dct_cm", {"profile": "paper", "transform": "none"}),
]
SHAPES = [(64, 16, 16), (33, 7, 9), (3, 9, 20), (70, 1, 1), (5,), (40, 6), (24, 5, 3), (2, 3, 7, 9, 11), (37, 7, 7), (1, 1, 1), (), (0,), (3, 0, 5), (4, 4, 0)]


@pytest.fixture(params=CODECS, ids=lambda v: "-".join([v[0], *(f"{k}={x}" for k, x in v[1].items())]))
def make(request):
    """A codec fitted to arrays, that runs on the device."""

    def fit(*samples: np.ndarray) -> Codec:
        codec = registry.build(request.param[0], request.param[1]).fit(list(samples))
        assert codec.device is not None
        return codec

    return fit


@pytest.fixture
def only_the_device(monkeypatch):
    """No codec falls back to the host."""

    def fail(*_args, **_kwargs):
        raise AssertionError("the tensor went to the host")

    monkeypatch.setattr("tensorpress.core.codec.to_host", fail)
    monkeypatch.setattr("tensorpress.core.codec.from_host", fail)


@pytest.mark.parametrize("signed", [False, True], ids=["relu", "signed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_and_values_are_those_of_the_host(device, make, shape, signed, only_the_device):
    array = feature_map(shape, signed=signed)
    codec = make(feature_map((9, 8, 8), signed=signed), array)
    x = torch.from_numpy(np.array(array)).to(device)
    payload = codec.encode_payload(array)
    assert codec.encode_payload(x) == payload
    held = codec.encode_on_device(x)
    assert held.device.type == device.type and sealed(held.cpu().numpy()) == payload
    expected = codec.decode_payload(payload)
    own = np.zeros(len(payload) + 64, np.uint8)
    assert bytes(codec.encode_payload(x, own)) == payload and bytes(codec.encode_frame(x, 3, 77, own)) == bytes(codec.encode_frame(array, 3, 77))
    for found in (codec.decode_payload(payload, out=torch.empty_like(x)), codec.decode_on_device(held)):
        assert found.device.type == device.type and np.array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int8, torch.bool], ids=str)
def test_other_types(device, make, dtype, only_the_device):
    array = feature_map((33, 7, 9), signed=True)
    x = torch.from_numpy(array).to(device)
    x = (x * 20).clamp(-120, 120).abs().to(dtype) if dtype == torch.uint8 else (x * 20).clamp(-120, 120).to(dtype)
    array = (x.float() if dtype == torch.bfloat16 else x).cpu().numpy()
    codec = make(array)
    payload = codec.encode_payload(array)
    assert codec.encode_payload(x) == payload
    expected = torch.from_numpy(codec.decode_payload(payload)).to(dtype)
    assert torch.equal(codec.decode_payload(payload, out=torch.empty_like(x)).cpu(), expected)
    out = torch.empty_like(x)
    assert torch.equal(codec.decode_on_device(codec.encode_on_device(x), out=out).cpu(), expected)


def test_the_largest_halves_stay_finite(device, make, only_the_device):
    array = np.resize(np.array([1, -1, 0.25, 0], np.float16) * np.finfo(np.float16).max, (33, 2, 4))
    codec = make(array)
    x = torch.from_numpy(array).to(device)
    found = codec.decode_payload(codec.encode_payload(x), out=torch.empty_like(x)).cpu().numpy()
    assert np.isfinite(found).all() and np.array_equal(found, codec.decode_payload(codec.encode_payload(array)))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_wide_integers_of_zvc(device, dtype, only_the_device):
    rng = np.random.default_rng(4)
    array = (rng.integers(-(1 << 62), 1 << 62, (9, 12, 10)) * (rng.random((9, 12, 10)) < 0.4)).astype(str(dtype).removeprefix("torch."))
    codec = registry.build("zvc").fit([array])
    x = torch.from_numpy(array).to(device)
    payload = codec.encode_payload(array)
    assert codec.encode_payload(x) == payload
    assert np.array_equal(codec.decode_payload(payload, out=torch.empty_like(x)).cpu().numpy(), array)


def test_strides(device, make, only_the_device):
    array = feature_map((20, 12, 14))
    codec = make(array)
    x = torch.from_numpy(array).to(device)
    payload = codec.encode_payload(array)
    last = x[None].contiguous(memory_format=torch.channels_last)[0]
    assert codec.encode_payload(last) == payload and codec.encode_payload(x.flip(1).flip(1)) == payload
    out = torch.empty(20, 12, 28, device=device)[..., ::2]
    assert np.array_equal(codec.decode_payload(payload, out=out).cpu().numpy(), codec.decode_payload(payload))
    assert np.array_equal(out.cpu().numpy(), codec.decode_payload(payload))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's own arithmetic overflows aloud
def test_what_the_host_refuses_is_refused_in_its_words(device, make):
    array = feature_map((20, 12, 14))
    codec = make(array)
    for bad in (np.nan, np.inf, -np.inf):
        y = array.copy()
        y[7, 11, 13] = bad
        for encode in (codec.encode_payload, codec.encode_on_device):
            with pytest.raises(InputError, match=r"index \(7, 11, 13\)"):
                encode(torch.from_numpy(y).to(device))
    y = array.astype(np.float64)
    y[0, 0, 0] = 1e300
    with pytest.raises(InputError, match="finite"):
        codec.encode_payload(torch.from_numpy(y).to(device))
    array[3, 2, 1] = 3e38
    assert codec.encode_payload(torch.from_numpy(array).to(device)) == codec.encode_payload(array)
    with pytest.raises(InputError, match="complex64"):
        codec.encode_payload(torch.zeros(3, dtype=torch.complex64, device=device))


def outcome(decode, payload, **options) -> bytes | None:
    """The bytes of what `decode` gives; None where it refuses."""
    try:
        return torch.as_tensor(decode(payload, **options)).cpu().numpy().tobytes()
    except StreamError:
        return None


def test_hostile_content_behind_right_checks(device, make):
    rng = np.random.default_rng(3)
    refused = 0
    for shape in [(40, 9, 9), (33, 3, 2)]:
        array = feature_map(shape, signed=True)
        codec = make(array)
        payload = codec.encode_payload(array)

        def mutate(data: bytearray) -> bytearray:
            at = int(rng.integers(len(data))) if rng.random() < 0.7 else int(rng.integers(min(len(data), 6)))
            kind = rng.random()
            if kind < 0.6:
                data[at] = rng.integers(256)
            elif kind < 0.8:
                del data[at:]
            else:
                data[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
            return data

        for _ in range(10):
            hostile = resealed(payload, mutate)
            blank = torch.empty(shape, device=device)
            held = torch.frombuffer(bytearray(hostile), dtype=torch.uint8).to(device)
            expected = outcome(codec.decode_payload, hostile)
            assert outcome(codec.decode_payload, hostile, out=blank) == expected
            assert outcome(codec.decode_on_device, held) == expected
            refused += expected is None
    assert refused > 5


def test_heads_and_tables_that_lie(device, make):
    array = feature_map((9, 20, 5))
    codec = make(array)
    held = codec.encode_on_device(torch.from_numpy(array).to(device))
    front = Reader(held.cpu().numpy().tobytes()).index_nbytes
    for end in [*range(front + 2), held.numel() // 2, held.numel() - 1]:
        with pytest.raises(StreamError):
            codec.decode_on_device(held[:end])
    for at in [i for i in range(2, front) if i < front - 8 * 3 or (i - front) % 8 < 4]:  # all but the checks, which nobody verifies here
        damaged = held.clone()
        damaged[at] ^= 1 << at % 8
        with pytest.raises(StreamError):
            codec.decode_on_device(damaged)
    giant = Writer(np.float32, (1 << 20, 1 << 20, 1))._head + struct.pack("<II", 0, 0)
    with pytest.raises(StreamError):
        codec.decode_on_device(torch.frombuffer(bytearray(giant), dtype=torch.uint8).to(device))
    with pytest.raises(StreamError, match="expected"):
        codec.decode_on_device(held, out=torch.empty(9, 20, 6, device=device))
    with pytest.raises(StreamError, match="expected"):
        codec.decode_payload(codec.encode_payload(array), out=torch.empty(9, 20, 5, device=device, dtype=torch.float64))


def test_a_damaged_payload_from_outside_is_refused(device, make):
    array = feature_map((9, 20, 5))
    codec = make(array)
    payload = codec.encode_payload(array)
    for at in range(0, len(payload), 1 + len(payload) // 60):
        damaged = bytearray(payload)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(StreamError):
            codec.decode_payload(damaged, out=torch.empty(9, 20, 5, device=device))


@pytest.mark.parametrize("length", [4, 8, 16, 32])
@pytest.mark.parametrize("groups", [1, 3], ids=["one mask", "a mask a group"])
def test_every_length_and_mask(device, length, groups, only_the_device):
    """Cells with few groups, channels that fill none, deep cells of small maps, ends of maps; coefficients that are left out."""
    rng = np.random.default_rng(length)
    keep = tuple(int(k) for k in np.append(1, rng.random(length * groups - 1) < 0.7))
    used = 0
    for shape in [(length + 3, 9, 17), (3 * length - 1, 5, 4), (40, 3, 3), (100, 1, 1)]:
        for signed in (False, True):
            base = feature_map((1, *shape[1:]), signed=signed, seed=length)
            array = (base + 0.1 * feature_map(shape, signed=signed, seed=1)).astype(np.float32)
            zero = 128 if signed else 0
            scale = float(np.float32(np.abs(array).max() / (120 if signed else 250)))
            options = {"scale": scale, "reciprocal": float(np.float32(1 / scale)), "zero_point": zero, "length": length, "keep": keep}
            centroids = {"dct_centroid": (-0.3, -0.2, 0.1), "lagrangian": 20.0}
            codec = registry.build("dct_cm", {"profile": "paper", "step": 4.0, "transform": "dct", **options, **centroids})
            payload = codec.encode_payload(array)
            x = torch.from_numpy(array).to(device)
            assert codec.encode_payload(x) == payload
            assert np.array_equal(codec.decode_payload(payload, out=torch.empty_like(x)).cpu().numpy(), codec.decode_payload(payload))
            used += payload[Reader(payload).index_nbytes] & 3 == 3
    assert used >= 2


@pytest.mark.parametrize("segment", [900, 4096])
def test_long_stripes_are_walked_in_segments(device, monkeypatch, segment):
    monkeypatch.setattr("tensorpress.blocks.gpu.cells.SEGMENT", segment)
    rng = np.random.default_rng(segment)
    array = feature_map((70, 8, 20), signed=True)
    array[:32, :, :8] = 0  # cells of 3 bytes
    codec = registry.build("dct_cm", {"profile": "paper", "step": 6.0}).fit([array])
    held = codec.encode_on_device(torch.from_numpy(array).to(device))
    expected = codec.decode_payload(codec.encode_payload(array))
    with monkeypatch.context() as only:
        only.setattr("tensorpress.core.codec.from_host", None)
        assert np.array_equal(codec.decode_on_device(held).cpu().numpy(), expected)
    front = Reader(held.cpu().numpy().tobytes()).index_nbytes
    for at in [front, front + 1, *rng.integers(front, held.numel(), 3).tolist()]:
        damaged = held.clone()
        damaged[at] ^= 1 << int(rng.integers(8))
        assert outcome(codec.decode_on_device, damaged) == outcome(codec.decode_payload, sealed(damaged.cpu().numpy()))


def test_cells_of_another_form_are_decoded_by_the_host(device):
    array = feature_map((40, 9, 9))
    codec = registry.build("dct_cm", {"step": 4.0}).fit([array])
    other = registry.build("dct_cm", {**codec.params, "profile": "paper", "length": 8})
    payload = codec.encode_payload(array)
    held = torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(device)
    assert np.array_equal(other.decode_on_device(held).cpu().numpy(), other.decode_payload(payload))


def test_codecs_without_kernels_go_through_the_host(device):
    array = feature_map((20, 9, 9))
    codec = registry.build("rle").fit([array])
    x = torch.from_numpy(array).to(device)
    payload = codec.encode_payload(x)
    assert payload == codec.encode_payload(array)
    assert np.array_equal(codec.decode_payload(payload, out=torch.empty_like(x)).cpu().numpy(), codec.decode_payload(payload))
    with pytest.raises(InputError, match="gpu"):
        codec.encode_on_device(x)


def test_the_switch(device, monkeypatch):
    array = feature_map((20, 9, 9))
    codec = registry.build("zvc").fit([array])
    monkeypatch.setenv("TENSORPRESS_TRITON", "0")
    monkeypatch.setattr("tensorpress.blocks.words.ZeroBitmap.on_device", None)
    x = torch.from_numpy(array).to(device)
    assert codec.encode_payload(x) == codec.encode_payload(array)
    with pytest.raises(InputError, match="gpu"):
        codec.encode_on_device(x)
