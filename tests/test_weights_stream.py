"""safetensors to .tpw and back in pieces: every bit or the promised error, little memory, and a sentence for what is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tensorpress import weights_stream as stream
from tensorpress.blocks.forms import Grid, Plain
from tensorpress.core.binary import canonical_json, varint
from tensorpress.core.container import WEIGHTS, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.planning.weight_file import DTYPES, Parts, Tensor, WeightReader
from tensorpress.safetensors_file import SafetensorsFile, front_of, laid_out

Tensors = dict[str, tuple[str, np.ndarray]]  # dtype of the file, values


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    places = laid_out((name, dtype, x.shape) for name, (dtype, x) in tensors.items())
    path.write_bytes(front_of(places, metadata or {}) + b"".join(x.tobytes() for _, x in tensors.values()))
    return path


def read(path: Path) -> Tensors:
    with SafetensorsFile(path) as file:
        return {p.name: (p.dtype, file.read(p, 0, p.values).reshape(p.shape)) for p in file.places}


def normal(*shape: int, seed: int = 0, scale: float = 0.05) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def bfloat16(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def every_type() -> Tensors:
    rng = np.random.default_rng(1)
    found: Tensors = {}
    for dtype, kind in DTYPES.items():
        size = np.dtype(kind).itemsize
        values = rng.integers(0, 2 if dtype == "BOOL" else 256, (37, 5, size), np.uint8)
        found[f"noise.{dtype}"] = dtype, values.view(kind).reshape(37, 5)
        found[f"scalar.{dtype}"] = dtype, values[0, :1].view(kind).reshape(())
        found[f"empty.{dtype}"] = dtype, np.zeros((3, 0, 2), kind)
    found["w.f32"] = "F32", normal(64, 32, 3, 3)
    found["w.f16"] = "F16", normal(64, 288, seed=1).astype(np.float16)
    found["w.bf16"] = "BF16", bfloat16(normal(64, 288, seed=2))
    found["ids ∑"] = "I64", np.arange(512)
    return found


@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "b": "2", "a": "ü"}])
def test_a_file_comes_back_byte_for_byte(tmp_path, metadata):
    source = write(tmp_path / "m.safetensors", every_type(), metadata)
    found = stream.encode(source, tmp_path / "m.tpw")
    assert found.nbytes == (tmp_path / "m.tpw").stat().st_size and found.raw_nbytes == source.stat().st_size
    nbytes, tensors = stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
    assert (tmp_path / "o.safetensors").read_bytes() == source.read_bytes() and nbytes == found.raw_nbytes and tensors == len(every_type())
    first = (tmp_path / "m.tpw").read_bytes()
    stream.encode(source, tmp_path / "m.tpw")
    assert (tmp_path / "m.tpw").read_bytes() == first


def test_the_library_reads_what_is_written_and_the_other_way_round(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    tensors = {"a": normal(40, 30), "b": np.arange(7), "c": np.float16([1, 2]), "d": np.zeros((0, 3), np.int8)}
    library.save_file(tensors, tmp_path / "m.safetensors", {"format": "np"})
    stream.encode(tmp_path / "m.safetensors", tmp_path / "m.tpw")
    stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
    assert (tmp_path / "o.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    assert all(np.array_equal(x, tensors[name]) for name, x in library.load_file(tmp_path / "o.safetensors").items())


def test_the_reader_of_whole_files_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "SLAB", 1000)
    source = write(tmp_path / "m.safetensors", every_type())
    for options in ({}, {"bits": 3.0}, {"step_rms": 0.4, "by": "row"}):
        stream.encode(source, tmp_path / "m.tpw", **options)
        stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
        whole = WeightReader((tmp_path / "m.tpw").read_bytes()).all()
        pieces = read(tmp_path / "o.safetensors")
        assert whole.keys() == pieces.keys()
        assert all(whole[name].tobytes() == x.tobytes() and whole[name].shape == x.shape for name, (_, x) in pieces.items())


def test_files_of_other_systems_are_decoded(tmp_path):
    parts = Parts()
    x = normal(6, 20)
    written = [parts.add(Tensor("a", "F32", x.shape, Grid.nearest(x, 0.01))), parts.add(Tensor("b", "F32", x.shape, None, "a")), parts.add(Tensor("c", "I64", (3,), Plain(np.arange(3))))]
    (tmp_path / "m.tpw").write_bytes(parts.container([p for p in [*written, parts.rest()] if p is not None], {}).to_bytes())
    stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
    found = read(tmp_path / "o.safetensors")
    assert np.array_equal(found["a"][1], found["b"][1]) and np.abs(found["a"][1] - x).max() <= 0.0051 and found["c"][1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("slab", "by"), [(600, "row"), (600, "tensor"), (1 << 18, "row"), (1 << 18, "tensor")])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_errors_are_half_a_step_at_most(tmp_path, monkeypatch, slab, by, dtype):
    monkeypatch.setattr(stream, "SLAB", slab)
    rows = np.exp(np.random.default_rng(3).uniform(-4, 4, (61, 1, 1)))
    x = normal(61, 20, 9) * rows
    x[7] = 0
    stored = bfloat16(x.astype(np.float32)) if dtype == "BF16" else x.astype(DTYPES[dtype])
    vector = normal(50, seed=5)
    source = write(tmp_path / "m.safetensors", {"w": (dtype, stored), "v": ("F32", vector)})
    found = stream.encode(source, tmp_path / "m.tpw", step_rms=0.25, by=by)
    assert found.forms == {"slabs" if slab == 600 else "grid": 1, "planes": 1} and not found.kept
    stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
    after = read(tmp_path / "o.safetensors")
    assert after["w"][0] == dtype and np.array_equal(after["v"][1], vector)
    before, got = (stream.in_float64(v, dtype) for v in (stored, after["w"][1]))
    rms = np.sqrt(np.square(before).mean(axis=(1, 2) if by == "row" else None, keepdims=True))
    rounding = {"F32": 1e-6, "F64": 1e-6, "F16": 2.0**-10, "BF16": 2.0**-7}[dtype]
    assert (np.abs(got - before) <= 0.5 * 0.25 * 2 ** (1 / 64) * rms * 1.0001 + rounding * np.abs(before) + 1e-7).all()
    assert not got[7].any()
    error = np.square(got - before).sum() / np.square(before).sum()
    assert found.relative_mse == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("bits", [1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("by", ["row", "tensor"])
def test_bits_are_met(tmp_path, bits, by):
    source = write(tmp_path / "m.safetensors", {f"w{i}": ("F32", normal(200, 300, seed=i, scale=0.02 * (i + 1))) for i in range(3)})
    found = stream.encode(source, tmp_path / "m.tpw", bits=bits, by=by)
    assert abs(found.bits_per_value - bits) < 0.15


def test_ties_are_stored_once(tmp_path):
    x, y = normal(300, 200), normal(300, 200)
    y[150, 100] += 1  # alike at both ends
    tensors: Tensors = {"a": ("F32", x), "b": ("F32", y), "c": ("F32", x), "d": ("F32", x.reshape(200, 300)), "z1": ("F32", np.zeros((9, 9), np.float32)), "z2": ("F32", np.zeros((9, 9), np.float32))}
    source = write(tmp_path / "m.safetensors", tensors)
    assert stream.encode(source, tmp_path / "m.tpw").forms == {"planes": 4, "=": 2}
    stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
    assert (tmp_path / "o.safetensors").read_bytes() == source.read_bytes()


def test_what_cannot_be_quantised_is_kept_and_named(tmp_path):
    tensors: Tensors = {}
    for name, value in (("nan", np.nan), ("inf", np.inf), ("huge", 3e38), ("fine", 1.0)):
        x = normal(30, 40)
        x[3, 5] = value
        tensors[name] = "F32", x
    tensors["tiny"] = "F32", normal(30, 40) * np.float32(1e-37)
    tensors["narrow"] = "F32", normal(30, 4)
    tensors["eight"] = "F8_E4M3", np.arange(240, dtype=np.uint8).reshape(20, 12)
    source = write(tmp_path / "m.safetensors", tensors)
    found = stream.encode(source, tmp_path / "m.tpw", bits=3)
    assert set(found.kept) == {"nan", "inf", "huge", "tiny"} and found.forms == {"planes": 6, "grid": 1}
    stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
    after = read(tmp_path / "o.safetensors")
    assert all((after[name][1].tobytes() == x.tobytes()) == (name != "fine") for name, (_, x) in tensors.items())


def test_rows_of_slabs_never_leave_one_alone():
    for rows in range(1, 300):
        for width in (1, 50_000, 130_000, 262_144, 1 << 20):
            found = stream.slab_rows((rows, width))
            assert 1 <= found <= rows and (found == rows or rows % found != 1) and found <= max(2, stream.SLAB // width) + 9


@pytest.mark.parametrize("options", [{"bits": 4, "step_rms": 0.1}, {"bits": 0}, {"bits": 40}, {"step_rms": 0}, {"step_rms": float("nan")}, {"bits": 2, "by": "column"}])
def test_odd_options_are_refused(tmp_path, options):
    source = write(tmp_path / "m.safetensors", {"w": ("F32", normal(9, 9))})
    with pytest.raises(InputError):
        stream.encode(source, tmp_path / "m.tpw", **options)
    assert not (tmp_path / "m.tpw").exists()


# --- damaged files ---------------------------------------------------------------------------------------------------------------------------------


def header(**tensors: object) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def row(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "empty": (b"", "no safetensors"),
    "five bytes": (b"12345", "no safetensors"),
    "giant header": (b"\xff" * 8 + b"{}", "header of 18446744073709551615 bytes"),
    "long header": ((1 << 20).to_bytes(8, "little") + b"{}", "it is cut"),
    "no JSON": ((4).to_bytes(8, "little") + b"{a:1", "no JSON"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "not an object"),
    "deep": ((4000).to_bytes(8, "little") + b"[" * 4000, "no JSON"),
    "twice": ((25).to_bytes(8, "little") + b'{"a":{"b":1},"a":{"b":1}}', "twice"),
    "a number": (header(a=3), "does not have dtype"),
    "no shape": (header(a={"dtype": "F32", "data_offsets": [0, 0]}), "does not have dtype"),
    "type": (header(a=row("F4")), "is of type 'F4'"),
    "type of a type": (header(a=row(["F32"])), "is of type"),
    "negative": (header(a=row(shape=[-2])), "shape"),
    "float": (header(a=row(shape=[2.0])), "shape"),
    "true": (header(a=row(shape=[True])), "shape"),
    "giant": (header(a=row(shape=[1 << 30, 1 << 30])), "shape"),
    "ranks": (header(a=row(shape=[1] * 9)), "dimensions"),
    "offsets": (header(a=row(offsets=[0])), "data_offsets"),
    "backwards": (header(a=row(offsets=[8, 0])) + bytes(8), "takes 8 bytes, its data_offsets say -8"),
    "short": (header(a=row(offsets=[0, 4])) + bytes(4), "takes 8 bytes"),
    "overlap": (header(a=row(), b=row(offsets=[4, 12])) + bytes(12), "overlaps"),
    "same": (header(a=row(), b=row()) + bytes(8), "overlaps"),
    "gap": (header(a=row(), b=row(offsets=[12, 20])) + bytes(20), "gap"),
    "cut": (header(a=row()) + bytes(7), "it is cut"),
    "more": (header(a=row()) + bytes(9), "the file has 9"),
    "metadata": (header(__metadata__={"a": 1}, a=row()) + bytes(8), "strings"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_safetensors_that_are_none_are_refused(tmp_path, name):
    data, said = HOSTILE[name]
    (tmp_path / "m.safetensors").write_bytes(data)
    (tmp_path / "m.tpw").write_bytes(b"as it was")
    with pytest.raises(StreamError, match=said) as caught:
        stream.encode(tmp_path / "m.safetensors", tmp_path / "m.tpw")
    assert "m.safetensors" in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "m.tpw").read_bytes() == b"as it was" and {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "m.tpw"}


def test_damaged_files_of_weights_are_refused_and_leave_nothing(tmp_path):
    source = write(tmp_path / "m.safetensors", {"w": ("F32", normal(12, 11)), "v": ("F16", normal(20).astype(np.float16)), "u": ("F32", normal(12, 11))}, {"a": "b"})
    stream.encode(source, tmp_path / "m.tpw", step_rms=0.5)
    data = (tmp_path / "m.tpw").read_bytes()
    output, damaged = tmp_path / "o.safetensors", tmp_path / "d.tpw"
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        for bad in (bytes(flipped), data[:at]):
            damaged.write_bytes(bad)
            with pytest.raises(StreamError):
                stream.decode(damaged, output)
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "m.tpw", "d.tpw"}


def test_hostile_parts_behind_right_checks(tmp_path):
    source = write(tmp_path / "m.safetensors", {"w": ("F32", normal(40, 30)), "v": ("BF16", bfloat16(normal(3000))), "s": ("F32", normal(60, 30))})
    rng = np.random.default_rng(7)
    for options in ({}, {"step_rms": 0.5}):
        stream.SLAB, usual = 700, stream.SLAB
        try:
            stream.encode(source, tmp_path / "m.tpw", **options)
        finally:
            stream.SLAB = usual
        box = Container.from_bytes((tmp_path / "m.tpw").read_bytes(), WEIGHTS)
        refused = 0
        for _ in range(150):
            part = bytearray(box.sections["part/0"])
            for _ in range(int(rng.integers(1, 4))):
                part[int(rng.integers(len(part)))] = int(rng.integers(256))
            if rng.random() < 0.3:
                del part[int(rng.integers(len(part))) :]
            (tmp_path / "d.tpw").write_bytes(Container(WEIGHTS, box.header, {**box.sections, "part/0": bytes(part)}).to_bytes())
            try:
                stream.decode(tmp_path / "d.tpw", tmp_path / "o.safetensors")
            except StreamError as error:
                assert "part 0" in str(error)
                refused += 1
        assert refused > 20


def test_limits_are_kept(tmp_path):
    source = write(tmp_path / "m.safetensors", {"w": ("F32", np.zeros((1000, 1000), np.float32))})
    assert stream.encode(source, tmp_path / "m.tpw").nbytes < 400
    with pytest.raises(StreamError, match="over the limit"):
        stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors", max_nbytes=1 << 20)
    with pytest.raises(InputError, match="no regular file"):
        stream.decode(tmp_path / "m.tpw", "/dev/null")
    with pytest.raises(InputError, match="No such file"):
        stream.encode(tmp_path / "absent", tmp_path / "m.tpw")


@pytest.mark.parametrize("form", ["grid", ["slabs", {"rows": (1 << 20) - 1, "form": "grid", "own": {}}], "planes"])
def test_a_small_file_that_promises_much_is_refused_at_once(tmp_path, form):
    """The coder could say 2^29 zeros in a few bytes: nobody makes room for them."""
    index = {"dtypes": ["F32"], "forms": [form], "names": ["w"], "shapes": [[1 << 20, 512]]}
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    sections = {"index": packer.compress(canonical_json(index)) + packer.flush(), "part/0": varint(1000) + bytes(1000)}
    (tmp_path / "m.tpw").write_bytes(Container(WEIGHTS, {"parts": [1]}, sections).to_bytes())
    with pytest.raises(StreamError, match="over the limit"):
        stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")
    if form != "planes":  # they are made a piece at a time
        with pytest.raises(StreamError, match="at once, which is over the limit"):
            (tmp_path / "m.tpw").write_bytes(Container(WEIGHTS, {"parts": [1]}, {**sections, "part/0": varint(1 << 26) + bytes(1 << 26)}).to_bytes())
            stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors")


def test_a_file_of_no_tensors(tmp_path):
    source = write(tmp_path / "m.safetensors", {}, {"a": "b"})
    stream.encode(source, tmp_path / "m.tpw", bits=4)
    assert stream.decode(tmp_path / "m.tpw", tmp_path / "o.safetensors") == (source.stat().st_size, 0)
    assert (tmp_path / "o.safetensors").read_bytes() == source.read_bytes()


# --- memory ----------------------------------------------------------------------------------------------------------------------------------------

CHILD = """
import re, sys
from tensorpress import weights_stream as stream

def peak(what):
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

def risen(work):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins again
    before = peak("VmRSS")
    work()
    return peak("VmHWM") - before

source, folder, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
stream.encode(sys.argv[4], folder + "/warm.tpw", **options)  # what is made once
stream.decode(folder + "/warm.tpw", folder + "/warm.safetensors")
print(risen(lambda: stream.encode(source, folder + "/m.tpw", **options)))
print(risen(lambda: stream.decode(folder + "/m.tpw", folder + "/o.safetensors")))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize(
    ("dtype", "shape", "tensors", "options"),
    [("F32", (4096, 2048), 8, {}), ("BF16", (4096, 4096), 6, {}), ("F32", (1 << 22,), 9, {}), ("BF16", (4096, 4096), 1, {"step_rms": 12.0}), ("F32", (2048, 2048), 4, {"step_rms": 12.0})],
    ids=["lossless-float32", "lossless-bfloat16", "vectors", "quantised-bfloat16", "quantised-float32"],
)
def test_memory_is_below_twice_the_largest_tensor(tmp_path, dtype, shape, tensors, options):
    block = normal(1 << 20).reshape(-1)
    values = int(np.prod(shape))
    one = np.resize(block, values).reshape(shape)
    one = bfloat16(one) if dtype == "BF16" else one
    places = laid_out((f"w{i}", dtype, shape) for i in range(tensors))
    with open(tmp_path / "m.safetensors", "wb") as file:
        file.write(front_of(places, {}))
        for _ in range(tensors):
            one.reshape(-1)[0] += 1  # no two are the same
            file.write(one)
    write(tmp_path / "small.safetensors", {"w": (dtype, one[:9]), "v": ("F32", block[:99])})
    largest = one.nbytes
    del one
    command = [sys.executable, "-c", CHILD, str(tmp_path / "m.safetensors"), str(tmp_path), repr(options), str(tmp_path / "small.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    encoding, decoding = map(int, run.stdout.split())
    assert encoding < 2 * largest and decoding < 2 * largest, (encoding / largest, decoding / largest)
    if not options:
        assert (tmp_path / "o.safetensors").stat().st_size == (tmp_path / "m.safetensors").stat().st_size >= 6 * largest
