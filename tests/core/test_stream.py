"""Payloads, frames and the registry."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest

from tensorpress import _native
from tensorpress.core import registry
from tensorpress.core.binary import crc32c
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer, chw, stripe_count
from tensorpress.core.stream import FRAME_NBYTES, frame_nbytes, read_frame, write_frame


def payload(shape=(3, 17, 5), size=4) -> bytes:
    out = Writer(np.dtype(np.float32), shape)
    for number in range(stripe_count(shape)):
        out.stripe(bytes([number]) * size)
    return out.finish()


@pytest.mark.parametrize(
    ("shape", "view"), [((), (1, 1, 1)), ((7,), (7, 1, 1)), ((4, 6), (4, 1, 6)), ((2, 3, 4), (2, 3, 4)), ((5, 2, 3, 4), (10, 3, 4))]
)
def test_view(shape, view):
    assert chw(shape) == view


def test_payload_round_trip():
    src = Reader(payload())
    assert src.shape == (3, 17, 5) and src.dtype == np.float32
    assert [bytes(src.stripe()) for _ in range(3)] == [b"\0" * 4, b"\1" * 4, b"\2" * 4]


def test_swapped_stripes_are_refused():
    data = payload()
    src = Reader(data)
    at = src.index_nbytes
    swapped = Reader(data[:at] + data[at + 4 : at + 8] + data[at : at + 4] + data[at + 8 :])
    with pytest.raises(StreamError, match=r"stripe 0 \(payload bytes \d+ to \d+\): its check fails"):
        swapped.stripe()


def test_frames():
    data = payload()
    frame = write_frame(data, 254, 7) + write_frame(data, 255, 8)
    first = read_frame(frame)
    assert (first.site, first.plan_id, bytes(first.payload), first.nbytes) == (254, 7, data, len(data) + FRAME_NBYTES)
    second = read_frame(frame, first.nbytes)
    assert (second.site, second.plan_id, second.nbytes) == (255, 8, len(data) + 24)


@pytest.mark.parametrize("site", [0, 7, 254, 255, 70_000])
def test_frame_heads_are_those_of_the_slow_twin(site):
    data = payload()
    wide = site >= 255
    word = 1 | min(site, 255) << 2 | (0x3FFFFF if wide else len(data)) << 10
    head = struct.pack("<I", word) + (struct.pack("<IQ", site, len(data)) if wide else b"") + struct.pack("<I", 0xCAFE)
    check = crc32c(data[: Reader(data).index_nbytes], crc32c(head))
    assert write_frame(data, site, 0xCAFE) == head + struct.pack("<I", check) + data
    assert len(write_frame(data, site, 1)) == frame_nbytes(len(data), site)


def test_a_long_payload_takes_the_wide_frame():
    data = payload((1, 8, 8), 1 << 22)
    frame = read_frame(write_frame(data, 1, 2))
    assert frame.site == 1 and frame.nbytes == len(data) + 24 and bytes(frame.payload) == data


def test_every_flip_of_a_frame_head_is_refused():
    frame = write_frame(payload(), 5, 6)
    for bit in range(8 * (FRAME_NBYTES + Reader(payload()).index_nbytes)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StreamError):
            read_frame(damaged)


def frames():
    rng = np.random.default_rng(0)
    for site, shape in [(3, (4, 9, 5)), (254, ()), (255, (1,)), (70000, (2, 3, 17, 4)), (0, (0, 3)), (7, (5, 0, 2))]:
        writer = Writer(np.dtype(np.uint8), shape)
        for _ in range(stripe_count(shape)):
            writer.stripe(rng.integers(0, 256, int(rng.integers(40)), dtype=np.uint8).tobytes())
        yield write_frame(writer.finish(), site, 0xFEDCBA98)


def test_a_frame_read_natively_is_the_one_read_step_by_step(monkeypatch):
    """What the native reader takes, the other takes alike; what it declines, the other refuses and says why."""
    rng = np.random.default_rng(1)
    for frame in frames():
        changed = [bytes(bytearray(frame[:at]) + bytes([frame[at] ^ 1 << rng.integers(8)]) + frame[at + 1 :]) for at in range(min(len(frame), 60))]
        for data in [frame, frame + b"more", *(frame[:n] for n in range(len(frame))), *changed]:
            found = _native.read_frame(memoryview(data))
            with monkeypatch.context() as patched:
                patched.setattr(_native, "read_frame", lambda data: None)
                try:
                    slow = read_frame(data)
                except StreamError:
                    slow = None
            assert (found is None) == (slow is None)
            if slow is not None:
                assert found[:4] == (slow.site, slow.plan_id, slow.nbytes - len(slow.payload), slow.nbytes)
                assert read_frame(data) == slow and read_frame(b"ab" + data, 2) == slow
        with pytest.raises(StreamError, match="limit"):
            read_frame(next(frames()), max_nbytes=100)


def test_unknown_types_and_ranks_are_refused():
    with pytest.raises(InputError, match="complex64"):
        Writer(np.dtype(np.complex64), (3,))
    with pytest.raises(InputError, match="9 dimensions"):
        Writer(np.dtype(np.float32), (1,) * 9)
    with pytest.raises(StreamError, match="dtype"):
        Reader(bytes([99, 0]))


def test_listing_imports_no_system():
    script = "import sys; from tensorpress.core.registry import cards; n = len(cards()); print(n, [m for m in sys.modules if '.systems.' in m or m == 'torch'])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, modules = run.stdout.split(" ", 1)
    assert int(count) >= 5 and modules.strip() == "[]"


def test_unknown_codec_has_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'dct_cm'"):
        registry.card("dct_c")


def test_cards_are_complete():
    for card in registry.cards().values():
        assert card.title and card.paper and card.claim and card.fidelity in ("published", "reconstruction", "ours", "baseline")
        assert not card.quality or card.quality_fine != card.quality_coarse
        assert card == registry.system(card.id).CARD
