"""Golden streams of every released format version decode to what they held, and their inputs encode to them again."""

from __future__ import annotations

import json

import pytest

from tensorpress.core import registry
from tensorpress.core.stream import Stream
from tests.golden.make import HERE, VERSION, cases, facts, golden_input

STREAMS = sorted(HERE.glob("v*/*.tp"))


@pytest.mark.parametrize("codec_id", list(registry.cards()))
def test_every_card_has_golden_streams_of_this_version(codec_id):
    wanted = {name for codec, name, *_ in cases() if codec == codec_id}
    there = {path.stem for path in (HERE / f"v{VERSION}").glob("*.tp")}
    assert wanted and wanted <= there, f"missing golden streams: {sorted(wanted - there)}; run make golden and review them"


@pytest.mark.parametrize("path", STREAMS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_golden_stream(path):
    data = path.read_bytes()
    expected = json.loads(path.with_suffix(".json").read_text())
    stream = Stream.from_bytes(data)
    codec = registry.build(stream.codec, stream.params, stream.state)
    for fused in (True, False):
        found = facts(codec.decode_payload(stream.payload, fused=fused))
        assert {"codec": stream.codec, "input": expected["input"], **found} == expected
    if registry.card(stream.codec).stable:
        assert codec.encode(golden_input(expected["input"] == "signed")).to_bytes() == data
