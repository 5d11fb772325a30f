"""What containers add: as FORMAT.md, sections 2 to 5 and 10, has it, counted here from its fields and not by the code that writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.container import PLAN, Container
from tensorpress.core.errors import InputError
from tensorpress.core.payload import DTYPES, Reader, chw
from tensorpress.core.site import Site
from tensorpress.core.stream import frame_nbytes, read_frame, write_frame
from tensorpress.planning.bundle import read_bundle, write_bundle
from tensorpress.planning.plan import Entry, Plan
from tests.properties.cases import holds
from tests.properties.strategies import EVERY, Array, arrays, fitted, options, shapes, taken

SITES = st.one_of(st.integers(0, 300), st.sampled_from((254, 255, 256, 2**32 - 1)))
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def varint(value: int) -> int:
    """Bytes of a varint: seven bits each."""
    return max(-(-value.bit_length() // 7), 1)


def text(value: Any) -> int:
    return len(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def container(header: int, sections: dict[str, int]) -> int:
    """Magic, version, header, section table, check, and a check behind each section."""
    size = 4 + 1 + varint(header) + header + varint(len(sections)) + 4
    for name, nbytes in sections.items():
        n = len(name.encode())
        size += varint(n) + n + varint(nbytes) + nbytes + 4
    return size


def index(shape: tuple[int, ...]) -> int:
    """Type, rank, dimensions; 8 bytes for each 8 rows."""
    rows = shape[-2] if len(shape) > 2 else 1
    empty = 0 in shape[:-2] or 0 in shape[-1:] if len(shape) > 2 else 0 in shape
    return 2 + sum(varint(n) for n in shape) + (0 if empty else 8 * -(-rows // 8))


def written(data: st.DataObject, codec: str) -> tuple[Array, Codec, bytes]:
    x = data.draw(arrays(taken(codec), shapes(1000, empty=False, least_rank=1), ("normal", "relu", "small", "any")))
    made = data.draw(fitted(codec, x))
    return x, made, bytes(made.encode_payload(x))


@holds(120, st.data(), st.sampled_from(EVERY))
def test_a_stream_adds_its_header_and_sections(data: st.DataObject, codec: str) -> None:
    x, made, payload = written(data, codec)
    header = text({"codec": codec, "params": made.params, "shared": "0" * 64})
    assert len(made.encode(x).to_bytes()) == container(header, {**{f"state/{k}": len(v) for k, v in made.state.items()}, "payload": len(payload)})
    assert Reader(payload).index_nbytes == index(x.shape)
    assert len(payload) == index(x.shape) + int(Reader(payload).lengths.sum())


@holds(100, shapes(10**6), st.sampled_from(DTYPES))
def test_a_payload_of_raw_adds_its_index_alone(shape: tuple[int, ...], dtype: Any) -> None:
    x = np.zeros(shape, dtype)
    payload = registry.build("raw", {"scale": 1.0, "reciprocal": 1.0}).encode_payload(x)
    assert len(payload) == index(shape) + x.size * (1 if dtype.kind == "f" else dtype.itemsize)


def worst(made: Codec, x: Array, rows: int) -> int:
    """Bytes that a stripe of so many rows never passes, by FORMAT.md."""
    channels, height, columns = chw(x.shape)
    n, config = channels * rows * columns, made.config
    words = n * (1 if x.dtype.kind == "f" else x.itemsize)
    if made.id in ("dct_cm", "context"):
        depth = 32 * (64 // (min(height, 8) * min(columns, 8)))
        cells = -(-channels // depth) * -(-columns // 8)
        return n + (3 if made.id == "dct_cm" else 2) * cells
    if made.id == "slots":
        across, deep = {"deep": (8, 32), "wide": (16, 16)}[config.cell]
        return -(-channels // deep) * -(-columns // across) * (2112 + (2 if config.layout == "packed" else 0))
    return {
        "raw": words, "zvc": words + -(-n // 8), "uniform_rans": n, "rle": -(-13 * n // 8), "huffman": -(-15 * n // 8),
        "csc": -(-channels * (rows * columns).bit_length() // 8) + -(-n // 2) + n,
    }[made.id]  # fmt: skip


@holds(150, st.data(), st.sampled_from(("raw", "zvc", "dct_cm", "context", "uniform_rans", "rle", "csc", "huffman", "slots")))
def test_no_stripe_passes_its_worst_case(data: st.DataObject, codec: str) -> None:
    x = data.draw(arrays(taken(codec), shapes(2000, empty=False, least_rank=1)))
    sample = x if data.draw(st.booleans()) else data.draw(arrays([x.dtype], x.shape))
    chosen = data.draw(options(codec)) | {"dct_cm": {"profile": "extended"}, "context": {"backend": "fast"}}.get(codec, {})
    try:
        made = registry.build(codec, chosen).fit([sample])
    except InputError:  # context: a step of floats near the largest
        assume(False)
    rows = chw(x.shape)[1]
    for number, nbytes in enumerate(Reader(made.encode_payload(x)).lengths.tolist()):
        assert nbytes <= worst(made, x, min(8, rows - 8 * number))


@holds(100, st.data(), st.sampled_from(EVERY), SITES, st.integers(0, 2**32 - 1))
def test_a_frame_adds_12_bytes_or_24(data: st.DataObject, codec: str, site: int, plan: int) -> None:
    x, made, payload = written(data, codec)
    frame = write_frame(payload, site, plan)
    assert len(frame) == frame_nbytes(len(payload), site) == len(payload) + (12 if site < 255 else 24)
    assert bytes(made.encode_frame(x, site, plan)) == frame
    found = read_frame(frame + b"more")
    assert (found.site, found.plan_id, bytes(found.payload), found.nbytes) == (site, plan, payload, len(frame))


@pytest.mark.parametrize("size", [4_194_302, 4_194_303])
def test_a_frame_is_wide_where_its_length_does_not_fit(size: int) -> None:
    codec = registry.build("raw")
    x = np.zeros(size - index((size,)), np.uint8)
    payload = codec.encode_payload(x)
    assert len(payload) == size
    assert len(write_frame(payload, 0, 0)) == frame_nbytes(size, 0) == size + (12 if size < 4_194_303 else 24)


@holds(40, st.dictionaries(NAMES, st.binary(max_size=300), max_size=5), st.dictionaries(NAMES, st.integers() | NAMES | st.none(), max_size=4))
def test_a_container_adds_what_its_table_takes(sections: dict[str, bytes], header: dict[str, Any]) -> None:
    data = Container(PLAN, header, sections).to_bytes()
    assert len(data) == container(text(header), {k: len(v) for k, v in sections.items()})
    found = Container.from_bytes(data, PLAN)
    assert dict(found.header) == header and {k: bytes(v) for k, v in found.sections.items()} == sections
    assert sum(found.breakdown().values()) == len(data)


@holds(40, st.data(), st.lists(st.sampled_from(EVERY), min_size=1, max_size=4))
def test_a_plan_and_a_bundle_add_what_their_tables_take(data: st.DataObject, codecs: list[str]) -> None:
    made = [written(data, codec) for codec in codecs]
    entries = tuple(Entry(Site(f"layer{i}", i), codec, x.shape) for i, (x, codec, _) in enumerate(made))
    plan = Plan("features", "0" * 64, entries, {"note": data.draw(NAMES)})
    rows = [
        {"site": {"path": f"layer{i}", "call": i, "what": "activation", "view": "chw", "reads": 1}, "shape": list(x.shape), "codec": c.id, "params": c.params}
        for i, (x, c, _) in enumerate(made)
    ]
    header = text({"family": "features", "model": "0" * 64, "entries": rows, "meta": dict(plan.meta)})
    assert len(plan.to_bytes()) == container(header, {f"{i}/{k}": len(v) for i, (_, c, _) in enumerate(made) for k, v in c.state.items()})
    again = Plan.from_bytes(plan.to_bytes())
    assert again.to_bytes() == plan.to_bytes() and again.id == int(plan.digest[:8], 16)
    order = data.draw(st.permutations([*range(len(made)), *range(len(made))]))
    frames = [write_frame(made[i][2], i, plan.id) for i in order]
    bundle = write_bundle(plan, frames)
    assert len(bundle) == container(text({"plan": plan.digest, "frames": len(frames)}), {"frames": sum(map(len, frames))})
    for (site, array), i in zip(read_bundle(bundle, again), order, strict=True):
        assert site == i and array.tobytes() == made[i][1].decode_payload(made[i][2]).tobytes()
