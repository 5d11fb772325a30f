"""The fuzzers' own parts, as far as no clang is needed: every target has seeds and sources, and the mutator gets past the checks."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tensorpress.core.container import BUNDLE, PLAN, STREAM, Container
from tensorpress.core.errors import StreamError

ROOT = Path(__file__).parents[2]


def loaded(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses want it
    spec.loader.exec_module(module)
    return module


FUZZ, SEEDS, TARGETS = loaded("scripts/fuzz.py"), loaded("native/fuzz/seeds.py"), loaded("native/fuzz/python_targets.py")


def test_every_target_has_seeds_and_sources(tmp_path: Path) -> None:
    counts = SEEDS.write(tmp_path / "seeds", tmp_path / "tables")
    assert set(counts) == set(FUZZ.native_targets()) == set(FUZZ.SOURCES)
    assert all((ROOT / "native" / "src" / name).exists() for names in FUZZ.SOURCES.values() for name in names)
    assert {p.parent.name for p in (tmp_path / "tables").glob("*/*")} == {"cells", "channel_dct", "context_fast", "context_max", "huffman", "laned_rans", "rans"}


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


@pytest.mark.parametrize("target, kind", [("stream", STREAM), ("plan", PLAN), ("bundle", BUNDLE)])
def test_mutations_get_past_the_checks(tmp_path: Path, target: str, kind: bytes) -> None:
    TARGETS.seeds(tmp_path)
    seeds = [p.read_bytes() for p in sorted((tmp_path / target).iterdir())]
    assert seeds
    rng = random.Random(1)
    passed = 0
    for _ in range(300):
        data = TARGETS.mutated(target, rng.choice(seeds), rng, lambda part: flipped(part, rng))
        try:
            Container.from_bytes(data, kind)
            passed += 1
        except StreamError:
            pass
        TARGETS.TARGETS[target](data)
    assert passed > 90


def test_seeds_are_read_whole(tmp_path: Path) -> None:
    TARGETS.seeds(tmp_path)
    for target in TARGETS.TARGETS:
        for path in (tmp_path / target).iterdir():
            TARGETS.TARGETS[target](path.read_bytes())
    # a stream target that refused everything would pass all of the above
    from tensorpress import decode

    assert all(decode(p.read_bytes()).size for p in (tmp_path / "stream").iterdir())
