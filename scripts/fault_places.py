"""Places that refuse: full disks, limits on a file's size, folders and files that may only be read; and places where many write at once."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_kills import Child, Wrong, duration
from fault_kinds import Kind, content

from tensorpress.core.errors import InputError

OLD = b"the old version\n"
NOBODY = 65534
LIMIT = 1 << 12  # bytes of a file: less than any of the outputs


@contextlib.contextmanager
def memory_disk(options: str) -> Iterator[Path]:
    """A file system of its own in memory; OSError where that is not allowed."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", name], capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr.strip() or "mount failed")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


@contextlib.contextmanager
def plain_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        yield Path(name)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def become_nobody(write: Callable[[Path, int], None]) -> None:
    """Give up root's rights, when all that a refusal takes has been loaded: the library's own folder may be root's alone."""
    with contextlib.suppress(InputError, SystemExit):
        write(Path("/dev/null/out"), 1)
    os.truncate(2, 0)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def refused(kind: Kind, write: Callable[[Path, int], None], place: Path, reason: str, before: Callable[[], None] | None = None) -> str:
    """The message of a writer that was refused; Wrong where it was not, lost the old version or left something."""
    target, was = place / f"out.{kind.suffix}", sorted(p.name for p in place.iterdir())
    old = content(target)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        errors = Path(name, "errors")

        def work() -> None:
            if before is not None:
                before()
            write(target, 1)

        child = Child.start(work, errors)
        while child.hear(60):
            pass
        code, said = child.end(), errors.read_text().strip()
    if code != 2 or not said.endswith(f"cannot write {target}: {reason}") or "\n" in said:
        raise Wrong(f"{kind.name}: expected an InputError with {reason!r}; it ended with {code}: {said[-2000:]}")
    if content(target) != old or sorted(p.name for p in place.iterdir()) != was:
        raise Wrong(f"{kind.name}: {reason}: the old version is lost or something is left: {sorted(p.name for p in place.iterdir())}")
    return said


def prepared(kind: Kind, place: Path) -> Path:
    target = place / f"out.{kind.suffix}"
    if not kind.folder:
        target.write_bytes(OLD)
    return target


def places(kind: Kind, write: Callable[[Path, int], None]) -> Iterator[dict[str, Any]]:
    """A row for each place that refuses this kind; those that cannot be had here are skipped with the reason."""

    def row(place: str, refuse: Callable[[], None]) -> dict[str, Any]:
        try:
            refuse()
        except OSError as error:
            return {"kind": kind.name, "place": place, "skipped": str(error)}
        return {"kind": kind.name, "place": place, "refused with one line": True, "old intact": True, "left": 0}

    def full() -> None:
        with memory_disk("size=64k") as place:
            prepared(kind, place)
            refused(kind, write, place, "No space left on device")

    def too_large() -> None:
        with plain_folder() as place:
            prepared(kind, place)
            refused(kind, write, place, "File too large", limited)

    def read_only_disk() -> None:
        with memory_disk("size=1m") as place:
            prepared(kind, place)
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, capture_output=True)
            refused(kind, write, place, "Read-only file system")

    def read_only(folder_mode: int, file_mode: int) -> None:
        if os.geteuid() != 0:
            raise OSError("only root can run a child as another user")
        with plain_folder() as place:
            target = prepared(kind, place)
            if target.exists():
                target.chmod(file_mode)
            place.chmod(folder_mode)
            refused(kind, write, place, "Permission denied", lambda: become_nobody(write))

    yield row("a full disk (tmpfs of 64 KiB)", full)
    yield row(f"a limit of {LIMIT} bytes a file (RLIMIT_FSIZE)", too_large)
    yield row("a disk that may only be read", read_only_disk)
    yield row("a folder that may only be read, as another user", lambda: read_only(0o555, 0o666))
    if not kind.folder:
        yield row("a file that may only be read in a folder that anyone may write, as another user", lambda: read_only(0o777, 0o444))


def crowd(kind: Kind, write: Callable[[Path, int], None], writers: int, rounds: int) -> dict[str, Any]:
    """`writers` processes write one output `rounds` times each, while two read it all the time: what they see is whole."""
    with plain_folder() as name:
        place, scratch = name / "place", name / "scratch"
        place.mkdir()
        scratch.mkdir()
        target = place / f"out.{kind.suffix}"
        versions = []
        for version in (0, 1):
            duration(lambda: write(scratch / f"{version}.{kind.suffix}", version), scratch / "errors")  # noqa: B023
            versions.append(content(scratch / f"{version}.{kind.suffix}"))
        done, seen = scratch / "done", [scratch / f"seen{n}" for n in range(2)]

        def work(number: int) -> None:
            for _ in range(rounds):
                try:
                    write(target, number % 2)
                except (InputError, SystemExit):
                    if not kind.folder:  # the first one has it; the others say so
                        raise

        def look(file: Path) -> None:
            count = 0
            while not done.exists():
                now = content(target)
                if now not in ("", *versions) or (count and not now):
                    raise Wrong("half a file, or none")
                count += bool(now)
            file.write_text(str(count))

        began = time.monotonic()
        readers = [Child.start(lambda f=f: look(f), scratch / f"errors-{f.name}") for f in seen]  # type: ignore[misc]
        children = [Child.start(lambda n=n: work(n), scratch / f"errors-{n}") for n in range(writers)]  # type: ignore[misc]
        ended = [child.end() for child in children]
        seconds = time.monotonic() - began
        done.touch()
        looked = [child.end() for child in readers]
        if any(ended) or any(looked) or content(target) not in versions or [p.name for p in place.iterdir()] != [target.name]:
            said = "".join(p.read_text()[-500:] for p in sorted(scratch.glob("errors-*")))
            raise Wrong(f"{kind.name}: {writers} writers: codes {ended}, readers {looked}: {said}")
        return {
            "kind": kind.name, "processes": writers, "writings, or tries of one": writers * rounds, "readings, all of them whole": sum(int(f.read_text()) for f in seen),
            "left": 0, "seconds": round(seconds, 3),
        }  # fmt: skip
