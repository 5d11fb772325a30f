"""Byte planes bring back every bit of every type, and take few bytes where few would do."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tensorpress.blocks import repeats
from tensorpress.blocks.float_planes import CHUNK, FloatPlanes
from tensorpress.blocks.plane_words import Layout, words_of
from tensorpress.blocks.repeats import LEAST, WIDTHS, repeats_of
from tensorpress.coding.cost import LARGEST, POINT, entropy_nbytes, logarithms
from tensorpress.coding.lanes import LaneTables
from tensorpress.core import registry
from tensorpress.core.binary import varint
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import DTYPES, MAX_RANK, Reader, Writer

SPECIAL = {  # bits that arithmetic on floats would change or confuse
    2: [0x0000, 0x8000, 0x0001, 0x8001, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFFFF, 0x3C00],
    4: [0, 0x80000000, 1, 0x80000001, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC12345, 0xFFFFFFFF, 0x3F800000],
    8: [0, 1 << 63, 1, (1 << 63) + 1, 0x7FF << 52, 0xFFF << 52, (0x7FF << 52) + 1, (1 << 64) - 1, 0x3FF << 52, 0x3FE << 52],
}


def bits(x: np.ndarray) -> bytes:
    return np.ascontiguousarray(x).tobytes()


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 0.05 * rng.uniform(0.5, 2, (shape[0], *[1] * (len(shape) - 1)))).astype(np.float32)


def there_and_back(x: np.ndarray, layout: str = "type") -> int:
    """Bytes of the payload; both twins write and read the same."""
    codec = registry.build("float_planes", {"layout": layout})
    payload = codec.encode_payload(x)
    for fused in (True, False):
        assert bytes(codec.encode_payload(x, fused=fused)) == bytes(payload)
        found = codec.decode_payload(payload, fused=fused)
        assert found.dtype == x.dtype and found.shape == x.shape and bits(found) == bits(x)
    return len(payload)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["type", "bfloat16"])
def test_any_bits_come_back(dtype, layout):
    rng = np.random.default_rng(1)
    for shape in ((), (1,), (16,), (70, 5), (3, 21, 7), (2, 3, 17, 3), (0, 3)):
        noise = rng.integers(0, 2 if dtype.kind == "b" else 256, (*shape, dtype.itemsize), np.uint8).view(dtype).reshape(shape)
        there_and_back(noise, layout)
        there_and_back(np.where(rng.random(shape) < 0.7, np.zeros_like(noise), noise), layout)


@pytest.mark.parametrize("itemsize", SPECIAL)
def test_special_floats_come_back(itemsize):
    rng = np.random.default_rng(2)
    special = np.array(SPECIAL[itemsize], f"u{itemsize}")
    for words in (special, np.resize(special, 5000), rng.choice(special, 5000), rng.choice(special[:2], 5000), rng.choice(special, 5000, p=[0.5, 0.4, *[0.0125] * 8])):
        there_and_back(words.view(f"f{itemsize}"))
        if itemsize == 2:
            there_and_back(words, "bfloat16")


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.kind != "b"], ids=str)
def test_layouts_are_inverse_on_every_word(dtype):
    words = np.arange(1 << 16, dtype=np.uint64) * np.uint64(0x0001000100010001 if dtype.itemsize > 2 else 1)
    words = words.astype(f"u{dtype.itemsize}")
    for bfloat16 in (False, True):
        layout, before = Layout(dtype, bfloat16), words.copy()
        parted = layout.parted(words)
        assert np.array_equal(words, before) and np.unique(parted).size == np.unique(words).size
        assert np.array_equal(layout.joined(parted), words)


def test_values_of_a_narrower_type_take_what_they_would_in_it():
    x = weights((64, 32, 3, 3))
    half = x.astype(np.float16)
    brain = (x.view(np.uint32) >> 16).astype(np.uint16)
    for wide, narrow, layout in ((half.astype(np.float32), half, "type"), ((brain.astype(np.uint32) << 16).view(np.float32), brain, "bfloat16")):
        assert there_and_back(wide) < 1.03 * there_and_back(narrow, layout)
    assert there_and_back(x.astype(np.float64)) < 1.03 * there_and_back(x)
    assert there_and_back(x) < 0.86 * x.nbytes and there_and_back(half) < 0.89 * half.nbytes and there_and_back(brain, "bfloat16") < 0.7 * brain.nbytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_holds_nothing_takes_nothing(dtype):
    for value in (0, 1):
        assert there_and_back(np.full((300, 300), value, dtype)) < 60
    if dtype.kind in "iu" and dtype.itemsize > 1:
        assert there_and_back(np.arange(4096).astype(dtype)) < 100


def test_zeros_of_either_sign_stand_in_one_plane():
    rng = np.random.default_rng(3)
    x = weights((200, 500))
    kept = rng.random(x.shape) < 0.1
    dense = there_and_back(x[kept])
    one, both = np.where(kept, x, 0).astype(np.float32), x * kept
    assert np.signbit(both[~kept]).any() and not np.signbit(one[~kept]).any()
    assert there_and_back(one) < dense + 0.5 * x.size / 8  # the entropy of where they stand is 0.469 bits a value
    assert there_and_back(both) < dense + 1.4 * x.size / 8  # and of their signs 0.9


def test_small_tensors_grow_by_a_byte_at_most():
    for dtype in DTYPES:
        for count in (1, 2, 16, 64, 300):
            noise = np.random.default_rng(count).integers(0, 2 if dtype.kind == "b" else 256, count * dtype.itemsize, np.uint8).view(dtype)
            out = Writer(dtype, noise.shape)
            FloatPlanes(False).encode(noise, out)
            assert len(Reader(out.finish()).stripe()) <= noise.nbytes + 1


def test_a_chunk_that_is_unlike_the_others_has_its_own_table():
    rng = np.random.default_rng(4)
    parts = [rng.integers(0, 4, CHUNK), rng.integers(100, 104, CHUNK), np.full(CHUNK, 7), rng.integers(0, 256, CHUNK)]
    together = there_and_back(np.concatenate(parts).astype(np.uint8))
    assert together < 2 * (CHUNK // 4 + 200) + CHUNK + 200
    assert there_and_back(np.concatenate([parts[0], parts[0]]).astype(np.uint8)) < CHUNK // 2 + 400


@pytest.mark.parametrize(("width", "dtype"), [(9, "f4"), (8, "f2"), (64, "i8"), (4, "u2"), (25, "f8")])
def test_vectors_that_repeat_stand_once(width, dtype):
    rng = np.random.default_rng(width)
    assert width in WIDTHS
    book = rng.integers(1, 256, (300, width, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
    x = np.concatenate([book[rng.integers(0, 300, LEAST // width + 400)].reshape(-1), book[0, : width // 2]])
    assert there_and_back(x) < book.nbytes + 1.1 * LEAST / width * 9.3 / 8 + 1200
    there_and_back(np.concatenate([x, rng.integers(0, 256, x.nbytes, np.uint8).view(dtype)]))


def test_two_vectors_of_one_key_are_not_taken_for_one(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 8)).astype(np.float32)[rng.integers(0, 300, LEAST // 8)].reshape(-1)
    assert repeats_of(words_of(x)) is not None
    monkeypatch.setattr(repeats, "_keys", lambda rows: rows[:, 0].astype(np.uint64) % np.uint64(50))
    assert repeats_of(words_of(x)) is None
    there_and_back(x)


def test_hostile_repeats_are_named():
    x = np.resize(weights((50, 9)).reshape(-1), LEAST)
    stripe = stripe_of(registry.build("float_planes").encode_payload(x))
    assert stripe[0] == 3
    rng = np.random.default_rng(2)
    for at in range(0, min(len(stripe), 300), 5):
        damaged = bytearray(stripe)
        damaged[at] = rng.integers(256)
        found = decoded(bytes(damaged), "f4", x.size)
        assert (not found[0]) == (not found[1])
    for end in range(0, len(stripe), 31):
        assert all(decoded(stripe[:end], "f4", x.size))
    inner = bytes([3, 1, 1]) + varint(len(stripe)) + stripe + stripe
    assert all("mode 3" in said or "vectors" in said for said in decoded(inner, "f4", x.size))


def test_options_and_state_are_checked():
    with pytest.raises(InputError, match="layout"):
        registry.build("float_planes", {"layout": "float8"})
    with pytest.raises(InputError, match="state"):
        registry.build("float_planes", {}, {"tables": b""})
    assert MAX_RANK >= 5


def stripe_of(payload: bytes) -> bytes:
    return bytes(Reader(payload).stripe())


def decoded(stripe: bytes, dtype: str, count: int) -> list[str]:
    """What both twins say of a stripe behind right checks."""
    out = Writer(np.dtype(dtype), (count,))
    out.stripe(stripe)
    payload, found = out.finish(), []
    for fused in (True, False):
        try:
            registry.build("float_planes").decode_payload(payload, fused=fused)
            found.append("")
        except StreamError as error:
            found.append(str(error))
    return found


TABLE = LaneTables.from_counts([1, 1] + [0] * 254, 12).to_bytes()


@pytest.mark.parametrize(
    ("stripe", "said"),
    [
        (b"", "it has no mode"),
        (b"\x04", "mode 4 of"),
        (b"\x02", "mode 2 of float16"),
        (b"\x00abc", "3 bytes of values, not 8"),
        (b"\x00abcdefghi", "9 bytes of values, not 8"),
        (b"\x01\x03", "plane 0 is of kind 3"),
        (b"\x01\x01", "value of plane 0 ends"),
        (b"\x01\x01\x00\x01\x00\x02", "chunk 0 has flags 2"),
        (b"\x01\x01\x00\x01\x00\x01\x00", "zeros of chunk 0 ends"),
        (b"\x01\x00\x01\x00\x00abc", "plane 0 of chunk 0 ends at byte 9 of 8"),
        (b"\x01\x02\x05\x0c\x00\x00\x00\x00", "table"),
        (b"\x01\x02" + bytes([len(TABLE)]) + TABLE + b"\x01\x00\x00\x04", "plane 0 of chunk 0 is of kind 4"),
        (b"\x01\x02" + bytes([len(TABLE)]) + TABLE + b"\x01\x00\x00\x02\x03ab", "plane 0 of chunk 0 ends at"),
        (b"\x01\x02" + bytes([len(TABLE)]) + TABLE + b"\x01\x00\x00\x02\x02ab", "plane 0 of chunk 0: "),
        (b"\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "table of plane 0"),
    ],
)
def test_hostile_stripes_are_named(stripe, said):
    for found in decoded(stripe, "f2", 4):
        assert said in found and "stripe 0" in found


def test_every_cut_of_a_stripe_is_refused():
    x = weights((30, 20)) * (np.random.default_rng(5).random((30, 20)) < 0.5)
    stripe = stripe_of(registry.build("float_planes").encode_payload(x.reshape(-1)))
    assert stripe[0] == 1
    for end in range(len(stripe)):
        assert all(decoded(stripe[:end], "f4", x.size))
    assert all(decoded(stripe + b"\0", "f4", x.size))


def test_a_constant_plane_cannot_ask_for_more_than_the_limit():
    out = Writer(np.dtype("f4"), (1 << 28,))
    out.stripe(struct.pack("9B", 1, *[1, 0] * 4) + bytes((1 << 28) // CHUNK))
    with pytest.raises(StreamError, match="over the limit"):
        registry.build("float_planes").decode_payload(out.finish(), max_nbytes=1 << 24)


def test_logarithms_are_those_of_floats():
    found = logarithms()
    n = np.arange(1, LARGEST + 1)
    assert found.dtype == np.int64 and np.abs(found[1:] / (1 << POINT) - np.log2(n)).max() < 2.0**-14
    assert entropy_nbytes(np.full((1, 256), 256)) == 65536 and entropy_nbytes(np.array([[65536, 0]])) == 0
