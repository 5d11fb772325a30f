"""`make golden` writes what is missing and nothing else: a file that differs is named, and a released one is never made anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.stream import Stream
from tests.golden import make
from tests.golden.cases import SHAPES, pattern

SOME = ("zvc-", "zstd-", "kinds/zvc-", "bound/narrow", "bound/wide.", "bound/small")
ONE = "kinds/zvc-rank-2.tp"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of some golden files, which are all there are for this test; all released."""
    source, here = make.HERE / "v1", tmp_path / "v1"
    every = make.items
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr(make, "items", lambda folder: [item for item in every(folder) if item.file.startswith(SOME)])
    known = {file: {**row, "released": "0.2.0"} for file, row in make.read_manifest(source).items() if file.startswith(SOME)}
    for file in known:
        for path in (source / file, make.beside(source, file)):
            target = here / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    make.write_manifest(here, known)
    assert len(known) > 20
    return here


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unrelease(folder: Path, file: str) -> None:
    known = make.read_manifest(folder)
    make.write_manifest(folder, {**known, file: {**known[file], "released": ""}})


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said where nothing may change."""
    before = contents(folder)
    assert make.main(list(arguments)) == 1 and contents(folder) == before
    return capsys.readouterr().err


def test_where_nothing_is_missing_nothing_changes(folder, capsys):
    before = contents(folder)
    assert make.main([]) == 0 and contents(folder) == before
    assert ", 0 of them new" in capsys.readouterr().out


def test_a_new_case_is_written_and_belongs_to_no_release_yet(folder, capsys):
    before = contents(folder)
    known = make.read_manifest(folder)
    del known[ONE]
    make.write_manifest(folder, known)
    (folder / ONE).unlink()
    make.beside(folder, ONE).unlink()
    assert make.main([]) == 0
    after, row = contents(folder), make.read_manifest(folder)[ONE]
    assert row["released"] == "" and {k: v for k, v in after.items() if k != "MANIFEST.json"} == {k: v for k, v in before.items() if k != "MANIFEST.json"}
    assert make.main(["--release", "9.8.7"]) == 0
    assert make.read_manifest(folder)[ONE]["released"] == "9.8.7" and make.read_manifest(folder)["zvc-default-relu.tp"]["released"] == "0.2.0"


def test_a_changed_byte_is_named(folder, capsys):
    data = bytearray((folder / ONE).read_bytes())
    data[-1] ^= 1
    (folder / ONE).write_bytes(data)
    said = refused(folder, capsys)
    assert ONE in said and "bytes are others" in said and "released in 0.2.0" in said and "new version of the format" in said


def test_another_whole_stream_in_its_place_is_named(folder, capsys):
    stream = Stream.from_bytes((folder / ONE).read_bytes())
    codec = registry.build(stream.codec, stream.params, stream.state)
    (folder / ONE).write_bytes(codec.encode(np.ones(SHAPES["rank-2"], np.float32)).to_bytes())
    assert ONE in refused(folder, capsys)
    known = make.read_manifest(folder)
    known[ONE]["sha256"] = make.sha256((folder / ONE).read_bytes())
    make.write_manifest(folder, known)
    assert f"{ONE}: the encoder writes other bytes for its input" in refused(folder, capsys)
    row = json.loads(make.beside(folder, ONE).read_text())
    make.beside(folder, ONE).write_text(json.dumps({**row, "input": "noise"}))
    assert ONE in refused(folder, capsys)


def test_an_absent_file_is_named_and_not_made(folder, capsys):
    (folder / ONE).unlink()
    assert f"{ONE}: it is absent" in refused(folder, capsys)
    unrelease(folder, ONE)
    assert f"{ONE}: it is absent" in refused(folder, capsys)


def test_an_extra_file_is_named_and_not_taken_over(folder, capsys):
    shutil.copyfile(folder / ONE, folder / "kinds/zvc-more.tp")
    assert "kinds/zvc-more.tp: it stands beside the manifest" in refused(folder, capsys)


def test_a_file_stays_when_its_case_is_lost(folder, capsys, monkeypatch):
    kept = [item for item in make.items(folder) if item.file != ONE]
    monkeypatch.setattr(make, "items", lambda folder: kept)
    before = contents(folder)
    assert make.main([]) == 0 and contents(folder) == before
    (folder / ONE).unlink()
    assert f"{ONE}: it is absent" in refused(folder, capsys)


def test_files_of_an_older_version_need_only_be_read(folder, monkeypatch):
    known = make.read_manifest(folder)
    assert not any(make.wrong_with(folder, file, known[file]) for file in known if not make.missing_for(folder, file))
    monkeypatch.setattr(make, "VERSION", 2)
    monkeypatch.setattr(Codec, "encode_payload", None)
    assert not any(make.wrong_with(folder, file, known[file]) for file in known if not make.missing_for(folder, file))
    monkeypatch.setattr(make, "decoded", lambda *some: np.roll(pattern("signed"), 1))
    assert all(make.wrong_with(folder, file, known[file]) for file in known if not file.endswith(".tpp"))


def test_files_without_a_manifest_are_not_taken_over(folder, capsys):
    (folder / "MANIFEST.json").unlink()
    said = refused(folder, capsys)
    assert said.count("it stands beside the manifest") == len(make.present(folder))


def test_an_encoder_of_other_bytes_is_seen(folder, capsys, monkeypatch):
    honest = Codec.encode_payload
    monkeypatch.setattr(Codec, "encode_payload", lambda codec, x, *rest, **more: honest(codec, x + x, *rest, **more))
    said = refused(folder, capsys)
    assert all(f"{name}: the encoder writes other bytes" in said for name in (ONE, "zvc-coarse-relu.tp", "bound/small.tpb"))


def test_a_decoder_of_other_values_is_seen(folder, capsys, monkeypatch):
    honest = make.decoded
    monkeypatch.setattr(make, "decoded", lambda *some: np.roll(honest(*some), 1))
    monkeypatch.setattr(make, "rebuilt", lambda *some: None)
    said = refused(folder, capsys)
    assert all(f"{name}: it decodes to other values" in said for name in (ONE, "zvc-coarse-relu.tp", "bound/narrow.tpf")) and "bound/small.tpb: " in said


def test_a_twin_of_other_values_is_seen(folder, capsys, monkeypatch):
    honest = Codec.decode_payload
    monkeypatch.setattr(Codec, "decode_payload", lambda codec, payload, **more: honest(codec, payload, **more) + (not more["fused"]))
    assert f"{ONE}: kernel and slow twin" in refused(folder, capsys)


def test_a_missing_library_is_said(folder, capsys, monkeypatch):
    honest = registry.build

    def build(codec: str, *rest: object) -> Codec:
        if codec == "zstd":
            raise InputError("codec 'zstd' needs the library z")
        return honest(codec, *rest)

    monkeypatch.setattr(registry, "build", build)
    before = contents(folder)
    assert make.main([]) == 0 and contents(folder) == before
    assert "zstd-default-relu.tp is not checked: codec 'zstd' needs the library z" in capsys.readouterr().err
    known = make.read_manifest(folder)
    make.write_manifest(folder, {file: row for file, row in known.items() if not file.startswith("zstd-")})
    for file in known:
        if file.startswith("zstd-"):
            (folder / file).unlink()
    assert "golden: codec 'zstd' needs the library z" in refused(folder, capsys)


def test_a_released_file_is_never_replaced(folder, capsys):
    assert "released in 0.2.0: other bytes for it are a new version of the format" in refused(folder, capsys, "--replace", ONE, "--reason", "a better one")


def test_an_unreleased_file_is_replaced_with_a_reason(folder, capsys):
    good = (folder / ONE).read_bytes()
    (folder / ONE).write_bytes(good[:-1])
    unrelease(folder, ONE)
    assert "--replace, with a reason" in refused(folder, capsys)
    assert "no reason is given" in refused(folder, capsys, "--replace", ONE)
    assert "no such golden file" in refused(folder, capsys, "--replace", "kinds/none.tp", "--reason", "x")
    assert make.main(["--replace", ONE, "--reason", "it was cut"]) == 0
    assert (folder / ONE).read_bytes() == good and make.read_manifest(folder)[ONE]["replaced"] == "it was cut"


def test_a_release_is_three_numbers(folder):
    with pytest.raises(SystemExit):
        make.main(["--release", "soon"])
