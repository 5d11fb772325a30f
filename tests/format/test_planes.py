"""The second decoder reads the golden streams of `float_planes`, and refuses what ours refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import minimal
import numpy as np
import pytest
from minimal.container import open_payload
from minimal.planes import float_planes

from tensorpress.core import registry
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import Reader, Writer
from tensorpress.core.stream import Stream

GOLDEN = Path(__file__).parents[1] / "golden" / "streams" / "v1"
FILES = sorted(GOLDEN.glob("**/float_planes-*.tp"))


def second(stream: Stream, payload: bytes) -> bytes:
    return float_planes({"layout": stream.params["layout"]}, {}, open_payload(payload, 1 << 30), None)


def test_there_are_streams_of_every_mode():
    modes = set()
    for file in FILES:
        src = Reader(Stream.from_bytes(file.read_bytes()).payload)
        modes |= {bytes(src.stripe())[0] for _ in range(src.stripes)}
    assert len(FILES) > 25 and modes == {0, 1, 2, 3}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_golden_streams(file):
    stream = Stream.from_bytes(file.read_bytes())
    assert hashlib.sha256(second(stream, bytes(stream.payload))).hexdigest() == json.loads(file.with_suffix(".json").read_text())["sha256"]


@pytest.mark.parametrize("file", [f for f in FILES if f.stat().st_size < 6000 and "chunks" not in f.stem], ids=lambda f: f.stem)
def test_damaged_stripes_are_refused_by_both_or_read_alike(file):
    stream = Stream.from_bytes(file.read_bytes())
    src = Reader(stream.payload)
    stripes = [bytes(src.stripe()) for _ in range(src.stripes)]
    codec, rng = registry.build(stream.codec, stream.params), np.random.default_rng(1)
    for _ in range(12 if stripes else 0):
        out = Writer(src.dtype, src.shape)
        for stripe in stripes:
            damaged = bytearray(stripe)
            damaged[int(rng.integers(min(len(damaged), 40 if rng.random() < 0.5 else len(damaged))))] = int(rng.integers(256))
            out.stripe(bytes(damaged) if rng.random() < 0.7 else stripe)
        payload = out.finish()
        try:
            ours = codec.decode_payload(payload).tobytes()
        except StreamError:
            ours = None
        try:
            theirs = second(stream, payload)
        except minimal.FormatError:
            theirs = None
        assert src.dtype == bool or ours == theirs
