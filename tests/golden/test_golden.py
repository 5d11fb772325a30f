"""Golden files of every released format version decode to what they held, and their inputs encode to them again."""

from __future__ import annotations

import json

import pytest

from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.planning.bundle import read_bundle
from tensorpress.planning.plan import Plan
from tests.golden import weight_cases
from tests.golden.make import HERE, VERSION, beside, cases, facts, items, missing_for, present, read_manifest, sha256, wrong_with

VERSIONS = {folder.name: (folder, read_manifest(folder)) for folder in sorted(HERE.glob("v*"))}
FOLDER, MANIFEST = VERSIONS[f"v{VERSION}"]
ITEMS = {item.file: item for item in items(FOLDER)}
ALL = [(version, file) for version, (_, manifest) in VERSIONS.items() for file in sorted(manifest)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifest_names_every_file_and_no_other(version):
    folder, manifest = VERSIONS[version]
    assert manifest and present(folder) == set(manifest), "a golden file is absent or extra: what was released stays, and make golden writes new ones"
    rows = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")} - {"MANIFEST.json"}
    assert rows == {beside(folder, file).relative_to(folder).as_posix() for file in manifest}


@pytest.mark.parametrize("codec_id", list(registry.cards()))
def test_every_card_has_golden_streams_of_this_version(codec_id):
    wanted = {f"{name}.tp" for codec, name, *_ in cases() if codec == codec_id}
    assert wanted and wanted <= set(MANIFEST), f"missing golden streams: {sorted(wanted - set(MANIFEST))}; run make golden and review them"


@pytest.mark.parametrize("name", weight_cases.names())
def test_every_method_has_a_golden_file(name):
    assert f"weights/{name}.tpw" in MANIFEST, "run make golden and review it"


@pytest.mark.parametrize("file", sorted(f for f in set(ITEMS) - set(MANIFEST) if not f.startswith("weights/")))
def test_what_has_no_golden_file_is_refused_by_its_codec(file):
    try:
        registry.build(file.split("/")[1].rsplit("-", 1)[0])
    except InputError as error:
        pytest.skip(str(error))
    assert ITEMS[file].new() is None, f"{file}: run make golden and review it"


@pytest.mark.parametrize(("version", "file"), ALL, ids=lambda name: name)
def test_golden_file(version, file):
    folder, manifest = VERSIONS[version]
    data = (folder / file).read_bytes()
    assert len(data) < 20_000 and sha256(data) == manifest[file]["sha256"]
    if missing := missing_for(folder, file):
        pytest.skip(missing)
    assert not wrong_with(folder, file, manifest[file])


@pytest.mark.parametrize("file", sorted(file for file in MANIFEST if file.endswith(".tpb")))
def test_golden_bundle_as_users_read_it(file):
    row = json.loads(beside(FOLDER, file).read_text())
    found = read_bundle((FOLDER / file).read_bytes(), Plan.load(FOLDER / row["plan"]))
    assert [{"site": site, **facts(array)} for site, array in found] == [{k: v for k, v in frame.items() if k != "input"} for frame in row["frames"]]
