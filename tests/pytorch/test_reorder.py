"""Channel order folded into weights: the same outputs, groups that are alike, and streams that must be left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks import NETWORKS
from tensorpress.pytorch.reorder import fold, paired, reordering


def lively(model: nn.Module) -> nn.Module:
    """Batch norms and biases that differ from channel to channel, so that a wrong permutation shows."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
    return model.eval()


def exact(model: nn.Module, size: int, classes: bool = True) -> tuple[int, dict[str, str]]:
    """(permuted spaces, {site left: why}) after the outputs were seen to stay."""
    torch.manual_seed(0)
    images = [torch.randn(1, 3, size, size) for _ in range(3)]
    with torch.inference_mode():
        before = torch.cat([model(x) for x in images])
        found = reordering(model, images)
        fold(model, found)
        after = torch.cat([model(x) for x in images])
    for order in found.orders:
        assert sorted(order.order) == list(range(len(order.order))) and list(order.order) != sorted(order.order)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    assert torch.equal(after.argmax(1), before.argmax(1))
    return len(found.orders), dict(found.left)


# spaces: two inner ones a bottleneck, one inner a basic block or inverted residual, one a stage
@pytest.mark.parametrize(("arch", "spaces"), [("resnet18", 12), ("resnet50", 37), ("mobilenet_v2", 25)])
def test_outputs_stay_and_every_site_is_ordered(arch, spaces):
    assert exact(lively(NETWORKS[arch]()), 64) == (spaces, {})


def test_padded_shortcuts_pin_the_streams_that_they_join():
    spaces, left = exact(lively(NETWORKS["cifar_resnet20"]()), 32)
    assert spaces == 9 and set(left.values()) == {"pad"}
    assert all(name.endswith("relu#1") or name == "relu:relu" for name in left)


def test_concatenations_are_left_alone_by_name():
    spaces, left = exact(NETWORKS["squeezenet1_1"]().eval(), 64)
    assert spaces == 9 and set(left.values()) == {"cat"}


class Odd(nn.Module):
    """A shuffle, a gate of its own channels, a constant with channels, and a mean over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8, 8))
        self.gate, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.constant = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.channel_shuffle(x, 4)
        x = F.relu(self.b(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = F.relu(self.c(x))
        x = F.relu(self.d(x + self.constant))
        return self.fc(x.mean((2, 3)))


def test_unknown_operations_pin_their_channels():
    spaces, left = exact(Odd().eval(), 16)
    assert left["(network):relu"] == "channel_shuffle" and left["(network):relu#2"] == "add"
    assert spaces == 2  # that of the gated map and the last


def test_pairs_of_pairs_find_the_clusters():
    rng = np.random.default_rng(0)
    cluster = np.arange(32) // 8
    signals = rng.normal(size=(4, 500))[cluster] + 0.3 * rng.normal(size=(16, 500))[np.arange(32) // 2] + 0.1 * rng.normal(size=(32, 500))
    mixed = rng.permutation(32)
    order = paired(np.corrcoef(signals[mixed]))
    assert [len(set(cluster[mixed][order][k : k + 8])) for k in range(0, 32, 8)] == [1, 1, 1, 1]
    assert [len(set((mixed // 2)[order][k : k + 2])) for k in range(0, 32, 2)] == [1] * 16
    assert sorted(paired(np.eye(7)).tolist()) == list(range(7))  # odd ones out keep a place


def test_no_image_is_refused():
    with pytest.raises(InputError, match="at least one image"):
        reordering(NETWORKS["cifar_resnet20"](), [])
