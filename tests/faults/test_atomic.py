"""Writing that is whole or not at all: links, permissions, pipes, names, what killed writers leave, what fails on the way."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tensorpress.core import atomic
from tensorpress.core.atomic import new_folder, write_atomically
from tensorpress.core.errors import InputError

as_root = os.name == "posix" and os.geteuid() == 0


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("fails", ["fsync", "replace", "fchmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch, fails, error):
    path = tmp_path / "p"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as raised:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert isinstance(error, KeyboardInterrupt) or str(raised.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == b"old" and names(tmp_path) == ["p"]


def test_ctrl_c_right_behind_the_renaming_is_ctrl_c(tmp_path, monkeypatch):
    real = os.replace

    def replace(*where: str) -> None:
        real(*where)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "p", b"new")
    assert (tmp_path / "p").read_bytes() == b"new" and names(tmp_path) == ["p"]


def test_the_file_and_then_its_name_are_forced_to_the_disk(tmp_path, monkeypatch):
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"{os.fstat(fd).st_size} bytes"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *where: (done.append("replace"), replace(*where)))
    write_atomically(tmp_path / "p", b"new")
    assert done == ["3 bytes", "replace", "folder"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "p").write_bytes(b"old")
    (tmp_path / "link").symlink_to("middle")
    (tmp_path / "middle").symlink_to("far/p")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "p").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("far/q")
    write_atomically(tmp_path / "dangling", b"first")
    assert (tmp_path / "dangling").is_symlink() and names(tmp_path / "far") == ["p", "q"]
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(InputError, match="levels of symbolic links"):
        write_atomically(tmp_path / "round", b"x")


def test_permissions_are_kept_and_new_ones_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "p", b"1")
        assert mode(tmp_path / "p") == 0o640
        (tmp_path / "p").chmod(0o604)
        write_atomically(tmp_path / "p", b"2")
        assert mode(tmp_path / "p") == 0o604
        with new_folder(tmp_path / "d"):
            pass
        assert mode(tmp_path / "d") == 0o750
    finally:
        os.umask(before)


def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("another thread would make a file that anyone may write"))
    write_atomically(tmp_path / "p", b"1")


@pytest.mark.skipif(not as_root, reason="only root may give files away")
def test_the_owner_is_kept_where_that_is_allowed(tmp_path):
    write_atomically(tmp_path / "p", b"1")
    os.chown(tmp_path / "p", 12, 34)
    write_atomically(tmp_path / "p", b"2")
    status = (tmp_path / "p").stat()
    assert (status.st_uid, status.st_gid) == (12, 34)


@pytest.mark.parametrize(("at", "why"), [("", "Is a directory"), (".", "Is a directory"), ("no/p", "No such file"), ("file/p", "Not a directory"), ("x" * 256, "name too long")])  # fmt: skip
def test_what_cannot_be_written_is_named(tmp_path, at, why):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=f"cannot write .*{why}"):
        write_atomically(tmp_path / at, b"x")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "😀" * 63])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, b"1")
    write_atomically(tmp_path / name, b"2")
    assert names(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"2"


def test_devices_and_pipes_are_written_into():
    device = os.stat("/dev/null")
    write_atomically("/dev/null", b"x")
    assert os.stat("/dev/null").st_ino == device.st_ino and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    if Path("/dev/full").exists():
        with pytest.raises(InputError, match="cannot write /dev/full: No space left"):
            write_atomically("/dev/full", b"x")
    read, write = os.pipe()
    write_atomically(f"/dev/fd/{write}", b"through")
    assert os.read(read, 99) == b"through"
    os.close(read)
    with pytest.raises(InputError, match="Broken pipe"):
        write_atomically(f"/dev/fd/{write}", b"nobody reads")
    os.close(write)


def test_standard_output_keeps_what_it_holds(tmp_path):
    child = "from tensorpress.core.atomic import write_atomically as w; print('before', flush=True); w('/dev/stdout', b'data\\n'); print('behind')"
    with (tmp_path / "out").open("ab") as file:
        file.write(b"old\n")
        file.flush()
        subprocess.run([sys.executable, "-c", child], stdout=file, check=True)
    assert (tmp_path / "out").read_bytes() == b"old\nbefore\ndata\nbehind\n" and names(tmp_path) == ["out"]
    assert subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE, check=True).stdout == b"before\ndata\nbehind\n"


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path):
    path = tmp_path / "p.tpp"
    (tmp_path / ".p.tpp.0123456789abcdef.partial").write_bytes(b"left")
    (tmp_path / ".p.tpp.fedcba9876543210.partial").mkdir()
    others = [".p.tp.0123456789abcdef.partial", ".p.tpp.0123.partial", "p.tpp.0123456789abcdef.partial"]
    for name in others:
        (tmp_path / name).write_bytes(b"of somebody else")
    live, handle = atomic._claimed(path, atomic._new_file)
    folder, lock = atomic._claimed(path, atomic._new_folder)
    write_atomically(path, b"new")
    assert names(tmp_path) == sorted([*others, live.name, folder.name, "p.tpp"])
    os.close(handle)
    os.close(lock)
    write_atomically(path, b"again")
    assert names(tmp_path) == sorted([*others, "p.tpp"])


def test_a_partial_file_that_goes_before_its_lock_is_made_again(tmp_path):
    made: list[Path] = []

    def robbed(path: Path) -> int:
        handle = atomic._new_file(path)
        made.append(path)
        if len(made) < 3:
            path.unlink()
        return handle

    partial, handle = atomic._claimed(tmp_path / "p", robbed)
    os.close(handle)
    assert len(made) == 3 and names(tmp_path) == [partial.name]


def test_threads_that_write_one_file(tmp_path):
    path, texts = tmp_path / "p", [bytes([65 + n]) * (1 << 16) for n in range(8)]

    def many(text: bytes) -> None:
        for _ in range(10):
            write_atomically(path, text)
            assert path.read_bytes() in texts

    failed: list[object] = []
    before, threading.excepthook = threading.excepthook, failed.append
    try:
        threads = [threading.Thread(target=many, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    assert not failed and names(tmp_path) == ["p"]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    (tmp_path / ".d.0123456789abcdef.partial").mkdir()
    (tmp_path / ".d.0123456789abcdef.partial" / "left").write_bytes(b"")
    with new_folder(tmp_path / "up" / "d") as partial:
        (partial / "in").mkdir()
        (partial / "in" / "file").write_bytes(b"x")
        assert names(tmp_path / "up") == [partial.name]
    assert names(tmp_path / "up") == ["d"] and (tmp_path / "up" / "d" / "in" / "file").read_bytes() == b"x"
    (tmp_path / "d").mkdir()
    with new_folder(tmp_path / "d"):
        pass
    assert names(tmp_path) == ["d", "up"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), InputError("no such site")], ids=repr)
def test_a_folder_that_fails_is_removed(tmp_path, error):
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError) as raised, new_folder(tmp_path / "d") as partial:
        (partial / "half").write_bytes(b"x")
        raise error
    assert names(tmp_path) == []
    assert not isinstance(error, OSError) or str(raised.value) == f"cannot write {tmp_path / 'd'}: No space left on device"


def test_no_folder_or_file_is_written_over(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").write_bytes(b"x")
    for name in ("file", "full"):
        with pytest.raises(InputError, match=f"{name} is there already"), new_folder(tmp_path / name):
            pytest.fail("the work would be for nothing")
    with pytest.raises(InputError, match="raced is there already"), new_folder(tmp_path / "raced"):
        shutil.copytree(tmp_path / "full", tmp_path / "raced")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for here in (".", tmp_path / "here"):
        with pytest.raises(InputError, match="is the working folder"), new_folder(here):
            pytest.fail("it would lose its folder")
    assert names(tmp_path) == ["file", "full", "here", "raced"] and names(tmp_path / "full") == names(tmp_path / "raced") == ["old"]


def test_what_many_read_change_and_write_loses_nothing(tmp_path):
    path = tmp_path / "count"
    write_atomically(path, b"0")

    def add() -> None:
        for _ in range(10):
            with atomic.alone_in(tmp_path):
                write_atomically(path, str(int(path.read_text()) + 1).encode())

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "80"
    with atomic.alone_in(tmp_path / "missing"), pytest.raises(InputError, match="No such file"):
        write_atomically(tmp_path / "missing" / "p", b"x")
