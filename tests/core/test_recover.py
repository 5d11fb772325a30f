"""Damaged payloads: what comes back is what was written, and all else is in the mask."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import tensorpress
from tensorpress.core import registry
from tensorpress.core.container import MAX_NBYTES, STREAM, Container
from tensorpress.core.errors import StreamError, StripeError
from tensorpress.core.payload import Reader
from tensorpress.core.recover import lost_rows, salvage, scan_frames, stripes_of
from tensorpress.core.stream import Stream, write_frame
from tests.conftest import feature_map

IDS = [card.id for card in registry.cards().values()]


def stripe_places(payload: bytes) -> list[tuple[int, int]]:
    src = Reader(payload)
    ends = src.index_nbytes + np.cumsum(src.lengths)
    return [(int(end - nbytes), int(end)) for end, nbytes in zip(ends, src.lengths)]


@pytest.fixture(scope="module", params=[*IDS, "context-fast", "dct_cm-fixed"])
def coded(request):
    """(codec, bytes of a stream of 5 stripes, the last of 3 rows, its array)."""
    name, _, how = request.param.partition("-")
    options = {"fast": {"backend": "fast"}, "fixed": {"profile": "fixed"}}.get(how, {})
    x = feature_map((40, 35, 12), seed=2)
    codec = registry.build(name, options).fit([x])
    stream = codec.encode(x)
    return codec, stream.to_bytes(), codec.decode(stream)


def test_an_intact_stream_loses_nothing(coded):
    _, data, expected = coded
    array, lost = found = tensorpress.decode(data, recover=True)
    assert np.array_equal(array, expected) and not lost.any() and lost.shape == array.shape and found.faults == ()


def test_damaged_stripes_are_lost_and_no_others(coded):
    _, data, expected = coded
    payload = bytes(Stream.from_bytes(data).payload)
    start = data.index(payload)
    for wrong in ({0}, {4}, {1, 3}, {0, 1, 2, 3}):
        damaged = bytearray(data)
        for number in wrong:
            begin, end = stripe_places(payload)[number]
            damaged[start + (begin + end) // 2] ^= 0x20
        with pytest.raises(StreamError, match="section 'payload' is damaged: the check over bytes"):
            tensorpress.decode(damaged)
        array, lost = found = tensorpress.decode(damaged, recover=True)
        assert np.array_equal(lost, lost_rows(expected.shape, wrong)) and set(stripes_of(lost)) == wrong
        assert np.array_equal(array[~lost], expected[~lost]) and not array[lost].any()
        assert len(found.faults) == 1 + len(wrong) and all(f"stripe {n} (payload bytes" in " ".join(found.faults) for n in wrong)


def test_a_cut_stream_keeps_its_front(coded):
    _, data, expected = coded
    payload = bytes(Stream.from_bytes(data).payload)
    start, places = data.index(payload), stripe_places(payload)
    for cut in (len(data) - 1, len(data) - 5, start + places[2][1], start + places[2][1] - 1, start + places[0][1]):
        array, lost = tensorpress.decode(data[:cut], recover=True)
        kept = sum(end <= cut - start for _, end in places)
        assert np.array_equal(lost, lost_rows(expected.shape, set(range(kept, 5)))) and np.array_equal(array[~lost], expected[~lost])
    with pytest.raises(StreamError, match="no stripe of the payload is intact"):
        tensorpress.decode(data[: start + places[0][1] - 1], recover=True)


def test_missing_and_surplus_bytes_hide_one_stripe(coded):
    """Stripes before are found from the front, stripes behind from the end."""
    _, data, expected = coded
    payload = bytes(Stream.from_bytes(data).payload)
    start = data.index(payload)
    begin, end = stripe_places(payload)[2]
    middle = start + (begin + end) // 2
    for damaged in (data[:middle] + data[middle + 1 :], data[:middle] + b"abc" + data[middle:]):
        array, lost = tensorpress.decode(damaged, recover=True)
        assert np.array_equal(lost, lost_rows(expected.shape, {2})) and np.array_equal(array[~lost], expected[~lost])


def test_a_damaged_length_hides_one_stripe(coded):
    _, data, expected = coded
    payload = bytes(Stream.from_bytes(data).payload)
    at = data.index(payload) + Reader(payload).head_nbytes + 8 * 2
    array, lost = tensorpress.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], recover=True)
    assert np.array_equal(lost, lost_rows(expected.shape, {2})) and np.array_equal(array[~lost], expected[~lost])


def test_no_wrong_value_is_ever_given_as_intact(coded):
    """Any one byte behind the header changed: either an error, or values that are right wherever the mask says so."""
    _, data, expected = coded
    start = data.index(bytes(Stream.from_bytes(data).payload))
    rng = np.random.default_rng(4)
    ends = {"error": 0, "recovered": 0}
    for at in range(start, len(data), 1 + (len(data) - start) // 250):
        damaged = bytearray(data)
        damaged[at] ^= int(rng.integers(1, 256))
        try:
            array, lost = tensorpress.decode(damaged, recover=True)
        except StreamError:
            ends["error"] += 1
            continue
        ends["recovered"] += 1
        assert np.array_equal(array[~lost], expected[~lost]) and stripes_of(lost) in ([], [0], [1], [2], [3], [4])
    assert ends["recovered"] > 10 * ends["error"]


def test_a_damaged_header_or_state_is_an_error(coded):
    _, data, _ = coded
    start = data.index(bytes(Stream.from_bytes(data).payload))
    for at in range(0, start, 1 + start // 200):
        with pytest.raises(StreamError):
            tensorpress.decode(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :], recover=True)


def test_a_message_names_stripe_and_bytes(coded):
    codec, data, _ = coded
    payload = bytearray(Stream.from_bytes(data).payload)
    begin, end = stripe_places(bytes(payload))[3]
    payload[begin] ^= 1
    for fused in (True, False):
        with pytest.raises(StripeError, match=rf"stripe 3 \(payload bytes {begin} to {end}\): ") as caught:
            codec.decode_payload(payload, fused=fused)
        assert caught.value.number == 3


@pytest.mark.parametrize("shape", [(), (7,), (5, 9), (3, 4, 5), (2, 3, 17, 5), (4, 0, 4)])
def test_other_ranks(shape):
    x = feature_map(shape) if shape else np.float32(2) * np.ones((), np.float32)
    data = tensorpress.encode(x, "zvc")
    array, lost = tensorpress.decode(data, recover=True)
    assert np.array_equal(array, tensorpress.decode(data)) and lost.shape == array.shape == shape and not lost.any()
    if len(shape) == 4:  # three stripes
        at = len(data) - 5
        array, lost = tensorpress.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], recover=True)
        assert np.array_equal(lost, np.broadcast_to((np.arange(17) >= 16)[:, None], shape))


def test_the_head_of_an_empty_array_is_proved_by_its_section_alone():
    data = tensorpress.encode(np.zeros((4, 0, 4), np.float32), "zvc")
    assert tensorpress.decode(data, recover=True).array.shape == (4, 0, 4)
    for at in range(len(data) - 9, len(data)):
        with pytest.raises(StreamError):
            tensorpress.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], recover=True)


def test_limits_hold():
    data = tensorpress.encode(feature_map((4, 40, 40)), "zvc")
    with pytest.raises(StreamError, match="limit"):
        tensorpress.decode(data, recover=True, max_nbytes=4 * 6400 - 1)
    with pytest.raises(StreamError, match="no head"):
        salvage(b"\0", max_nbytes=MAX_NBYTES)
    with pytest.raises(StreamError, match="stripe table ends at"):
        salvage(bytes([0, 3, 1, 200, 1, 1]), max_nbytes=MAX_NBYTES)


def test_another_section_may_not_be_damaged():
    box = Container(STREAM, {}, {"a": b"123", "payload": b"456", "b": b"789"})
    data = box.to_bytes()
    first = data.index(b"123")
    for at, name in ((first, "'a'"), (first + 14, "'b'")):
        with pytest.raises(StreamError, match=f"section {name} is damaged"):
            Container.from_bytes(data[:at] + b"!" + data[at + 1 :], STREAM, damaged="payload")
    found = Container.from_bytes(data.replace(b"456", b"4!6"), STREAM, damaged="payload")
    assert set(found.faults) == {"payload"} and bytes(found.sections["payload"]) == b"4!6"


def test_frames_behind_damage_are_found():
    payloads = [tensorpress.core.registry.build("zvc").fit([x]).encode_payload(x) for x in (feature_map((3, 20, 9), seed=n) for n in range(4))]
    frames = [write_frame(payload, site, 0xABCD1234) for payload, site in zip(payloads, (0, 300, 2, 254))]
    data, starts = b"".join(frames), np.cumsum([0, *map(len, frames)])
    whole = list(scan_frames(data, 0xABCD1234, max_nbytes=MAX_NBYTES))
    assert [(s.start, s.end) for s in whole] == list(pairwise(starts)) and [s.frame.site for s in whole] == [0, 300, 2, 254]
    for number in range(4):
        for offset in (0, 5, 9, 14, len(frames[number]) - 1):
            at = int(starts[number]) + offset
            for damaged in (data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], data[:at] + data[at + 1 :], data[:at] + b"\xff" + data[at:]):
                spans = list(scan_frames(damaged, 0xABCD1234, max_nbytes=MAX_NBYTES))
                assert spans[0].start == 0 and spans[-1].end == len(damaged) and all(a.end == b.start for a, b in pairwise(spans))
                good = {s.frame.site: bytes(s.frame.payload) for s in spans if s.frame is not None}
                for other in set(range(4)) - {number}:
                    assert good[(0, 300, 2, 254)[other]] == payloads[other]
    assert [s.frame for s in scan_frames(data, 0xABCD1235, max_nbytes=MAX_NBYTES)] == [None]


def test_a_search_among_false_frames_stays_linear():
    """Bytes full of the plan's id before heads of enormous tables: the search gives up before it looks at each table."""
    plan = 0x01020304
    false = b"\x01\0\0\0" + plan.to_bytes(4, "little") + bytes(4) + bytes([3, 3, 1]) + b"\x80\x80\x08" + b"\x01"  # 16,384 stripes each
    data = false * 20_000
    spans = list(scan_frames(data, plan, max_nbytes=MAX_NBYTES))
    assert spans == [(0, len(data), None, spans[0].fault)]


def test_a_lost_reference_loses_the_same_rows():
    x = feature_map((8, 20, 12))
    before = np.maximum(x + 0.1 * feature_map((8, 20, 12), signed=True, seed=3), 0).astype(np.float32)
    codec = registry.build("context").fit([x], references=[before])
    payload = codec.encode_payload(x, reference=before)
    expected = codec.decode_payload(payload, reference=before)
    lost = np.zeros(x.shape, bool)
    lost[2, 9, 3] = True
    found = codec.recover(payload, reference=replace(tensorpress.decode(tensorpress.encode(before), recover=True), array=np.where(lost, 0, before), lost=lost))
    assert np.array_equal(found.lost, lost_rows(x.shape, {1})) and np.array_equal(found.array[~found.lost], expected[~found.lost])
    assert found.faults == ("stripe 1 is lost: its reference is",)
