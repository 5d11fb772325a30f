"""What `make faults` has written and killed: one function for each kind of output, through the calls and commands that users have."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
Write = Callable[[Path, int], None]  # to a path, of version 0 or 1


@dataclass(frozen=True)
class Kind:
    """`ready` is what children are forked with: everything loaded, so that they spend their lives on reading, coding and writing."""

    name: str
    what: str  # the call or command
    suffix: str
    prepare: Callable[[Path], Write]  # from a folder for inputs; called once, before anything is timed
    folder: bool = False  # appears whole where nothing was, and is never written over
    extra: str = ""  # an optional library that it needs
    slow: bool = False  # a run takes several times as long: it is killed a fourth as often

    def ready(self, inputs: Path) -> Write:
        write = self.prepare(inputs)
        if self.extra != "zarr":  # its threads would be missing in a forked child
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):  # with which a command ends
                write(inputs / f"first.{self.suffix}", 0)
        return write


def plan(_: Path) -> Write:
    from tensorpress.core import registry
    from tensorpress.core.site import Site
    from tensorpress.planning.plan import Entry, Plan

    codec = registry.build("zvc").fit([np.ones((4, 8, 8), np.float32)])
    entries = tuple(Entry(Site(f"layer{n}", what="conv"), codec, (4, 8, 8)) for n in range(50))
    pictures = [f"calibration/{n:06d}.jpg" for n in range(120000)]
    plans = [Plan("features", "0" * 64, entries, {"version": version, "calib_pictures": pictures}) for version in (0, 1)]
    return lambda path, version: plans[version].save(path)


def command_line(*words: str) -> None:
    """The program in this process: what stands behind the console entry, exit codes and messages included."""
    from tensorpress.cli import main

    sys.argv[1:] = words
    main()


def arrays(inputs: Path) -> list[Path]:
    paths = [inputs / f"x{version}.npy" for version in (0, 1)]
    for version, path in enumerate(paths):
        np.save(path, np.maximum(np.random.default_rng(version).normal(size=(96, 112, 112)), 0).astype(np.float32))
    return paths


def stream(inputs: Path) -> Write:
    sources = arrays(inputs)
    return lambda path, version: command_line("encode", str(sources[version]), "-o", str(path), "--codec", "zvc")


def array(inputs: Path) -> Write:
    sources = arrays(inputs)
    streams = [source.with_suffix(".tp") for source in sources]
    for source, coded in zip(sources, streams):
        from tensorpress.facade import encode

        coded.write_bytes(encode(np.load(source, allow_pickle=False), "zvc"))
    return lambda path, version: command_line("decode", str(streams[version]), "-o", str(path))


def report(_: Path) -> Write:
    from tensorpress.report.page import write_page

    rows = [json.loads((ROOT / "results" / "features" / f"resnet18-{name}.json").read_text()) for name in ("dct_cm", "klt")]
    return lambda path, version: write_page(path, [rows[version], rows[1 - version]])


def rows(_: Path) -> Write:
    from tensorpress.cli_parts import write_json

    row = json.loads((ROOT / "results" / "features" / "resnet18-dct_cm.json").read_text())
    return lambda path, version: write_json(path, [{"version": version}, *[row] * 120])


def vectors(_: Path) -> Write:
    return lambda path, version: command_line("features", "vectors", "-o", str(path), "--codec", "dct_cm", "--cells", "8", "--seed", str(version))


def store(_: Path) -> Write:
    import torch

    from tensorpress import dumps, numcodec

    dumps.library()
    numcodec.register()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3)).eval()
    images = [[torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(100 * version + n)) for n in range(12)] for version in (0, 1)]

    def write(path: Path, version: int) -> None:
        dumps.write(path, network, images[version])

    return write


KINDS = (
    Kind("plan", "Plan.save", "tpp", plan),
    Kind("stream", "tensorpress encode", "tp", stream, slow=True),
    Kind("array", "tensorpress decode", "npy", array, slow=True),
    Kind("report", "report.page.write_page", "html", report, extra="plotly"),
    Kind("rows", "the --json of every command", "json", rows),
    Kind("vectors", "tensorpress features vectors", "vectors", vectors, folder=True, slow=True),
    Kind("store", "dumps.write, behind tensorpress features dump", "zarr", store, folder=True, extra="zarr", slow=True),
)


def content(path: Path) -> str:
    """A digest of a file, or of all names and bytes in a folder; '' where nothing is there."""
    if not path.exists():
        return ""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(f"{file.relative_to(path)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    return whole.hexdigest()


def nbytes(path: Path) -> int:
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def opens(path: Path) -> Any:
    """Every map of a store, read; what is wrong with it is raised."""
    from tensorpress import dumps

    found = dumps.open_dump(path)
    return [found[site][n] for site in found.sites for n in range(len(found[site]))]
