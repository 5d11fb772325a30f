"""The networks have the published sizes and keys, trace, and answer; any other network comes through its factory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks import NETWORKS
from tensorpress.pytorch.networks.characters import ALPHABET, tokens_of, windows
from tensorpress.pytorch.networks.factory import build
from tensorpress.pytorch.networks.pixels import Preprocessing, preprocessing

# parameters as published with torchvision's weights; the CIFAR figures leave out batch-norm statistics
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "squeezenet1_1": 1_235_496,
    "mobilenet_v2": 3_504_872,
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "characters": 818_048,
}


@pytest.mark.parametrize("arch", NETWORKS)
def test_parameters_are_as_published_and_the_network_traces(arch: str) -> None:
    with torch.device("meta"):  # shapes only: no arithmetic is needed here
        network = NETWORKS[arch]().eval()
        assert sum(p.numel() for p in network.parameters()) == PARAMETERS[arch]
        if getattr(network, "inputs", "pictures") == "tokens":
            assert torch.fx.symbolic_trace(network)(torch.zeros(2, 128, dtype=torch.int64)).shape == (2, 128, 65)
            return
        wanted = preprocessing(network)
        side = wanted.crop or 32
        traced = torch.fx.symbolic_trace(network)
        assert traced(torch.empty(2, 3, side, side)).shape == (2, 10 if arch.startswith("cifar") else 1000)


def test_tracing_does_not_change_the_answer() -> None:
    network = NETWORKS["cifar_resnet20"]().eval()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(torch.fx.symbolic_trace(network)(x), network(x))


@pytest.mark.parametrize(
    "arch, keys",
    [
        ("resnet18", ["conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.bias"]),
        ("resnet50", ["layer1.0.downsample.0.weight", "layer4.2.conv3.weight"]),
        ("squeezenet1_1", ["features.0.bias", "features.12.expand3x3.weight", "classifier.1.weight"]),
        ("mobilenet_v2", ["features.0.0.weight", "features.1.conv.2.bias", "features.17.conv.1.1.weight", "features.18.1.running_mean"]),
        ("cifar_resnet20", ["layer3.2.bn2.weight", "linear.weight"]),
    ],
)
def test_keys_are_those_that_weights_are_published_under(arch: str, keys: list[str]) -> None:
    with torch.device("meta"):
        state = NETWORKS[arch]().state_dict()
    assert set(keys) <= set(state)
    assert len(state) == {"resnet18": 122, "resnet50": 320, "squeezenet1_1": 52, "mobilenet_v2": 314, "cifar_resnet20": 116}[arch]


def test_bottlenecks_put_the_stride_on_the_3x3() -> None:
    with torch.device("meta"):
        block = NETWORKS["resnet50"]().layer2[0]  # type: ignore[operator,index]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_option_a_shortcut_takes_every_second_pixel_between_zero_channels() -> None:
    block = NETWORKS["cifar_resnet20"]().eval().layer2[0]  # type: ignore[operator,index]
    nn.init.zeros_(block.bn2.weight)  # only the skip is left
    x = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


# --- characters ------------------------------------------------------------------------------------------------------


def test_characters_see_only_what_came_before_and_share_one_matrix() -> None:
    torch.manual_seed(0)
    network = NETWORKS["characters"]().eval()
    assert network.head.weight is network.tokens.weight
    text = "First Citizen: before we proceed"
    other = text[:20] + "A" + text[21:]
    with torch.inference_mode():
        first, second = network(tokens_of(text)[None]), network(tokens_of(other)[None])
        short = network(tokens_of(text[:20])[None])
    assert torch.allclose(first[:, :20], second[:, :20], atol=1e-6) and not torch.allclose(first[:, 20:], second[:, 20:], atol=1e-3)
    assert torch.allclose(first[:, :20], short, atol=1e-5)
    assert not torch.allclose(network(tokens_of("ab")[None])[0, 1], network(tokens_of("bb")[None])[0, 1], atol=1e-3)  # what came before counts


def test_windows_lie_side_by_side_and_what_follows_is_one_on() -> None:
    text = "to be, or not to be: " * 20
    inputs, following = windows(text)
    assert inputs.shape == following.shape == (3, 128)
    assert "".join(ALPHABET[t] for t in inputs.flatten()) == text[:384] and "".join(ALPHABET[t] for t in following.flatten()) == text[1:385]
    assert torch.equal(windows(text, 2)[0], inputs[:2])
    with pytest.raises(InputError, match="'é' is none of the 65"):
        tokens_of("café")
    with pytest.raises(InputError, match="fills no window"):
        windows("too short")


# --- preprocessing ---------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    pass


def test_preprocessing_reads_arguments_then_attributes_then_imagenet() -> None:
    network = Plain()
    assert preprocessing(network) == Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256, 224, 0)
    network.mean, network.std, network.resize, network.label_offset = [0.5] * 3, (0.25,) * 3, None, 1  # type: ignore[assignment]
    assert preprocessing(network) == Preprocessing((0.5,) * 3, (0.25,) * 3, 0, 224, 1)
    assert preprocessing(network, mean=(0, 0, 0), crop=0) == Preprocessing((0.0,) * 3, (0.25,) * 3, 0, 0, 1)


def test_a_tensor_named_mean_is_not_taken_for_preprocessing() -> None:
    network = Plain()
    network.register_buffer("mean", torch.zeros(1, 3, 1, 1))
    with pytest.raises(InputError, match="'mean' of Plain is a tensor"):
        preprocessing(network)
    assert preprocessing(network, mean=(0, 0, 0)).mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"mean": (0.5, 0.5)}, "not three finite numbers"),
        ({"mean": 0.5}, "not three numbers"),
        ({"std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"std": (0.2, float("nan"), 0.2)}, "finite"),
        ({"resize": -1}, "at least 0"),
        ({"crop": 300}, "larger than the shorter side"),
        ({"label_offset": 0.5}, "whole number"),
    ],
)
def test_unusable_preprocessing_is_named(values: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Preprocessing(**values)  # type: ignore[arg-type]


# --- factories -------------------------------------------------------------------------------------------------------

SOURCE = """
from dataclasses import dataclass
from torch import nn
from beside import WIDTH

@dataclass
class Config:
    width: int = WIDTH

class Net(nn.Linear):
    def __init__(self, path="none"):
        super().__init__(Config().width, 1)
        self.path = path

def plain(): return Net()
def needs(path): return Net(path)
def may(weights=None): return Net(weights)
def counts(classes=10, pretrained=False): return Net(classes)
def named(*, weights=None): return Net(weights)
def fails(): raise KeyError("conv9\\nis lost")
def gone(): raise SystemExit(3)
def wrong(): return 7
number = 7
"""


@pytest.fixture
def source(tmp_path):  # type: ignore[no-untyped-def]
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    "name, path, loaded",
    [("plain", "none", False), ("needs", "w.pt", True), ("may", "w.pt", True), ("counts", 10, False), ("named", None, False)],
)
def test_a_factory_is_handed_the_path_where_it_takes_one(source, tmp_path, name, path, loaded) -> None:  # type: ignore[no-untyped-def]
    network, took = build(f"{source}:{name}", tmp_path / "w.pt")
    assert took is loaded
    assert network.path == (str(tmp_path / path) if loaded else path)
    assert build(f"{source}:{name}" if name != "needs" else f"{source}:plain")[1] is False


def test_a_factory_of_a_package_and_of_the_current_folder(source, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert build("tensorpress.pytorch.networks:cifar_resnet20")[0].linear.out_features == 10  # type: ignore[union-attr]
    monkeypatch.chdir(source.parent)
    assert isinstance(build("net:plain")[0], nn.Linear)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("plane", "is not there; did you mean 'plain'"),
        ("number", "is not callable"),
        ("fails", r"raised KeyError: 'conv9\\nis lost'"),
        ("gone", "raised SystemExit: 3"),
        ("wrong", "returned int, not a torch.nn.Module"),
        ("needs", "wants the path of its weights"),
    ],
)
def test_a_factory_that_cannot_be_used_is_one_clear_line(source, name, reason) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=reason) as caught:
        build(f"{source}:{name}")
    assert "\n" not in str(caught.value) and str(source) in str(caught.value)


def test_a_place_that_cannot_be_imported_is_one_clear_line(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "broken.py").write_text("def f(:\n")
    for spec, reason in [
        (f"{tmp_path}/broken.py:f", "SyntaxError"),
        (f"{tmp_path}/absent.py:f", "no such file"),
        ("no_such_package.net:f", "ModuleNotFoundError"),
        ("net", "not of the form"),
        (":f", "not of the form"),
    ]:
        with pytest.raises(InputError, match=reason) as caught:
            build(spec)
        assert "\n" not in str(caught.value)
