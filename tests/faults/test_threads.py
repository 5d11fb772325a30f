"""16 threads on one codec object, and on one plan, give what one thread gives; and a codec that keeps state between calls is found out."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tensorpress.core import registry, threads
from tensorpress.core.codec import Codec
from tests.conftest import feature_map

IDS = [card.id for card in registry.cards().values() if card.family == "features"]


@pytest.fixture(scope="module")
def shared() -> ModuleType:
    spec = importlib.util.spec_from_file_location("race_shared", Path(__file__).parents[2] / "native" / "race" / "shared.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("codec", IDS)
def test_16_threads_share_a_codec_and_a_plan(shared, monkeypatch, codec):
    monkeypatch.setenv("TENSORPRESS_THREADS", "4")
    *rows, plan = list(shared.measured(16, 1, [codec]))
    assert rows and all(row["codec"] == codec and row["encodes"] == row["decodes"] >= 64 for row in rows)
    assert plan["encodes"] == plan["decodes"] == 64


def test_what_threads_do_to_one_another_is_seen(shared, monkeypatch):
    real = registry.build

    class Forgetful:
        """A kernel that leaves its input where the next call finds it."""

        def __init__(self, kernel):
            self.kernel, self.x = kernel, None

        def __getattr__(self, name):
            return getattr(self.kernel, name)

        def encode(self, x, out=None, reference=None):
            self.x = x
            threading.Event().wait(0.001)
            return self.kernel.encode(self.x, out, reference)

    def build(*what: object) -> Codec:
        codec = real(*what)
        return dataclasses.replace(codec, kernel=Forgetful(codec.kernel))

    monkeypatch.setattr(registry, "build", build)
    with pytest.raises(AssertionError, match="make something else than one alone"):
        shared.share("zvc", {}, False, 16, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_children_forked_while_threads_are_inside(monkeypatch):
    """A child has none of its parent's native threads, and perhaps the parent's pool in the middle of its work."""
    monkeypatch.setenv("TENSORPRESS_THREADS", "4")
    monkeypatch.setattr(threads, "SHARE", 1 << 10)
    x = feature_map((32, 64, 48))
    codec = registry.build("dct_cm").fit([x])
    wanted, stop = bytes(codec.encode_payload(x)), threading.Event()

    def work() -> None:
        while not stop.is_set():
            assert bytes(codec.encode_payload(x)) == wanted

    busy = [threading.Thread(target=work) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(30)  # a child that waits for a thread it has not
                os._exit(0 if bytes(codec.encode_payload(x)) == wanted else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        for thread in busy:
            thread.join()


def test_errors_of_any_thread_come_out(shared):
    with pytest.raises(ZeroDivisionError):
        shared.together(16, lambda number: 1 // number)
    with pytest.raises(AssertionError, match="x: 16 threads"):
        shared.same(np.zeros(3), np.ones(3), "x")
