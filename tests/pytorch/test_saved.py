"""Saved tensors as payloads: gradients within the quantiser's bound, exact ones to the bit, and nothing held too long."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch import compress_saved

ROOT = Path(__file__).parents[2]


def rectified(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.relu(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10)]
    return nn.Sequential(*layers).train()


def gradients(net: nn.Module, x: torch.Tensor, **options) -> tuple[list[torch.Tensor], object]:
    net.zero_grad()
    if options:
        with compress_saved(**options) as account:
            loss = F.cross_entropy(net(x), torch.arange(len(x)) % 10)
        loss.backward()
    else:
        account = None
        F.cross_entropy(net(x), torch.arange(len(x)) % 10).backward()
    return [p.grad.clone() for p in net.parameters()], account


@pytest.mark.parametrize("codec", ["dct_cm", "zvc", "raw"])
@pytest.mark.parametrize("fit", ["kind", "tensor"])
def test_a_gradient_is_off_by_at_most_half_a_level_of_what_was_saved(codec, fit):
    for seed in range(3):  # the range is that of each tensor, also where the rest was fitted to another one
        a = (torch.randn(4, 32, 16, 16, generator=torch.Generator().manual_seed(seed)) * 3**seed)
        b = torch.full_like(a, 2.0).requires_grad_()
        with compress_saved(codec, fit=fit) as account:
            y = (a * b).sum()
        (g,) = torch.autograd.grad(y, b)
        scale = float(a.max() - a.min()) / 255
        assert 0 < float((g - a).abs().max()) <= scale / 2 * 1.0001
        assert account.encoded == 1 and account.decoded == 1


@pytest.mark.parametrize(("codec", "step"), [("dct_cm", 1.0), ("zvc", 1.0), ("zvc", 2.0), ("zvc", 5.0), ("dct_cm", 4.0)])
def test_the_mask_of_a_relu_survives(codec, step):
    x = torch.randn(2, 32, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    want = (x > 0).float()
    with compress_saved(codec, step=step, transform="none") if codec == "dct_cm" else compress_saved(codec, step=step):
        y = torch.relu(x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], want)
    if step == 1:
        with compress_saved(codec, keep_positive=False):
            y = torch.relu(x)
        assert not torch.equal(torch.autograd.grad(y.sum(), x)[0], want)


def test_a_network_learns_in_the_same_direction():
    net, x = network(), torch.randn(8, 3, 16, 16)
    want, _ = gradients(net, x)
    got, account = gradients(net, x, codec="dct_cm")
    for a, b in zip(got, want):
        if float(b.norm()) > 1e-6:  # a bias before a batch norm has none
            assert float((a - b).norm() / b.norm()) < 0.03
    assert account.ratio > 3 and account.peak_raw_nbytes > 3 * account.peak_held_nbytes
    assert account.held_nbytes == account.raw_nbytes == account.kept_nbytes == 0  # backward has let go of everything
    assert account.passed["parameter"] >= 4 and account.again >= 1


@pytest.mark.parametrize("codec", ["zvc", "raw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_exact_is_exact_to_the_bit(codec, dtype):
    net, x = network().to(dtype), torch.randn(8, 3, 16, 16).to(dtype)
    want, _ = gradients(net, x)
    got, account = gradients(net, x, codec=codec, exact=True)
    assert all(torch.equal(a, b) for a, b in zip(got, want))
    if codec == "zvc":
        assert account.encoded >= 2 and 1 < account.ratio < 4
    else:
        assert account.encoded == 0 and account.passed["no gain"] >= 3  # words and a head are more than the words


def test_exact_keeps_nan_infinity_and_the_sign_of_zero():
    x = rectified(64, 256)
    x[0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    b = torch.ones_like(x).requires_grad_()
    with compress_saved("zvc", exact=True) as account:
        y = (x * b).sum()
    got = torch.autograd.grad(y, b)[0]
    assert account.encoded == 1 and got.view(torch.int32).equal(x.view(torch.int32))


def test_nan_and_infinity_pass_through():
    x = rectified(64, 256)
    x[0, 0] = float("inf")
    b = torch.ones_like(x).requires_grad_()
    with compress_saved() as account:
        y = (x * b).sum()
    assert torch.equal(torch.autograd.grad(y, b)[0], x) and account.passed["not finite"] == 1


def test_what_passes_through_and_why():
    with compress_saved() as account:
        small = (torch.ones(10) * torch.ones(10, requires_grad=True)).sum()
        wide = (torch.ones(1, 8192).expand(8192, 8192)[:64] * torch.ones(64, 8192, requires_grad=True)).sum()
        picked = torch.ones(100, 100, requires_grad=True)[torch.zeros(5000, dtype=torch.long)].sum()
        layer = nn.Linear(128, 128)
        with torch.autocast("cpu", torch.bfloat16):
            cast = layer(torch.randn(4, 128)).sum()
    assert account.passed["small"] >= 1 and account.passed["view"] >= 1 and account.passed["not float"] >= 1
    assert account.encoded == 0  # the weight, its cast and its transpose are parameters
    torch.autograd.backward([small, wide, picked, cast.float()])
    assert layer.weight.grad is not None


def test_sparse_tensors_pass_through():
    few = torch.zeros(80, 80).fill_diagonal_(2.0).to_sparse()
    dense = torch.randn(80, 200).requires_grad_()
    with compress_saved("zvc") as account:
        y = torch.sparse.mm(few, dense * 1.0).sum()
    assert torch.equal(torch.autograd.grad(y, dense)[0], torch.full_like(dense, 2.0)) and account.passed["no plain tensor"] >= 1


def test_one_tensor_saved_twice_is_held_once():
    x = torch.randn(64, 256).requires_grad_()
    with compress_saved("zvc") as account:
        y = x * 1.0
        z = torch.relu(y)
        total = (z * z).sum() + z.pow(2).sum()
    assert account.encoded == 1 and account.again >= 2
    assert account.raw_nbytes == x.numel() * 4 and account.held_nbytes < account.raw_nbytes / 3
    total.backward()
    assert torch.allclose(x.grad, 4 * x.detach().clamp(min=0), atol=4 * float(x.detach().max()) / 255)


def test_freed_memory_with_the_same_address_is_another_tensor():
    b = torch.ones(64, 256).requires_grad_()
    with compress_saved("raw") as account:
        sums = [(torch.full((64, 256), float(n)) * b).sum() for n in range(1, 30)]
    assert account.encoded == 29 and account.again == 0
    for n, y in enumerate(sums, 1):
        assert torch.equal(torch.autograd.grad(y, b)[0], torch.full_like(b, float(n)))


def test_a_later_write_does_not_reach_what_was_encoded_and_is_refused_for_what_was_kept():
    x, b = rectified(64, 256), torch.ones(64, 256).requires_grad_()
    want = x.clone()
    with compress_saved("raw"):
        y = (x * b).sum()
        x.mul_(3)
        again = (x * b).sum()  # the same storage at another version
    assert torch.allclose(torch.autograd.grad(y, b)[0], want, atol=float(want.max()) / 255)
    assert torch.allclose(torch.autograd.grad(again, b)[0], 3 * want, atol=3 * float(want.max()) / 255)
    small, c = torch.ones(4), torch.ones(4).requires_grad_()
    with compress_saved("raw"):
        y = (small * c).sum()
    small.mul_(2)
    with pytest.raises(RuntimeError, match="written in place"):
        y.backward()


def test_views_and_memory_formats():
    whole = torch.randn(8, 64, 20, 20)
    for view in (whole[:, ::2, 3:17], whole.transpose(1, 3), whole.to(memory_format=torch.channels_last), whole[..., ::2]):
        b = torch.ones_like(view).requires_grad_()
        with compress_saved("zvc") as account:
            y = (view * b).sum()
        got = torch.autograd.grad(y, b)[0]
        assert account.encoded == 1 and float((got - view).abs().max()) <= float(whole.max() - whole.min()) / 510 * 1.0001
    net = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3)).to(memory_format=torch.channels_last)
    x = torch.randn(4, 8, 16, 16).to(memory_format=torch.channels_last)
    with compress_saved():
        y = net(x).sum()
    y.backward()
    assert net[0].weight.grad is not None


def test_retained_graphs_and_double_backward():
    x = torch.randn(64, 256).requires_grad_()
    with compress_saved("zvc"):
        y = ((x * 1.0) ** 3).sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y, x)[0])
    scale = float((x.max() - x.min()).detach()) / 255
    with compress_saved("zvc"):
        y = ((x * 1.0) ** 3).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        (h,) = torch.autograd.grad(g.sum(), x)
    assert float((h - 6 * x).detach().abs().max()) <= 6 * scale
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
        y.backward()


def test_blocks_nest_and_end():
    x = rectified(64, 256)
    b = torch.ones_like(x).requires_grad_()
    with compress_saved("zvc") as outer:
        with compress_saved("raw") as inner:
            one = (x * b).sum()
        two = (x * b).sum()
    three = (x * b).sum()
    assert (inner.encoded, outer.encoded) == (1, 1)
    (one + two + three).backward()
    assert (inner.decoded, outer.decoded) == (1, 1)


def test_an_exception_leaves_nothing_behind():
    x, b = rectified(64, 256), torch.ones(64, 256).requires_grad_()
    with pytest.raises(KeyError), compress_saved("zvc") as account:
        held = (x * b).sum()
        raise KeyError
    y = (x * b).sum()  # no longer served
    assert account.encoded == 1 and held.requires_grad
    assert torch.equal(torch.autograd.grad(y, b)[0], x)
    assert account.held_nbytes > 0
    del held
    gc.collect()
    assert account.held_nbytes == account.raw_nbytes == 0 < account.peak_held_nbytes


def test_a_graph_that_is_dropped_frees_its_payloads():
    net = network()
    for _ in range(3):
        with compress_saved() as account:
            net(torch.randn(8, 3, 16, 16))
        gc.collect()
        assert account.held_nbytes == account.kept_nbytes == 0 < account.peak_held_nbytes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"codec": "nothing"}, "unknown codec"),
        ({"codec": "zvc", "stepp": 2.0}, "no option 'stepp'"),
        ({"codec": "zvc", "step": 0.5}, "step is 1 to 128"),
        ({"codec": "klt"}, "before an activation"),
        ({"codec": "uniform_rans", "fit": "kind"}, "fit='tensor'"),
        ({"fit": "layer"}, "'kind' or 'tensor'"),
        ({"codec": "dct_cm", "exact": True}, "exact=True"),
        ({"codec": "uniform_rans", "exact": True}, "exact=True"),
    ],
)
def test_mistakes(options, says):
    with pytest.raises(InputError, match=says), compress_saved(**options):
        raise AssertionError("the block must not run")


def test_a_codec_without_a_range_is_fitted_to_each_tensor():
    b = torch.ones(16, 64, 64).requires_grad_()
    with compress_saved("uniform_rans") as account:
        sums = [(rectified(16, 64, 64, seed=n) * 10.0**n * b).sum() for n in range(3)]
    for n, y in enumerate(sums):
        want = rectified(16, 64, 64, seed=n) * 10.0**n
        got = torch.autograd.grad(y, b)[0]
        assert float((got - want).norm() / want.norm()) < 0.02
    assert account.encoded == 3 and account.ratio > 4


def test_benchmark_of_two_steps(data, tmp_path):
    command = [sys.executable, ROOT / "benchmarks/saved_tensors.py", "--steps", "2", "--batch", "32", "--json", tmp_path / "rows.json"]
    done = subprocess.run([*command, "--variants", "plain", "zvc, exact", "dct_cm"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    plain, exact, lossy = found["rows"]
    assert plain["first_losses"] == exact["first_losses"] and plain["test_loss"] == exact["test_loss"]
    assert plain["first_losses"][0] == lossy["first_losses"][0] != 0 and lossy["held_ratio"] > 4 > exact["held_ratio"] > 1
    assert all(row["peak_nbytes"] > 0 and row["before_nbytes"] > 0 for row in found["rows"]) and found["machine"]
    assert np.isclose(lossy["peak_ratio"], plain["peak_nbytes"] / lossy["peak_nbytes"])
