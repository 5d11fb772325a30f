"""Ctrl-C in a long native call: KeyboardInterrupt comes out of it soon, nothing is returned, and the process goes on as before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

CHILD = """
import sys, time
import numpy as np
from tensorpress.core import registry

small = np.maximum(np.random.default_rng(1).normal(size=(16, 64, 32)), 0).astype(np.float32)
codec = registry.build("context", {"backend": sys.argv[1]}).fit([small])
x, seconds = small, 0.0
call = lambda: codec.encode_payload(x) if sys.argv[2] == "encode" else codec.decode_payload(payload)
while seconds < 0.5:  # long enough to be interrupted, however fast the machine
    x = np.concatenate([x, x], 1)
    payload = codec.encode_payload(x) if sys.argv[2] == "decode" else b""
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
began = time.perf_counter()
call()
seconds = min(seconds, time.perf_counter() - began)
wanted = codec.encode_payload(small)
result = None
print(seconds, flush=True)
began = time.perf_counter()
try:
    result = call()
except KeyboardInterrupt:
    took = time.perf_counter() - began
    assert result is None
    assert codec.encode_payload(small) == wanted
    assert np.array_equal(codec.decode_payload(wanted), codec.decode_payload(wanted, fused=False))
    print(took, flush=True)
"""


def interrupted(backend: str, op: str, threads: int) -> tuple[float, float]:
    """(seconds of the whole call, seconds until KeyboardInterrupt came out of it when SIGINT was sent after a fifth)."""
    env = {**os.environ, "TENSORPRESS_THREADS": str(threads)}
    with subprocess.Popen([sys.executable, "-c", CHILD, backend, op], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stderr
        whole = float(child.stdout.readline() or "nan")
        time.sleep(whole / 5)
        child.send_signal(signal.SIGINT)
        took = child.stdout.readline()
        assert child.wait(60) == 0, child.stderr.read()
    return whole, float(took)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one child alone here")
@pytest.mark.parametrize(("backend", "op", "threads"), [("max", "encode", 1), ("max", "decode", 2), ("fast", "encode", 2), ("fast", "decode", 1)])
def test_a_long_call_is_interrupted(backend, op, threads):
    for _ in range(3):  # a busy machine may hold up who sends, or who is sent to
        whole, took = interrupted(backend, op, threads)
        if took < 0.6 * whole:
            return
    raise AssertionError(f"KeyboardInterrupt came after {took:.2f} s of a call that takes {whole:.2f} s")


def test_other_signals_do_not_stop_a_call():
    script = (
        CHILD.split("x, seconds =")[0]
        + """
import signal
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
x = np.concatenate([small] * 64, 1)
wanted = codec.encode_payload(x)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
same = codec.encode_payload(x) == wanted
signal.setitimer(signal.ITIMER_REAL, 0)
assert same and seen
"""
    )
    subprocess.run([sys.executable, "-c", script, "max"], check=True, timeout=60)
