"""Bundles without PyTorch: what a receiver gets whole, and what it gets of damaged ones."""

from __future__ import annotations

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.container import BUNDLE, Container
from tensorpress.core.errors import StreamError
from tensorpress.core.site import Site
from tensorpress.core.stream import write_frame
from tensorpress.planning.bundle import read_bundle, write_bundle
from tensorpress.planning.plan import Entry, Plan
from tests.conftest import feature_map

IMAGES = 3


@pytest.fixture(scope="module")
def made():
    """(plan of three sites, the last with the first as its reference; frames; arrays)."""
    maps = [[feature_map((8, 20, 12), seed=10 * site + image) for image in range(IMAGES)] for site in range(2)]
    maps.append([np.maximum(x + 0.1 * feature_map(x.shape, signed=True, seed=99), 0).astype(np.float32) for x in maps[0]])
    first, second = registry.build("zvc").fit(maps[0]), registry.build("uniform_rans").fit(maps[1])
    before = [first.decode_payload(first.encode_payload(x)) for x in maps[0]]
    third = registry.build("context").fit(maps[2], references=before)
    codecs = (first, second, third)
    entries = [Entry(Site(f"block{i}", 0, "relu"), codec, (8, 20, 12), 0 if i == 2 else None) for i, codec in enumerate(codecs)]
    plan = Plan("features", "0" * 64, tuple(entries))
    frames, arrays = [], []
    for site, codec in enumerate(codecs):
        for image, x in enumerate(maps[site]):
            reference = before[image] if site == 2 else None
            payload = codec.encode_payload(x, reference=reference)
            frames.append(write_frame(payload, site, plan.id))
            arrays.append((site, codec.decode_payload(payload, reference=reference)))
    return plan, frames, arrays


def test_a_bundle_is_read(made):
    plan, frames, arrays = made
    data = write_bundle(plan, frames)
    found = read_bundle(data, plan)
    assert [site for site, _ in found] == [site for site, _ in arrays] and all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, arrays))
    whole = read_bundle(data, plan, recover=True)
    assert whole.missing == 0 and whole.faults == ()
    assert all(np.array_equal(one.array, b) and not one.lost.any() for (_, one), (_, b) in zip(whole.frames, arrays))


def test_damage_is_an_error_that_names_the_frame(made):
    plan, frames, _ = made
    damaged = [bytearray(frame) for frame in frames]
    damaged[4][-3] ^= 1
    with pytest.raises(StreamError, match=rf"frame at byte {sum(map(len, frames[:4]))} of site 1: stripe 2 \(payload bytes"):
        read_bundle(write_bundle(plan, damaged), plan)


@pytest.mark.parametrize("wrong", range(9))
def test_a_damaged_frame_loses_its_rows_and_what_refers_to_them(made, wrong):
    plan, frames, arrays = made
    damaged = [bytearray(frame) for frame in frames]
    damaged[wrong][-3] ^= 1  # in the last stripe, rows 16 to 19
    found = read_bundle(write_bundle(plan, damaged), plan, recover=True)
    assert [site for site, _ in found.frames] == [site for site, _ in arrays] and found.missing == 0
    for number, ((_, one), (_, expected)) in enumerate(zip(found.frames, arrays)):
        rows = np.zeros((20, 1), bool)
        rows[16:] = number in (wrong, wrong + 6 if wrong < 3 else wrong)
        assert np.array_equal(one.lost, np.broadcast_to(rows, one.lost.shape)) and np.array_equal(one.array[~one.lost], expected[~one.lost])


def test_a_frame_whose_head_is_lost_is_missing(made):
    plan, frames, arrays = made
    for wrong in range(9):
        damaged = [bytearray(frame) for frame in frames]
        damaged[wrong][8] ^= 1
        found = read_bundle(write_bundle(plan, damaged), plan, recover=True)
        left = [(number, *pair) for number, pair in enumerate(arrays) if number != wrong]
        assert found.missing == 1 and len(found.faults) >= 1 and [site for site, _ in found.frames] == [site for _, site, _ in left]
        for (_, one), (number, site, expected) in zip(found.frames, left):
            if site == 2 and number > wrong:  # nobody knows whose reference the missing frame was
                assert one.lost.all() and not one.array.any()
            else:
                assert np.array_equal(one.array, expected) and not one.lost.any()


def test_a_cut_bundle_keeps_what_came_before(made):
    plan, frames, arrays = made
    data = write_bundle(plan, frames)
    start = data.index(frames[0])
    for kept in range(9):
        end = start + sum(map(len, frames[: kept + 1])) - 2  # within the last stripe
        found = read_bundle(data[:end], plan, recover=True)
        assert len(found.frames) == kept + 1 and found.missing == 8 - kept and found.faults
        for number, ((_, one), (_, expected)) in enumerate(zip(found.frames, arrays)):
            assert one.lost.any() == (number == kept) and np.array_equal(one.array[~one.lost], expected[~one.lost])


def test_every_changed_byte_behind_the_header_gives_right_values_or_a_mask(made):
    plan, frames, arrays = made
    data = write_bundle(plan, frames)
    start = data.index(frames[0])
    for at in range(start, len(data), 37):
        found = read_bundle(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :], plan, recover=True)
        expected = iter(arrays)
        for site, one in found.frames:
            wanted = next(array for s, array in expected if s == site and (one.lost.all() or np.array_equal(array[~one.lost], one.array[~one.lost])))
            assert wanted.shape == one.array.shape
        assert len(found.frames) + found.missing == 9


def test_wrong_plans_and_headers_are_refused(made):
    plan, frames, _ = made
    other = Plan(plan.family, "1" * 64, plan.entries)
    for recover in (False, True):
        with pytest.raises(StreamError, match="was written with plan"):
            read_bundle(write_bundle(plan, frames), other, recover=recover)
        with pytest.raises(StreamError, match="frames"):
            read_bundle(Container(BUNDLE, {"plan": plan.digest, "frames": "9"}, {"frames": b"".join(frames)}).to_bytes(), plan, recover=recover)
        with pytest.raises(StreamError, match="sections"):
            read_bundle(Container(BUNDLE, {"plan": plan.digest, "frames": 9}, {}).to_bytes(), plan, recover=recover)
