"""Any bytes at all end in a StreamError, and so does any change of a stream."""

from __future__ import annotations

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from tensorpress.core import registry
from tensorpress.core.container import BUNDLE, PLAN, STREAM, Container
from tensorpress.core.errors import StreamError
from tensorpress.core.site import Site
from tensorpress.core.stream import Stream, read_frame, write_frame
from tensorpress.facade import decode
from tensorpress.planning.bundle import read_bundle, write_bundle
from tensorpress.planning.plan import Entry, Plan
from tests.conftest import feature_map
from tests.properties.cases import holds
from tests.properties.strategies import EVERY

ANY = st.sampled_from(EVERY)
MAP = feature_map((9, 10, 5))
FITTED = {codec: registry.build(codec).fit([MAP]) for codec in EVERY}
STREAMS = {codec: made.encode(MAP).to_bytes() for codec, made in FITTED.items()}
FRAMES = {codec: write_frame(made.encode_payload(MAP), 0, 7) for codec, made in FITTED.items()}
PLANS = {codec: Plan("features", "0" * 64, (Entry(Site("a"), made, MAP.shape),)) for codec, made in FITTED.items()}
BUNDLES = {codec: write_bundle(plan, [write_frame(FITTED[codec].encode_payload(MAP), 0, plan.id)] * 2) for codec, plan in PLANS.items()}


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with one to three changes: bits, bytes, cuts, insertions, swapped and repeated parts."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at, end = sorted((draw(st.integers(0, len(found))), draw(st.integers(0, len(found)))))
        kind = draw(st.integers(0, 6))
        if kind <= 1 and at < len(found):
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            found[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == 4:
            del found[at:end]
        elif kind == 5:
            found[at:end] = found[at:end][::-1]
        else:
            found += found[at:end]
    return bytes(found)


@holds(300, st.binary(max_size=300), ANY, st.sampled_from((b"", STREAM + b"\1", PLAN + b"\1", BUNDLE + b"\1", b"\0\3", b"\3\3")))
def test_any_bytes_end_in_an_error(data: bytes, codec: str, front: bytes) -> None:
    data = front + data
    for read in (decode, Stream.from_bytes, Plan.from_bytes, lambda d: read_bundle(d, PLANS[codec])):
        with pytest.raises(StreamError):
            read(data)
    with pytest.raises(StreamError):
        FITTED[codec].decode_payload(read_frame(data).payload)


@holds(300, st.data(), ANY)
def test_any_bytes_as_a_payload_end_in_an_error(data: st.DataObject, codec: str) -> None:
    payload = data.draw(st.binary(max_size=60))
    assume(not (payload[:1] <= b"\x0b" and payload[1:2] <= b"\x08" and b"\0" in payload))  # an empty array has no stripes, and is whole
    with pytest.raises(StreamError):
        FITTED[codec].decode_payload(payload)


@holds(300, st.data(), ANY)
def test_any_change_of_a_stream_is_an_error(data: st.DataObject, codec: str) -> None:
    found = data.draw(changed(STREAMS[codec]))
    assume(found != STREAMS[codec])
    with pytest.raises(StreamError):
        decode(found)


@holds(300, st.data(), ANY)
def test_any_change_of_a_frame_is_an_error(data: st.DataObject, codec: str) -> None:
    found = data.draw(changed(FRAMES[codec]))
    assume(found[: len(FRAMES[codec])] != FRAMES[codec])  # what stands behind a frame is not its own
    with pytest.raises(StreamError):
        FITTED[codec].decode_payload(read_frame(found).payload)


@holds(200, st.data(), ANY)
def test_any_change_of_a_plan_or_a_bundle_is_an_error(data: st.DataObject, codec: str) -> None:
    plan = PLANS[codec]
    found = data.draw(changed(plan.to_bytes()))
    assume(found != plan.to_bytes())
    with pytest.raises(StreamError):
        Plan.from_bytes(found)
    found = data.draw(changed(BUNDLES[codec]))
    assume(found != BUNDLES[codec])
    with pytest.raises(StreamError):
        read_bundle(found, plan)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=("Cs",)), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("codec", "params", "entries", "site", "shape", "frames", "plan", "family", "x")), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
ROW = st.fixed_dictionaries({"site": st.just({"path": "a"}) | JSON, "shape": st.lists(st.integers()) | JSON, "codec": st.sampled_from(EVERY) | JSON, "params": JSON})
HEADERS = (
    st.dictionaries(st.sampled_from(("codec", "params", "shared", "plan", "frames", "entries", "meta", "family", "model")), JSON, max_size=6)
    | st.fixed_dictionaries({"codec": st.sampled_from(EVERY) | JSON, "params": st.dictionaries(st.text(max_size=4), JSON) | JSON, "shared": JSON})
    | st.fixed_dictionaries({"family": JSON, "model": JSON, "meta": JSON, "entries": st.lists(ROW | JSON, max_size=3)})
    | st.fixed_dictionaries({"plan": JSON, "frames": JSON})
)


@holds(200, st.sampled_from((STREAM, PLAN, BUNDLE)), HEADERS, st.dictionaries(st.sampled_from(("payload", "frames", "state/model", "0/model")), st.binary(max_size=40)))
def test_any_header_behind_right_checks_is_read_or_an_error(kind: bytes, header: dict, sections: dict[str, bytes]) -> None:
    data = Container(kind, header, sections).to_bytes()
    try:
        if kind == PLAN:
            plan = Plan.from_bytes(data)
            assert Plan.from_bytes(plan.to_bytes()).to_bytes() == plan.to_bytes()
        elif kind == BUNDLE:
            read_bundle(data, PLANS["raw"])
        else:
            decode(data)
    except StreamError:
        pass
