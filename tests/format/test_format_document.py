"""The worked examples of FORMAT.md are real: both decoders read from them what the document says, and encoders write them."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import minimal
import numpy as np
import pytest
from document import CODECS, EXAMPLES, TEXT, example, rows, section, state
from minimal.levels import numbers
from minimal.parameters import LEVELS, ROWS

import tensorpress
from tensorpress.blocks import context_max_model, context_model, dct, klt, map_kernel, packers
from tensorpress.coding import huffman, tables
from tensorpress.core import binary, container, payload, registry
from tensorpress.core.stream import FRAME_NBYTES, Stream, frame_nbytes, read_frame, write_frame
from tensorpress.planning import weight_file
from tensorpress.planning.bundle import read_bundle, write_bundle
from tensorpress.planning.plan import MAX_ENTRIES, Plan
from tensorpress.systems.features import klt as klt_system

ROOT = Path(__file__).parents[2]
LIBRARIES = {"zstd": "zstandard", "lz4": "lz4.block", "blosc2": "blosc2", "zfp": "zfpy"}
FILES = ("raw-stream", "frame", "plan", "bundle")  # all others are payloads
PAYLOADS = [name for name in EXAMPLES if name not in FILES]
REFUSED_BY_LIBRARY = {"zstd", "lz4", "blosc2"}  # their strings depend on the version of the library


def flat(values: Any) -> list[float]:
    return [v for row in values for v in flat(row)] if isinstance(values, list) else [values]


def test_every_codec_has_an_example():
    shown = {EXAMPLES[name]["codec"] for name in PAYLOADS} | {"raw"}
    assert set(CODECS) <= shown <= set(registry.cards())


@pytest.mark.parametrize("name", PAYLOADS)
def test_payload(name):
    """Both decoders, and our encoder where its bytes depend on nothing else."""
    row = EXAMPLES[name]
    data, pieces = example(name), state(name)
    found, values = minimal.decode_payload(row["codec"], row["params"], pieces, data)
    assert numbers(found, values) == flat(row["values"])
    if row["codec"] in LIBRARIES:
        pytest.importorskip(LIBRARIES[row["codec"]])
    codec = registry.build_from_stream(row["codec"], row["params"], pieces)
    for fused in (True, False):
        array = codec.decode_payload(data, fused=fused)
        assert (str(array.dtype), array.tolist()) == (found.dtype, row["values"])
    assert minimal.decode_stream(Stream(codec.id, codec.params, {"payload": data}, pieces).to_bytes())[1] == values


LOSSY = {  # what was encoded where another array comes back
    "dct": ([[[0, 9, 200], [50, 50, 0]]] * 4, {(1, 0, 1): 80}),
    "fixed": ([[[0, 9, 200], [50, 50, 0]]] * 4, {(1, 0, 1): 80}),
    "huffman": ([[[0, 0, 7, 0, 255]], [[0, 0, 0, 1, 0]]], {}),
    "klt": ([[[1.0, 1.5, 2.0]], [[0.5, 0.9, 1.0]]], {}),
    "fast": ([[[0.0, 0.5, 0.0], [0.0, 1.0, 0.5]], [[0.0, 1.0, 0.0], [0.0, 1.0, 3.0]]], {}),
}


@pytest.mark.parametrize("name", [n for n in PAYLOADS if EXAMPLES[n]["codec"] not in REFUSED_BY_LIBRARY])
def test_payload_is_what_the_encoder_writes(name):
    row, data = EXAMPLES[name], example(name)
    if row["codec"] in LIBRARIES:
        pytest.importorskip(LIBRARIES[row["codec"]])
    given, places = LOSSY.get(name, (row["values"], {}))
    x = np.array(given, minimal.open_payload(data).dtype)
    if name in ("dct", "fixed"):
        x = np.concatenate([x, np.array([[[0, 0, 9], [0, 0, 0]]], np.uint8)])
    for place, value in places.items():
        x[place] = value
    options = {**row["params"], "reciprocal": 1.0, **({"lagrangian": 30.0, "transform": "dct"} if name == "dct" else {})}
    params = options if row["codec"] not in ("klt", "context") else row["params"]
    codec = registry.build(row["codec"], params, state(name))
    assert bytes(codec.encode_payload(x)) == data
    assert bytes(codec.encode_payload(x, fused=False)) == data


def test_raw_stream():
    x = np.array(EXAMPLES["raw-stream"]["values"], np.uint8)
    data = example("raw-stream")
    assert np.array_equal(tensorpress.decode(data), x)
    assert tensorpress.encode(x, "raw") == data
    found, values = minimal.decode_stream(data)
    assert (found.dtype, found.shape, values) == ("uint8", x.shape, x.tobytes())


def test_frame():
    row, data = EXAMPLES["frame"], example("frame")
    x = np.array(row["values"], np.uint8)
    codec = registry.build(row["codec"], row["params"])
    frame, theirs = read_frame(data), minimal.open_frame(data)
    assert (frame.site, frame.plan_id) == (theirs.site, theirs.plan) == (row["site"], int(row["plan"], 16))
    assert np.array_equal(codec.decode_payload(frame.payload), x)
    assert minimal.decode_payload(row["codec"], row["params"], {}, theirs.payload)[1] == x.tobytes()
    assert write_frame(codec.encode_payload(x), frame.site, frame.plan_id) == data


def test_plan_and_bundle():
    data, values = example("bundle"), EXAMPLES["bundle"]["values"]
    plan, theirs = Plan.from_bytes(example("plan")), minimal.open_plan(example("plan"))
    assert plan.to_bytes() == example("plan") and plan.id == theirs.id
    ((site, array),) = read_bundle(data, plan)
    ((their_site, found, bytes_of),) = minimal.decode_bundle(data, theirs)
    assert site == their_site == 0 and array.tolist() == values and bytes_of == array.tobytes() and found.shape == array.shape
    x = np.array([[[0, 0, 7, 0, 255]], [[0, 0, 0, 1, 0]]], np.uint8)
    assert write_bundle(plan, [plan.entries[0].codec.encode_frame(x, 0, plan.id)]) == data


# --- lists and tables -------------------------------------------------------------------------------------------------


def test_types_and_matrices():
    names = [d.name for d in payload.DTYPES]
    assert ", ".join(f"{n} {name}" for n, name in enumerate(names)) in section(3)
    assert " ".join(str(n) for n in dct._COSINES[1:]) in section(6)
    assert names == minimal.container.DTYPES


def test_faults():
    """The document's are ours, in the order of the native enumeration."""
    table = re.search(r"^\| fault \|\n\|---\|\n((?:\|.*\n)+)", section(6), re.M)
    assert table
    shown = [line.strip("| ") for line in table[1].splitlines()]
    ours = [re.sub(r"(0x)?\{.*?\}", "…", fault) for fault in map_kernel.FAULTS[map_kernel.OUTPUT_SMALL + 1 :]]
    assert shown == ours
    header = (ROOT / "native" / "include" / "tensorpress" / "payload.h").read_text()
    found = re.search(r"enum class Fault[^{]*\{(.*?)\}", header, re.S)
    assert found and len(re.findall(r"^\s*(\w+)", re.sub(r"//[^\n]*", "", found[1]).replace(",", "\n"), re.M)) == len(map_kernel.FAULTS)


def one_form(x: float) -> str:
    """A double as section 1 says, from the fewest digits that give it back."""
    digits, exponent = next(f"{x:.{n}e}" for n in range(17) if float(f"{x:.{n}e}") == x).split("e")
    sign, figures, e = "-" * digits.startswith("-"), digits.strip("-").replace(".", ""), int(exponent)
    if 1e-4 <= abs(x) < 1e16 or x == 0:
        figures = "0" * -e + figures if e < 0 else figures.ljust(e + 2, "0")
        return sign + figures[: max(e, 0) + 1] + "." + figures[max(e, 0) + 1 :]
    return f"{sign}{figures[0]}{'.' * (len(figures) > 1)}{figures[1:]}e{exponent[0]}{exponent[1:].zfill(2)}"


def test_doubles_have_the_form_of_section_1():
    rng = np.random.default_rng(9)
    values = [1.0, 0.15, 1e-05, 1.5e16, 0.0001, 1e15, 1e16, 9007199254740993.0, 123456789012345680.0, -0.0, 5e-324, 1.7976931348623157e308, 1e22, 1e23, 1.5e-07, 0.1]
    values += (rng.standard_normal(500) * 10.0 ** rng.integers(-30, 30, 500)).tolist()
    values += np.float32(rng.standard_normal(200)).astype(float).tolist()
    for x in values:
        assert binary.canonical_json(x).decode() == one_form(x)


def test_texts_have_the_form_of_section_1():
    text = "".join(map(chr, range(0x21))) + '"\\/\x7f é ∑ 😀'
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
    said = "".join(short.get(n, f"\\u{n:04x}") for n in range(0x20)) + ' \\"\\\\/\x7f é ∑ 😀'
    assert binary.canonical_json(text).decode() == f'"{said}"'


def test_codecs():
    found = {row[0].strip("`"): row for row in rows(12, "id | section")}
    assert set(CODECS) <= found.keys() == minimal.DECODERS.keys() <= registry.cards().keys()
    for codec, (_, number, since, kind, _) in found.items():
        assert f"`{codec}`" in section(int(number)), f"section {number} does not name {codec}"
        assert re.fullmatch(r"0\.[12]\.0", since)
        assert kind == ("library" if codec in LIBRARIES else "ours")


@pytest.mark.parametrize("codec", CODECS)
def test_lossless_codecs_say_so(codec):
    """What the table calls lossless comes back bit for bit, and at least one thing that it does not name does not."""
    if codec in LIBRARIES:
        pytest.importorskip(LIBRARIES[codec])
    said = next(row[4] for row in rows(12, "id | section") if row[0] == f"`{codec}`")
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (33, 9, 5)).astype(np.uint8)
    exact = {}
    for dtype in (np.uint8, np.int8, np.uint16, bool):
        y = (x > 99) if dtype is bool else x.astype(dtype) * (251 if dtype is np.uint16 else 1)
        try:
            made = registry.build(codec).fit([y])
            exact[np.dtype(dtype).name] = np.array_equal(made.decode_payload(made.encode_payload(y)), y)
        except tensorpress.core.errors.InputError:
            exact[np.dtype(dtype).name] = False
    if codec == "zfp":
        return  # within half a level of integers, which its bound does not promise to bring back
    assert (exact["uint8"] and exact["int8"]) == ("integer" in said)
    assert exact["uint16"] == ("every integer" in said)
    assert exact["bool"] == ("bool" in said)


def test_parameters():
    """The document's table, the second decoder's and every Config have the same names, types, defaults and ranges."""
    shown = [(" ".join(re.findall(r"`(\w+)`", r[0])), r[1].strip("`"), r[2], r[3].strip("`"), r[4].replace("`", "")) for r in rows(20, "codecs | parameter")]
    assert shown == [(c, n, k, minimal.binary.canonical(d).decode().replace(",", ", "), a) for c, n, k, d, a in ROWS]
    kinds = {"text": "str", "true or false": "bool", "integer": "int", "number": "float", "integers": "tuple[int, ...]", "three numbers": "tuple[float, ...]"}
    for codec in CODECS:
        config = registry.system(codec).Config
        fields = {f.name: f for f in config.__dataclass_fields__.values()}
        own = {name: (kind, default) for codecs, name, kind, default, _ in ROWS if codec in codecs.split()}
        assert fields.keys() == own.keys()
        for name, (kind, default) in own.items():
            assert fields[name].default == (tuple(default) if isinstance(default, list) else default), (codec, name)
            assert fields[name].type == kinds[kind.removesuffix(" or null")] + (" | None" if kind.endswith("null") else ""), (codec, name)


BASES = {"uniform_rans": {"step": 1.0, "reciprocal": 1.0, "zero_point": 0}, "klt": {"channels": 2, "fixed": 2.0**-10, "step": 0.5, "block": 2, "coder": "huffman"}}


@pytest.mark.parametrize(("codecs", "name", "kind", "allowed"), [(r[0], r[1], r[2], r[4]) for r in ROWS], ids=lambda v: v[:24])
def test_ranges_of_parameters(codecs, name, kind, allowed):
    """Both readers take the ends of every range, and refuse what lies beyond."""
    codec = "zvc" if codecs.split()[0] in LEVELS.split() and "zvc" in codecs.split() else codecs.split()[0]
    base = BASES.get(codec, {})
    pieces = state({"uniform_rans": "uniform_rans", "klt": "klt"}.get(codec, "")) if codec in BASES else {}
    low, _, high = allowed.partition(" … ")
    whole = kind.startswith("integer")
    if high:
        ends = [minimal.parameters.value_of(low), minimal.parameters.value_of(high)]
        beyond: list[Any] = [ends[0] - 1, ends[1] + 1] if whole or ends[0] in (0, 1) else [ends[0] * 0.99 if ends[0] > 0 else ends[0] - 1, ends[1] * 1.01]
        good: list[Any] = [int(e) for e in ends] if whole else list(ends)
        beyond = [int(b) for b in beyond] if whole else beyond
    elif kind.startswith("integer"):
        good, beyond = [int(w) for w in allowed.split()], [3] if allowed else []
        if kind == "integers":
            good, beyond = [[g] for g in good] or [[5]], [[b] for b in beyond]
    elif kind == "text":
        good, beyond = allowed.split() or ["max"], ["none of these"] if allowed else []
    else:
        good, beyond = [True] if kind == "true or false" else [1.0], []
    if kind.startswith("three"):
        good, beyond = [[good[0], 0, good[1]], []], [[beyond[0], 0, 0], [0, 0, beyond[1]], [0, 0]]
    good += [None] if kind.endswith("null") else []
    beyond += [{}, True if kind != "true or false" else 1, *([1.5] if whole else [])]
    for value in good:
        minimal.parameters.checked(codec, {**base, name: value})
        if codec in BASES and name in ("levels", "table_bits", "channels", "block", "coder", "zero_point"):
            continue  # these belong to the state beside them
        registry.build_from_stream(codec, {**base, name: value}, pieces)
    for value in beyond:
        with pytest.raises(minimal.FormatError):
            minimal.parameters.checked(codec, {**base, name: value})
        with pytest.raises(tensorpress.core.errors.StreamError):
            registry.build_from_stream(codec, {**base, name: value}, pieces)


LIMITS = {
    "dimensions": payload.MAX_RANK,
    "values, dimensions of 0 left out": payload.MAX_VALUES,
    "a stripe": payload.MAX_STRIPE_NBYTES,
    "sections": container.MAX_SECTIONS,
    "a varint": 63,
    "header of a stream": container.MAX_HEADER_NBYTES[container.STREAM],
    "header of a plan": container.MAX_HEADER_NBYTES[container.PLAN],
    "header of a bundle": container.MAX_HEADER_NBYTES[container.BUNDLE],
    "header of a file of weights": container.MAX_HEADER_NBYTES[container.WEIGHTS],
    "index of a file of weights, unpacked": weight_file.MAX_INDEX_NBYTES,
    "nesting of a header": binary.MAX_DEPTH,
    "characters of a number in a header": binary.MAX_NUMBER_LENGTH,
    "entries of a plan": MAX_ENTRIES,
    "site of a frame": 2**32 - 1,
    "payload of a cell of section 6": 2**16 - 1,
    "a cell of `slots`": packers.SLOT_NBYTES,
    "slots of a rANS table (rows · 2^b)": tables.MAX_SLOTS,
    "b of a rANS table": 16,
    "rows of a Huffman table": huffman.MAX_ROWS,
    "symbols of a Huffman table": 1 << huffman.LONGEST,
    "bits of a Huffman code": huffman.LONGEST,
    "channels of `klt`": klt.MAX_CHANNELS,
    "classes of `klt`": klt_system.CLASSES,
    "symbols of a table of `klt`": 2 * klt_system.REACH + 1,
    "model of `context`, unpacked": context_model.MAX_MODEL_NBYTES,
    "L + H of `context`": 255,
    "earlier channels of `context`": 16,
    "edges of a class table of `context`": 63,
    "shift of a class table of `context`": 30,
    "parts of `context`": context_max_model.MAX_PARTS,
}


def number(text: str) -> int:
    found = re.match(r"2\^(\d+)( − 1)?|([\d,]+)", text)
    assert found, text
    return 2 ** int(found[1]) - bool(found[2]) if found[1] else int(found[3].replace(",", ""))


def test_limits():
    shown = {what: most for what, most in rows(11, "what | at most") if not most.startswith("`max_nbytes`") and what != "a stripe of `zfp`"}
    assert {what: number(most) for what, most in shown.items()} == LIMITS
    assert f"default 2^{container.MAX_NBYTES.bit_length() - 1} bytes" in section(11) and container.MAX_NBYTES == 2**30 == minimal.LIMIT


# --- section 21 -------------------------------------------------------------------------------------------------------


def v(n: int) -> int:
    return max(1, math.ceil(n.bit_length() / 7))


def container_nbytes(header: int, sections: dict[str, int]) -> int:
    return 9 + v(header) + header + v(len(sections)) + sum(v(len(k)) + len(k) + v(n) + n + 4 for k, n in sections.items())


@pytest.mark.parametrize("shape", [(3, 17, 5), (200, 9, 9), (), (4, 0, 6), (130,), (2, 2, 2, 9, 300)])
@pytest.mark.parametrize("codec_id", ["raw", "huffman", "klt"])
def test_overhead(codec_id, shape):
    x = (np.arange(math.prod(shape)) % 7).reshape(shape).astype(np.float32)
    codec = registry.build(codec_id).fit([x if x.size else np.ones((4, 2, 6), np.float32)])
    body = bytes(codec.encode_payload(x))
    index = 2 + sum(v(n) for n in shape) + 8 * (math.ceil(payload.chw(shape)[1] / 8) if payload.chw(shape)[0] and payload.chw(shape)[2] else 0)
    assert payload.Reader(body).index_nbytes == index
    params = len(binary.canonical_json(codec.params))
    header = 98 + len(codec_id) + params
    stream = Stream(codec_id, codec.params, {"payload": body}, codec.state).to_bytes()
    assert len(stream) == container_nbytes(header, {**{f"state/{k}": len(s) for k, s in codec.state.items()}, "payload": len(body)})
    if not codec.state:
        assert len(stream) - len(body) == 120 + len(codec_id) + params + v(header) + v(len(body))
    frames = [write_frame(body, site, 7) for site in (0, 254, 255)]
    assert [len(f) - len(body) for f in frames] == [FRAME_NBYTES, FRAME_NBYTES, 24]
    assert frame_nbytes(4_194_302, 254) == 4_194_302 + 12 and frame_nbytes(4_194_303, 254) == 4_194_303 + 24


def test_overhead_of_plans_and_bundles():
    data = example("plan")
    header, sections = minimal.container.open_container(data, minimal.container.PLAN)
    assert len(data) == container_nbytes(len(binary.canonical_json(header)), {k: len(s) for k, s in sections.items()})
    shown = section(21)
    for formula in ("9 + v(h) + h + v(k) + Σ (v(", "+ v(n) + n + 4)", "98 + ", "107 + (digits of the number of frames) + v(n) + n", "12 + payload; 24 + payload", "takes 120 + ", "4,194,303"):
        assert formula in shown
    plan = Plan.from_bytes(data)
    for count, size in ((1, 27), (0, 0), (12, 1000), (12345, 200_000)):
        frames = [b"x" * (size // max(count, 1))] * count
        n = sum(map(len, frames))
        assert len(write_bundle(plan, frames)) == 107 + len(str(count)) + v(n) + n


def test_the_document_names_what_is_there():
    """No block of bytes stands unread, and words of struct sizes agree with the code."""
    blocks = set(re.findall(r"```hex (\S+)\n", TEXT))
    assert blocks == EXAMPLES.keys() | {"plan"} | {f"{name}/{piece}" for name in EXAMPLES for piece in state(name)}
    assert struct.calcsize(context_max_model.HEAD) == 3 + 4 + 1 + 1 + 4
