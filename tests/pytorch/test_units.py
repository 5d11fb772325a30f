"""Units of a network: whatever runs before one is kept, whatever is behind it is as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks import NETWORKS
from tensorpress.pytorch.units import Units
from tensorpress.pytorch.weight_problem import Problem


class Skipping(nn.Module):
    """A skip over two layers, a layer that runs twice, and a weight that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.twice = (nn.Linear(8, 8) for _ in range(4))
        self.loose = nn.Parameter(torch.randn(8, 10))

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).relu()
        b = self.third(self.second(a).relu()) + a
        return (self.twice(self.twice(b).relu()) + a) @ self.loose


def skipping() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Skipping().eval(), torch.randn(70, 8)


def test_a_residual_network_is_cut_into_its_blocks() -> None:
    torch.manual_seed(0)
    net = NETWORKS["cifar_resnet20"]().eval()
    x = torch.randn(3, 3, 32, 32)
    units = Units(net, x, Problem(net).matrices)
    assert units.names == ["conv1", *(f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1, 2)), "linear" if hasattr(net, "linear") else "fc"]
    with torch.no_grad():
        assert torch.equal(units.outputs(), net(x))
        for number in range(len(units.names)):
            units.keep(units.through(number, units.fed(number, in_float=False)))
        y = units.through(5, units.fed(5, in_float=True))
        assert torch.allclose(units.rest(5, y[1:], slice(1, 3)), net(x[1:]), atol=1e-5)


def test_layers_that_run_twice_are_no_units() -> None:
    net, x = skipping()
    before = copy.deepcopy(net.state_dict())
    units = Units(net, x, Problem(net).matrices)
    assert units.names == ["first", "second", "third"]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items()) and "forward" not in net.first.__dict__


def test_a_changed_prefix_is_what_the_network_with_these_units_computes() -> None:
    """Units 0 and 1 are replaced; what unit 2 is fed and what comes out equals a network that has the replaced weights, the skip past the unit included."""
    net, x = skipping()
    units, changed = Units(net, x, Problem(net).matrices), copy.deepcopy(net)
    with torch.no_grad():
        for number, name in enumerate(("first", "second")):
            unit = units.copy(number)
            unit.weight.mul_(0.7)
            changed.get_submodule(name).weight.mul_(0.7)
            units.keep(units.through(number, units.fed(number, in_float=False), unit))
        fed: list[Tensor] = []
        handle = changed.third.register_forward_pre_hook(lambda m, a: fed.append(a[0]))
        wanted = changed(x)
        handle.remove()
    assert torch.allclose(units.fed(2, in_float=False), fed[0]) and not torch.allclose(units.fed(2, in_float=True), fed[0])
    y = units.copy(2)(fed[0])
    rows = torch.tensor([4, 60, 2])
    given = y[rows].detach().requires_grad_(True)
    found = units.rest(2, given, rows)
    assert torch.allclose(found, wanted[rows], atol=1e-6)
    found.sum().backward()
    assert given.grad is not None and bool(given.grad.any()) and not any(p.requires_grad for p in units.network.parameters())


def test_large_modules_are_cut_further() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))), nn.Linear(8, 8))
    x = torch.randn(4, 8)
    assert Units(net, x, Problem(net).matrices).names == ["0", "1"]
    assert Units(net, x, Problem(net).matrices, most=2).names == ["0.0", "0.1", "0.2", "0.3", "1"]


def test_inputs_that_do_not_fit_are_named() -> None:
    net, _ = skipping()
    with pytest.raises(InputError, match="does not run on the calibration inputs"):
        Units(net, torch.randn(4, 9), Problem(net).matrices)
