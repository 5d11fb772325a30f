"""What `make reproducible` and `make sbom` decide by: each difference of two archives is found, each stray file of a wheel, each need of a package."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "scripts").is_dir():
    pytest.skip("the scripts are in the checkout alone", allow_module_level=True)

from scripts import reproducible, sbom  # noqa: E402


def wheel(path: Path, files: dict[str, bytes], date=(2026, 1, 2, 3, 4, 6), mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, date)
            info.external_attr = mode << 16
            out.writestr(info, data)
    return path


def sdist(path: Path, names: list[str], mtime: int = 5) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 2, mtime
            out.addfile(info, io.BytesIO(b"ab"))
    return path


def test_every_kind_of_difference_is_told(tmp_path):
    first = wheel(tmp_path / "a.whl", {"x": b"1", "y": b"2"})
    for number, (files, settings, says) in enumerate(
        [
            ({"x": b"1", "y": b"3"}, {}, "bytes of y"),
            ({"x": b"1"}, {}, "files of one alone: y"),
            ({"y": b"2", "x": b"1"}, {}, "the order of files"),
            ({"x": b"1", "y": b"2"}, {"date": (2026, 1, 2, 3, 4, 8)}, "date of x: (2026, 1, 2, 3, 4, 6) and (2026, 1, 2, 3, 4, 8)"),
            ({"x": b"1", "y": b"2"}, {"mode": 0o600}, "mode of x"),
            ({"x": b"1", "y": b"2"}, {}, "the packing alone"),
        ]
    ):
        assert reproducible.difference(first, wheel(tmp_path / f"{number}.whl", files, **settings)).startswith(says)
    assert reproducible.difference(sdist(tmp_path / "a.tar.gz", ["p", "q"]), sdist(tmp_path / "b.tar.gz", ["p", "q"], 6)) == "date of p: 5 and 6"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout: the package's files are listed by git")
def test_stray_files_of_a_wheel_are_told(tmp_path):
    info = "tensorpress-1.dist-info/"
    files = {name.removeprefix("src/"): b"" for name in reproducible.git("ls-tree", "-r", "--name-only", "HEAD", "src/tensorpress").splitlines()}
    metadata = b"Name: tensorpress\nVersion: 1\nSummary: s\nRequires-Python: >=3.10\nDescription-Content-Type: text/markdown\n\ntext\n"
    files |= {"tensorpress/_native.x.so": b"", info + "METADATA": metadata, info + "RECORD": b"", info + "entry_points.txt": b"", info + "licenses/LICENSE": b""}
    name = tmp_path / "tensorpress-1-cp3-cp3-any.whl"
    assert reproducible.stray("HEAD", wheel(name, files)) == []
    for change, says in [
        ({"tests/test_x.py": b""}, "tests/test_x.py stands beside the package"),
        ({"tensorpress/junk.bak": b""}, "tensorpress/junk.bak is no file of the package"),
        ({"tensorpress/_native.y.so": b""}, "2 native modules"),
        ({"tensorpress/files.py": None}, "tensorpress/files.py is missing"),
        ({"tensorpress/demo/digits_resnet.safetensors": None}, "digits_resnet.safetensors is missing"),
        ({info + "licenses/LICENSE": None}, "the licence is missing"),
        ({info + "METADATA": metadata.replace(b"Version: 1\n", b"")}, "metadata has no Version"),
        ({info + "METADATA": metadata[:-6]}, "metadata has no description"),
    ]:
        changed = {k: v for k, v in {**files, **change}.items() if v is not None}
        (told,) = reproducible.stray("HEAD", wheel(name, changed))
        assert says in told


def test_the_bill_holds_what_is_needed_at_run_time_alone():
    pytest.importorskip("packaging", reason="the bill is made by cyclonedx-bom, which brings packaging")
    said = {
        "own": ["Torch-X>=2", 'plot>=1; extra == "report"', 'own[report]; extra == "test"', "fast[speed]", 'old; python_version < "3"'],
        "torch-x": ["sym.py", 'pytest; extra == "tests"'],
        "fast": ['engine; extra == "speed"', 'docs; extra == "doc"'],
        "sym-py": ["torch_x"],
        "engine": [],
    }
    needs = sbom.needs_of("own", said.__getitem__)
    assert needs == {"own": {"torch-x", "fast"}, "torch-x": {"sym-py"}, "fast": {"engine"}, "sym-py": {"torch-x"}, "engine": set()}
    names = ["torch_x", "fast", "Sym.py", "engine", "pytest", "plot", "own"]
    parts = [{"name": n, "version": "1", "bom-ref": f"{n}==1", "type": "library"} for n in names] + [{"name": "fast", "version": "0", "bom-ref": "fast==0"}]
    bom = {"metadata": {"component": {"name": "own", "bom-ref": "root", "version": "1", "type": "library"}}, "components": parts, "dependencies": []}
    found = sbom.with_compiled_in(sbom.runtime(bom, needs, lambda _: "1"), "nanobind>=2")
    assert [c["bom-ref"] for c in found["components"]] == ["torch_x==1", "fast==1", "Sym.py==1", "engine==1", "compiled-in:nanobind", "compiled-in:robin-map"]
    of = {row["ref"]: row.get("dependsOn") for row in found["dependencies"]}
    assert of["root"] == ["fast==1", "torch_x==1", "compiled-in:nanobind", "compiled-in:robin-map"] and of["fast==1"] == ["engine==1"] and of["engine==1"] is None
    with pytest.raises(SystemExit, match="does not list sym-py"):
        sbom.runtime({**bom, "components": parts[:2] + parts[3:]}, needs, lambda _: "1")
    with pytest.raises(SystemExit, match="no-such-package is needed and not installed"):
        sbom.installed("no-such-package")


def test_the_schema_is_asked():
    pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-bom is not installed")
    good = '{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [{"type": "library", "name": "x"}]}'
    assert sbom.invalid(good) is None and "library" in str(sbom.invalid(good.replace('"library"', '"nonsense"')))


def test_licences_are_short():
    rows = sbom.licences({"components": [{"name": "a", "version": "1", "licenses": [{"expression": "MIT"}]}, {"name": "b", "licenses": [{"license": {"name": "long\ntext"}}]}, {"name": "c"}]})
    assert rows == [("a", "1", "MIT"), ("b", "of the build", "long"), ("c", "of the build", "not stated")]
