"""Taps see and replace the right values, and leave no trace."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tensorpress.core.errors import InputError
from tensorpress.core.site import Site
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.taps import tapped
from tests.pytorch.test_sites import SMALL, Branching, Residual, conv, example, small


def flat(outputs: object) -> list[Tensor]:
    return list(tree_leaves(outputs))


def equal(a: object, b: object) -> bool:
    return all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def untouched(model: nn.Module) -> bool:
    return "forward" not in vars(model) and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("grad", ["grad", "no_grad", "inference_mode"])
@pytest.mark.parametrize("where", ["output", "input"])
@pytest.mark.parametrize("name", SMALL)
def test_identity_is_bit_equal(name: str, where: str, grad: str) -> None:
    model, x = small(name), example(2).to(memory_format=torch.channels_last)
    sites = find_sites(model, example())
    seen: list[int] = []

    def copied(index: int, tensor: Tensor) -> Tensor:
        seen.append(index)
        return tensor.clone()

    mode = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}[grad]()
    with mode:
        with tapped(model, [], copied):  # torch's own layers leave their fused path under taps
            plain = model(x)
        with tapped(model, sites, copied, [where] * len(sites)):
            assert equal(model(x), plain) and equal(model.forward(x), plain)
    assert seen == list(range(len(sites))) * 2
    assert untouched(model)
    if name != "Library":
        assert equal(model(x), plain)


@pytest.mark.parametrize("where", ["output", "input"])
@pytest.mark.parametrize("name", SMALL)
def test_identity_keeps_gradients(name: str, where: str) -> None:
    model, sites = small(name), find_sites(small(name), example())

    def gradients() -> list[Tensor]:
        model.zero_grad()
        x = example(2).requires_grad_()
        sum(t.square().sum() for t in flat(model(x))).backward()
        return [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]

    plain = gradients()
    with tapped(model, sites, lambda index, tensor: tensor.clone(), [where] * len(sites)):
        assert equal(gradients(), plain)


def test_values_are_replaced_for_all_later_readers() -> None:
    model, x = small("Alias"), example()
    sites = find_sites(model, x)
    with torch.no_grad():
        kept = F.relu(model.a(x)) * 2
        expected = model.c((model.b(kept) + kept) * 3)  # `kept` is read by its old name after the in-place ReLU
    for mode in (torch.no_grad(), torch.enable_grad()):
        with mode, tapped(model, sites, lambda index, tensor: tensor * (2, 3)[index]):
            assert torch.equal(model(x)["map"], expected)


def test_inputs_of_activations_are_replaced() -> None:
    model, x = small("Residual"), example()
    sites = find_sites(model, x)
    with torch.no_grad():
        expected = model.stem[1](model.stem[0](x))
        seen: list[Tensor] = []
        note = tapped(model, sites[:1], lambda index, tensor: seen.append(tensor.clone()) or tensor)  # type: ignore[func-returns-value]
        with tapped(model, sites[:1], lambda index, tensor: -tensor, ["input"]):
            model(x)
        assert torch.equal(seen[0], F.relu(-expected))
        note.remove()
        note.remove()  # a second time does nothing
    assert untouched(model)


def test_training_flags_and_later_weights_are_seen() -> None:
    model, sites = small("Functional"), find_sites(small("Functional"), example())
    with tapped(model, sites, lambda index, tensor: tensor), torch.no_grad():
        still = model(example())
        assert torch.equal(model(example()), still)
        model.train()
        torch.manual_seed(1)
        noisy = model(example())
        assert not torch.equal(noisy, still)
        model.eval()
        model.a.weight.mul_(2)
        assert not torch.equal(model(example()), still)
    model.train()
    with torch.no_grad():
        model.a.weight.div_(2)
        torch.manual_seed(1)
        assert torch.equal(model(example()), noisy)


def test_branches_are_followed_each_time() -> None:
    model: nn.Module = small("Branching")
    seen: list[int] = []

    def note(index: int, tensor: Tensor) -> Tensor:
        seen.append(index)
        return tensor

    with torch.no_grad():
        sites = find_sites(model, example())
        with tapped(model, sites, note):
            model(example())
            model.a.weight.zero_()
            model.a.bias.fill_(-1)
            model(example())
    assert isinstance(model, Branching) and seen == [0, 1, 0]


def test_the_model_is_restored_after_an_exception() -> None:
    model = small("Residual")

    def fail(index: int, tensor: Tensor) -> Tensor:
        raise ValueError("no")

    plain = model(example())
    with pytest.raises(ValueError, match="no"), tapped(model, find_sites(model, example()), fail):
        model(example())
    assert untouched(model) and torch.equal(model(example()), plain)


class _Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("inside")


class _Recovers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fails, self.c = conv(3, 4), _Fails(), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        try:
            x = self.fails(x)
        except KeyError:
            x = F.relu(x)
        return self.c(x)


def test_a_module_that_fails_leaves_the_path() -> None:
    assert [site.name for site in find_sites(_Recovers(), example())] == ["(network):relu"]


def test_an_own_forward_comes_back() -> None:
    model = small("Residual")
    own = model.__dict__["forward"] = lambda x: type(model).forward(model, x) + 1
    plain = model(example())
    first = tapped(model, [Site("stem.2", 0, "relu")], lambda index, tensor: tensor * 0)
    second = tapped(model, [Site("stem.2", 0, "relu")], lambda index, tensor: tensor)
    assert not torch.equal(model(example()), plain)
    first.remove()  # below the second: out of order
    assert torch.equal(model(example()), plain)
    second.remove()
    assert model.__dict__["forward"] is own and not any(m._forward_hooks for m in model.modules())


def test_two_models_with_one_function() -> None:
    one, two = small("Residual"), copy.deepcopy(small("Residual"))
    counts = [0] * 5

    def count(index: int, tensor: Tensor) -> Tensor:
        counts[index] += len(tensor)
        return tensor

    sites = find_sites(one, example())
    with tapped(one, sites, count), tapped(two, sites, count):
        one(example(2))
        two(example(3))
    assert counts == [5] * 5


def test_unknown_sites_are_named() -> None:
    def identity(index: int, tensor: Tensor) -> Tensor:
        return tensor

    model = small("Residual")
    with pytest.raises(InputError, match=r"site layer9:relu does not exist"):
        tapped(model, [Site("layer9", 0, "relu")], identity)
    late = [Site("stem.2", 1, "relu")]
    with pytest.raises(InputError, match=r"site stem.2:relu#1 does not exist"), tapped(model, late, identity):
        model(example())
    with pytest.raises(InputError, match=r"site stem.2:relu#1 does not exist"):
        tapped(model, late, identity)  # at once, now that a pass was seen
    with pytest.raises(InputError, match="listed twice"):
        tapped(model, [Site("stem.2", 0, "relu")] * 2, identity)
    with pytest.raises(InputError, match="'output' or 'input'"):
        tapped(model, [Site("stem.2", 0, "relu")], identity, ["middle"])
    assert untouched(model)


class _Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.quint8))


def test_opaque_modules_say_what_to_do() -> None:
    with pytest.raises(InputError, match=r"torch.compile; attach to the original"):
        find_sites(torch.compile(Residual()), example())  # type: ignore[arg-type]
    compiled = Residual()
    compiled.compile()
    with pytest.raises(InputError, match=r"by \.compile\(\)"):
        find_sites(compiled, example())
    with pytest.raises(InputError, match=r"inside \(`.module`\)"):
        find_sites(nn.DataParallel(Residual()), example())
    with pytest.raises(InputError, match="module '1' holds quantised tensors; dequantise"):
        find_sites(nn.Sequential(conv(3, 4), _Quantised()), example())
    with pytest.raises(InputError, match="is quantised"):
        find_sites(nn.Sequential(torch.ao.nn.quantized.Linear(3, 3)), torch.randn(1, 3))


class _Out(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        target = torch.empty_like(x)
        torch.add(x, x, out=target)
        return F.conv2d(target, torch.ones(2, 3, 1, 1))


def test_a_result_given_as_out_is_replaced() -> None:
    x = example()
    with torch.no_grad(), tapped(_Out(), [Site("", 0, "add")], lambda index, tensor: tensor * 4) as taps:
        result = taps._model(x)  # type: ignore[misc]
    assert torch.allclose(result, x.sum(1, keepdim=True).expand(-1, 2, -1, -1) * 8, atol=1e-5)
