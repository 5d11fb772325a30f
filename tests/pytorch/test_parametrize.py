"""Every parametrisation gives what the file will hold, learns, gets cheaper when it gets coarser, and comes off again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tensorpress.blocks.forms import FORMS, Fixed
from tensorpress.core.errors import InputError
from tensorpress.planning.weight_file import Tensor as Stored
from tensorpress.planning.weight_file import WeightFile, WeightReader
from tensorpress.pytorch import parametrize as par


def weight(*shape: int, seed: int = 3) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.5, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return made * 0.1


def hardened(w, step):  # type: ignore[no-untyped-def]
    made = par.Rounding(w, step)
    with torch.no_grad():
        made.choice += torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    made.harden()
    return made


def halves(w):  # type: ignore[no-untyped-def]
    return torch.arange(len(w)) % 2


# each takes a weight [16, 8, 3, 3] and how coarse it is to be: 1, 2 or 4
MADE = {
    "uniform": lambda w, c: par.Uniform(w, 0.02 * c),
    "uniform by rows, learned": lambda w, c: par.Uniform(w, torch.linspace(0.01, 0.03, len(w)) * c, learn=True),
    "uniform, 16 levels, learned": lambda w, c: par.Uniform(w, 0.04 * c, levels=(-8, 7), learn=True),
    "rounding": lambda w, c: hardened(w, 0.02 * c),
    "rounding by rows, clipped": lambda w, c: par.Rounding(w, torch.linspace(0.02, 0.03, len(w)) * c, levels=(-4, 3)),
    "k-means": lambda w, c: par.CodebookWeights.k_means(w, 32 // c),
    "k-means of groups": lambda w, c: par.CodebookWeights.k_means(w, 16 // c, halves(w)),
    "k-means with a zero": lambda w, c: par.CodebookWeights.k_means(w, 16 // c, halves(w), zero=True),
    "binary": lambda w, c: par.Binary(w, by_rows=c == 1),
    "binary, ReSTE": lambda w, c: par.Binary(w, by_rows=c == 1, power=3.0),
    "floats": lambda w, c: par.Floats(w, 12 // c),
    "mask over floats": lambda w, c: par.Mask(par.Floats(w), par.elements(0.2 * c)),
    "mask over uniform": lambda w, c: par.Mask(par.Uniform(w, 0.02, learn=True), par.elements(0.2 * c)),
    "2 of 4 over uniform": lambda w, c: par.Mask(par.Uniform(w, 0.02 * c), par.n_of_m(2, 4), live=True, dense=True, decay=2e-4),
    "rows over a codebook": lambda w, c: par.Mask(par.CodebookWeights.k_means(w, 9, zero=True), par.rows(0.2 * c)),
    "mask over binary": lambda w, c: par.Mask(par.Binary(w), par.elements(0.4 + 0.12 * c)),
    "mask over rounding": lambda w, c: par.Mask(hardened(w, 0.02), par.elements(0.2 * c)),
    "svd": lambda w, c: par.svd(w, 8 // c, 0.02),
    "separable": lambda w, c: par.separable(w, 8, 0.02 * c, learn=True),
    "tucker": lambda w, c: par.tucker(w, 8 // c, 8 // c, 0.02),
    "cp": lambda w, c: par.cp(w, 16 // c, 0.02),
    "klt": lambda w, c: par.klt(w, 0.02 * c),
    "elt": lambda w, c: par.elt(w, torch.diag(torch.linspace(0.2, 2, len(w))), 0.02 * c, learn=True),
    "dct": lambda w, c: par.by_rule(w, "dct", (2, 3), 0.02 * c),
    "hadamard": lambda w, c: par.by_rule(w, "hadamard", (0,), 0.02 * c),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", MADE)


def far(made: par.Parametrisation, w: torch.Tensor) -> float:
    return float((made() - w).detach().abs().max())


def filed(form) -> tuple[bytes, np.ndarray]:  # type: ignore[no-untyped-def]
    """A file with the tensor alone, and what it decodes to."""
    data = WeightFile((Stored("w", "F32", tuple(form.shape), form),)).to_bytes()
    return data, WeightReader(data).all()["w"]


def bits_of(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.int32)


@EVERY
@pytest.mark.parametrize("coarse", [1, 2, 4])
def test_the_file_decodes_to_what_training_saw(name: str, coarse: int) -> None:
    made = MADE[name](weight(16, 8, 3, 3), coarse)
    for parameter in made.parameters():  # away from where it began
        with torch.no_grad():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9))
    if isinstance(made, par.Rounding):
        made.harden()
    form, seen = made.form(), made.eval()().detach().numpy()
    assert np.array_equal(bits_of(form.values()), bits_of(seen))
    data, decoded = filed(form)
    assert np.array_equal(bits_of(decoded), bits_of(seen))
    part = WeightReader(data).box.sections["part/0"]
    assert form.nbytes() == len(part) and FORMS[form.id] is type(form)
    kept = {"levels": getattr(form, "levels", None), "code": getattr(form, "code", None)}
    for what, sent in made.symbols().items():
        if kept.get(what) is not None:
            assert np.array_equal(sent, kept[what])
    assert sum(sent.size for sent in made.symbols().values()) == sum(f.levels.size for f in getattr(form, "factors", ()) if not isinstance(f, Fixed)) or form.id != "factors"


@EVERY
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    made = MADE[name](weight(16, 8, 3, 3), 1).train()
    target = weight(16, 8, 3, 3, seed=4)
    loss = (made() - target).square().sum() + 1e-3 * made.bits()
    loss.backward()
    learning = [p for p in made.parameters() if p.requires_grad]
    assert learning
    for parameter in learning:
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) and bool(parameter.grad.any())


@EVERY
def test_coarser_is_fewer_bytes_and_the_estimate_is_near(name: str) -> None:
    sizes = []
    for coarse in (1, 2, 4):
        made = MADE[name](weight(16, 8, 3, 3), coarse)
        nbytes = made.form().nbytes()
        off = 0.35 if name == "mask over floats" else 0.15  # their zeros are dear: exponents, signs and mantissas are coded apart
        assert abs(float(made.bits().detach()) / 8 - nbytes) < off * nbytes + 64
        sizes.append(nbytes)
    assert sizes[0] > sizes[1] and (sizes[1] > sizes[2] or ("binary" in name and "mask" not in name))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_network_and_off_again(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 10)).to(dtype).eval()
    before = copy.deepcopy(net)
    made = MADE[name](net[0].weight.float(), 1)
    if isinstance(made, par.Rounding):
        made.harden()
    par.attach(net, {"0.weight": made, "3.weight": par.Uniform(net[3].weight, 0.01)})
    assert list(par.attached(net)) == ["0.weight", "3.weight"] and net[0].weight.dtype == dtype
    x = torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    found, forms = net(x).detach(), par.forms(net)
    par.remove(net)
    assert not par.attached(net) and list(net.state_dict()) == list(before.state_dict())
    assert torch.equal(net(x), found) and not torch.equal(before(x), found)
    assert torch.equal(net[0].weight, torch.from_numpy(forms["0.weight"].values()).to(dtype)) and net[0].weight.requires_grad


@pytest.mark.parametrize("learn", [False, True])
def test_a_learned_step_finds_the_scale(learn: bool) -> None:
    """A step that is far too fine for its 16 levels clips; learning it mends that."""
    w = weight(32, 32)
    made = par.Uniform(w, 0.004, levels=(-8, 7), learn=learn)
    made.latent.requires_grad_(False)
    first = float((made() - w).detach().square().sum())
    if learn:
        optimiser = torch.optim.Adam([made.octaves], lr=0.05)
        for _ in range(100):
            optimiser.zero_grad()
            (made() - w).square().sum().backward()
            optimiser.step()
    last = float((made() - w).detach().square().sum())
    assert last < 0.2 * first if learn else last == first


def test_the_best_step_is_that_of_a_search() -> None:
    from tensorpress.blocks.forms import step_of
    from tensorpress.pytorch.parametrize.uniform import best_step

    w = weight(4, 200)
    for row, step in zip(w, best_step(w, (-4, 3), by_rows=True)):
        every = torch.from_numpy(step_of(np.arange(-400, 0)))[:, None]
        errors = ((row / every).round().clamp(-4, 3) * every - row).square().sum(1)
        assert float(step) == float(every[errors.argmin(), 0])


def test_soft_rounding_starts_as_the_weight_and_can_be_decided() -> None:
    w = weight(16, 32)
    made = par.Rounding(w, 0.02)
    assert far(made, w) < 0.02 * 0.011
    optimiser = torch.optim.Adam(made.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        made.undecided(4.0).backward()
        optimiser.step()
    assert float(made.undecided(4.0).detach()) < 1e-3 * w.numel()
    nearest = torch.round(w / made.step)
    soft = made().detach()
    made.harden()
    assert torch.allclose(soft, made(), atol=1e-6) and float((torch.from_numpy(made.form().levels) == nearest).float().mean()) > 0.99


def test_n_of_m_keeps_n_in_every_m_along_the_input() -> None:
    w = weight(16, 12, 3, 3)
    keep = par.n_of_m(1, 4)(w)
    groups = keep.movedim(1, -1).reshape(16, 3, 3, 3, 4)
    assert bool((groups.sum(-1) == 1).all())
    size = w.abs().movedim(1, -1).reshape(16, 3, 3, 3, 4)
    assert torch.equal(size.argmax(-1), groups.float().argmax(-1))
    assert int(par.n_of_m(2, 4)(weight(3, 6)).sum()) == 3 * 4  # the last two are a short group


def test_where_a_mask_sends_gradients() -> None:
    w = weight(8, 8)
    for dense, decay in ((False, 0.0), (True, 0.0), (True, 0.5), (False, 0.5)):
        made = par.Mask(par.Floats(w, 23), par.elements(0.5), dense=dense, decay=decay)
        made().sum().backward()
        expected = torch.where(made.keep, 1.0, float(dense) + decay * w)
        assert torch.allclose(made.inner.latent.grad, expected)


def test_a_live_mask_follows_its_weight_and_only_in_training() -> None:
    made = par.Mask(par.Floats(weight(8, 8), 23), par.elements(0.5), live=True)
    first = made.keep.clone()
    with torch.no_grad():
        made.inner.latent.copy_(weight(8, 8, seed=8))
    made.eval()()
    assert torch.equal(made.keep, first)
    made.train()()
    assert not torch.equal(made.keep, first) and int(made.keep.sum()) == 32


def test_binary_gradients_come_closer_to_the_sign() -> None:
    """ReSTE: within its window the slope near zero rises with the power, further out it falls; power 1 is the identity."""
    slopes = {}
    for power in (1.0, 3.0):
        made = par.Binary(torch.tensor([[0.02, -0.02, 0.9, -0.9, 1.2, -1.2, 6.0, -6.0]]).repeat(1, 1), by_rows=True, power=power)
        position = made.positions()
        position.sum().backward()
        slopes[power] = made.latent.grad[0] * made.latent.detach().abs().mean()
    assert torch.allclose(slopes[1.0][:6], torch.ones(6)) and torch.equal(slopes[1.0][6:], torch.zeros(2))
    assert float(slopes[3.0][0]) > 1.5 and float(slopes[3.0][2]) < 1.0 and torch.equal(slopes[3.0][6:], torch.zeros(2))


def test_products_of_full_rank_are_the_weight() -> None:
    w = weight(16, 8, 3, 3)
    fine = 2.0**-14
    assert far(par.svd(w, 16, fine), w) < 1e-3
    assert far(par.separable(w, 24, fine), w) < 1e-3
    assert far(par.tucker(w, 16, 8, fine), w) < 1e-3
    for made in (par.klt(w, fine), par.elt(w, torch.eye(16), fine), par.by_rule(w, "dct", (2, 3), fine), par.by_rule(w, "hadamard", (0, 1), fine)):
        assert far(made, w) < 1e-3
    one = torch.einsum("o,i,h,w->oihw", *[weight(n, 1)[:, 0] for n in (16, 8, 3, 3)])
    assert far(par.cp(one, 1, 2.0**-24), one) / float(one.abs().max()) < 1e-2


def test_a_basis_pays_where_rows_are_alike() -> None:
    """Rows that are mixtures of few: the KLT takes fewer bytes at the same error, its matrix included."""
    mix = torch.randn(32, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 576, generator=torch.Generator().manual_seed(1))
    w = (mix + 0.02 * torch.randn(32, 576, generator=torch.Generator().manual_seed(2))).reshape(32, 64, 3, 3)
    plain, better = par.Uniform(w, 0.2), par.klt(w, 0.2)
    assert float((better() - w).detach().square().mean()) < 1.2 * float((plain() - w).detach().square().mean())
    assert better.form().nbytes() < 0.5 * plain.form().nbytes()


def test_mistakes_are_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(InputError, match=r"no weight '1\.weight'"):
        par.attach(net, {"1.weight": par.Uniform(torch.ones(4, 4), 1.0)})
    with pytest.raises(InputError, match=r"has shape \[4, 4\]"):
        par.attach(net, {"0.weight": par.Uniform(torch.ones(4, 5), 1.0)})
    par.attach(net, {"0.weight": par.Uniform(torch.ones(4, 4), 1.0)})
    with pytest.raises(InputError, match="already"):
        par.attach(net, {"0.weight": par.Uniform(torch.ones(4, 4), 1.0)})
    with pytest.raises(InputError, match="needs an entry that is zero"):
        par.Mask(par.CodebookWeights.k_means(weight(8, 8), 4), par.elements(0.5)).form()
    with pytest.raises(InputError, match="mask its factors"):
        par.Mask(par.svd(weight(8, 8), 2, 0.1), par.elements(0.5)).form()
