"""Odd files given to every command: one line and exit code 2, whatever they are; nothing raises, hangs or writes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tensorpress
from tensorpress import cli, files
from tensorpress.core.container import BUNDLE, PLAN, Container

rng = np.random.default_rng(0)
X = np.abs(rng.normal(size=(4, 6, 6))).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, x=X)
    return out.getvalue()


ODD = {
    "empty": b"",
    "noise": rng.bytes(3000),
    "noise.npy": rng.bytes(300),
    "noise.npz": rng.bytes(300),
    "noise.pt": rng.bytes(300),
    "noise.safetensors": rng.bytes(300),
    "noise.py": rng.bytes(300),
    "zip.npy": npz(),
    "arrays.npz": npz(),
    "text.npy": npy(np.array(["a"])),
    "huge.npy": npy(X).replace(b"(4, 6, 6)", b"(%d,)" % (1 << 44)).ljust(200),
    "nothing.npy": npy(np.zeros((0, 3), np.int32)),
    "cut.tp": tensorpress.encode(X)[:-3],
    "frame": bytes([1]) + rng.bytes(60),
    "bundle": Container(BUNDLE, {"parts": 1}, {"x": b"1"}).to_bytes()[:-1],
    "no-sites.tpp": Container(PLAN, {"family": "features", "model": "x", "entries": [], "meta": {}}, {}).to_bytes(),
    "other.tpp": Container(PLAN, {"family": "features", "model": "x", "entries": [{}], "meta": {}}, {}).to_bytes(),
}
PLACES = ("folder", "missing", "long", "below-a-file", "device")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    for name, data in ODD.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    np.save(folder / "x.npy", X, allow_pickle=False)
    (folder / "x.tp").write_bytes(tensorpress.encode(X))
    np.savez(folder / "pictures.npz", images=rng.integers(0, 256, (3, 8, 8, 3), np.uint8))
    return folder


def path_of(here: Path, name: str) -> Path:
    return {"long": here / ("a" * 300), "below-a-file": here / "x.npy" / "y", "device": Path(os.devnull)}.get(name, here / name)


COMMANDS = {
    "inspect": ["inspect", "?"],
    "decode": ["decode", "?", "-o", "out"],
    "decode --plan": ["decode", "x.tp", "--plan", "?", "-o", "out"],
    "encode": ["encode", "?", "-o", "out"],
    "encode --plan": ["encode", "x.npy", "--plan", "?", "-o", "out"],
    "undump": ["features", "undump", "?"],
    "images": ["features", "evaluate", "--model", "tensorpress.demo.network:load", "--images", "?", "--codec", "zvc", "--quality", "2"],
    "plan": ["features", "evaluate", "--model", "tensorpress.demo.network:load", "--images", "pictures.npz", "--plan", "?"],
    "weights": ["features", "evaluate", "--arch", "cifar_resnet20", "--weights", "?", "--images", "pictures.npz"],
    "model": ["features", "evaluate", "--model", "?:make", "--images", "pictures.npz"],
    "resume": ["features", "tune", "--model", "tensorpress.demo.network:load", "--images", "pictures.npz", "--out", "out", "--resume"],
}
RIGHT = {("inspect", "no-sites.tpp")}  # odd, and good


@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_for_every_odd_file(command, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "300")
    for name in (*ODD, *PLACES):
        path = path_of(here, name)
        if command == "resume":
            if name in PLACES:
                continue
            (here / "out.checkpoint").write_bytes(path.read_bytes())
        words = [word.replace("?", str(path)) for word in COMMANDS[command]]
        monkeypatch.setattr(sys, "argv", ["tensorpress", *words])
        before = set(here.iterdir())
        with pytest.raises(SystemExit) as done:
            cli.main()
        err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("tensorpress: --model")]
        if (command, name) in RIGHT and not done.value.code:
            continue
        assert done.value.code == 2 and len(err) == 1 and err[0].startswith("tensorpress: "), (name, err)
        assert set(here.iterdir()) == before
    (here / "out.checkpoint").unlink(missing_ok=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read_to_its_end_and_no_further_than_the_limit(here, monkeypatch):
    pipe = here / "pipe"
    os.mkfifo(pipe)
    try:
        for data, limit in ((tensorpress.encode(X), None), (b"x" * 5000, 4000)):
            if limit:
                monkeypatch.setattr(files, "MAX_NBYTES", limit)
            writer = threading.Thread(target=_write, args=(pipe, data))
            writer.start()
            if limit is None:
                assert files.read_bytes(pipe) == data
            else:
                with pytest.raises(files.InputError, match="no plain file, and more than 4,000 bytes"):
                    files.read_bytes(pipe)
            writer.join(10)
            assert not writer.is_alive()
    finally:
        pipe.unlink()


def _write(pipe: Path, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.write_bytes(data)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read(here, monkeypatch, capsys):
    secret = here / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0)
    monkeypatch.setattr(sys, "argv", ["tensorpress", "inspect", str(secret)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2 and "Permission denied" in capsys.readouterr().err
    secret.unlink()


def test_what_the_system_refuses_and_too_little_memory_are_one_line(monkeypatch, capsys):
    for error, says in ((PermissionError(13, "Permission denied", "some\nplace"), "tensorpress: some place: Permission denied"), (MemoryError(), "tensorpress: not enough memory")):

        def refuse(error=error) -> None:
            raise error

        monkeypatch.setattr(cli, "app", refuse)
        with pytest.raises(SystemExit) as done:
            cli.main()
        err = capsys.readouterr().err
        assert done.value.code == 2 and err.startswith(says) and len(err.splitlines()) == 1
