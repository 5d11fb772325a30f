"""Sites of small networks of every kind, and of the real ones by their known counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.core.site import Site
from tensorpress.pytorch.networks import NETWORKS
from tensorpress.pytorch.sites import find_sites


def conv(inputs: int, outputs: int, size: int = 3, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **more)


class Block(nn.Module):
    """A residual block that uses one ReLU twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(width, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class Functional(nn.Module):
    """Activations as functions and methods, in place and not, with a pool before one and dropout behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 6), conv(6, 6), conv(6, 6), conv(6, 6)
        self.fc1, self.fc2 = nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.a(x), 2))
        x = F.silu(self.b(x), inplace=True)
        x = torch.relu_(self.c(x))
        x = F.dropout(self.d(x).sigmoid_(), training=self.training)
        x = F.gelu(self.fc1(x.mean((2, 3))))
        return F.log_softmax(self.fc2(x), dim=1)


class Unet(nn.Module):
    """Concatenated skips; in the skip an in-place add writes memory that a view of it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = conv(3, 4), conv(4, 4), nn.ConvTranspose2d(4, 4, 2, 2)
        self.merge, self.head = conv(8, 6), conv(6, 2, 1)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.act(self.down(x))
        y = self.act(self.middle(F.max_pool2d(skip, 2)))
        y = torch.cat([self.up(y), skip], 1)
        view = y[:, 4:]
        y += 0.5
        y = self.act(self.merge(torch.cat([y[:, :4], view], 1)))
        return torch.sigmoid(self.head(y))


class Bottleneck(nn.Module):
    """Depthwise, with a linear bottleneck, twice: the second one adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.first = self.block()
        self.second = self.block()
        self.head = nn.Sequential(conv(4, 16, 1), nn.ReLU6())
        self.out = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))
        self.widen = conv(4, 8, 1)

    @staticmethod
    def block() -> nn.Sequential:
        return nn.Sequential(conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), conv(8, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        x = x + self.second(self.widen(x))
        return self.out(self.head(x))


class Branching(nn.Module):
    """What torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 5), conv(5, 5), conv(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(self.b(x)) if x.sum() > 0 else torch.tanh(self.c(x))
        return self.fc(x.mean((2, 3)))


class Tokens(nn.Module):
    """A vision transformer of one layer, with attention by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.position = nn.Parameter(torch.randn(1, 17, 12))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(torch.softmax(q @ k.transpose(1, 2) / 12**0.5, -1) @ v)
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x)[:, 0])


class Library(nn.Module):
    """torch's own transformer layer behind a one-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.selu(self.conv(x.flatten(2)))
        return self.fc(self.layer(x.transpose(1, 2)).mean(1))


class Alias(nn.Module):
    """An in-place activation writes a tensor that is read again by its old name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.act = conv(3, 4), conv(4, 4), conv(4, 2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        kept = self.a(x)
        y = self.b(self.act(kept))
        y.add_(kept)
        return {"map": self.c(y)}


SMALL = {kind.__name__: kind for kind in (Residual, Functional, Unet, Bottleneck, Branching, Tokens, Library, Alias)}


def example(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def small(name: str) -> nn.Module:
    torch.manual_seed(3)
    model = SMALL[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


def names(model: nn.Module, x: Tensor | None = None) -> list[str]:
    return [site.name for site in find_sites(model, example() if x is None else x)]


EXPECTED = {
    "Residual": ["stem.2:relu", "blocks.0.relu:relu", "blocks.0.relu:relu#1", "blocks.1.relu:relu", "blocks.1.relu:relu#1"],
    "Functional": ["(network):relu", "(network):silu", "(network):relu#1", "(network):sigmoid", "(network):gelu"],
    "Unet": ["act:leaky_relu", "act:leaky_relu#1", "up:linear", "act:leaky_relu#2"],
    "Bottleneck": ["stem.2:relu6", "first.2:relu6", "first.4:linear", "widen:linear", "second.2:relu6", "(network):add", "head.1:relu6"],
    "Branching": ["(network):relu", "(network):relu#1"],
    "Tokens": ["patch:linear", "qkv:linear", "(network):add#1", "mlp.1:gelu", "(network):add#2"],
    "Library": ["(network):selu", "layer:add", "layer:relu", "layer:add#1"],
    "Alias": ["act:relu", "(network):add"],
}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name: str) -> None:
    model = small(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    assert names(model) == EXPECTED[name]
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "forward" not in vars(model) and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 17), ("resnet50", 49), ("mobilenet_v2", 52), ("squeezenet1_1", 25), ("cifar_resnet20", 19)]
)
def test_real_networks(name: str, count: int) -> None:
    assert len(find_sites(NETWORKS[name](), torch.randn(1, 3, 32, 32))) == count


def test_views() -> None:
    views = {site.name: site.view for name in ("Tokens", "Library") for site in find_sites(small(name), example())}
    assert views["patch:linear"] == "chw" and views["qkv:linear"] == views["mlp.1:gelu"] == views["layer:relu"] == "tokens"
    assert views["(network):selu"] == "chw"  # (N, C, L) of a one-dimensional convolution
    last = nn.Sequential(nn.Conv2d(3, 4, 1), _Last(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2))
    assert find_sites(last, example())[-1].view == "tokens"  # (N, H, W, C), as ConvNeXt has it
    vector = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.ReLU(), nn.Linear(4, 2))
    assert find_sites(vector, example()) == (Site("2", 0, "relu", "chw"),)


class _Last(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class _PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn, self.fc = conv(3, 4), conv(4, 4), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc((x + self.b(F.relu(self.bn(x)))).mean((2, 3)))


def test_a_second_reader_forces_a_linear_output_to_be_stored() -> None:
    assert names(_PreActivation()) == ["a:linear", "(network):relu", "(network):add"]


def test_logits_are_no_site() -> None:
    body = [conv(3, 4), nn.ReLU()]
    assert names(nn.Sequential(*body, conv(4, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))) == ["1:relu"]


@pytest.mark.parametrize("kind", [
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish, nn.GELU, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid,
])  # fmt: skip
def test_every_activation(kind: type[nn.Module]) -> None:
    (site,) = find_sites(nn.Sequential(conv(3, 4), kind(), conv(4, 2)), example())
    assert site.path == "1"


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 6) / x.norm().clamp(min=1e-6)


def test_clamp_from_zero_is_a_rectifier() -> None:
    assert names(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), _Clamp(), conv(4, 2)))[-1] == "2:clamp"


class _ByHand(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "swish":
            return x * torch.sigmoid(x)
        if self.kind == "hardswish":
            return F.relu6(x + 3) * x / 6
        if self.kind == "mish":
            return x * torch.tanh(F.softplus(x))
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))  # a gate that sees other places is no activation


@pytest.mark.parametrize("kind", ["swish", "hardswish", "mish", "gate"])
def test_activations_written_out_by_hand(kind: str) -> None:
    model = nn.Sequential(conv(3, 4), _ByHand(kind), conv(4, 2))
    assert names(model) == (["0:linear", "1:sigmoid"] if kind == "gate" else ["1:mul"])


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return F.silu(x)


class _Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Function.apply(x)


def test_inside_an_autograd_function() -> None:
    assert names(nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), _Custom(), conv(4, 2))) == ["1:relu", "3:silu"]


def test_a_network_without_sites_is_refused() -> None:
    with pytest.raises(InputError, match="no activation"):
        find_sites(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)), example())


def test_an_input_that_does_not_fit_is_refused() -> None:
    model = small("Residual")
    with pytest.raises(InputError, match=r"Residual does not run on an input of shape \(1, 4, 8, 8\)"):
        find_sites(model, torch.randn(1, 4, 8, 8))
    assert "forward" not in vars(model) and not any(m._forward_hooks for m in model.modules())


def test_sites_of_a_batch_under_inference_mode() -> None:
    with torch.inference_mode():
        assert names(small("Alias"), example(3)) == EXPECTED["Alias"]
