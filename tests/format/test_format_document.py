"""The worked examples of FORMAT.md are real: they decode to what the document says, and are what the encoder writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import tensorpress
from tensorpress.blocks import dct
from tensorpress.core import registry
from tensorpress.core.payload import DTYPES
from tensorpress.core.stream import read_frame, write_frame

DOCUMENT = (Path(__file__).parents[2] / "FORMAT.md").read_text()


def example(name: str) -> bytes:
    block = re.search(rf"```hex {name}\n(.*?)```", DOCUMENT, re.S)
    assert block, f"FORMAT.md has no example {name}"
    # bytes stand in the first columns, before three spaces or the end of the line
    words = " ".join(re.match(r"(?:[0-9a-f]{2} {0,2})*", line)[0] for line in block[1].splitlines())
    return bytes.fromhex(words)


def test_raw_stream():
    x = np.array([[[0, 7], [0, 0]], [[255, 1], [0, 3]]], np.uint8)
    data = example("raw-stream")
    assert np.array_equal(tensorpress.decode(data), x)
    assert tensorpress.encode(x, "raw") == data


def test_frame():
    x = np.zeros((4, 2, 3), np.uint8)
    x[0, 0], x[2, 1, 2] = [5, 0, 1], 200
    codec = registry.build("dct_cm").fit([x])
    frame = read_frame(example("frame"))
    assert (frame.site, frame.plan_id) == (3, 0x1234ABCD)
    assert np.array_equal(codec.decode_payload(frame.payload), x)
    assert write_frame(codec.encode_payload(x), 3, 0x1234ABCD) == example("frame")


def test_fixed_profile():
    x = np.zeros((5, 2, 3), np.uint8)
    x[:4], x[1, 0, 1], x[4, 0, 2] = [[0, 9, 200], [50, 50, 0]], 80, 9
    y = np.zeros_like(x)
    y[:4], y[:4, 0, 1], y[4, 0, 2] = [[0, 9, 200], [48, 48, 0]], [9, 80, 8, 15], 8
    codec = registry.build("dct_cm", {"profile": "fixed", "length": 4, "step": 8.0, "scale": 1.0, "reciprocal": 1.0})
    assert codec.encode_payload(x) == example("fixed")
    assert np.array_equal(codec.decode_payload(example("fixed")), y)


@pytest.mark.parametrize("codec_id", ["rle", "csc", "slots"])
def test_packed_words(codec_id):
    x = np.array([[[0, 0, 7, 0, 255]], [[0, 0, 0, 1, 0]]], np.uint8)
    codec = registry.build(codec_id).fit([x])
    assert np.array_equal(codec.decode_payload(example(codec_id)), x)
    assert codec.encode_payload(x) == example(codec_id)


def test_laned_rans():
    x = np.zeros((1, 1, 40), np.uint8)
    x[0, 0, [5, 9, 38]] = 200, 7, 7
    codec = registry.build("uniform_rans").fit([np.repeat(np.array([0, 7], np.uint8), [30, 10])])
    assert f"`{codec.state['tables'].hex(' ')}`" in DOCUMENT
    assert np.array_equal(codec.decode_payload(example("uniform_rans")), x)
    for fused in (True, False):
        assert codec.encode_payload(x, fused=fused) == example("uniform_rans")


def test_lists():
    assert "5 uint16" in DOCUMENT and all(f"{n} {d.name}" in DOCUMENT for n, d in enumerate(DTYPES))
    assert " ".join(str(n) for n in dct._COSINES[1:]) in DOCUMENT
    assert all(f"`{codec}`" in DOCUMENT.split("## 12")[1] for codec in registry.cards())
