"""Children that write over an old version and are killed at random moments: the old one is intact or the new one complete."""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_kinds import Kind, arrays, content, nbytes, opens

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
BEGUN, NAMED = b"b", b"n"  # a partial file or folder is there; it is about to get its name
MOMENTS = ("before the writing", "while it was written", "at the renaming or behind it", "after all was done")
RESTARTS = 8  # after every so many kills the same writing is let run to its end
Told = Callable[[str, int, int], None]


class Wrong(Exception):
    """What must not happen: it ends the run."""


@dataclass
class Child:
    """A forked process that writes; it tells through a pipe how far it is."""

    pid: int
    pipe: int
    said: bytes = b""

    @classmethod
    def start(cls, write: Callable[[], None], errors: Path) -> Child:
        read, tell = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            os.close(tell)
            return cls(pid, read)
        code = 1
        try:  # here is the child; it must not come out of this block
            signal.signal(signal.SIGINT, signal.default_int_handler)
            out = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.close(read)
            sys.addaudithook(lambda event, about: watched(event, about, tell))
            write()
            code = 0
        except KeyboardInterrupt:
            code = 130
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            code = 2 if type(error).__name__ == "InputError" else 1
        finally:
            os._exit(code)

    def hear(self, seconds: float) -> bool:
        """Whether it said more within `seconds`; False at its end as well."""
        if select.select([self.pipe], [], [], max(seconds, 0))[0]:
            more = os.read(self.pipe, 64)
            self.said += more
            return bool(more)
        return False

    def end(self) -> int:
        """Its exit code, negative for a signal."""
        status = os.waitpid(self.pid, 0)[1]
        while self.hear(0):
            pass
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(status)


def watched(event: str, about: tuple[Any, ...], tell: int) -> None:
    if event in ("open", "os.mkdir", "os.rename") and ".partial" in str(about[0]) and os.path.basename(str(about[0])).endswith(".partial"):
        os.write(tell, NAMED if event == "os.rename" else BEGUN)


def duration(write: Callable[[], None], errors: Path) -> tuple[float, float]:
    """(seconds until the partial one is there, seconds until the end) of a run that is left alone."""
    child, began, begun = Child.start(write, errors), time.monotonic(), 0.0
    while child.hear(60):
        begun = begun or time.monotonic() - began
    code, whole = child.end(), time.monotonic() - began
    if code:
        raise Wrong(f"a writer that nobody killed ended with {code}: {errors.read_text()[-500:]}")
    return begun, whole


def kill_writers(kind: Kind, kills: int, rng: random.Random, told: Told) -> dict[str, Any]:
    """The row of one kind."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        inputs, errors, place = Path(name, "inputs"), Path(name, "errors"), Path(name, "place")
        inputs.mkdir()
        place.mkdir()
        write = kind.ready(inputs)
        target = place / f"out.{kind.suffix}"

        def cleared() -> None:
            if kind.folder:
                shutil.rmtree(target, ignore_errors=True)

        versions, times = [], []
        for version in (0, 1, 0):
            cleared()
            times.append(duration(lambda: write(target, version), errors))  # noqa: B023
            versions.append(content(target))
        if versions[0] != versions[2] or versions[0] == versions[1]:
            raise Wrong(f"{kind.name}: the same writing makes other bytes, or both versions are one")
        size = nbytes(target)
        begun, whole = usual = [statistics.median(t[n] for t in times) for n in (0, 1)]
        signals: Counter[str] = Counter()
        moments, codes, found, left = Counter[str](), Counter[str](), Counter[str](), 0
        for number in range(kills):
            told(kind.name, number, kills)
            cleared()
            old = content(target)
            version = 1 if old == versions[0] else 0
            sent = SIGNALS[number % len(SIGNALS)]
            child = Child.start(lambda: write(target, version), errors)  # noqa: B023
            if rng.random() < 1 / 3:  # any moment of its life; the others, any moment of the writing
                time.sleep(rng.uniform(0, 1.05 * whole))
            else:
                child.hear(60)
                time.sleep(rng.uniform(0, whole - begun))
            os.kill(child.pid, sent)
            code = child.end()
            whole = max(whole * (0.9 if code == 0 else 1.02), begun * 1.01)  # the machine's other work comes and goes; too late is no kill
            if b"Traceback" in errors.read_bytes() or (code not in (0, 130, -sent)):
                raise Wrong(f"{kind.name}: {sent.name} ended it with {code}: {errors.read_text()[-2000:]}")
            signals[sent.name] += 1
            codes[f"{sent.name}: {'it had ended' if code == 0 else code}"] += 1
            moments[MOMENTS[3 if code == 0 else 2 if NAMED in child.said else 1 if BEGUN in child.said else 0]] += 1
            now = content(target)
            if now not in (old, versions[version]):
                torn = tempfile.mkdtemp(prefix="faults-torn-")
                shutil.copytree(place, torn, dirs_exist_ok=True)
                raise Wrong(f"{kind.name}: {sent.name} left what is neither the old nor the new version: see {torn}")
            if code == 0 and now != versions[version]:
                raise Wrong(f"{kind.name}: it said that all was well, and the new version is not there")
            found["old intact" if now == old else "new complete"] += 1
            left += sum(p != target for p in place.iterdir())
            if kind.name == "store" and now:
                opens(target)
            if number % RESTARTS == RESTARTS - 1 or number == kills - 1:
                cleared()
                duration(lambda: write(target, version), errors)  # noqa: B023
                if content(target) != versions[version] or [p.name for p in place.iterdir()] != [target.name]:
                    raise Wrong(f"{kind.name}: started again it did not end well: {sorted(p.name for p in place.iterdir())}")
        return {
            "kind": kind.name, "written by": kind.what, "nbytes": size, "kills": kills, "signals": dict(signals),
            "moments": {moment: moments[moment] for moment in MOMENTS}, "ended with": dict(sorted(codes.items())),
            "old intact": found["old intact"], "new complete": found["new complete"], "torn": 0,
            "partial files left, all removed by the next writer": left, "seconds of a whole run": round(usual[1], 4), "seconds until the writing": round(usual[0], 4),
        }  # fmt: skip


def kill_programs(kills: int, rng: random.Random, told: Told) -> dict[str, Any]:
    """The whole program from its first instruction on, one that writes over its own input: `tensorpress encode x.npy -o x.npy`."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        place = Path(name, "place")
        place.mkdir()
        source, target = arrays(Path(name))[0], place / "x.npy"
        command = [sys.executable, "-m", "tensorpress", "encode", str(target), "-o", str(target), "--codec", "zvc"]
        times, versions = [], [content(source)]
        for _ in range(3):
            shutil.copy(source, target)
            began = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.monotonic() - began)
        versions.append(content(target))
        found, codes, left = Counter[str](), Counter[str](), 0
        for number in range(kills):
            told("whole program", number, kills)
            shutil.copy(source, target)
            sent = SIGNALS[number % len(SIGNALS)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(rng.uniform(0.2, 1.05) * statistics.median(times))
                child.send_signal(sent)
                errors = child.communicate()[1]
            early = sent == signal.SIGINT and b"site" in errors and b"tensorpress" not in errors  # Python itself is not up yet: nothing of ours runs
            if not early and (child.returncode not in (0, 130, -sent) or b"Traceback" in errors):
                raise Wrong(f"whole program: {sent.name} ended it with {child.returncode}: {errors.decode()[-2000:]}")
            codes[f"{sent.name}: {'it had ended' if child.returncode == 0 else 'before Python was up' if early else child.returncode}"] += 1
            now = content(target)
            if now not in versions or (child.returncode == 0 and now != versions[1]):
                raise Wrong(f"whole program: {sent.name} left neither the old nor the new version")
            found["old intact" if now == versions[0] else "new complete"] += 1
            left += sum(p != target for p in place.iterdir())
        shutil.copy(source, target)
        subprocess.run(command, check=True, capture_output=True)
        if content(target) != versions[1] or [p.name for p in place.iterdir()] != [target.name]:
            raise Wrong("whole program: started again it did not end well")
        return {
            "kind": "stream over its own input", "written by": "python -m tensorpress encode x.npy -o x.npy, killed from its start on", "kills": kills,
            "ended with": dict(sorted(codes.items())), "old intact": found["old intact"], "new complete": found["new complete"], "torn": 0,
            "partial files left, all removed by the next writer": left, "seconds of a whole run": round(statistics.median(times), 3),
        }  # fmt: skip
