"""A plan inside running networks: real bytes, simulated bytes, gradients, types, bundles, errors."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.container import BUNDLE, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import STRIPE_ROWS, Reader, Writer, chw, stripe_count
from tensorpress.core.site import Site
from tensorpress.core.stage import Stage
from tensorpress.core.stream import write_frame
from tensorpress.planning.bundle import read_bundle, write_bundle
from tensorpress.planning.plan import Entry, Plan
from tensorpress.pytorch.attach import attach, fingerprint, frame_nbytes
from tensorpress.pytorch.plan import FeaturePlan
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.taps import tapped
from tensorpress.pytorch.tensors import blank, images
from tests.pytorch.test_sites import SMALL, Residual, example, small
from tests.pytorch.test_taps import equal, flat, untouched


@dataclass(frozen=True)
class Config:
    step: float = 0.0  # 0: exact float32; otherwise int16 multiples


class Rounded(Stage[Any, None]):
    """Float32 values, or their roundings to `step`, stripe by stripe."""

    def __init__(self, step: float) -> None:
        self.step = step

    def max_stripe_nbytes(self, dtype: Any, view: tuple[int, int, int], rows: int) -> int:
        return (2 if self.step else 4) * view[0] * rows * view[2]

    def encode(self, x: Any, out: Writer) -> None:
        if not np.isfinite(x).all():
            raise InputError("the tensor holds values that are not finite")
        rows = np.reshape(x, chw(x.shape))
        for number in range(stripe_count(x.shape)):
            part = rows[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            out.stripe((np.rint(part / self.step).astype("<i2") if self.step else part.astype("<f4")).tobytes())

    def decode(self, y: None, src: Reader) -> Any:
        result = np.empty(chw(src.shape), src.dtype)
        for number in range(stripe_count(src.shape)):
            part = result[:, number * STRIPE_ROWS : (number + 1) * STRIPE_ROWS]
            values = np.frombuffer(src.stripe(), "<i2" if self.step else "<f4").reshape(part.shape)
            part[...] = values * np.float32(self.step) if self.step else values
        return result.reshape(src.shape)


@dataclass(frozen=True)
class Direct(Codec):
    """Simulates by arithmetic, as a codec that is quicker without bytes would."""

    def simulate(self, x: Any, reference: Any = None) -> tuple[Any, int]:
        if not np.isfinite(x).all():
            raise InputError("the tensor holds values that are not finite")
        index = Reader(Codec.encode_payload(self, x)).index_nbytes
        step = np.float32(self.config.step)
        return (np.rint(x / self.config.step).astype("<i2") * step if step else x), index + x.size * (2 if step else 4)


def codec(step: float = 0.0, tap: str = "output") -> Codec:
    return Direct("rounded", Config(step), Rounded(step), tap=tap)


def plan_for(model: nn.Module, step: float = 0.0, tap: str = "output") -> FeaturePlan:
    sites = find_sites(model, example())
    shapes: dict[int, tuple[int, ...]] = {}

    def note(index: int, tensor: Tensor) -> Tensor:
        shapes[index] = images(tensor, sites[index].view)[0].shape
        return tensor

    with tapped(model, sites, note), torch.no_grad():
        model(example())
    entries = tuple(Entry(site, codec(step, tap), shapes[i]) for i, site in enumerate(sites))
    return FeaturePlan("features", fingerprint(model), entries)


@pytest.mark.parametrize("tap", ["output", "input"])
@pytest.mark.parametrize("name", SMALL)
def test_a_lossless_plan_changes_nothing(name: str, tap: str) -> None:
    model, x = small(name), example(2)
    plan = plan_for(model, tap=tap)
    with torch.inference_mode():
        with tapped(model, [], lambda index, tensor: tensor):
            plain = model(x)
        with plan.attach(model) as run:
            assert equal(model(x), plain)
    assert untouched(model)
    assert len(run.calls) == 2 * len(plan.entries)
    assert run.raw_nbytes == 2 * sum(int(np.prod(entry.shape)) for entry in plan.entries)
    assert run.nbytes > 4 * run.raw_nbytes


@pytest.mark.parametrize("tap", ["output", "input"])
@pytest.mark.parametrize("name", SMALL)
def test_simulation_agrees(name: str, tap: str) -> None:
    model, x = small(name), example(2)
    plan = plan_for(model, 0.125, tap)
    with torch.no_grad():
        plain = model(x)
        with plan.attach(model) as real:
            given = model(x)
        with plan.attach(model, exact=False) as simulated:
            assert equal(model(x), given)
    assert not equal(plain, given)
    assert simulated.calls == real.calls and real.nbytes == simulated.nbytes > 0


@pytest.mark.parametrize("name", ["Residual", "Unet", "Bottleneck"])
def test_a_batch_is_its_images(name: str) -> None:
    model, x = small(name), example(3)
    plan = plan_for(model)
    batch = _arrays(plan, model, x.to(memory_format=torch.channels_last))
    for number, image in enumerate(x):
        single = _arrays(plan, model, image[None])
        assert len(batch) == 3 * len(single) == 3 * len(plan.entries)
        for i, (site, array) in enumerate(single):
            assert batch[3 * i + number][0] == site == i
            assert np.allclose(batch[3 * i + number][1], array, atol=1e-4)  # a convolution may sum in another order


def _arrays(plan: FeaturePlan, model: nn.Module, x: Tensor) -> list[tuple[int, Any]]:
    with torch.no_grad(), plan.attach(model, keep=True) as run:
        model(x)
    return read_bundle(run.bundle(), plan)


def test_channels_last_writes_the_same_bytes_and_stays() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1)).eval()
    x = example(3)
    plan = plan_for(model, 0.25)
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    kept = []
    for batch in (x, x.to(memory_format=torch.channels_last), *x.split(1)):
        with plan.attach(model, keep=True) as run, torch.no_grad():
            model(batch)
        kept.append(run.frames)
    assert kept[0] == kept[1] == kept[2] + kept[3] + kept[4]
    assert seen[0].is_contiguous() and seen[1].is_contiguous(memory_format=torch.channels_last) and torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], (x.relu() / 0.25).round() * 0.25)


@pytest.mark.parametrize("codec", ["zvc", "dct_cm", "huffman"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_operation_in_place_is_decoded_in_place(codec: str, layout: torch.memory_format) -> None:
    """The same values, frames and calls whether decoded over the operand, beside it for a watch, or for an operation that is not in place."""
    found = []
    for inplace, watch, keep in [(True, False, False), (True, True, True), (True, False, True), (False, False, False)]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(inplace), nn.Conv2d(16, 8, 3), nn.ReLU(inplace)).eval().to(memory_format=layout)
        x = torch.randn(2, 3, 19, 14).to(memory_format=layout)
        sites = [Site("1", 0, "relu"), Site("3", 0, "relu")]
        with torch.inference_mode():
            samples = [model[:2](x)[0].numpy(), model(x)[0].numpy()]
            entries = tuple(Entry(site, registry.build(codec, {"step": 3.0}).fit([s]), s.shape) for site, s in zip(sites, samples))
            seen: list[bool] = []
            note = seen.append
            look = (lambda index, before, after, payload, nbytes, note=note: note(bool((before != after).any()))) if watch else None
            with attach(FeaturePlan("features", fingerprint(model), entries), model, keep=keep, watch=look) as run:
                found.append((model(x).numpy().tobytes(), tuple(call.nbytes for call in run.calls)))
        assert seen == [True] * 4 * watch and len(run.frames) == 4 * keep
    assert len(set(found)) == 1


def test_gradients_pass_straight_through() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(inplace=True), nn.Conv2d(4, 2, 1))
    plan = plan_for(model, 0.5)
    x = example().requires_grad_()
    with plan.attach(model):
        out = model(x)
        out.sum().backward()
    y = model[0](x.detach())
    coded = (torch.nn.functional.silu(y) / 0.5).round() * 0.5
    assert torch.equal(out, model[2](coded))
    slope = torch.func.vmap(torch.func.grad(torch.nn.functional.silu))(y.flatten()).view_as(y)
    upper = model[2].weight.sum(0)[None] * slope
    assert torch.allclose(x.grad, torch.nn.functional.conv_transpose2d(upper, model[0].weight), atol=1e-5)
    assert torch.allclose(model[2].weight.grad[0, :, 0, 0], coded.sum((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype: torch.dtype) -> None:
    model = small("Residual")
    plan = plan_for(model)
    model = model.to(dtype)
    with torch.no_grad():
        plain = model(example(2).to(dtype))
        with plan.attach(model) as run:
            given = model(example(2).to(dtype))
    assert given.dtype == dtype and run.nbytes > 0
    assert torch.allclose(given.float(), plain.float(), atol=1e-4) if dtype == torch.float64 else torch.equal(given, plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_are_coded_on_the_host() -> None:
    model, x = small("Bottleneck").cuda(), example(2).cuda().to(memory_format=torch.channels_last)
    plan = plan_for(small("Bottleneck"))
    with torch.no_grad():
        plain = model(x)
        with plan.attach(model) as run:
            given = model(x)
    assert given.device == plain.device and run.nbytes > 0
    assert torch.allclose(given, plain, atol=1e-5)


def test_one_plan_on_two_models() -> None:
    one = small("Residual")
    two = copy.deepcopy(one)
    plan = plan_for(one, 0.5)
    with torch.no_grad(), plan.attach(one) as first, plan.attach(two) as second:
        assert torch.equal(one(example()), two(example()))
    assert first.calls == second.calls and len(first.calls) == 5


def test_totals_and_clearing() -> None:
    model = small("Residual")
    plan = plan_for(model, 0.5)
    run = plan.attach(model)
    with torch.no_grad():
        model(example(2))
        model(example())
    totals = run.by_site()
    assert [t.site for t in totals] == [e.site for e in plan.entries] and {t.calls for t in totals} == {3}
    assert sum(t.nbytes for t in totals) == run.nbytes and sum(t.raw_nbytes for t in totals) == run.raw_nbytes == 3 * 5 * 8 * 256
    assert [c.image for c in run.calls[:2]] == [0, 1] and run.calls[0].shape == (8, 16, 16)
    run.clear()
    assert run.nbytes == 0 and run.by_site()[0].ratio is None
    run.remove()
    assert untouched(model)


def test_another_resolution_is_fine_another_width_is_not() -> None:
    model = small("Residual")
    plan = plan_for(model, 0.5)
    with torch.no_grad(), plan.attach(model) as run:
        model(torch.randn(1, 3, 24, 40))
    assert run.calls[0].shape == (8, 24, 40)
    narrow = replace(plan, entries=(replace(plan.entries[0], shape=(7, 16, 16)),))
    with (
        pytest.raises(InputError, match=r"site stem.2:relu: the tensor has shape \(8, 16, 16\), the plan was made for \(7, 16, 16\)"),
        attach(narrow, model),
    ):
        model(example())
    assert untouched(model)


def test_values_that_are_not_finite_name_the_site() -> None:
    model = small("Residual")
    plan = plan_for(model, 0.5)
    with torch.no_grad():
        model.blocks[1].bn1.bias.fill_(float("nan"))
    for exact in (True, False):
        with pytest.raises(InputError, match=r"site blocks.1.relu:relu: .*not finite"), plan.attach(model, exact=exact):
            model(example())
    assert untouched(model)


def test_integers_and_quantised_tensors_are_refused() -> None:
    with pytest.raises(InputError, match="int64 values, not float"):
        images(torch.ones(1, 3, dtype=torch.int64), "chw")
    with pytest.raises(InputError, match="dequantise"):
        images(torch.quantize_per_tensor(torch.randn(1, 3), 0.1, 0, torch.quint8), "chw")
    with pytest.raises(InputError, match="no batch axis"):
        images(torch.randn(3), "chw")


def test_images_share_memory() -> None:
    for tensor, view in (
        (example(2).to(memory_format=torch.channels_last), "chw"),
        (torch.randn(2, 5, 7), "tokens"),
        (torch.randn(2, 5), "chw"),
    ):
        for number, image in enumerate(images(tensor, view)):
            assert np.shares_memory(image, tensor.numpy())
            assert np.array_equal(image.T if view == "tokens" else image, tensor[number].numpy())
        assert blank(tensor).stride() == tensor.stride()
    assert np.shares_memory(images(filled := blank(torch.randn(1, 4, dtype=torch.float64)), "chw")[0], filled.numpy())


def test_a_plan_for_another_network_is_refused() -> None:
    plan = plan_for(small("Residual"))
    for other in (small("Bottleneck"), nn.Sequential(Residual())):
        with pytest.raises(InputError, match="made for another network"):
            plan.attach(other)
        assert untouched(other)
    without = {k: v for k, v in small("Residual").state_dict().items() if "num_batches" not in k}
    assert fingerprint(_Holds(without)) == plan.model


class _Holds(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.held = state

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return self.held


@pytest.mark.parametrize(("site", "length"), [(0, 0), (254, 10), (255, 10), (70000, 10), (3, 0x3FFFFF - 300), (3, 0x3FFFFF)])
def test_frame_size(site: int, length: int) -> None:
    out = Writer(np.dtype("f4"), (1, 1, 1))
    out.stripe(bytes(length))
    payload = out.finish()
    assert frame_nbytes(len(payload), site) == len(write_frame(payload, site, 7))


def test_bundle() -> None:
    model = small("Tokens")
    plan = plan_for(model, 0.5)
    seen: list[Tensor] = []
    with torch.no_grad(), plan.attach(model, keep=True) as run:
        model(example())
        model(example(2))
    data = run.bundle()
    sites = [entry.site for entry in plan.entries]
    with torch.no_grad(), tapped(model, sites, lambda index, tensor: seen.append(tensor) or tensor), plan.attach(model):  # type: ignore[func-returns-value]
        model(example(2))
    arrays = read_bundle(data, plan)
    assert [site for site, _ in arrays] == [site for site in range(5) for _ in range(2)]
    for (site, array), expected in zip(arrays, [a for i, t in enumerate(seen) for a in images(t, plan.entries[i].site.view)], strict=True):
        assert np.array_equal(array, expected), site
    assert len(data) < sum(c.nbytes for c in run.calls[-10:]) + 200
    with pytest.raises(InputError, match="keep=True"):
        plan.attach(model).bundle()
    with pytest.raises(InputError, match="simulation"):
        plan.attach(model, exact=False, keep=True)


def test_bad_bundles() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1))
    plan = plan_for(model, 0.5)
    with torch.no_grad(), plan.attach(model, keep=True) as run:
        model(torch.rand(2, 3, 4, 4))
    data = run.bundle()
    assert len(read_bundle(data, plan)) == 2
    with pytest.raises(StreamError, match="bundle was written with plan"):
        read_bundle(data, plan_for(model, 0.25))
    for at in range(len(data)):
        with pytest.raises(StreamError):
            read_bundle(data[:at], plan)
        with pytest.raises(StreamError):
            read_bundle(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], plan)
    with pytest.raises(StreamError, match="over the limit"):
        read_bundle(data, plan, max_nbytes=300)
    with pytest.raises(StreamError, match="promised 1"):
        read_bundle(Container(BUNDLE, {"plan": plan.digest, "frames": 1}, {"frames": b"".join(run.frames)}).to_bytes(), plan)
    with pytest.raises(StreamError, match="of site 5"):
        read_bundle(write_bundle(plan, [write_frame(plan.entries[0].codec.encode_payload(np.ones((3, 2, 2), "f4")), 5, plan.id)]), plan)


def test_a_plan_of_another_family_is_refused() -> None:
    assert FeaturePlan.from_bytes(FeaturePlan("features", "m", ()).to_bytes()) == FeaturePlan("features", "m", ())
    with pytest.raises(StreamError, match="family 'weights'"):
        FeaturePlan.from_bytes(Plan("weights", "m", ()).to_bytes())


def test_a_site_that_the_plan_invents_is_named() -> None:
    model = small("Residual")
    plan = plan_for(model)
    odd = replace(plan, entries=(replace(plan.entries[0], site=Site("stem.1", 0, "gelu")),))
    with pytest.raises(InputError, match=r"site stem.1:gelu does not exist"):
        attach(odd, model)
    assert len(flat(model(example()))) == 1 and untouched(model)
