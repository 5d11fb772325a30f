"""Writes golden files where there are none: `make golden`. What was released stays as it is for ever: another file for it is an error.

    python -m tests.golden.make                                    new cases, and a check of all others
    python -m tests.golden.make --replace NAME --reason TEXT       a file that no release holds yet
    python -m tests.golden.make --release VERSION                  all files belong to this release from now on

Fitted parameters and state are in the files, so checks never fit anew. MANIFEST.json names every file with the SHA-256 of its bytes and of what it
decodes to, and the release since which it opens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.container import BUNDLE, Container
from tensorpress.core.errors import InputError, TensorPressError
from tensorpress.core.site import Site
from tensorpress.core.stream import Stream, read_frame, write_frame
from tensorpress.planning.plan import Entry, Plan
from tensorpress.planning.weight_file import Parts, WeightReader
from tests.golden import weight_cases
from tests.golden.cases import FRAMES, OPTIONS, PLANS, Case, cases, golden_input, kinds, pattern

__all__ = ["HERE", "OPTIONS", "VERSION", "cases", "facts", "golden_input", "pattern"]
HERE = Path(__file__).parent / "streams"
VERSION = 1
FORMS = {".tp": "stream", ".tpp": "plan", ".tpb": "bundle", ".tpf": "frame", ".tpw": "weights"}
Row = dict[str, Any]


def facts(array: np.ndarray) -> Row:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}


def sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


# --- what a file holds: its bytes are read, its inputs encoded again, and the row beside it is made from that ----------------------------------------


class Differs(AssertionError):
    """The code at hand does not read or write what the file holds."""


def rebuilt(codec: Codec, x: np.ndarray, reference: np.ndarray | None, payload: bytes) -> None:
    """Differs where `x` is another payload now. Of codecs that are not stable only decoding is promised."""
    if registry.card(codec.id).stable and bytes(codec.encode_payload(x, reference=reference)) != payload:
        raise Differs("the encoder writes other bytes for its input")


def decoded(codec: Codec, payload: bytes, reference: np.ndarray | None = None) -> np.ndarray:
    """The array, which kernel and slow twin agree on."""
    found, twin = (codec.decode_payload(payload, fused=fused, reference=reference) for fused in (True, False))
    if facts(found) != facts(twin):
        raise Differs("kernel and slow twin decode it to other values")
    return found


def same(written: bytes, data: bytes, what: str) -> None:
    if written != data:
        raise Differs(f"the {what} is written otherwise")


def stream_row(data: bytes, wanted: Row, current: bool) -> Row:
    stream = Stream.from_bytes(data)
    codec = registry.build(stream.codec, stream.params, stream.state)
    found = decoded(codec, bytes(stream.payload))
    if current:
        rebuilt(codec, pattern(wanted["input"], str(found.dtype), found.shape), None, bytes(stream.payload))
        same(stream.to_bytes(), data, "container")
    return {"codec": stream.codec, "input": wanted["input"], **facts(found)}


def plan_row(data: bytes, current: bool) -> Row:
    plan = Plan.from_bytes(data)
    if current:
        same(plan.to_bytes(), data, "plan")
    digests = [entry.codec.digest for entry in plan.entries]
    return {"digest": plan.digest, "codecs": [e.codec.id for e in plan.entries], "shared": digests, "sha256": sha256("".join(digests).encode())}


def bundle_row(data: bytes, wanted: Row, current: bool, folder: Path) -> Row:
    """Reads it by sections 4, 5 and 10 of FORMAT.md, without PyTorch."""
    plan = Plan.from_bytes((folder / wanted["plan"]).read_bytes())
    box = Container.from_bytes(data, BUNDLE)
    body, at = bytes(box.sections["frames"]), 0
    arrays: list[list[np.ndarray]] = [[] for _ in plan.entries]
    rows: list[Row] = []
    while at < len(body):
        frame = read_frame(body, at)
        entry, payload = plan.entries[frame.site], bytes(frame.payload)
        reference = None if entry.reference is None else arrays[entry.reference][len(arrays[frame.site])]
        array = decoded(entry.codec, payload, reference)
        if frame.plan_id != plan.id or len(rows) == len(wanted["frames"]):
            raise Differs(f"the frame at byte {at} is of another plan, or one too many")
        kind = wanted["frames"][len(rows)]["input"]
        if current:
            rebuilt(entry.codec, pattern(kind, str(array.dtype), array.shape), reference, payload)
            same(write_frame(payload, frame.site, plan.id), body[at : at + frame.nbytes], f"frame at byte {at}")
        arrays[frame.site].append(array)
        rows.append({"site": frame.site, "input": kind, **facts(array)})
        at += frame.nbytes
    if current:
        same(Container(BUNDLE, {"plan": plan.digest, "frames": len(rows)}, {"frames": body}).to_bytes(), data, "bundle")
    return {"plan": wanted["plan"], "frames": rows, "sha256": sha256("".join(r["sha256"] for r in rows).encode())}


def frame_row(data: bytes, wanted: Row, current: bool, folder: Path) -> Row:
    stream = Stream.from_bytes((folder / wanted["stream"]).read_bytes())
    frame = read_frame(data)
    if frame.nbytes != len(data) or bytes(frame.payload) != bytes(stream.payload):
        raise Differs("the frame holds another payload, or more than that")
    if current:
        same(write_frame(bytes(frame.payload), frame.site, frame.plan_id), data, "frame")
    array = decoded(registry.build(stream.codec, stream.params, stream.state), bytes(frame.payload))
    return {"stream": wanted["stream"], "site": frame.site, "plan_id": frame.plan_id, **facts(array)}


def weights_row(data: bytes, current: bool) -> Row:
    reader = WeightReader(data)
    if current:
        parts, written = Parts(), []
        for tensor in reader:
            written.append(parts.add(tensor))
        written.append(parts.rest())
        for number, part in enumerate(p for p in written if p is not None):
            same(part, bytes(reader.box.sections[f"part/{number}"]), f"part {number}")
    tensors = {name: facts(array) for name, array in reader.all().items()}
    return {"tensors": tensors, "sha256": sha256("".join(row["sha256"] for row in tensors.values()).encode())}


def row_of(folder: Path, file: str, data: bytes, wanted: Row) -> Row:
    """What a file holds now. `wanted`: the row beside it, of which the inputs' names are taken; they are encoded again where the version is the current one."""
    current = folder.name == f"v{VERSION}"
    if file.endswith(".tp"):
        return stream_row(data, wanted, current)
    if file.endswith(".tpp"):
        return plan_row(data, current)
    if file.endswith(".tpw"):
        return weights_row(data, current)
    return (bundle_row if file.endswith(".tpb") else frame_row)(data, wanted, current, folder)


# --- how a file is made the first time ---------------------------------------------------------------------------------------------------------------


def new_stream(case: Case) -> bytes | None:
    """None where the codec does not take the type."""
    x = pattern(case.pattern, case.dtype, case.shape)
    sample = x if x.size else pattern(case.pattern, case.dtype, tuple(n or 3 for n in case.shape))
    codec = registry.build(case.codec, case.options)  # its library may be missing: that is no refusal of a type
    try:
        return codec.fit([sample]).encode(x).to_bytes()
    except InputError:
        if case.dtype == "float32":
            raise
        return None


def new_plan(name: str) -> bytes:
    shape, bounds = PLANS[name]
    entries: list[Entry] = []
    seen: list[np.ndarray] = []  # what the decoder has of each site's first image
    for bound in bounds:
        x = pattern(bound.patterns[0], shape=shape)
        reference = None if bound.reference is None else seen[bound.reference]
        codec = registry.build(bound.codec, bound.options).fit([x], None if reference is None else [reference])
        seen.append(codec.decode_payload(codec.encode_payload(x, reference=reference), reference=reference))
        entries.append(Entry(Site(bound.path, 0, bound.what), codec, shape, bound.reference))
    return Plan("features", sha256(name.encode()), tuple(entries), {"made_by": "tests/golden", "target": 1.5}).to_bytes()


def new_bundle(folder: Path, name: str) -> bytes:
    plan = Plan.from_bytes((folder / f"bound/{name}.tpp").read_bytes())
    frames: list[bytes] = []
    arrays: list[list[np.ndarray]] = []
    for site, (entry, bound) in enumerate(zip(plan.entries, PLANS[name][1], strict=True)):
        arrays.append([])
        for image, kind in enumerate(bound.patterns):
            reference = None if entry.reference is None else arrays[entry.reference][image]
            payload = bytes(entry.codec.encode_payload(pattern(kind, shape=entry.shape), reference=reference))
            arrays[site].append(entry.codec.decode_payload(payload, reference=reference))
            frames.append(write_frame(payload, site, plan.id))
    return Container(BUNDLE, {"plan": plan.digest, "frames": len(frames)}, {"frames": b"".join(frames)}).to_bytes()


def new_frame(folder: Path, name: str) -> bytes:
    source, site, plan_id = FRAMES[name]
    return write_frame(bytes(Stream.from_bytes((folder / f"{source}.tp").read_bytes()).payload), site, plan_id)


# --- all files ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A file that there is to be, in the folder of its version; `inputs` as the row beside it names them."""

    file: str
    new: Callable[[], bytes | None]
    inputs: Row


def items(folder: Path) -> list[Item]:
    """Those that others need come first."""
    whole = [Case(codec, name, options, "signed" if signed else "relu") for codec, name, options, signed in cases()]
    found = [Item(f"{case.name}.tp", partial(new_stream, case), {"input": case.pattern}) for case in (*whole, *kinds())]
    found += [Item(f"weights/{name}.tpw", weight_cases.CASES.get(name, partial(weight_cases.method, name)), {}) for name in weight_cases.names()]
    for name, (_, bounds) in PLANS.items():
        inputs = {"plan": f"bound/{name}.tpp", "frames": [{"input": kind} for bound in bounds for kind in bound.patterns]}
        found += [Item(f"bound/{name}.tpp", partial(new_plan, name), {}), Item(f"bound/{name}.tpb", partial(new_bundle, folder, name), inputs)]
    return found + [Item(f"bound/{name}.tpf", partial(new_frame, folder, name), {"stream": f"{FRAMES[name][0]}.tp"}) for name in FRAMES]


def present(folder: Path) -> set[str]:
    """Golden files that stand in the folder of a version."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in FORMS}


def read_manifest(folder: Path) -> dict[str, Row]:
    path = folder / "MANIFEST.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_manifest(folder: Path, rows: Mapping[str, Row]) -> None:
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
    (folder / "MANIFEST.json").write_text("{\n" + lines + "\n}\n")


def beside(folder: Path, file: str) -> Path:
    """The row of a file; plans and bundles of one name have one each."""
    path = folder / file
    return path.with_suffix(".json") if path.suffix == ".tp" else path.with_name(path.name + ".json")


def wrong_with(folder: Path, file: str, known: Row) -> str:
    """What is wrong with a file that the manifest knows; empty where nothing is."""
    path = folder / file
    if not path.exists() or not beside(folder, file).exists():
        return "it is absent: take it back from the history"
    data, wanted = path.read_bytes(), json.loads(beside(folder, file).read_text())
    if sha256(data) != known["sha256"]:
        return "its bytes are others than those of the manifest"
    try:
        row = row_of(folder, file, data, wanted)
    except (Differs, TensorPressError) as error:
        return str(error)
    return "" if row == wanted and row["sha256"] == known["values"] else "it decodes to other values"


def made(folder: Path, item: Item) -> Row | None:
    """Writes a file and its row. None where there is nothing to write."""
    data = item.new()
    if data is None:
        return None
    path = folder / item.file
    path.parent.mkdir(parents=True, exist_ok=True)
    row = row_of(folder, item.file, data, item.inputs)
    path.write_bytes(data)
    beside(folder, item.file).write_text(json.dumps(row, indent=1) + "\n")
    return {"sha256": sha256(data), "values": row["sha256"], "released": ""}


def missing_for(folder: Path, file: str) -> str:
    """Why a stream of another library's codec cannot be read here; empty where it can."""
    codec = json.loads(beside(folder, file).read_text()).get("codec", "") if beside(folder, file).exists() else ""
    if not codec or registry.card(codec).stable:
        return ""
    try:
        registry.build(codec)
    except InputError as error:
        return str(error)
    return ""


def refusals(folder: Path, known: Mapping[str, Row], replaced: str) -> list[str]:
    """A line for every file that is not as it was."""
    found = [f"{file}: it stands beside the manifest" for file in sorted(present(folder) - set(known))]
    for file, row in sorted(known.items()):
        if missing := missing_for(folder, file):
            print(f"golden: {file} is not checked: {missing}", file=sys.stderr)
        elif file != replaced and (problem := wrong_with(folder, file, row)):
            since = row["released"]
            end = f"it was released in {since}, so a change of it needs a new version of the format" if since else "it is not released: --replace, with a reason"
            found.append(f"{file}: {problem}; {end}")
    return found


def run(folder: Path, replace: str = "", reason: str = "", release: str = "") -> list[str]:
    """Makes what is missing, once all that there is has been found as it was; otherwise changes nothing and gives a line for each file that is not."""
    known, wanted = read_manifest(folder), items(folder)
    if replace and known.get(replace, {}).get("released"):
        return [f"{replace}: released in {known[replace]['released']}: other bytes for it are a new version of the format"]
    if replace and not (replace in {item.file for item in wanted} & set(known) and reason):
        return [f"{replace}: " + ("no reason is given" if replace in known else "no such golden file")]
    refused = refusals(folder, known, replace)
    if refused:
        return refused
    count = 0
    for item in wanted:
        row = made(folder, item) if item.file not in known or item.file == replace else None
        if row is not None:
            known[item.file] = {**row, "replaced": reason} if item.file == replace else row
            count += 1
            write_manifest(folder, known)  # a run that is stopped goes on where it was
    if release:
        known = {file: {**row, "released": row["released"] or release} for file, row in known.items()}
        write_manifest(folder, known)
    print(f"{len(known)} golden files in {folder}, {count} of them new")
    return []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replace", default="", metavar="NAME", help="make this file anew; refused where a release holds it")
    parser.add_argument("--reason", default="", help="of --replace; it goes into the manifest")
    parser.add_argument("--release", default="", metavar="VERSION", help="what no release holds yet belongs to this one")
    chosen = parser.parse_args(arguments)
    if chosen.release and not re.fullmatch(r"\d+\.\d+\.\d+", chosen.release):
        parser.error(f"--release {chosen.release}: three numbers are needed, such as 0.2.0")
    try:
        refused = run(HERE / f"v{VERSION}", chosen.replace, chosen.reason, chosen.release)
    except TensorPressError as error:
        refused = [str(error)]
    for line in refused:
        print(f"golden: {line}", file=sys.stderr)
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
