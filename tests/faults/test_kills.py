"""`make faults` in small: writers killed at random moments, places that refuse, Ctrl-C in the program; and that it sees what is torn."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_nothing_is_torn(tmp_path):
    rows = tmp_path / "rows.json"
    run = subprocess.run([sys.executable, SCRIPTS / "faults.py", "--quick", "--seed", str(time.time_ns()), "--json", rows], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(rows.read_text())
    kills = [row for row in found["rows"] if "kills" in row]
    assert found["kills"] == 45 and {row["kind"] for row in kills} == {"plan", "stream", "vectors"}
    assert all(row["old intact"] + row["new complete"] == row["kills"] == sum(row["moments"].values()) for row in kills)
    assert sum(row.get("refused with one line", False) for row in found["rows"]) >= 3, "a limit on a file's size can be set anywhere"


@pytest.fixture
def harness(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    import fault_kills
    import fault_kinds
    import fault_places

    return fault_kills, fault_kinds, fault_places


def slow_and_plain(path: Path, version: int) -> None:
    with path.with_suffix(".partial").open("wb"), path.open("wb") as file:  # the first of these tells that it writes
        for _ in range(20):
            file.write(bytes([version]) * 999)
            file.flush()
            time.sleep(0.002)
    path.with_suffix(".partial").unlink()


def silent(*_: object) -> None:
    pass


def test_half_a_file_is_seen(harness):
    kills, kinds, places = harness
    kind = kinds.Kind("plain", "open(path, 'wb')", "bin", lambda _: slow_and_plain)
    with pytest.raises(kills.Wrong, match=r"neither the old nor the new version|did not end well"):
        kills.kill_writers(kind, 40, random.Random(0), silent)
    with pytest.raises(kills.Wrong, match="half a file"):
        places.crowd(kind, slow_and_plain, 2, 5)


def test_what_is_not_refused_or_leaves_something_is_seen(harness, tmp_path):
    kills, kinds, places = harness
    kind = kinds.Kind("plain", "open(path, 'wb')", "bin", lambda _: slow_and_plain)
    (tmp_path / "place").mkdir()
    with pytest.raises(kills.Wrong, match="expected an InputError"):
        places.refused(kind, slow_and_plain, tmp_path / "place", "Permission denied")
    with pytest.raises(kills.Wrong, match=r"expected an InputError.*File too large"):
        places.refused(kind, slow_and_plain, tmp_path / "place", "File too large", places.limited)  # an OSError is no message to a user


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_ctrl_c_ends_the_program_with_130_and_no_traceback(tmp_path, share):
    x = np.maximum(np.random.default_rng(0).normal(size=(32, 112, 112)), 0).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-m", "tensorpress", "encode", "x.npy", "-o", "x.tp", "--codec", "context", "--set", "backend=max"]
    began = time.monotonic()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    whole = time.monotonic() - began
    old = (tmp_path / "x.tp").read_bytes()
    with subprocess.Popen([sys.executable, "-c", f"import tensorpress.__main__ as m, sys; sys.argv[1:] = {command[3:]}; print(end='.', flush=True); m.main()"],
                          cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:  # fmt: skip
        assert child.stdout and child.stdout.read(1) == b"."  # Python is up
        time.sleep(share * whole)
        child.send_signal(signal.SIGINT)
        errors = child.communicate()[1]
    assert child.returncode in (0, 130, -signal.SIGINT) and b"Traceback" not in errors, (child.returncode, errors)
    assert (tmp_path / "x.tp").read_bytes() == old


def test_ctrl_c_at_a_known_moment_is_130(tmp_path):
    """While it encodes, and while the file is being forced to the disk."""
    np.save(tmp_path / "x.npy", np.ones((4, 8, 8), np.float32))
    for what in ("tensorpress.facade.encode", "os.fsync"):
        owner, _, name = what.rpartition(".")
        child = f"""
import os, signal, sys
import importlib
import tensorpress.cli
def press(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
setattr(importlib.import_module({owner!r}), {name!r}, press)
from tensorpress.__main__ import main
sys.argv[1:] = ["encode", "x.npy", "-o", "x.tp", "--codec", "zvc"]
main()
"""
        run = subprocess.run([sys.executable, "-c", child], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert run.returncode == 130 and not run.stderr and [p.name for p in tmp_path.iterdir()] == ["x.npy"], (run.returncode, run.stderr)


def test_output_may_be_the_input(tmp_path):
    x = np.maximum(np.random.default_rng(0).normal(size=(8, 16, 16)), 0).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    program = [sys.executable, "-m", "tensorpress"]
    for command in (["encode", "x.npy", "-o", "y.npy"], ["encode", "x.npy", "-o", "x.npy"], ["decode", "y.npy", "-o", "z.npy"], ["decode", "x.npy", "-o", "x.npy"]):
        subprocess.run([*program, *command], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "z.npy").read_bytes()


def test_a_stream_may_go_through_a_pipe(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 8, 8), np.float32))
    program = [sys.executable, "-m", "tensorpress"]
    subprocess.run([*program, "encode", "x.npy", "-o", "x.tp", "--codec", "zvc"], cwd=tmp_path, check=True, capture_output=True)
    run = subprocess.run([*program, "encode", "x.npy", "-o", "/dev/stdout", "--codec", "zvc"], cwd=tmp_path, check=True, capture_output=True)
    assert run.stdout == (tmp_path / "x.tp").read_bytes() and run.stderr.startswith(b"/dev/stdout: ")
