"""Plans as files, and the search for a quality."""

from __future__ import annotations

import pytest

from tensorpress.core import registry
from tensorpress.core.container import PLAN, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.site import Site
from tensorpress.planning.plan import Entry, Plan
from tensorpress.planning.quality import coarsest_within
from tests.conftest import feature_map


def plan(codec: str = "uniform_rans", **meta) -> Plan:
    x = feature_map((16, 8, 8))
    codecs = [registry.build(codec).fit([x * k]) for k in (1, 2)]
    return Plan("features", "f" * 64, tuple(Entry(Site("net", n, "relu"), c, x.shape) for n, c in enumerate(codecs)), meta)


@pytest.mark.parametrize("codec", list(registry.cards()))
def test_round_trip(tmp_path, codec):
    one = plan(codec, target=3)
    one.save(tmp_path / "p.tpp")
    two = Plan.load(tmp_path / "p.tpp")
    assert two.to_bytes() == one.to_bytes() and two.digest == one.digest and two.id == int(one.digest[:8], 16)
    x = feature_map((16, 8, 8))
    assert two.entries[1].codec.encode_payload(x) == one.entries[1].codec.encode_payload(x)
    assert [p.name for p in tmp_path.iterdir()] == ["p.tpp"]


def test_shared_nbytes_is_the_file_without_its_history():
    assert plan().shared_nbytes == len(plan().to_bytes())
    assert plan(tried=list(range(1000))).shared_nbytes == plan().shared_nbytes
    assert sum(e.codec.shared_nbytes for e in plan().entries) < plan().shared_nbytes


def test_damage_is_refused(tmp_path):
    data = plan().to_bytes()
    for at in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[at] ^= 64
        with pytest.raises(StreamError):
            Plan.from_bytes(damaged)
        with pytest.raises(StreamError):
            Plan.from_bytes(data[:at])
    (tmp_path / "cut.tpp").write_bytes(data[:100])
    with pytest.raises(StreamError, match=r"cut\.tpp"):
        Plan.load(tmp_path / "cut.tpp")
    with pytest.raises(InputError, match=r"none\.tpp"):
        Plan.load(tmp_path / "none.tpp")


def test_coarsest_within_a_limit():
    found = coarsest_within(lambda q: q**2, 50.0, fine=1.0, coarse=64.0)
    assert found.met and 0.9 * 50**0.5 < found.quality <= 50**0.5 and len(found.tried) <= 9


def test_integers_and_a_falling_direction():
    found = coarsest_within(lambda levels: 1 / levels, 1 / 30, fine=256, coarse=2, integer=True)
    assert found.met and found.quality == round(found.quality) and 30 <= found.quality <= 33


def test_no_limit_is_too_wide():
    found = coarsest_within(lambda q: q * 1e-9, 1.0, fine=1.0, coarse=64.0)
    assert found.met and found.quality == 64.0


def test_a_limit_out_of_reach_gives_the_finest():
    found = coarsest_within(lambda q: 5 + q, 1.0, fine=1.0, coarse=64.0)
    assert not found.met and found.quality == 1.0 and found.value == 6.0


def test_noise_never_breaks_the_limit():
    noise = iter([0.3, -0.2, 0.1, 0.25, -0.3, 0.05, 0.2, -0.1, 0.15, 0.0])
    found = coarsest_within(lambda q: q * (1 + next(noise)), 8.0, fine=1.0, coarse=64.0)
    assert found.met and found.value <= 8.0 and (found.quality, found.value) in found.tried


@pytest.mark.parametrize(
    "change",
    [{"meta": None}, {"meta": [""]}, {"family": 3}, {"model": None}, {"entries": {}}, {"shape": ["x"]}, {"shape": [-1]}, {"shape": [2.5]}, {"site": {"path": 3}},
     {"site": {"path": "a", "call": "x"}}],
    ids=str,
)  # fmt: skip
def test_headers_of_other_types_are_refused(change):
    box = Container.from_bytes(plan("raw").to_bytes(), PLAN)
    header = dict(box.header)
    entry = {**header["entries"][0], **{k: v for k, v in change.items() if k in ("shape", "site")}}
    header = {**header, "entries": [entry], **{k: v for k, v in change.items() if k not in ("shape", "site")}}
    with pytest.raises(StreamError, match="plan header"):
        Plan.from_bytes(Container(PLAN, header, box.sections).to_bytes())
