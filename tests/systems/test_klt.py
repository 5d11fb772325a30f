"""klt: exact integer transform, one step, nothing of the test tensor in the shared state, honest sizes."""

import json
from typing import Any

import numpy as np
import pytest

from tensorpress.blocks.klt import block_sizes, fit_basis, pack12, unpack12
from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Writer
from tensorpress.core.stream import Stream

MIXING = np.random.default_rng(99).normal(size=(40, 40)) * np.exp(-np.arange(40) / 6)


def pre_activation(seed: int, channels: int = 40, rows: int = 20, columns: int = 14) -> np.ndarray:
    """Correlated channels with a mean, as a convolution leaves them."""
    z = np.random.default_rng(seed).laplace(size=(40, rows, columns))
    return (np.einsum("ij,jhw->ihw", MIXING, z) + np.arange(40)[:, None, None] / 10)[:channels].astype(np.float32)


SAMPLES = [pre_activation(s) for s in range(4)]


def fitted(**options: Any) -> Codec:
    return registry.build("klt", options).fit(SAMPLES)


@pytest.mark.parametrize(
    "options", [{}, {"coder": "huffman"}, {"block": 0}, {"block": 1}, {"block": 7, "bits": 5.5}, {"bits": 11.0}, {"bits": 1.25}]
)
def test_error_is_that_of_one_step(options: dict[str, Any]) -> None:
    codec, x = fitted(**options), pre_activation(9)
    y, nbytes = codec.simulate(x)
    mse, step = float(np.square(x - y).mean()), codec.config.step
    assert mse < 1.1 * step**2 / 12 + (3 * codec.config.fixed) ** 2 + 2e-6 * x.var()
    assert codec.tap == "input" and y.dtype == x.dtype and nbytes == len(codec.encode_payload(x))


def test_decorrelation_saves_bytes_at_an_equal_step() -> None:
    x = pre_activation(9)
    plain = registry.build("klt", {"block": 1, "bits": 8.0}).fit(SAMPLES)
    whole = registry.build("klt", {"block": 0, "bits": 8.0 + np.log2(fitted(block=0).config.step / plain.config.step)}).fit(SAMPLES)
    assert whole.config.step == pytest.approx(plain.config.step, rel=0.01)
    (a, size_plain), (b, size_whole) = plain.simulate(x), whole.simulate(x)
    assert np.square(b - x).mean() < 1.02 * np.square(a - x).mean()
    assert size_whole < 0.75 * size_plain


def test_transform_is_exact_integer_arithmetic() -> None:
    x = SAMPLES[0].reshape(40, -1)
    basis, q = fit_basis(x, 16, 8.0)
    u = np.clip(np.rint((x - basis.means[:, None]) * (np.float32(1) / np.float32(basis.fixed))), -32767, 32767).astype(np.int64)
    at = 0
    for block, gain in zip(basis.blocks, basis.gains):
        rows = slice(at, at := at + len(block))
        exact = block.astype(np.int64) @ u[rows]  # integers: no order, no rounding
        assert np.array_equal(q[rows], np.rint(exact.astype(np.float64) * (basis.fixed / (gain * basis.step))))
        back = (block.astype(np.int64).T @ q[rows].astype(np.int64)).astype(np.float64) * (basis.step / gain) + basis.means[rows, None]
        assert np.array_equal(basis.inverse(q)[rows], back.astype(np.float32))
        near = block.astype(np.float64) / gain
        assert np.abs(near @ near.T - np.eye(len(block))).max() < 0.01


def test_step_is_the_papers_rule() -> None:
    x = SAMPLES[0].reshape(40, -1)
    _, q = fit_basis(x, 0, 6.5)
    widest = (q.max(axis=1) - q.min(axis=1)).max()
    assert abs(widest - (2**6.5 - 2)) <= 1
    assert (np.diff(np.square(q).mean(axis=1)) < 1).all()  # components stand in order of power


def test_fit_is_all_that_a_decoder_needs() -> None:
    codec, x = fitted(block=16, bits=7.25), pre_activation(5)
    again = registry.build("klt", json.loads(json.dumps(codec.params)), codec.state)
    assert again.digest == codec.digest and again.encode_payload(x) == codec.encode_payload(x)
    assert np.array_equal(again.decode(Stream.from_bytes(codec.encode(x).to_bytes())), codec.simulate(x)[0])
    assert set(codec.state) == {"basis", "means", "classes", "tables"}
    assert len(codec.state["basis"]) == 3 * (16 * 16 + 16 * 16 + 8 * 8) // 2
    assert len(codec.state["classes"]) == 40 and max(codec.state["classes"]) < 16
    assert fitted(block=16, bits=7.25).digest == codec.digest


def test_a_starved_fit_does_not_clamp_what_follows() -> None:
    few = [x[:, :4, :8] + np.random.default_rng(7).normal(size=(40, 4, 8)).astype(np.float32) for x in SAMPLES[:1]]
    codec = registry.build("klt", {"block": 0, "bits": 7.0}).fit(few)  # 32 pixels for 40 channels
    x = pre_activation(9)[:, :4, :8] + np.random.default_rng(8).normal(size=(40, 4, 8)).astype(np.float32)
    assert np.square(codec.simulate(x)[0] - x).mean() < 2 * codec.config.step**2 / 12


def test_size_is_near_the_entropy_of_the_classes() -> None:
    samples = [pre_activation(s, rows=56, columns=56) for s in range(3)]
    codec, x = registry.build("klt", {}).fit(samples), pre_activation(9, rows=56, columns=56)
    symbols = codec.stage.first.encode(x, Writer(x.dtype, x.shape))  # type: ignore[attr-defined]
    bits = 0.0
    for number in set(codec.state["classes"]):
        rows = symbols[np.frombuffer(codec.state["classes"], np.uint8) == number]
        p = np.unique(rows, return_counts=True)[1] / rows.size
        bits -= float((p * np.log2(p)).sum()) * rows.size
    assert bits / 8 < len(codec.encode_payload(x)) < 1.03 * bits / 8


def test_integers_and_other_floats() -> None:
    x = np.clip(pre_activation(3) * 10 + 100, 0, 255)
    codec = registry.build("klt", {"bits": 9.0}).fit([x])
    for dtype in (np.uint8, np.float16, np.float64):
        y = codec.decode_payload(codec.encode_payload(x.astype(dtype)))
        assert y.dtype == dtype and np.abs(y.astype(float) - x.astype(dtype)).max() < 6 * codec.config.step + 1


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-28, 1e35, 8e36])
def test_extreme_ranges(scale: float) -> None:
    x = (SAMPLES[0] * np.float32(scale)).astype(np.float32)
    codec = registry.build("klt", {}).fit([x])
    y = codec.decode_payload(codec.encode_payload(x))
    assert np.isfinite(y).all() and (scale < 1e-30 or np.abs(y - x).max() < 0.05 * np.abs(x).max())
    beyond = codec.decode_payload(codec.encode_payload(np.full_like(x, 3e38)))  # clamped, never infinite
    assert np.isfinite(beyond).all()


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (3, 5), (6, 1, 1), (2, 3, 9, 4), (5, 17, 1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    codec = registry.build("klt", {"bits": 10.0, "block": 4}).fit([x])
    y = codec.decode_payload(codec.encode_payload(x))
    assert y.shape == shape and np.abs(y - x).max() < 3 * codec.config.step
    for empty in ((0,), (shape[0], 0, 3), (0, 2, 2)):
        assert codec.decode_payload(codec.encode_payload(np.zeros(empty, np.float32))).shape == empty


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (np.full((40, 2, 2), np.nan, np.float32), "NaN or infinity at flat index 0"),
        (np.zeros((41, 2, 2), np.float32), "fitted to 40 channels"),
        (np.zeros((40, 2, 2), np.int32), "raw"),
        (np.zeros((40, 2, 2), bool), "zvc"),
        (np.zeros((40, 2, 2), complex), "complex128"),
    ],
)
def test_refused_input(x: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        fitted().encode_payload(x)


def test_unfitted_and_unusable_options() -> None:
    with pytest.raises(InputError, match=r"codec 'klt' is not fitted: call fit\(samples\)"):
        registry.build("klt", {}).encode_payload(SAMPLES[0])
    with pytest.raises(InputError, match="nothing to fit"):
        registry.build("klt", {}).fit([])
    with pytest.raises(InputError, match="one channel count"):
        registry.build("klt", {}).fit([SAMPLES[0], SAMPLES[0][:5]])
    for options in ({"bits": 1.0}, {"bits": 12}, {"bits": "8"}, {"block": -1}, {"coder": "zip"}, {"table_bits": 11}):
        with pytest.raises(InputError):
            registry.build("klt", options)


def test_hostile_parameters_state_and_stripes() -> None:
    codec, x = fitted(), pre_activation(2)
    payload = codec.encode_payload(x)
    params = (
        {"step": 1e308},
        {"step": 0.0},
        {"fixed": "x"},
        {"channels": 10**12},
        {"channels": 39},
        {"block": 8},
        {"coder": "huffman"},
        {"step": None},
    )
    for change in params:
        with pytest.raises(StreamError):
            registry.build_from_stream("klt", {**codec.params, **change}, codec.state).decode_payload(payload)
    nonsense = {name: b"\xff" * len(data) for name, data in codec.state.items()}
    nonsense["basis"] = b"\0\x08\x80" * (len(codec.state["basis"]) // 3)  # -2048, which no basis holds
    for name, data in codec.state.items():
        for wrong in (data[:-1], data + b"\0", b"", nonsense[name]):
            with pytest.raises(StreamError):
                registry.build_from_stream("klt", codec.params, {**codec.state, name: wrong})
    rng = np.random.default_rng(4)
    for shape, error in ((x.shape, "stripe 0"), ((39, 20, 14), "39 channels")):
        out = Writer(x.dtype, shape)
        for _ in range(3):
            out.stripe(rng.integers(0, 256, 600, np.uint8).tobytes())
        with pytest.raises(StreamError, match=error):
            codec.decode_payload(out.finish())


def test_twelve_bit_packing() -> None:
    values = np.array([0, -1, 2047, -2048, 5], np.int16)
    assert pack12(values).hex() == "00f0ffff0780050000"
    assert np.array_equal(unpack12(pack12(values), 5), values)
    assert block_sizes(70, 32) == [32, 32, 6] and block_sizes(70, 0) == [70]
    with pytest.raises(InputError):
        unpack12(pack12(values), 7)
