"""Weights of every file kind come in as float32, or with one line that says what is wrong; real ones give real answers."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks import NETWORKS
from tensorpress.pytorch.pictures import open_pictures
from tensorpress.pytorch.weights import load_network, load_weights, preprocessing

needs_data = pytest.mark.skipif("TENSORPRESS_DATA" not in os.environ, reason="TENSORPRESS_DATA is not set")
ARCH = "cifar_resnet20"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {key: value.clone() for key, value in NETWORKS[ARCH]().state_dict().items() if not key.endswith("num_batches_tracked")}


def write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_every_kind_and_width_arrives_as_float32(tmp_path, state, suffix, dtype) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / f"w{suffix}", {key: value.to(dtype) for key, value in state.items()})
    network = load_network(ARCH, weights=path)
    assert not network.training
    for key, value in state.items():
        got = network.state_dict()[key]
        assert got.dtype == torch.float32 and torch.equal(got, value.to(dtype).float())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bfloat16(tmp_path, state, suffix) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / f"w{suffix}", {key: value.bfloat16() for key, value in state.items()})
    assert torch.equal(load_weights(path)["conv1.weight"], state["conv1.weight"].bfloat16().float())


def test_integers_and_big_endian_floats_keep_their_values(tmp_path) -> None:  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "w.npz", a=np.array([1.5, -2.0], ">f4"), n=np.array(7, "int64"))
    got = load_weights(tmp_path / "w.npz")
    assert torch.equal(got["a"], torch.tensor([1.5, -2.0])) and got["n"].dtype == torch.int64 and got["n"] == 7


def test_checkpoints_are_unwrapped(tmp_path, state) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": nn.Parameter(value) for key, value in state.items()}, "best": 91.2}, path)
    assert {key: value.tolist() for key, value in load_weights(path).items()} == {key: value.tolist() for key, value in state.items()}


def broken(path: Path, state: dict[str, torch.Tensor], fault: str) -> Path:
    """The file of weights, damaged as `fault` says."""
    if fault == "absent":
        return path
    if fault == "objects" and path.suffix == ".npz":
        np.savez(path, conv=np.array([{"a": 1}], dtype=object))
    elif fault == "objects" and path.suffix == ".pt":
        torch.save(nn.Linear(2, 2), path)
    else:
        data = write(path, state).read_bytes()
        path.write_bytes(b"" if fault == "empty" else data[: len(data) * 2 // 3])
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize("fault", ["absent", "empty", "cut", "objects"])
def test_files_that_cannot_be_read_are_one_clear_line(tmp_path, state, suffix, fault) -> None:  # type: ignore[no-untyped-def]
    path = broken(tmp_path / f"w{suffix}", state, fault)
    with pytest.raises(InputError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_flipped_byte_in_an_npz_is_seen(tmp_path, state) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / "w.npz", state)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a readable npz"):
        load_weights(path)


def test_contents_that_are_no_state_dict(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name, value, reason in [
        ("a.pt", torch.zeros(3), "holds Tensor, not a state dict"),
        ("b.pt", {}, "holds no tensor"),
        ("c.pt", {"epoch": 3, "w": torch.zeros(2)}, "no real tensors: epoch"),
        ("d.pt", {"w": torch.zeros(2, dtype=torch.complex64)}, "no real tensors: w"),
        ("sparse.pt", {"w": torch.eye(3).to_sparse()}, "sparse.pt: .*no real tensors: w"),
        ("meta.pt", {"w": torch.zeros(3, device="meta")}, "no real tensors: w"),
        ("wide.pt", {"w": torch.zeros(2, 1).expand(2, 1 << 40)}, "would take 8,796,093,022,208 bytes, and it holds 8"),
    ]:
        torch.save(value, tmp_path / name)
        with pytest.raises(InputError, match=reason):
            load_weights(tmp_path / name)
    np.savez(tmp_path / "e.npz", w=np.array(["text"]))
    with pytest.raises(InputError, match="'w' has dtype <U4"):
        load_weights(tmp_path / "e.npz")
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"'readme.txt' is not an array"):
        load_weights(tmp_path / "f.npz")
    (tmp_path / "g.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"weights are \.safetensors, \.npz"):
        load_weights(tmp_path / "g.onnx")


def test_weights_that_do_not_fit_tell_all_that_is_wrong_at_once(tmp_path, state) -> None:  # type: ignore[no-untyped-def]
    odd = {key: value for key, value in state.items() if not key.startswith("layer3")}
    odd |= {"fc.weight": torch.zeros(2), "linear.bias": torch.zeros(100), "bn1.bias": torch.zeros(16, dtype=torch.int8)}
    path = write(tmp_path / "w.safetensors", odd)
    with pytest.raises(InputError) as caught:
        load_network(ARCH, weights=path)
    said = str(caught.value)
    assert said.startswith(
        f"{path}: weights do not fit {ARCH}: 30 missing (layer3.0.conv1.weight, layer3.0.bn1.weight, layer3.0.bn1.bias …)"
    )
    assert "1 unexpected (fc.weight)" in said and "1 of another shape (linear.bias 100 for 10)" in said
    assert "1 integers for floats (bn1.bias)" in said and "\n" not in said


def test_arch_or_model_but_not_both(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for arguments, reason in [
        ({}, "neither"),
        ({"arch": ARCH, "model": "a:b"}, "both"),
        ({"arch": "resnet5O"}, "unknown arch 'resnet5O'; did you mean 'resnet50'"),
        ({"arch": ARCH, "weights": tmp_path / "w.pt"}, "w.pt: no such file"),
    ]:
        with pytest.raises(InputError, match=reason):
            load_network(**arguments)


def test_a_factory_without_an_argument_is_filled_and_arguments_override_attributes(tmp_path, state) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / "w.safetensors", state)
    network = load_network(model="tensorpress.pytorch.networks:cifar_resnet20", weights=path, mean=(0.5,) * 3, label_offset=1)
    assert torch.equal(network.state_dict()["linear.bias"], state["linear.bias"])
    wanted = preprocessing(network)
    assert (wanted.mean, wanted.resize, wanted.crop, wanted.label_offset) == ((0.5,) * 3, 0, 0, 1)


def correct(network: nn.Module, folder: str, labels: str | None, limit: int, classes: int) -> int:
    data = Path(os.environ["TENSORPRESS_DATA"])
    pictures = open_pictures(data / folder, None if labels is None else data / labels, limit)
    pictures.check_labels(classes)
    wanted = preprocessing(network)
    with torch.inference_mode():
        answers = [int(network(pictures.tensor(i, wanted)).argmax()) - wanted.label_offset for i in range(len(pictures))]
    return sum(answer == label for answer, label in zip(answers, pictures.labels))


@needs_data
def test_cifar_resnet20_has_91_percent() -> None:
    data = Path(os.environ["TENSORPRESS_DATA"])
    network = load_network("cifar_resnet20", weights=data / "cifar10/resnet20.safetensors")
    assert abs(correct(network, "cifar10/test_500.npz", None, 500, 10) - 455) <= 1


@needs_data
@pytest.mark.parametrize(
    "arguments, weights, known",
    [
        ({"arch": "resnet18"}, "resnet18_pqf.npz", 16),
        ({"arch": "squeezenet1_1"}, "squeezenet1_1_ncnn.safetensors", 14),
        ({"model": "mobilenet_v2_tf.py:load", "mean": (0.5,) * 3, "std": (0.5,) * 3, "label_offset": 1}, "mobilenet_v2_tf.safetensors", 17),
    ],
)
def test_imagenet_networks_know_as_many_of_twenty_pictures_as_measured(arguments, weights, known) -> None:  # type: ignore[no-untyped-def]
    """Measured; on all 500 pictures these networks have the published check of the data to the picture (75.6, 60.6, 89.2 %)."""
    folder = Path(os.environ["TENSORPRESS_DATA"]) / "imagenet"
    if "model" in arguments:
        arguments = {**arguments, "model": f"{folder}/{arguments['model']}"}
    network = load_network(**arguments, weights=folder / weights)
    assert abs(correct(network, "imagenet/images", "imagenet/labels.csv", 20, 1000) - known) <= 1
