"""Limits to the byte: what is just allowed opens, and one more is refused, before anything is allocated for it."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc

import numpy as np
import pytest

from tensorpress.core import registry
from tensorpress.core.binary import MAX_NUMBER_LENGTH, canonical_json, crc32c, parse_json, varint
from tensorpress.core.container import BUNDLE, MAX_HEADER_NBYTES, MAX_SECTIONS, PLAN, STREAM, VERSION, Container, section_seed
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import MAX_RANK, MAX_STRIPE_NBYTES, MAX_VALUES, Reader, Writer, stripe_count
from tensorpress.core.stream import Stream, read_frame, write_frame
from tensorpress.facade import decode
from tensorpress.planning.plan import MAX_ENTRIES, Plan, read_within

SITE = {"path": "a", "call": 0, "what": "relu", "view": "chw", "reads": 1}
RAW = {"site": SITE, "shape": [2, 3, 4], "codec": "raw", "params": {"scale": 1.0, "reciprocal": 1.0}}


def head(code: int, dims: tuple[int, ...]) -> bytes:
    return bytes([code, len(dims)]) + b"".join(varint(n) for n in dims)


def sealed(kind: bytes, header: bytes, sections: list[tuple[bytes, bytes]], count: int | None = None, size: int | None = None) -> bytes:
    """A container with right checks, whatever stands in it."""
    front = kind + bytes([VERSION]) + varint(len(header) if size is None else size) + header + varint(len(sections) if count is None else count)
    front += b"".join(varint(len(name)) + name + varint(len(data)) for name, data in sections)
    check = crc32c(front)
    return front + struct.pack("<I", check) + b"".join(d + struct.pack("<I", crc32c(d, section_seed(check, i))) for i, (_, d) in enumerate(sections))


def plan(entries: object, sections: list[tuple[bytes, bytes]] | None = None, **more: object) -> bytes:
    header = {"family": "features", "model": "", "entries": entries, "meta": {}, **more}
    return sealed(PLAN, json.dumps(header, sort_keys=True, separators=(",", ":")).encode(), sections or [])


def stripes(shape: tuple[int, ...], dtype: type, size: int = 0) -> bytes:
    out = Writer(np.dtype(dtype), shape)
    for _ in range(stripe_count(shape)):
        out.stripe(bytes(size))
    return out.finish()


# --- payloads and frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "width"), [(np.uint8, 4), (np.float16, 4), (np.float32, 4), (np.float64, 8), (np.uint64, 8), (np.bool_, 4)])
def test_the_limit_of_a_payload_is_its_values_times_their_width_or_four(dtype, width):
    data = stripes((3, 17, 5), dtype)
    needed = 3 * 17 * 5 * width
    assert Reader(data, max_nbytes=needed).shape == (3, 17, 5)
    assert read_frame(write_frame(data, 1, 2), max_nbytes=needed).site == 1
    for read in (lambda limit: Reader(data, max_nbytes=limit), lambda limit: read_frame(write_frame(data, 1, 2), max_nbytes=limit)):
        with pytest.raises(StreamError, match=f"needs {needed} bytes, over the limit of {needed - 1}"):
            read(needed - 1)


def test_the_default_limit_is_a_gibibyte():
    at_it = (1, 8, 1 << 25)  # 2^28 values of four bytes
    assert Reader(stripes(at_it, np.float32)).shape == at_it
    with pytest.raises(StreamError, match="over the limit of 1073741824"):
        Reader(stripes((1, 8, (1 << 25) + 1), np.float32))


def test_dimensions_and_values():
    assert Reader(head(3, (1,) * MAX_RANK) + struct.pack("<II", 0, 0)).shape == (1,) * 8
    with pytest.raises(StreamError, match="9 dimensions"):
        Reader(head(3, (1,) * 9))
    at_it = head(3, (1 << 20, 1, 1 << 20)) + struct.pack("<II", 0, 0)
    assert math.prod(Reader(at_it, max_nbytes=4 * MAX_VALUES).shape) == MAX_VALUES
    for dims in [((1 << 40) + 1,), (1 << 20, 1, (1 << 20) + 1), (1 << 62, 0, 3), (0, 1 << 40, 2)]:
        with pytest.raises(StreamError, match=r"more than 2\^40 values"):
            Reader(head(3, dims) + struct.pack("<II", 0, 0), max_nbytes=1 << 62)
    empty = Reader(head(3, (1 << 40, 0, 1)))
    assert empty.shape == (1 << 40, 0, 1) and empty.stripes == 0


@pytest.mark.parametrize("dims", [(1, 1 << 40, 1), (0, 0, 1 << 20, 0), (1, 1 << 30, 1 << 3)])
def test_a_stripe_table_that_is_not_there_is_not_read(dims):
    with pytest.raises(StreamError, match=r"stripe table ends|stripes end"):
        Reader(head(3, dims) + b"\0" * 40, max_nbytes=1 << 62)


def test_stripes_of_four_gibibytes():
    longest = head(3, (1, 8, 1)) + struct.pack("<II", MAX_STRIPE_NBYTES, 0)
    assert Reader(longest, nbytes=len(longest) + MAX_STRIPE_NBYTES).lengths.tolist() == [MAX_STRIPE_NBYTES]
    with pytest.raises(StreamError, match="stripes end at"):
        Reader(longest)

    class Long(bytes):
        def __len__(self) -> int:
            return MAX_STRIPE_NBYTES + 1

    with pytest.raises(InputError, match="4 GiB"):
        Writer(np.dtype(np.uint8), (1,)).stripe(Long())


@pytest.mark.parametrize("declared", [0, 1, 11, 12, 30, 1 << 22, 1 << 62, (1 << 64) - 1])
def test_a_frame_of_any_declared_length(declared):
    good = write_frame(stripes((2, 3), np.uint8, 4), 300, 7)
    with pytest.raises(StreamError):
        read_frame(good[:8] + struct.pack("<Q", declared) + good[16:])


# --- containers ------------------------------------------------------------------------------------------------------


def named(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"%d" % i, b"") for i in range(count)]


def test_sections():
    assert len(Container.from_bytes(sealed(STREAM, b"{}", named(MAX_SECTIONS)), STREAM).sections) == MAX_SECTIONS
    with pytest.raises(StreamError, match="65537 sections"):
        Container.from_bytes(sealed(STREAM, b"{}", named(MAX_SECTIONS + 1)), STREAM)
    with pytest.raises(InputError, match="65537 sections"):
        Container(STREAM, {}, {str(i): b"" for i in range(MAX_SECTIONS + 1)}).to_bytes()
    for count in (3, 1 << 16, 1 << 62):
        with pytest.raises(StreamError):
            Container.from_bytes(sealed(STREAM, b"{}", named(2), count), STREAM)
    long = b"n" * 100_000
    assert list(Container.from_bytes(sealed(STREAM, b"{}", [(long, b"x"), (b"", b"")]), STREAM).sections) == [long.decode(), ""]


@pytest.mark.parametrize("kind", [STREAM, PLAN, BUNDLE])
def test_headers(kind):
    most = MAX_HEADER_NBYTES[kind]
    longest = b'{"a":"' + b"x" * (most - 8) + b'"}'
    assert Container.from_bytes(sealed(kind, longest, []), kind).header["a"][-1] == "x"
    assert Container(kind, json.loads(longest), {}).to_bytes() == sealed(kind, longest, [])
    longer = longest.replace(b"x", b"xx", 1)
    with pytest.raises(StreamError, match=f"at most {most}"):
        Container.from_bytes(sealed(kind, longer, []), kind)
    with pytest.raises(InputError, match="over what the format allows"):
        Container(kind, json.loads(longer), {}).to_bytes()
    for size in (most, most + 1, 1 << 62):  # declared, not there
        with pytest.raises(StreamError):
            Container.from_bytes(sealed(kind, b"{}", [], size=size), kind)


def test_a_container_of_just_the_limit():
    data = sealed(STREAM, b"{}", [(b"s", b"12345")])
    assert Container.from_bytes(data, STREAM, max_nbytes=len(data)).sections
    with pytest.raises(StreamError, match=f"over the limit of {len(data) - 1}"):
        Container.from_bytes(data, STREAM, max_nbytes=len(data) - 1)


HOSTILE_JSON = {
    "cut": b'{"a":',
    "twice": b'{"a":1,"a":2}',
    "unsorted": b'{"b":1,"a":2}',
    "spaces": b'{"a": 1}',
    "escaped": b'{"\\u0061":1}',
    "not UTF-8": b'{"a":"\xff"}',
    "a lone surrogate": b'{"a":"\\ud800"}',
    "infinity": b'{"a":1e400}',
    "named infinity": b'{"a":Infinity}',
    "no number": b'{"a":NaN}',
    "minus nothing": b'{"a":-0}',
    "another float": b'{"a":1.50}',
    "many digits": b'{"a":' + b"7" * 10_000 + b"}",
    "a giant": b'{"a":' + b"9" * 900_000 + b"}",
    "many decimals": b'{"a":0.' + b"3" * 900_000 + b"}",
    "many noughts": b'{"a":1e' + b"0" * 500 + b"1}",
    "deep lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "no object": b"[1,2]",
    "nothing": b"",
    "more": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_headers_that_no_encoder_writes(name):
    with pytest.raises(StreamError):
        Container.from_bytes(sealed(STREAM, HOSTILE_JSON[name], []), STREAM)


def test_numbers_of_the_longest_form():
    longest = b"9" * MAX_NUMBER_LENGTH
    assert parse_json(b"[" + longest + b"]", "x") == [int(longest)]
    with pytest.raises(StreamError, match="65 characters"):
        parse_json(b"[9" + longest + b"]", "x")
    for value in (0.1, 1e-320, 1.7976931348623157e308, -0.0, 1e16, 2.0**-1074):
        assert parse_json(canonical_json(value), "x") == value


@pytest.mark.parametrize("header", [{"a": {2: 1, 10: 1}}, {"a": "\ud800"}, {"a": 10**100}])
def test_a_header_that_could_not_be_read_again_is_not_written(header):
    with pytest.raises((InputError, UnicodeEncodeError)):
        Container(STREAM, header, {}).to_bytes()


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_raw_stream_of_just_the_limit_opens_though_it_is_longer():
    x = np.arange(1000, dtype=np.uint64).reshape(10, 10, 10)
    data = registry.build("raw", {"scale": 1.0, "reciprocal": 1.0}).encode(x).to_bytes()
    assert len(data) > x.nbytes
    assert np.array_equal(decode(data, max_nbytes=x.nbytes), x)
    with pytest.raises(StreamError, match="limit"):
        decode(data, max_nbytes=x.nbytes - 1)


def test_the_state_of_a_stream_is_counted():
    data = Stream("zvc", {}, {"payload": b""}, {"a": bytes(60), "b": bytes(40)}).to_bytes()
    assert len(Stream.from_bytes(data, max_nbytes=100).state["a"]) == 60
    with pytest.raises(StreamError, match="state of 100 bytes is over the limit of 99"):
        Stream.from_bytes(data, max_nbytes=99)


# --- plans -----------------------------------------------------------------------------------------------------------


def test_entries_of_a_plan():
    rows = [{**RAW, "params": {}}] * MAX_ENTRIES
    assert len(Plan.from_bytes(plan(rows)).entries) == MAX_ENTRIES
    with pytest.raises(StreamError, match=f"at most {MAX_ENTRIES}"):
        Plan.from_bytes(plan([*rows, rows[0]]))


def test_a_plan_of_just_the_limit(tmp_path):
    data = plan([RAW])
    (tmp_path / "p.tpp").write_bytes(data)
    assert Plan.load(tmp_path / "p.tpp", max_nbytes=len(data)).entries
    with pytest.raises(StreamError, match=r"p\.tpp: .* over the limit"):
        Plan.load(tmp_path / "p.tpp", max_nbytes=len(data) - 1)


def test_no_more_of_a_file_is_read_than_shows_that_it_is_too_long():
    class Endless:
        taken = 0

        def read(self, size: int) -> bytes:
            self.taken += size
            return bytes(size)

    file = Endless()
    assert len(read_within(file, 1000)) == 1001 == file.taken  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entries",
    [
        {}, "ab", 3, None, [3], [[]], [{}], [{**RAW, "more": 1}], [{**RAW, "site": {}}], [{**RAW, "site": {**SITE, "path": 3}}], [{**RAW, "site": {**SITE, "call": 1.0}}],
        [{**RAW, "site": {**SITE, "x": 1}}], [{**RAW, "shape": "12"}], [{**RAW, "shape": ["a"]}], [{**RAW, "shape": [1.5]}], [{**RAW, "shape": [-1]}],
        [{**RAW, "shape": [True]}], [{**RAW, "codec": 3}], [{**RAW, "codec": "no such"}], [{**RAW, "codec": "../raw"}], [{**RAW, "params": []}], [{**RAW, "params": {"x": 1}}],
        [{**RAW, "reference": 0}], [{**RAW, "reference": -1}], [{**RAW, "reference": "0"}], [{**RAW, "reference": None}], [{k: v for k, v in RAW.items() if k != "shape"}],
    ],
)  # fmt: skip
def test_plans_that_no_encoder_writes(entries):
    with pytest.raises(StreamError, match="plan"):
        Plan.from_bytes(plan(entries))


@pytest.mark.parametrize("more", [{"family": 3}, {"model": None}, {"meta": []}, {"more": 1}])
def test_headers_of_plans_that_no_encoder_writes(more):
    with pytest.raises(StreamError, match="plan header"):
        Plan.from_bytes(plan([RAW], **more))


@pytest.mark.parametrize("name", [b"0/", b"1/x", b"x", b"/x", b"00/x", b"-1/x", b"0", "٠/x".encode()])
def test_sections_of_a_plan_that_belong_to_no_entry(name):
    with pytest.raises(StreamError, match=r"section|entry"):
        Plan.from_bytes(plan([RAW], [(name, b"")]))


def test_sections_are_handed_to_their_entries_once():
    """Each of 60,000 sections is looked at once, not once for each of 4,096 entries."""
    looked = 0

    class Name(str):
        def partition(self, sep: str) -> tuple[str, str, str]:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return super().partition(sep)

        def startswith(self, *args: object) -> bool:
            nonlocal looked
            looked += 1
            return super().startswith(*args)  # type: ignore[arg-type]

    box = Container.from_bytes(plan([{**RAW, "params": {}}] * MAX_ENTRIES), PLAN)
    many = Container(PLAN, box.header, {Name(f"{i % MAX_ENTRIES}/s{i}"): b"" for i in range(60_000)})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Container, "from_bytes", classmethod(lambda cls, data, kind, **_: many))
        found = Plan.from_bytes(b"")
    assert looked == 60_000 and len(found.entries) == MAX_ENTRIES


def test_a_plan_keeps_the_digest_of_its_file():
    """What this version would write for the same plan may differ: here, parameters that have since got a default."""
    import hashlib

    data = plan([{**RAW, "params": {"scale": 1.0, "reciprocal": 1.0}}])
    found = Plan.from_bytes(data)
    assert found.to_bytes() == data and found.digest == hashlib.sha256(data).hexdigest()


# --- what is allocated -----------------------------------------------------------------------------------------------


def peak(work: object) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(StreamError):
            work()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dims", [(1 << 28,), (1, 1, 1 << 40), (1, 1 << 40, 1), (1 << 20, 1 << 20, 1), (1 << 40, 1, 1)])
def test_a_declared_giant_takes_nothing(dims):
    data = registry.build("raw", {"scale": 1.0, "reciprocal": 1.0}).encode(np.zeros(1, np.uint8))
    hostile = Stream(data.codec, data.params, {"payload": head(3, dims) + struct.pack("<II", 0, 0)}).to_bytes()
    assert len(hostile) < 300 and peak(lambda: decode(hostile, max_nbytes=(1 << 30) - 1)) < 1 << 20


def test_a_row_of_tables_does_not_stand_for_more():
    from tensorpress.coding.tables import Tables

    row = varint(0) + varint(65_534) + varint(0) + varint(0)
    data = bytes([16]) + varint(255) + varint(65_536) + row * 255  # 2,000 bytes for 2^24 frequencies
    assert peak(lambda: Tables.from_bytes(data, max_rows=1)) < 1 << 20


def test_a_model_is_unpacked_to_its_limit_only():
    import zlib

    from tensorpress.blocks.context_model import MAX_MODEL_NBYTES, ContextModel

    bomb = zlib.compress(bytes(1 << 27), 9)

    def work() -> None:
        try:
            ContextModel.from_bytes(bomb)
        except InputError as error:
            raise StreamError(str(error)) from None

    assert peak(work) < 2.5 * MAX_MODEL_NBYTES


# --- what else takes a limit -----------------------------------------------------------------------------------------


def test_one_cell_of_a_declared_giant_is_refused_before_its_cells_are_counted():
    from tests.conftest import feature_map

    codec = registry.build("context", {"backend": "fast"}).fit([feature_map((3, 16, 16))])
    payload = codec.encode_payload(feature_map((3, 20, 9)))
    needed = 4 * 3 * 20 * 9
    last = codec.stage.decode_cell(payload, 5, max_nbytes=needed)  # type: ignore[attr-defined]
    assert last[0].rows == slice(16, 20) and np.array_equal(last[1], codec.decode_payload(payload)[:, 16:20, 8:9])
    with pytest.raises(InputError, match="cell 6 does not exist: the payload has 6"):
        codec.stage.decode_cell(payload, 6)  # type: ignore[attr-defined]
    with pytest.raises(StreamError, match="limit"):
        codec.stage.decode_cell(payload, 0, max_nbytes=needed - 1)  # type: ignore[attr-defined]
    giant = head(3, (3, 1 << 22, 1 << 7)) + bytes(8 << 19)
    assert peak(lambda: codec.stage.decode_cell(giant, 0)) < 1 << 20  # type: ignore[attr-defined]


def test_chunks_of_zarr_are_limited_by_the_reader_not_by_their_metadata():
    pytest.importorskip("numcodecs")
    from tensorpress.numcodec import TensorPress

    x = np.ones((2, 3, 4), np.float32)
    for compressor in (TensorPress("raw"), TensorPress.of(registry.build("raw").fit([x]))):
        chunk = compressor.encode(x)
        assert "max_nbytes" not in compressor.get_config()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(TensorPress, "max_nbytes", x.nbytes)
            assert compressor.decode(chunk).shape == x.shape
            patched.setattr(TensorPress, "max_nbytes", x.nbytes - 1)
            with pytest.raises(StreamError, match="limit"):
                compressor.decode(chunk)


def test_no_plugin_of_blosc2_is_looked_for():
    blosc2 = pytest.importorskip("blosc2")
    from tensorpress.core.payload import Reader as Payload

    codec = registry.build("blosc2", {"scale": 1.0, "reciprocal": 1.0})
    x = (np.arange(4096, dtype=np.uint8) % 7).reshape(4, 8, 128)
    chunk = bytearray(Payload(codec.encode_payload(x)).stripe())
    for at, value in ((2, chunk[2] | 0xE0), (2, chunk[2] & 0x1F | 3 << 5), (16, 35), (21, 200)):
        out = Writer(x.dtype, x.shape)
        out.stripe(bytes(chunk[:at]) + bytes([value]) + bytes(chunk[at + 1 :]))
        with pytest.MonkeyPatch.context() as patched, pytest.raises(StreamError, match="another compressor or filter"):
            patched.setattr(blosc2, "decompress2", None)  # the library is not asked
            codec.decode_payload(out.finish())
