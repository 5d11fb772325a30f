"""The loop learns what its terms ask for, runs events when they are due, and repeats itself by its seed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tensorpress.core.errors import InputError
from tensorpress.pytorch import fit as f
from tensorpress.pytorch import parametrize as par
from tensorpress.pytorch.weight_problem import Problem


def blobs(count: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (count,), generator=generator)
    return torch.randn(count, 8, generator=generator) + 2 * nn.functional.one_hot(labels, 8), labels


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)).eval()


def problem(seed: int = 0) -> Problem:
    return Problem(network(), *blobs(), seed)


def test_it_learns_and_leaves_the_mode_as_it_was() -> None:
    net, task = network(), problem()
    losses = f.fit(net, task, f.cross_entropy(), steps=150, batch=32, lr=0.01)
    x, labels = blobs()
    assert len(losses) == 150 and losses[-1] < 0.5 * losses[0] and not net.training
    assert float((net(x).argmax(1) == labels).float().mean()) > 0.9
    assert float((task.model(x).argmax(1) == labels).float().mean()) < 0.6  # the problem's own network is as it was


def test_one_seed_one_result() -> None:
    found = []
    for seed in (1, 1, 2):
        net = network()
        losses = f.fit(net, problem(seed), f.cross_entropy(), steps=20, batch=32, lr=f.cosine(0.1), optimizer=f.sgd())
        found.append((losses, net[0].weight.detach().clone()))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1]) and found[0][0] != found[2][0]


def test_terms_add_and_weigh() -> None:
    teacher, student, (x, labels) = network(1).requires_grad_(False), network(2).requires_grad_(False), blobs()
    batch = f.Batch(student, (x,), labels, student(x), 0, 1)
    ce, kd, rec = f.cross_entropy(), f.distillation(teacher, 3.0), f.reconstruction(teacher)
    assert float(f.total(ce, f.weighted(0.5, kd), rec)(batch)) == pytest.approx(float(ce(batch)) + 0.5 * float(kd(batch)) + float(rec(batch)), rel=1e-6)
    p, q = teacher(x).double().div(3).softmax(1), student(x).double().div(3).softmax(1)
    assert float(kd(batch)) == pytest.approx(9 * float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert float(f.distillation(student)(batch)) == pytest.approx(0, abs=1e-6)
    tokens = f.Batch(student, (x,), labels.reshape(32, 4), student(x).reshape(32, 4, 4), 0, 1)
    assert float(ce(tokens)) == pytest.approx(float(ce(batch)), rel=1e-6)


def test_events_come_when_they_are_due() -> None:
    seen: dict[str, list[int]] = {"every": [], "window": [], "once": [], "end": []}

    def note(name: str) -> f.Act:
        return lambda moment: seen[name].append(moment.number)

    events = [f.every(4, note("every")), f.every(2, note("window"), start=1, stop=6), f.at(5, note("once")), f.at(10, note("end"))]
    f.fit(network(), problem(), f.cross_entropy(), events=events, steps=10, batch=32)
    assert seen == {"every": [0, 4, 8], "window": [1, 3, 5], "once": [5], "end": [10]}


def test_pruning_follows_the_cubic_and_what_is_dropped_stays_zero() -> None:
    net = network()
    par.attach(net, {"0.weight": par.Mask(par.Floats(net[0].weight), par.elements(0.0))})
    shares: list[float] = []
    events = [
        f.every(10, f.prune(f.gradual(0.0, 0.75, 0, 60)), stop=61),
        f.every(10, lambda m: shares.append(float((m.model[0].weight == 0).float().mean()))),  # type: ignore[index]
    ]
    losses = f.fit(net, problem(), f.cross_entropy(), events=events, steps=100, batch=32, lr=0.01)
    wanted = [0.75 - 0.75 * (1 - min(n, 60) / 60) ** 3 for n in range(0, 101, 10)]
    assert shares == pytest.approx(wanted, abs=1 / 256) and losses[-1] < losses[0]
    par.remove(net)
    assert float((net[0].weight == 0).float().mean()) == 0.75


def test_the_size_falls_where_bits_are_in_the_loss() -> None:
    sizes = {}
    for price in (0.0, 0.3):
        net = network()
        par.attach(net, {"0.weight": par.Uniform(net[0].weight, 0.02)})
        objective = f.total(f.cross_entropy(), f.weighted(price, f.penalty(f.bits_per_weight)))
        f.fit(net, problem(), objective, steps=100, batch=32, lr=0.005)
        sizes[price] = par.forms(net)["0.weight"].nbytes()
    assert sizes[0.3] < 0.9 * sizes[0.0]


def test_project_anneal_and_rewind() -> None:
    net = network()
    par.attach(net, {"4.weight": par.Mask(par.Floats(net[4].weight, 23), par.elements(0.5))})
    start, numbers = copy.deepcopy(net.state_dict()), list[float]()
    halved = []

    def check(moment: f.Moment) -> None:
        halved.append(int(torch.linalg.matrix_rank(moment.model.get_parameter("0.weight"))))

    def low_rank(weight: torch.Tensor) -> torch.Tensor:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        return (u[:, :2] * s[:2]) @ v[:2]

    events = [
        f.every(1, f.anneal(numbers.append, 1.0, 3.0)),
        f.every(5, f.project({"0.weight": low_rank})),
        f.every(5, check),
        f.at(8, f.prune(lambda number: 0.75)),
        f.at(10, f.rewind(net)),
    ]
    f.fit(net, problem(), f.cross_entropy(), events=events, steps=10, batch=32, lr=0.01)
    assert numbers == pytest.approx([1 + 0.2 * n for n in range(11)]) and halved == [2, 2, 2]
    state = net.state_dict()
    assert all(torch.equal(state[k], start[k]) for k in state if state[k].is_floating_point())
    assert int(par.attached(net)["4.weight"].keep.sum()) == 32


def test_frozen_norms_keep_their_statistics() -> None:
    for mode in ("train", "norms", "eval"):
        net = network()
        before = net[1].running_mean.clone()
        f.fit(net, problem(), f.cross_entropy(), steps=5, batch=32, mode=mode)
        assert torch.equal(net[1].running_mean, before) == (mode != "train")


def test_flips_and_shifts_move_whole_images() -> None:
    x = torch.arange(1.0, 2 * 3 * 8 * 8 + 1).reshape(2, 3, 8, 8)
    moved = f.flips_and_shifts(2)(x, torch.Generator().manual_seed(4))
    assert moved.shape == x.shape and not torch.equal(moved, x)
    for image, found in zip(x, moved):
        fits = [
            torch.equal(nn.functional.pad(image.flip(-1) if flip else image, [2] * 4)[:, dy : dy + 8, dx : dx + 8], found)
            for flip in (False, True) for dy in range(5) for dx in range(5)
        ]  # fmt: skip
        assert sum(fits) == 1
    assert torch.equal(f.flips_and_shifts(0)(x, torch.Generator().manual_seed(0)).sort(-1).values, x)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="needs labels"):
        f.fit(network(), Problem(network(), blobs()[0]), f.cross_entropy(), steps=1)
    with pytest.raises(InputError, match="give calib"):
        f.fit(network(), Problem(network()), f.cross_entropy(), steps=1)
    with pytest.raises(InputError, match="diverged"):
        f.fit(network(), problem(), f.total(f.cross_entropy(), f.penalty(lambda m: m[0].weight.sum() * float("inf"))), steps=1)  # type: ignore[index]
    with pytest.raises(InputError, match="no parameter"):
        f.fit(network().requires_grad_(False), problem(), f.cross_entropy(), steps=1)
