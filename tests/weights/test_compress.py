"""Any network to a file within a budget, and back: everything counted, everything restored, nothing lost on bad input."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tensorpress
from tensorpress import InputError, StreamError, weights
from tests.weights.networks import attention, mixed, pictures, tokens


@pytest.fixture(scope="module")
def small() -> weights.Compressed:
    return weights.compress(mixed(), pictures(), bits=8.0)


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("budget", ["2kB", "30%", "7.0 bits", 2500])
def test_the_file_never_exceeds_its_budget(budget, tmp_path):
    found = weights.compress(mixed(), pictures(), budget=budget)
    limit = weights.parse_budget(budget, found.raw_nbytes, found.parameters)
    found.save(tmp_path / "net.tpw")
    assert 0.8 * limit < (tmp_path / "net.tpw").stat().st_size == found.nbytes <= limit


def test_a_file_gives_back_the_very_network(small, tmp_path):
    small.save(tmp_path / "net.tpw")
    loaded = tensorpress.load(tmp_path / "net.tpw", model=mixed(seed=5))
    assert states_equal(loaded, small.model())
    assert loaded.second.weight is loaded.first.weight, "tied weights stay tied"
    assert all(type(p) is nn.Parameter for p in loaded.parameters())


def test_what_the_file_gives_is_what_was_judged(small):
    """The compressed network computes with the decoded values, near the original's."""
    with torch.no_grad():
        before, after = mixed()(pictures(seed=3)), small.model()(pictures(seed=3))
    assert 0 < float((before - after).abs().max()) < 0.5 * float(before.abs().max())


def test_the_original_is_not_touched():
    model = mixed()
    before = copy.deepcopy(model)
    weights.compress(model, pictures(), bits=8.0)
    assert states_equal(model, before)


def test_more_bits_lose_less():
    with torch.no_grad():
        before = mixed()(pictures(seed=3))
        lost = [float((weights.compress(mixed(), pictures(), bits=b).model()(pictures(seed=3)) - before).square().mean()) for b in (7.0, 9.0, 12.0)]
    assert lost[0] > lost[1] > lost[2]


def test_errors_that_are_fed_back_lose_less_than_rounding():
    """At the same step, and with fewer bytes."""
    from tensorpress.blocks.forms import Grid, step_of
    from tensorpress.pytorch.weight_problem import Problem

    model = mixed()
    forms = weights.build("second_order", trade=0.0).represent(Problem(model, pictures(64)), 2.0)
    with torch.no_grad():
        before = model(pictures(64, seed=3))
        errors = []
        for feedback in (True, False):
            other = copy.deepcopy(model)
            for name, form in forms.items():
                if isinstance(form, Grid):
                    x = model.get_parameter(name)
                    values = form.values() if feedback else Grid.nearest(x.detach().numpy(), step_of(form.steps)).values()
                    other.get_parameter(name).copy_(torch.from_numpy(values))
            errors.append(float((other(pictures(64, seed=3)) - before).square().mean()))
    assert errors[0] < errors[1]


def test_kept_matrices_are_named(small):
    assert small.kept == ("raw",)
    assert weights.Compressed(small.data, mixed()).kept == ("raw",), "a file alone says so as well"
    assert "raw" in small.report()


def test_attention_and_tied_embeddings():
    model = attention()
    found = weights.compress(model, tokens(), bits=8.0)
    forms = {row["name"]: row["form"] for row in found.layers}
    assert {forms["embed.weight"], forms["head.weight"]} == {"grid", "same"}
    assert forms["block.linear1.weight"] == "grid"
    assert states_equal(found.model(), found.model())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_come_back_in_their_type(dtype):
    model = mixed().to(dtype)
    found = weights.compress(model, pictures().to(dtype), bits=8.0)
    assert all(p.dtype == dtype for p in found.model().parameters())


def test_integers_come_back(tmp_path):
    model = mixed()
    model.register_buffer("table", torch.arange(-5, 5, dtype=torch.int8))
    model.register_buffer("flags", torch.tensor([True, False]))
    model.register_buffer("large", torch.tensor([2**62, -(2**40)]))
    model.register_buffer("odd", torch.tensor([float("inf"), -0.0]), persistent=False)
    back = weights.compress(model, pictures(), bits=8.0).model()
    assert torch.equal(back.table, model.table) and torch.equal(back.flags, model.flags) and torch.equal(back.large, model.large)


def test_a_network_without_large_weights():
    found = weights.compress(nn.Sequential(nn.BatchNorm1d(4)))
    assert found.nbytes > 0 and found.model()[0].eps == 1e-5


def test_the_score_may_drop_so_much(tmp_path):
    x = pictures(64, seed=4)
    model = mixed()
    with torch.no_grad():
        truth = model(x).argmax(1)

    def score(net: nn.Module) -> float:
        with torch.no_grad():
            return 100 * float((net(x).argmax(1) == truth).float().mean())

    found = weights.compress(model, pictures(), max_drop=5.0, evaluate=score)
    assert score(found.model()) >= 95
    assert found.nbytes < weights.compress(model, pictures(), bits=14.0).nbytes


def test_a_run_that_is_stopped_goes_on(tmp_path):
    work = tmp_path / "net.tpw.work"

    class Stop(Exception):
        pass

    def stop(what, done, total):
        if done >= 3:
            raise Stop

    with pytest.raises(Stop):
        weights.compress(mixed(), pictures(), bits=8.0, work=work, progress=stop)
    left = sorted(p.name for p in work.iterdir())
    assert len(left) >= 3
    found = weights.compress(mixed(), pictures(), bits=8.0, work=work, resume=True)
    assert found.data == weights.compress(mixed(), pictures(), bits=8.0).data
    assert not work.exists()
    with pytest.raises(InputError, match="no run to go on with"):
        weights.compress(mixed(), pictures(), bits=8.0, work=work, resume=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"budget": "100B"}, "below the least"),
        ({"budget": "banana"}, "none of"),
        ({"budget": "0 kB"}, "no size"),
        ({"budget": "1kB", "bits": 2.0}, "give one of"),
        ({"max_drop": 1.0}, "belong together"),
        ({"calib": torch.zeros(4, 5, 8, 8)}, "does not run on the calibration inputs"),
        ({"calib": None}, "learns from calibration inputs"),
        ({"recipe": "second_ordre"}, "did you mean 'second_order'"),
        ({"recipe": "zvc"}, "It is a codec"),
        ({"options": {"tade": 1}}, "did you mean 'trade'"),
    ],
)
def test_bad_requests(change, reason):
    with pytest.raises(InputError, match=reason):
        weights.compress(mixed(), **{"calib": pictures(), **change})


def test_weights_that_are_not_numbers():
    model = mixed()
    with torch.no_grad():
        model.wide.weight[3, 2] = float("nan")
    with pytest.raises(InputError, match=r"'wide.weight' has nan at \[3, 2, 0, 0\]"):
        weights.compress(model, pictures())


def test_another_architecture(small, tmp_path):
    small.save(tmp_path / "net.tpw")
    other = attention()
    before = copy.deepcopy(other)
    with pytest.raises(InputError, match=r"missing: embed.weight.*unexpected: raw, empty, stem.weight"):
        weights.load(tmp_path / "net.tpw", other)
    assert states_equal(other, before)
    wider = mixed()
    wider.wide = nn.Conv2d(8, 12, 1)
    with pytest.raises(InputError, match=r"another shape: wide.weight \[16, 8, 1, 1\] for \[12, 8, 1, 1\]"):
        weights.load(tmp_path / "net.tpw", wider)


def test_weights_without_counters_of_batch_norms_are_loaded(tmp_path):
    """Files from elsewhere may lack them: PyTorch loads such weights, and so do we. What else is missing is said."""
    from tensorpress import weights_stream

    library = pytest.importorskip("safetensors.torch")
    model = mixed()
    state = {name: t.clone() for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    library.save_file(state, tmp_path / "net.safetensors")
    weights_stream.encode(tmp_path / "net.safetensors", tmp_path / "net.tpw")
    loaded = tensorpress.load(tmp_path / "net.tpw", model=mixed(seed=5))
    assert all(torch.equal(loaded.state_dict()[name], t) for name, t in state.items())
    del state["bn.running_mean"]
    library.save_file(state, tmp_path / "net.safetensors")
    weights_stream.encode(tmp_path / "net.safetensors", tmp_path / "net.tpw")
    with pytest.raises(InputError, match=r"missing: bn\.running_mean$"):
        tensorpress.load(tmp_path / "net.tpw", model=mixed(seed=5))


def test_a_place_that_cannot_be_written(small, tmp_path):
    with pytest.raises(InputError):
        small.save(tmp_path / "missing" / "net.tpw")


def test_a_fresh_process_decodes_the_same(small, tmp_path):
    small.save(tmp_path / "net.tpw")
    script = """
import sys, zlib
from tensorpress.planning.weight_file import WeightReader
print(zlib.crc32(b''.join(a.tobytes() for a in WeightReader(open(sys.argv[1], 'rb').read()).all().values())), 'torch' in sys.modules)
"""
    import zlib

    from tensorpress.planning.weight_file import WeightReader

    here = zlib.crc32(b"".join(a.tobytes() for a in WeightReader(small.data).all().values()))
    out = subprocess.run([sys.executable, "-c", script, str(tmp_path / "net.tpw")], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert out.stdout.split() == [str(here), "False"]


def test_damage_is_found(small):
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(small.data)
        at = int(rng.integers(len(data)))
        if rng.random() < 0.3:
            del data[at:]
        else:
            data[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(StreamError):
            weights.WeightReader(bytes(data)).all()
