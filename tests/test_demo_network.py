"""The demo's digits and network: splits that never overlap, weights that fit the code and still name the digits."""

from __future__ import annotations

import hashlib
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.fx
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.demo import digits, network, train
from tensorpress.pytorch.sites import find_sites

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network.load()


def relu_outputs(net: nn.Module, inputs: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda m, i, out: maps.append(out.clone())) for m in net.modules() if isinstance(m, nn.ReLU)]
    with torch.inference_mode():
        net(inputs)
    for hook in hooks:
        hook.remove()
    return maps


def test_order_is_a_fixed_permutation() -> None:
    labels = np.arange(1797) % 10
    order = digits.order(labels)
    assert np.array_equal(np.sort(order), np.arange(1797))
    assert hashlib.sha256(order.astype("<i4").tobytes()).hexdigest() == "90a74c28f209a2d35a34e1c2ca4d7a8431103acdc6b75885a74187ec52c6a114"


def test_splits_share_no_picture_and_hold_every_class() -> None:
    seen: set[bytes] = set()
    for split, count in (("train", 1100), ("calibration", 197), ("test", 500)):
        images, labels = digits.load(split)
        assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
        assert labels.shape == (count,) and labels.dtype == np.int64
        assert np.bincount(labels, minlength=10).min() >= 0.09 * count
        pictures = {image.tobytes() for image in images}
        assert len(pictures) == count and not pictures & seen
        seen |= pictures


def test_pictures_are_the_digits_enlarged() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, chosen = digits.load("test")
    assert np.array_equal(chosen, labels[digits.order(labels)[1297:]])
    small = images[..., 0].reshape(500, 8, 4, 8, 4).mean(axis=(2, 4))
    original = pixels[digits.order(labels)[1297:]].reshape(500, 8, 8) * 255 / 16
    assert np.abs(small - original).mean() < 12 and np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.98


def test_unknown_split_and_absent_scikit_learn_are_input_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown split 'validation'"):
        digits.load("validation")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r'pip install "tensorpress\[demo\]"'):
        digits.load("test")


def test_network_names_the_held_out_digits(net: nn.Module) -> None:
    assert train.accuracy(net, "test") >= 0.985


def test_weights_are_small_half_precision_and_complete(net: nn.Module) -> None:
    data = resources.files("tensorpress.demo").joinpath(network.WEIGHTS).read_bytes()
    assert len(data) < 400_000
    stored = safetensors.torch.load(data)
    assert stored.keys() == network.digits_resnet().state_dict().keys()
    for name, value in stored.items():
        assert value.dtype == torch.float16 or name.endswith("num_batches_tracked")
        assert torch.isfinite(value).all(), name
    assert not net.training and {p.dtype for p in net.parameters()} == {torch.float32}


def test_network_traces_and_has_13_activations_of_live_channels(net: nn.Module) -> None:
    images, _ = digits.load("calibration")
    inputs = train.normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    traced = torch.fx.symbolic_trace(net)
    with torch.inference_mode():
        assert torch.equal(traced(inputs[:2]), net(inputs[:2]))
    assert [site.what for site in find_sites(net, inputs[:1])] == ["relu"] * 13
    maps = relu_outputs(net, inputs)
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32)] * 5 + [(32, 16, 16)] * 4 + [(64, 8, 8)] * 4
    dead = [(m.amax((0, 2, 3)) == 0).float().mean().item() for m in maps]
    assert max(dead) <= 0.05, dead  # channels that are always zero would flatter every codec


def test_network_says_how_its_pictures_are_prepared(net: nn.Module) -> None:
    images, _ = digits.load("train")
    assert (net.resize, net.crop, net.label_offset) == (0, 0, 0)
    assert np.allclose(net.mean, (images / 255).mean(), atol=1e-3)
    assert np.allclose(net.std, (images / 255).std(), atol=1e-3)


def test_the_same_training_writes_the_same_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "EPOCHS", 1)
    whole = {split: train.tensors(split) for split in digits.SPLITS}
    monkeypatch.setattr(train, "tensors", lambda split: tuple(t[:100] for t in whole[split]))
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        for name in ("first", "second"):
            monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / name)])
            train.main()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    first = (tmp_path / "first").read_bytes()
    assert first == (tmp_path / "second").read_bytes()
    assert capsys.readouterr().out.count("test: ") == 2
    network.digits_resnet().load_state_dict(safetensors.torch.load(first))
    torch.manual_seed(train.SEED)
    assert not torch.equal(safetensors.torch.load(first)["conv1.weight"], network.digits_resnet().state_dict()["conv1.weight"].half())


def test_augmentation_moves_pictures_a_little() -> None:
    pixels = train.tensors("train")[0][:64]
    moved = train.augment(pixels, np.random.default_rng(1))
    assert moved.shape == pixels.shape and moved.min() >= 0 and moved.max() <= 1
    assert torch.equal(moved, train.augment(pixels, np.random.default_rng(1)))
    assert 0.01 < (moved - pixels).abs().mean() < 0.2
    assert torch.allclose(moved.mean(), pixels.mean(), rtol=0.1)


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [train.learning_rate(p) for p in np.linspace(0, 1, 101)]
    assert rates[0] == 0 and max(rates) == pytest.approx(train.PEAK_RATE) == rates[10] and rates[-1] == pytest.approx(0)
