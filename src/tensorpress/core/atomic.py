"""Output that is whole or not there: written under a name beside its own, forced to the disk, then renamed over what was there.

Whoever is killed on the way leaves the old file as it was and, beside it, `.NAME.<16 hex digits>.partial`. The next who
writes NAME removes that: it is locked for as long as its writer lives, on whatever machine, so a live one is never touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tensorpress.core.binary import Buffer
from tensorpress.core.errors import InputError

NAME_NBYTES = 200  # of the target's name within the partial one: file systems end names at 255


def write_atomically(path: str | Path, data: Buffer) -> None:
    """Put `data` into the file `path`: a reader, now or after a crash, sees the old file or all of the new one.

    A link stays and its target is replaced, while further hard links keep the old file. Permissions of the old file are kept, new ones
    follow the umask; a file that may not be written is not replaced either. Pipes and devices, /dev/stdout among them, are written
    into as they are. InputError with the path and the reason where it cannot be written: the old file is then as it was.
    """
    try:
        target = behind_links(Path(path))
        handle, old = _opened(target), None
        if handle is not None:
            with os.fdopen(handle, "wb") as file:
                old = os.fstat(handle)
                if _is_descriptor(target) or not stat.S_ISREG(old.st_mode):
                    file.write(data)
                    return
        _replace(target, data, old)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _replace(target: Path, data: Buffer, old: os.stat_result | None) -> None:
    with _replacing(target, old) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, and to read again, which gets the name `path` when the block ends and is removed where the block fails: `write_atomically` for what
    is too large to hold. InputError where `path` is there and no regular file, and for what the system refuses while the block writes.
    """
    try:
        target = behind_links(Path(path))
        handle, old = _opened(target), None
        if handle is not None:
            old = os.fstat(handle)
            os.close(handle)
            if not stat.S_ISREG(old.st_mode) or _is_descriptor(target):
                raise InputError(f"cannot write {path}: it is no regular file, which this output needs")
        with _replacing(target, old) as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def _replacing(target: Path, old: os.stat_result | None) -> Iterator[BinaryIO]:
    remove_stale(target)
    partial, handle = _claimed(target, _new_file)
    try:
        with os.fdopen(handle, "w+b") as file:  # closed, and its lock let go, only when it has its name
            yield file
            file.flush()
            if old is not None:
                _take_after(old, handle)
            os.fsync(handle)
            os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # Ctrl-C right behind the renaming: all is done
            os.unlink(partial)
        raise
    _sync_names(target.parent)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `path` when the block ends and is removed where the block fails.

    Folders above it are made. InputError where `path` is there already and is no empty folder, is the working folder or a mount point,
    and for what the system refuses while the block writes.
    """
    taken = InputError(f"{path} is there already: nothing was written over it")
    try:
        target = behind_links(Path(path))
        if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
            raise taken
        if target == Path(os.path.realpath(".")):
            raise InputError(f"{path} is the working folder, which a finished one would replace: name a folder in it")
        make_folder(target.parent)
        remove_stale(target)
        partial, handle = _claimed(target, _new_folder)
        try:
            yield partial
            for folder, _, names in os.walk(partial):
                for name in names:
                    with open(Path(folder, name), "rb") as file:
                        os.fsync(file.fileno())
                _sync_names(Path(folder))
            try:
                os.rename(partial, target)
            except OSError as error:
                raise (taken if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) else error) from None
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(handle)
        _sync_names(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Others who ask for the same folder wait until the block ends: for a file that is read, changed and written again."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no such folder, which writing will tell, or a file system without locks
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_folder(path: Path) -> None:
    """`path` and the folders above it, where they are not there yet; InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot make the folder: {error.strerror}") from None


def behind_links(path: Path) -> Path:
    """What `path` leads to, which need not be there; names of open descriptors, such as /dev/stdout, are left as /proc names them."""
    for _ in range(40):
        path = Path(os.path.realpath(path.parent)) / path.name
        if _is_descriptor(path) or not path.is_symlink():
            return Path(os.path.realpath(path)) if path.name in ("", "..") else path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def remove_stale(target: Path) -> None:
    """Remove what killed writers of `target` left beside it. A writer that lives holds a lock, and its work stays."""
    left = re.compile(re.escape(_stem(target)) + r"[0-9a-f]{16}\.partial")
    try:
        found = [p for p in target.parent.iterdir() if left.fullmatch(p.name)]
    except OSError:  # what is wrong with the folder shows when it is written to; one that cannot be listed may be
        return
    for partial in found:
        with contextlib.suppress(OSError):  # locked, not ours to remove, or removed by another just now
            handle = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if partial.is_dir():
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    partial.unlink()
            finally:
                os.close(handle)


def _stem(target: Path) -> str:
    name = os.fsencode(target.name)[:NAME_NBYTES]
    return f".{name.decode('utf-8', 'ignore')}."  # a character cut in two would be refused by some file systems


def _claimed(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """(a new partial file or folder beside `target`, its open and locked handle)."""
    while True:
        partial = target.with_name(f"{_stem(target)}{secrets.token_hex(8)}.partial")
        try:
            handle = make(partial)
        except FileExistsError:
            continue
        if _locked(handle) and partial.exists():
            return partial, handle
        os.close(handle)  # taken for stale between its making and its locking


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: then nobody can take one to remove it either
        return True
    return True


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask, which only the kernel reads without a race


def _new_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _is_descriptor(path: Path) -> bool:
    return path.name.isdigit() and str(path.parent) in (f"/proc/{os.getpid()}/fd", "/dev/fd")


def _opened(target: Path) -> int | None:
    """A handle that may write to what is there, left as it is; None where nothing is there."""
    try:
        return os.dup(int(target.name)) if _is_descriptor(target) else os.open(target, os.O_WRONLY)
    except FileNotFoundError:
        return None


def _take_after(old: os.stat_result, handle: int) -> None:
    """Owner, where we may give files away, and permissions of the file that will be replaced."""
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, stat.S_IMODE(old.st_mode) & 0o777)


def _sync_names(folder: Path) -> None:
    """Force the names in a folder to the disk, so that a loss of power does not undo a renaming."""
    with contextlib.suppress(OSError):  # not every file system can, nor every user; what was renamed is whole either way
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
