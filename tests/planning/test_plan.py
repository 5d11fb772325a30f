"""Plans as files, and the search for a quality."""

from __future__ import annotations

import hashlib

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


def older(data: bytes, key: str) -> bytes:
    """A plan as a version wrote it that did not have a parameter yet."""
    box = Container.from_bytes(data, PLAN)
    rows = [{**row, "params": {k: v for k, v in row["params"].items() if k != key}} for row in box.header["entries"]]
    return Container(PLAN, {**box.header, "entries": rows}, box.sections).to_bytes()


def test_a_plan_older_than_a_parameter_keeps_its_id():
    made = plan("dct_cm")
    data = older(made.to_bytes(), "masks")
    assert len(data) < len(made.to_bytes())
    found = Plan.from_bytes(data)
    assert found.digest == hashlib.sha256(data).hexdigest() != made.digest
    assert found.to_bytes() == data and found.entries[0].codec.params == made.entries[0].codec.params


def changed(data: bytes, **of: object) -> bytes:
    box = Container.from_bytes(data, PLAN)
    header, sections = dict(box.header), dict(box.sections)
    entry = {**header["entries"][0], **{k: v for k, v in of.items() if k in ("shape", "site", "extra", "reference")}}
    header |= {"entries": [entry, *header["entries"][1:]]} | {k: v for k, v in of.items() if k in ("more", "model", "meta")}
    return Container(PLAN, header, sections | of.get("sections", {})).to_bytes()


@pytest.mark.parametrize(
    "of",
    [
        {"more": 1}, {"model": 3}, {"meta": []}, {"extra": 1}, {"shape": [1.5]}, {"shape": [-1]}, {"shape": "12"}, {"site": {"path": "a"}},
        {"site": {"path": [], "call": 0, "what": "relu", "view": "chw", "reads": 1}}, {"reference": None}, {"reference": True},
        {"sections": {"9/tables": b""}}, {"sections": {"00/tables": b""}}, {"sections": {"tables": b""}},
    ],
)  # fmt: skip
def test_plans_of_another_form_are_refused(of):
    data = plan().to_bytes()
    assert changed(data) == data
    with pytest.raises(StreamError, match=r"plan|site"):
        Plan.from_bytes(changed(data, **of))
