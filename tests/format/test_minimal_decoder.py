"""The second decoder, written from FORMAT.md, agrees with ours: on every golden file, and on bytes that no encoder wrote."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import minimal
import pytest
from compare import FOREIGN, options_of, our_bundle, our_plan, ours, seen_by_both, their_bundle, their_plan, theirs, types_of
from damage import SHAPES, container_of, damaged_bundle, damaged_plan
from document import CODECS, GOLDEN, released
from minimal.binary import FormatError, canonical, check

from tensorpress.core.container import STREAM, Container
from tensorpress.core.errors import StreamError
from tensorpress.core.payload import Reader
from tensorpress.core.stream import Stream, read_frame
from tensorpress.planning.plan import Plan

HERE = Path(__file__).parent
DECODER = [sys.executable, "-I", "-S", str(HERE / "minimal_decoder.py")]  # no site packages, no paths of ours, no environment


def facts(path: Path) -> dict:
    """What stands beside a golden file."""
    beside = path.with_suffix(".json") if path.suffix == ".tp" else path.with_name(path.name + ".json")
    return json.loads(beside.read_text())


def test_it_imports_the_standard_library_alone():
    for path in [HERE / "minimal_decoder.py", HERE / "library_strings.py", *(HERE / "minimal").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "minimal", "library_strings"}, f"{path.name} imports {name}"


@pytest.mark.parametrize("folder", ["v1", "v1/kinds"])
def test_golden_streams(folder):
    """All of them, by one process that has nothing but the standard library."""
    paths = [path for path in released() if path.parent == GOLDEN / folder]
    assert len(paths) > 50
    done = subprocess.run([*DECODER, *map(str, paths)], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [(p.name, facts(p)) for p in paths]
    assert done.stdout.splitlines() == [f"{name}: {f['dtype']} {tuple(f['shape'])} {f['sha256']}" for name, f in expected]


@pytest.mark.parametrize("path", sorted((GOLDEN / "v1/bound").glob("*.tpb")), ids=lambda p: p.name)
def test_golden_bundles(path):
    found = facts(path)
    plan = GOLDEN / "v1" / found["plan"]
    done = subprocess.run([*DECODER, "--plan", str(plan), str(path)], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{path.name}: site {f['site']}: {f['dtype']} {tuple(f['shape'])} {f['sha256']}" for f in found["frames"]]


@pytest.mark.parametrize("path", sorted((GOLDEN / "v1/bound").glob("*.tpp")), ids=lambda p: p.name)
def test_golden_plans(path):
    found, plan = minimal.open_plan(path.read_bytes()), Plan.load(path)
    assert found.digest == facts(path)["digest"] == plan.digest
    assert [(e.codec, tuple(e.shape), e.reference, e.site["path"], e.state) for e in found.entries] == [
        (e.codec.id, e.shape, e.reference, e.site.path, dict(e.codec.state)) for e in plan.entries
    ]
    done = subprocess.run([*DECODER, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1 + len(plan.entries)


@pytest.mark.parametrize("path", sorted((GOLDEN / "v1/bound").glob("*.tpf")), ids=lambda p: p.name)
def test_golden_frames(path):
    found, frame = facts(path), minimal.open_frame(path.read_bytes())
    stream = minimal.open_stream((GOLDEN / "v1" / found["stream"]).read_bytes())
    assert (frame.site, frame.plan, frame.nbytes, frame.payload) == (found["site"], found["plan_id"], path.stat().st_size, stream.payload)


@pytest.mark.parametrize("codec_id", CODECS)
def test_damage_under_the_checks(codec_id):
    """Both decoders refuse, or both give the same values, whatever the bytes."""
    if codec_id in FOREIGN:
        pytest.importorskip(FOREIGN[codec_id])
    accepted = seen = 0
    for options in options_of(codec_id):
        for shape in SHAPES:
            rng = random.Random(f"{codec_id} {options} {shape}")
            dtype = rng.choice(types_of(codec_id))
            for left, right, what in seen_by_both(codec_id, options, shape, dtype, 3 if len(options_of(codec_id)) > 3 else 10, rng):
                seen, accepted = seen + 1, accepted + (left is not None)
                if codec_id in FOREIGN and None in (left, right):
                    continue  # section 14: what a library lets pass is its own matter, what both take is the same
                assert left == right, what
    assert seen > 80 and 0.1 < accepted / seen < 0.9


def test_one_frame_with_its_plan(tmp_path):
    bound = GOLDEN / "v1" / "bound"
    plan, frames = bound / "small.tpp", minimal.open_bundle((bound / "small.tpb").read_bytes())[1]
    body = minimal.container.open_container((bound / "small.tpb").read_bytes(), minimal.container.BUNDLE)[1]["frames"]
    (tmp_path / "one.tpf").write_bytes(body[: frames[0].nbytes])
    (tmp_path / "two.tpf").write_bytes(body[: frames[0].nbytes + frames[1].nbytes])
    for arguments, said in (([], "frame of site 0 and plan "), (["--plan", plan, "--raw", tmp_path / "raw"], f"site 0: float32 (12, 9, 7) {facts(bound / 'small.tpb')['frames'][0]['sha256']}")):
        done = subprocess.run([*DECODER, *map(str, arguments), str(tmp_path / "one.tpf")], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("one.tpf: " + said)
    assert (tmp_path / "raw").stat().st_size == 4 * 12 * 9 * 7
    for arguments, said in ((["--plan", plan, tmp_path / "two.tpf"], "bytes stand after"), (["--plan", bound / "parts.tpp", tmp_path / "one.tpf"], "this plan is"), ([tmp_path / "none"], "No such file")):
        done = subprocess.run([*DECODER, *map(str, arguments)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_damage_to_the_container():
    """Every truncation, and a flip of every byte."""
    data = (GOLDEN / "v1" / "uniform_rans-coarse-relu.tp").read_bytes()
    rng = random.Random(7)
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        if at % 8 == 0:
            assert theirs(data[:at]) is None and ours(data[:at]) is None
        assert theirs(bytes(flipped)) is None and ours(bytes(flipped)) is None
    assert theirs(data + b"\0") is None


def test_what_is_newer_is_refused():
    """Section 12: by both, whatever it means to a later version."""
    data = (GOLDEN / "v1" / "huffman-default-relu.tp").read_bytes()
    stream = Stream.from_bytes(data)
    payload, params, state = bytes(stream.payload), dict(stream.params), {k: bytes(v) for k, v in stream.state.items()}

    def made(codec: str = "huffman", more: dict[str, Any] | None = None, payload: bytes = payload, **also: bytes) -> bytes:
        return Stream(codec, {**params, **(more or {})}, {"payload": payload, **also}, state).to_bytes()

    def headed(more: dict[str, Any], version: int = 1) -> bytes:
        box = Container.from_bytes(data, STREAM)
        whole = bytearray(container_of(STREAM, canonical({**box.header, **more}), [(k, bytes(v)) for k, v in box.sections.items()]))
        return bytes(whole) if version == 1 else bytes(whole[:4]) + bytes([version]) + bytes(whole[5:])

    assert made() == headed({}) == data
    newer = [made("huffman2"), made(more={"later": None}), made(more={"scale_rule": 1}), made(payload=b"\x0c" + payload[1:]), made(index=b"")]
    newer += [headed({"later": 1}), headed({}, 2), headed({}, 0), headed({}, 255)]
    for number, bad in enumerate(newer):
        assert ours(bad) is None and theirs(bad) is None, number


@pytest.mark.parametrize("version", [0, 2, 3])
def test_frames_of_other_versions_are_refused(version):
    data = bytearray((GOLDEN / "v1" / "bound" / "narrow.tpf").read_bytes())
    data[0] = data[0] & 0xFC | version
    head = check(bytes(data[:8]))
    index = minimal.open_stream((GOLDEN / "v1" / facts(GOLDEN / "v1" / "bound" / "narrow.tpf")["stream"]).read_bytes()).payload
    data[8:12] = check(index[: Reader(index).index_nbytes], head).to_bytes(4, "little")
    with pytest.raises(FormatError, match="version"):
        minimal.open_frame(bytes(data))
    with pytest.raises(StreamError, match="version"):
        read_frame(bytes(data))


@pytest.mark.parametrize("name", ["small.tpp", "small.tpb", "narrow.tpf", "wide.tpf"])
def test_damage_to_plans_bundles_and_frames(name):
    data = (GOLDEN / "v1" / "bound" / name).read_bytes()
    opened = {"tpp": minimal.open_plan, "tpb": minimal.open_bundle, "tpf": lambda d: minimal.open_payload(minimal.open_frame(d).payload)}[name[-3:]]
    opened(data)
    rng = random.Random(11)
    for at in sorted(rng.sample(range(len(data)), min(len(data), 300))):
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        for bad in (bytes(flipped), data[:at]):
            with pytest.raises(FormatError):
                opened(bad)


def test_plans_under_the_checks():
    data = (GOLDEN / "v1" / "bound" / "small.tpp").read_bytes()
    rng, accepted = random.Random(3), 0
    for number in range(150):
        bent = damaged_plan(data, rng)
        left, right = our_plan(bent), their_plan(bent)
        assert left == right, f"case {number}: " + ("refused by ours" if left is None else "accepted by ours")
        accepted += left is not None
    assert 10 < accepted < 140


def test_bundles_under_the_checks():
    bound = GOLDEN / "v1" / "bound"
    data, plan = (bound / "small.tpb").read_bytes(), (bound / "small.tpp").read_bytes()
    opened = Plan.from_bytes(plan), minimal.open_plan(plan)
    rng, accepted = random.Random(4), 0
    for number in range(50):
        bent = damaged_bundle(data, opened[0].id, rng)
        left, right = our_bundle(bent, opened[0]), their_bundle(bent, opened[1])
        assert left == right, f"case {number}: " + ("refused by ours" if left is None else "accepted by ours")
        accepted += left is not None
    assert 5 < accepted < 45


def test_a_bundle_wants_its_own_plan_and_the_order_of_references():
    bound = GOLDEN / "v1" / "bound"
    with pytest.raises(FormatError, match="another plan"):
        minimal.decode_bundle((bound / "small.tpb").read_bytes(), minimal.open_plan((bound / "parts.tpp").read_bytes()))
