"""The packers of words and their slow twins: equal bytes, equal refusals, examples worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tensorpress import _native
from tensorpress.coding import word_reference as twin
from tensorpress.core.errors import StreamError

FINE = -1
SHAPES = [(1, 1, 1), (1, 1, 13), (3, 8, 5), (2, 1, 700), (40, 8, 11), (33, 7, 16), (70, 1, 1), (17, 8, 17)]
Words = np.ndarray


def words_of(shape: tuple[int, ...], density: float, top: int = 255, seed: int = 0) -> Words:
    rng = np.random.default_rng(seed)
    return (rng.integers(1, top + 1, shape) * (rng.random(shape) < density)).astype(np.uint8)


def cells_of(words: Words, channels: int, columns: int) -> list[Words]:
    """Views of a stripe's cells, channel blocks outermost."""
    return [
        words[c : c + channels, :, x : x + columns]
        for c in range(0, words.shape[0], channels)
        for x in range(0, words.shape[2], columns)
    ]


def native_slots(channels: int, columns: int, padded: bool) -> tuple[Callable[[Words], bytes], Callable[[bytes, Words], int]]:
    def encode(words: Words) -> bytes:
        cells = len(cells_of(words, channels, columns))
        out = np.empty(cells * 2112 if padded else words.size + words.size // 32 + 4 * cells, np.uint8)
        return out[: _native.slots_encode(words, channels, columns, padded, out)].tobytes()

    return encode, lambda data, out: _native.slots_decode(np.frombuffer(data, np.uint8), channels, columns, padded, out)


def twin_slots(channels: int, columns: int, padded: bool) -> tuple[Callable[[Words], bytes], Callable[[bytes, Words], None]]:
    def decode(data: bytes, out: Words) -> None:
        cells = cells_of(out, channels, columns)
        for cell, words in zip(cells, twin.slots_decode(data, [cell.size for cell in cells], padded)):
            cell[...] = np.array(words).reshape(cell.shape)

    return lambda words: twin.slots_encode([cell.reshape(-1).tolist() for cell in cells_of(words, channels, columns)], padded), decode


def native_runs_encode(words: Words) -> bytes:
    out = np.empty((13 * words.size + 7) // 8, np.uint8)
    return out[: _native.zero_runs_encode(words.reshape(-1), out)].tobytes()


def native_columns_encode(words: Words) -> bytes:
    out = np.empty(4 * words.shape[0] + 3 * words.size // 2 + 2, np.uint8)
    return out[: _native.columns_encode(words, out)].tobytes()


def twin_runs_decode(data: bytes, out: Words) -> None:
    out[...] = np.array(twin.zero_runs_decode(data, out.size)).reshape(out.shape)


def twin_columns_decode(data: bytes, out: Words) -> None:
    out[...] = np.array(twin.columns_decode(data, out.shape[0], out[0].size)).reshape(out.shape)


PACKERS = {
    "runs": (
        (native_runs_encode, lambda data, out: _native.zero_runs_decode(np.frombuffer(data, np.uint8), out.reshape(-1))),
        (lambda words: twin.zero_runs_encode(words.reshape(-1).tolist()), twin_runs_decode),
    ),
    "columns": (
        (native_columns_encode, lambda data, out: _native.columns_decode(np.frombuffer(data, np.uint8), out)),
        (lambda words: twin.columns_encode(words.reshape(words.shape[0], -1).tolist()), twin_columns_decode),
    ),
    **{
        f"slots-{channels}x{columns}-{'slot' if padded else 'packed'}": (native_slots(channels, columns, padded), twin_slots(channels, columns, padded))
        for channels, columns, padded in [(32, 8, False), (16, 16, False), (32, 8, True)]
    },
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_bytes_both_ways(packer: str, shape: tuple[int, ...]) -> None:
    (encode, decode), (slow_encode, slow_decode) = PACKERS[packer]
    for density, top in [(0, 1), (0.02, 255), (0.3, 3), (0.6, 255), (0.8, 40), (1, 255), (1, 1)]:
        words = words_of(shape, density, top)
        data = encode(words)
        assert data == slow_encode(words)
        found, slow = np.full_like(words, 99), np.full_like(words, 98)
        assert decode(data, found) == FINE
        slow_decode(data, slow)
        assert np.array_equal(found, words) and np.array_equal(slow, words)


@pytest.mark.parametrize("packer", PACKERS)
def test_hostile_bytes_are_refused_by_both_or_mean_the_same(packer: str) -> None:
    (encode, decode), (_, slow_decode) = PACKERS[packer]
    rng = np.random.default_rng(7)
    refused = accepted = 0
    for shape in [(3, 2, 9), (34, 3, 3), (1, 1, 40)]:
        data = encode(words_of(shape, 0.5, 60))
        hostile = [b"", data[:-1], data + b"\0", bytes(len(data)), b"\xff" * len(data), b"\xff" * (len(data) + 40)]
        for _ in range(150):
            flipped = bytearray(data)
            for at in rng.integers(0, len(data), int(rng.integers(1, 3))):
                flipped[min(int(at), int(rng.integers(1, len(data))))] = int(rng.integers(256))
            hostile.append(bytes(flipped))
        for bad in hostile:
            found, slow = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
            if decode(bad, found) == FINE:
                slow_decode(bad, slow)
                assert np.array_equal(found, slow)
                accepted += 1
            else:
                with pytest.raises(StreamError):
                    slow_decode(bad, slow)
                refused += 1
    assert refused > 20 and accepted > 5


def runs_bytes(pairs: Sequence[tuple[int, int]]) -> bytes:
    number = sum((run | word << 5) << 13 * n for n, (run, word) in enumerate(pairs))
    return number.to_bytes(-(-13 * len(pairs) // 8), "little")


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        ([5], [(0, 5)]),
        ([0, 0, 7], [(2, 7)]),
        ([0] * 31 + [9], [(31, 9)]),
        ([0] * 32 + [9], [(31, 0), (0, 9)]),  # the 32nd zero is the word of the first pair
        ([0] * 70, [(31, 0), (31, 0), (5, 0)]),
        ([1, 0, 0], [(0, 1), (1, 0)]),
        ([0] * 64, [(31, 0), (31, 0)]),
    ],
)
def test_zero_runs_by_hand(words: list[int], pairs: list[tuple[int, int]]) -> None:
    assert native_runs_encode(np.array(words, np.uint8)) == runs_bytes(pairs)


def test_zero_runs_are_refused_by_the_pair() -> None:
    out = np.zeros(10, np.uint8)

    def decode(pairs: list[tuple[int, int]], tail: bytes = b"") -> int:
        return int(_native.zero_runs_decode(np.frombuffer(runs_bytes(pairs) + tail, np.uint8), out))

    assert decode([(4, 1), (4, 2)]) == FINE and out.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 2]
    assert decode([(4, 1), (5, 2)]) == 1  # pair 1 leads to the eleventh word
    assert decode([(9, 1), (0, 2)]) == 1
    assert decode([(4, 1)]) == -2  # words are missing
    assert decode([(9, 1)], b"\0") == -2  # eleven bits without a pair


def test_columns_by_hand() -> None:
    """Columns of 18 words: counts of 5 bits; a run of 17 zeros takes an entry of its own."""
    words = np.zeros((3, 1, 18), np.uint8)
    words[0, 0, [0, 3]] = 10, 20
    words[2, 0, 17] = 30
    counts = 2 | 0 << 5 | 2 << 10
    assert native_columns_encode(words) == counts.to_bytes(2, "little") + bytes([0 | 2 << 4, 15 | 1 << 4]) + bytes([10, 20, 0, 30])


def test_columns_are_refused_by_the_column() -> None:
    out = np.zeros((2, 1, 3), np.uint8)  # counts of 2 bits
    decode = lambda *data: _native.columns_decode(np.array(data, np.uint8), out)  # noqa: E731
    assert decode(0b0101, 0x20, 7, 8) == FINE and out.tolist() == [[[7, 0, 0]], [[0, 0, 8]]]
    assert decode(0b0101, 0x30, 7, 8) == 1  # three zeros and a word in a column of three
    assert decode(0b0101, 0x03, 7, 8) == 0
    assert decode(0b010101, 0x20, 7, 8) == -2  # padding of the counts
    assert decode(0b0001, 0x10, 7) == -2  # padding of the runs
    assert decode(0b0101, 0x20, 7) == -2 and decode(0b0101, 0x20, 7, 8, 9) == -2


def test_a_cell_by_hand() -> None:
    """Two groups of 16 and one of 4: bitmap, nothing, plain."""
    words = np.zeros((36, 1, 1), np.uint8)
    words[[1, 15], 0, 0] = 4, 200  # 16 + 2 * 8 bits beat 16 * 8
    words[32:, 0, 0] = 3, 1, 2, 3  # 4 * 2 bits: a bitmap could only add to them
    encode, decode = native_slots(256, 1, False)
    codes = bytes([15 | 0 << 4, 2])
    bits = (1 << 1 | 1 << 15 | 3 << 16 | 199 << 24 | (3 | 1 << 2 | 2 << 4 | 3 << 6) << 32).to_bytes(5, "little")
    data = (7).to_bytes(2, "little") + codes + bits
    assert encode(words) == data
    out = np.zeros_like(words)
    assert decode(data, out) == FINE and np.array_equal(out, words)
    assert decode(data.replace(bytes([199]), bytes([255])), out) == 0  # a word of 256


def test_the_worst_cell_fills_its_slot_exactly() -> None:
    words = np.full((32, 8, 8), 255, np.uint8)
    packed, _ = native_slots(32, 8, False)
    padded, _ = native_slots(32, 8, True)
    assert len(padded(words)) == 2112 and len(packed(words)) == 2 + 2112
    assert padded(words) == packed(words)[2:]


def test_a_damaged_cell_is_named() -> None:
    encode, decode = native_slots(32, 8, False)
    words = words_of((64, 8, 16), 0.5)
    data = bytearray(encode(words))
    out = np.zeros_like(words)
    assert decode(bytes(data), out) == FINE
    data[4] ^= 1  # the size of cell 2
    assert decode(bytes(data), out) == 2


def test_kernels_check_their_arrays() -> None:
    words = np.zeros((2, 8, 8), np.uint8)
    small = np.empty(3, np.uint8)
    for call in (
        lambda: _native.zero_runs_encode(words.reshape(-1), small),
        lambda: _native.columns_encode(words, small),
        lambda: _native.slots_encode(words, 32, 8, False, small),
        lambda: _native.slots_encode(words, 64, 8, False, np.empty(10000, np.uint8)),
        lambda: _native.slots_decode(small, 0, 8, False, words),
        lambda: _native.slots_decode(small, 32, 8, False, np.zeros((2, 9, 8), np.uint8)),
        lambda: _native.floats_to_words(np.zeros(4, np.float32), 1.0, 256, np.zeros(256, np.uint8), np.zeros(4, np.uint8)),
        lambda: _native.floats_to_words(np.zeros(4, np.float32), 1.0, 0, np.zeros(256, np.uint8), small),
    ):
        with pytest.raises(ValueError):
            call()


STARTS = ([16 * k for k in range(16)], [0, 1, 2, 4, 8, 16, 32, 64, 128, 129, 130, 131, 132, 133, 134, 135], [0, *range(241, 256)])


@pytest.mark.parametrize("starts", STARTS)
def test_ranges_equal_their_twin(starts: list[int]) -> None:
    ends = np.array([*starts[1:], 256])
    bits = np.array([int(n - 1).bit_length() for n in ends - starts], np.uint8)
    ranges = np.array(starts, np.uint8), bits, np.repeat(np.arange(16), ends - starts).astype(np.uint8)
    rng = np.random.default_rng(5)
    for size in (0, 1, 7, 8, 9, 63, 64, 500):
        words = rng.integers(0, 256, size, np.uint8)
        numbers, out, back = np.empty_like(words), np.empty(size + 8, np.uint8), np.empty_like(words)
        data = out[: _native.ranges_encode(*ranges, words, numbers, out)].copy()
        assert (numbers.tolist(), data.tobytes()) == twin.ranges_encode(words.tolist(), starts)
        assert _native.ranges_decode(*ranges, numbers, data, back) == FINE and np.array_equal(back, words)
        for _ in range(20):
            damaged = data.copy() if rng.random() < 0.7 else rng.integers(0, 256, int(rng.integers(0, size + 2)), np.uint8)
            if damaged.size:
                damaged[rng.integers(damaged.size)] ^= 1 << rng.integers(8)
            try:
                expected = twin.ranges_decode(numbers.tolist(), damaged.tobytes(), starts)
            except StreamError:
                expected = None
            good = _native.ranges_decode(*ranges, numbers, damaged, back) == FINE
            assert (back.tolist() if good else None) == expected
