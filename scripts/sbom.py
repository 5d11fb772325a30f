"""The bill of materials: what an installed TensorPress is made of, as CycloneDX JSON by the standard tool, checked against its schema.

    make sbom                   writes dist/tensorpress-VERSION.cdx.json and prints the licences

cyclonedx-py describes the whole environment that this runs in. Kept is what the package needs at run time, with all that this needs in turn; test and
release tools are not part of it. The parts that are compiled into the native module are added, since no package says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMPILED_IN = (("nanobind", "BSD-3-Clause", "pkg:pypi/nanobind"), ("robin-map", "MIT", "pkg:github/tessil/robin-map"))


def canonical(name: str) -> str:
    """A package's name as names are compared: small letters, one dash."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needs_of(package: str, requirements: Callable[[str], Iterable[str]]) -> dict[str, set[str]]:
    """Package -> what it needs at run time on this machine, for `package` and all that it needs; extras that nobody asks for are left out."""
    from packaging.requirements import Requirement

    needs: dict[str, set[str]] = {}
    seen, waiting = set(), [(canonical(package), "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        needs.setdefault(name, set())
        for wanted in map(Requirement, requirements(name)):
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                needs[name].add(canonical(wanted.name))
                waiting += [(canonical(wanted.name), part) for part in ("", *wanted.extras)]
    needs[canonical(package)].discard(canonical(package))
    return needs


def installed(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"sbom: {name} is needed and not installed here") from None


def runtime(bom: Mapping[str, Any], needs: Mapping[str, set[str]], versions: Callable[[str], str]) -> dict[str, Any]:
    """The bill of an environment with the packages in `needs` alone, and their needs as given there."""
    root = bom["metadata"]["component"]
    parts = [c for c in bom["components"] if canonical(c["name"]) in needs and c["version"] == versions(c["name"]) and c["name"] != root["name"]]
    refs = {canonical(c["name"]): c["bom-ref"] for c in [*parts, root]}
    missing = set(needs) - set(refs)
    if missing:
        raise SystemExit(f"sbom: cyclonedx-py does not list {', '.join(sorted(missing))}")
    rows = [{"ref": refs[name], **({"dependsOn": sorted(refs[n] for n in needs[name])} if needs[name] else {})} for name in sorted(needs)]
    return {**bom, "components": parts, "dependencies": rows}


def with_compiled_in(bom: Mapping[str, Any], requirement: str) -> dict[str, Any]:
    """The bill with the parts that stand inside the native module; their version is the build's."""
    parts = [
        {
            "bom-ref": f"compiled-in:{name}",
            "description": f"compiled into tensorpress/_native; build requirement {requirement}",
            "licenses": [{"license": {"id": licence}}],
            "name": name,
            "purl": purl,
            "type": "library",
        }
        for name, licence, purl in COMPILED_IN
    ]
    root = bom["metadata"]["component"]["bom-ref"]
    refs = [part["bom-ref"] for part in parts]
    rows = [{**row, "dependsOn": [*row.get("dependsOn", []), *refs]} if row["ref"] == root else row for row in bom["dependencies"]]
    return {**bom, "components": [*bom["components"], *parts], "dependencies": [*rows, *({"ref": ref} for ref in refs)]}


def licences(bom: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, version, licence) of each component."""
    rows = []
    for part in bom["components"]:
        told = [entry.get("expression") or entry["license"].get("id") or entry["license"].get("name", "") for entry in part.get("licenses", ())]
        told = [text.splitlines()[0][:80] if text.strip() else "" for text in told]  # old packages put the whole text there
        rows.append((part["name"], part.get("version", "of the build"), " / ".join(sorted(set(filter(None, told)))) or "not stated"))
    return rows


def described() -> dict[str, Any]:
    """What cyclonedx-py says of this environment."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library"]
    command += ["--sv", "1.6", "--output-reproducible", "--of", "JSON", "-o", "-"]
    done = subprocess.run(command, capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"})
    if done.returncode:
        raise SystemExit(f"sbom: cyclonedx-py failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def invalid(text: str) -> str | None:
    """Why the standard's schema refuses a bill; None where it does not."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return None if fault is None else str(fault)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the file to write (default: dist/tensorpress-VERSION.cdx.json)")
    arguments = parser.parse_args()
    if importlib.util.find_spec("cyclonedx_py") is None:
        print("sbom: cyclonedx-py is missing: pip install cyclonedx-bom", file=sys.stderr)
        return 2
    bom = runtime(described(), needs_of("tensorpress", installed), importlib.metadata.version)
    requirement = re.search(r'"(nanobind[^"]*)"', (ROOT / "pyproject.toml").read_text())
    bom = with_compiled_in(bom, requirement[1] if requirement else "nanobind")
    text = json.dumps(bom, indent=1, sort_keys=True) + "\n"
    fault = invalid(text)
    if fault is not None:
        print(f"sbom: not valid CycloneDX 1.6: {fault}", file=sys.stderr)
        return 1
    out = arguments.out or ROOT / "dist" / f"tensorpress-{bom['metadata']['component']['version']}.cdx.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"{out}: {len(bom['components'])} components, valid CycloneDX 1.6\n")
    rows = [("package", "version", "licence"), *sorted(licences(bom), key=lambda row: row[0].lower())]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, version, licence in rows:
        print(f"{name:{widths[0]}}  {version:{widths[1]}}  {licence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
