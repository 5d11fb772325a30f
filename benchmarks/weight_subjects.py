"""Networks whose weights are compressed, and what each is judged on; calibration, test and unlabelled inputs never overlap.

    resnet20, resnet56        calibration: the first images of train_10k; judged on test_500 and on the last 2,000 of train_10k, without labels
    squeezenet1_1, mobilenet_v2    calibration: the first 128 ImageNet samples; judged on the next 200, which serve as both sets
    characters                calibration: windows of the first nine tenths of the text; judged on 400 windows of the last tenth, and on 400 others

Nothing above needs compiled code until inputs are read, so that another Python can build the same networks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks import NETWORKS

CIFAR_CALIBRATION = 1024  # images
CIFAR_UNLABELLED = 2000
CIFAR_TRAINING = 8000  # the most that a system may train on: none of those that are judged
PICTURES = 128, 200  # for calibration, to be judged on
WINDOWS = 256, 400  # for calibration; to be judged on, twice


@dataclass(frozen=True)
class Subject:
    """`weights`: in the data folder, or what the caller says. `source_bits`: of a weight in the file that it comes from."""

    name: str
    title: str
    arch: str
    weights: str | None
    source_bits: int


SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject("resnet20", "ResNet-20", "cifar_resnet20", "cifar10/resnet20.safetensors", 32),
        Subject("resnet56", "ResNet-56", "cifar_resnet56", "cifar10/resnet56.safetensors", 32),
        Subject("squeezenet1_1", "SqueezeNet 1.1", "squeezenet1_1", "imagenet/squeezenet1_1_ncnn.safetensors", 16),
        Subject("mobilenet_v2", "MobileNetV2", "imagenet/mobilenet_v2_tf.py", "imagenet/mobilenet_v2_tf.safetensors", 8),
        Subject("characters", "characters", "characters", None, 32),
    )
}


@dataclass(frozen=True)
class Inputs:
    """What a network is calibrated and judged on. `unlabelled` None: the test inputs serve there as well."""

    calibration: Tensor
    calibration_labels: Tensor
    test: Tensor
    test_labels: Tensor
    unlabelled: Tensor | None


def build(name: str, data: Path, characters: Path | None = None) -> nn.Module:
    """The network with its float weights, in `eval` mode. InputError where a file is missing."""
    import safetensors.torch

    subject = SUBJECTS[name]
    path = characters if subject.weights is None else data / subject.weights
    if path is None or not path.is_file():
        raise InputError(f"{name}: no weights at {path}" + (": train them by scripts/train_characters.py" if subject.weights is None else ""))
    if subject.arch.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(subject.arch).stem, data / subject.arch)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        network: nn.Module = module.load(str(path))
        return network.eval()
    network = NETWORKS[subject.arch]()
    state = {key: value.float() for key, value in safetensors.torch.load_file(path).items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise InputError(f"{path} does not fit {name}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return network.eval()


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """What must be kept of a network, each tensor once: parameters and buffers without counters and without second names of tied tensors."""
    seen: set[int] = set()
    state = {}
    for key, value in network.state_dict(keep_vars=True).items():
        if key.endswith("num_batches_tracked") or id(value) in seen:
            continue
        seen.add(id(value))
        state[key] = value.detach()
    return state


def with_state(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """`network` with these tensors in place of its own, those of `state_of`. InputError where one is missing or has another shape."""
    own = state_of(network)
    wrong = [key for key in own if key not in state or state[key].shape != own[key].shape] + [key for key in state if key not in network.state_dict()]
    if wrong:
        raise InputError(f"decoded tensors do not fit the network: {', '.join(wrong[:3])}")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(state[key])
    return network


def inputs_of(name: str, data: Path) -> Inputs:
    makers: Mapping[str, Callable[[Path, str], Inputs]] = {"resnet20": _cifar, "resnet56": _cifar, "characters": _text}
    return makers.get(name, _pictures)(data, name)


def _cifar(data: Path, name: str) -> Inputs:
    from tensorpress.pytorch.pictures import open_pictures

    train, test = open_pictures(data / "cifar10" / "train_10k.npz"), open_pictures(data / "cifar10" / "test_500.npz")
    calibration, last = train[:CIFAR_CALIBRATION], train[len(train) - CIFAR_UNLABELLED :]
    return Inputs(_tensor(calibration, name), _labels(calibration), _tensor(test, name), _labels(test), _tensor(last, name))


def cifar_training(name: str, data: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` training images of a CIFAR network, and their labels. InputError for more than may be trained on."""
    from tensorpress.pytorch.pictures import open_pictures

    if not 0 < count <= CIFAR_TRAINING:
        raise InputError(f"{count} images to train on: 1 to {CIFAR_TRAINING}, the rest is judged")
    found = open_pictures(data / "cifar10" / "train_10k.npz")[:count]
    return _tensor(found, name), _labels(found)


def _pictures(data: Path, name: str) -> Inputs:
    from tensorpress.pytorch.pictures import open_pictures

    found = open_pictures(data / "imagenet" / "images", data / "imagenet" / "labels.csv")
    calibration, test = found[: PICTURES[0]], found[PICTURES[0] : sum(PICTURES)]
    offset = 1 if name == "mobilenet_v2" else 0
    return Inputs(_tensor(calibration, name), _labels(calibration) + offset, _tensor(test, name), _labels(test) + offset, None)


def _text(data: Path, name: str) -> Inputs:
    from tensorpress.pytorch.networks.characters import windows

    text = (data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    calibration, following = windows(text[:cut], WINDOWS[0])
    judged, truth = windows(text[cut:], 2 * WINDOWS[1])
    return Inputs(calibration, following, judged[: WINDOWS[1]], truth[: WINDOWS[1]], judged[WINDOWS[1] :])


def _labels(pictures: Any) -> Tensor:
    return torch.tensor(pictures.labels)


def _tensor(pictures: Any, name: str) -> Tensor:
    from tensorpress.pytorch.networks.pixels import Preprocessing, preprocessing

    if name == "mobilenet_v2":
        wanted = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    else:
        with torch.device("meta"):
            wanted = preprocessing(NETWORKS[SUBJECTS[name].arch]())
    return torch.cat([pictures.tensor(i, wanted) for i in range(len(pictures))])
