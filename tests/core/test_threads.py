"""Threads: what a call gives does not depend on them, also in forked children and from many callers at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.binary import crc32c
from tensorpress.core.codec import Codec
from tensorpress.core.threads import SHARE, cores, threads


def relu(shape: tuple[int, ...]) -> np.ndarray:
    return np.maximum(np.random.default_rng(1).normal(size=shape), 0).astype(np.float32)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return registry.build("dct_cm", {"step": 3.0}).fit([relu((32, 40, 24))])


def test_small_tensors_keep_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORPRESS_THREADS", "8")
    assert threads(SHARE) == 1
    assert threads(3 * SHARE) == 3
    assert threads(100 * SHARE) == threads() == 8
    monkeypatch.delenv("TENSORPRESS_THREADS")
    assert threads() == cores() >= 1


@pytest.mark.parametrize("count", [2, 3, 8, 200])
def test_bytes_do_not_depend_on_threads(codec: Codec, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    x = relu((96, 83, 57))
    monkeypatch.setenv("TENSORPRESS_THREADS", "1")
    one = codec.encode_payload(x)
    monkeypatch.setenv("TENSORPRESS_THREADS", str(count))
    assert codec.encode_payload(x) == one
    assert np.array_equal(codec.decode_payload(one), codec.decode_payload(one, fused=False))


def test_many_callers_share_the_pool(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORPRESS_THREADS", "4")
    x = relu((96, 83, 57))
    wanted = codec.encode_payload(x)
    with ThreadPoolExecutor(16) as callers:
        assert all(found == wanted for found in callers.map(codec.encode_payload, [x] * 64))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORPRESS_THREADS", "4")
    x = relu((96, 83, 57))
    wanted = codec.encode_payload(x)  # the parent's threads exist now
    child = os.fork()
    if child == 0:
        os._exit(0 if codec.encode_payload(x) == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("nbytes", [0, 1, 255, 256, 257, 319, 320, 1000, 5000])
def test_crc_by_any_instruction_is_that_of_the_definition(nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8).tobytes()
    found = 5 ^ 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    assert crc32c(data, 5) == found ^ 0xFFFFFFFF
