"""Golden files of every released format version decode to what they held, and their inputs encode to them again."""

from __future__ import annotations

import json

import pytest

from tensorpress.core import registry
from tensorpress.planning.bundle import read_bundle
from tensorpress.planning.plan import Plan
from tests.golden.make import HERE, VERSION, beside, cases, facts, items, present, read_manifest, sha256, wrong_with

FOLDER = HERE / f"v{VERSION}"
MANIFEST = read_manifest(FOLDER)
ITEMS = {item.file: item for item in items(FOLDER)}
LIBRARIES = {"zstd": "zstandard", "lz4": "lz4", "blosc2": "blosc2", "zfp": "zfpy"}


def need_library(file: str) -> None:
    for codec, library in LIBRARIES.items():
        if file.split("/")[-1].startswith(f"{codec}-"):
            pytest.importorskip(library)


def test_the_manifest_names_every_file_and_no_other():
    assert present(FOLDER) == set(MANIFEST), "a golden file is absent or extra: what was released stays, and make golden writes new ones"
    assert set(MANIFEST) <= set(ITEMS), "a golden file has lost its case"
    rows = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.json")} - {"MANIFEST.json"}
    assert rows == {beside(FOLDER, file).relative_to(FOLDER).as_posix() for file in MANIFEST}


@pytest.mark.parametrize("codec_id", list(registry.cards()))
def test_every_card_has_golden_streams_of_this_version(codec_id):
    wanted = {f"{name}.tp" for codec, name, *_ in cases() if codec == codec_id}
    assert wanted and wanted <= set(MANIFEST), f"missing golden streams: {sorted(wanted - set(MANIFEST))}; run make golden and review them"


@pytest.mark.parametrize("file", sorted(set(ITEMS) - set(MANIFEST)))
def test_what_has_no_golden_file_is_refused_by_its_codec(file):
    need_library(file)
    assert ITEMS[file].new() is None, f"{file}: run make golden and review it"


@pytest.mark.parametrize("file", sorted(MANIFEST))
def test_golden_file(file):
    data = (FOLDER / file).read_bytes()
    assert len(data) < 20_000 and sha256(data) == MANIFEST[file]["sha256"]
    need_library(file)
    assert not wrong_with(FOLDER, ITEMS[file], MANIFEST[file])


@pytest.mark.parametrize("file", sorted(file for file in MANIFEST if file.endswith(".tpb")))
def test_golden_bundle_as_users_read_it(file):
    row = json.loads(beside(FOLDER, file).read_text())
    found = read_bundle((FOLDER / file).read_bytes(), Plan.load(FOLDER / row["plan"]))
    assert [{"site": site, **facts(array)} for site, array in found] == [{k: v for k, v in frame.items() if k != "input"} for frame in row["frames"]]
