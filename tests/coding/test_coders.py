"""rANS and Huffman: native and slow twin byte for byte, several puts, several tables, hostile bytes."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tensorpress.coding import huffman, rans, reference
from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.tables import Tables
from tensorpress.core.errors import InputError, StreamError

TWINS = {
    "rans": (rans, reference.rans_encode, reference.rans_decode),
    "huffman": (huffman, reference.huffman_encode, reference.huffman_decode),
}
CODERS = pytest.mark.parametrize("coder", TWINS)


def make_tables(coder: str, counts: Any, bits: int) -> Any:
    return Tables.from_counts(counts, bits) if coder == "rans" else HuffmanTables.from_counts(counts)


def message(rng: np.random.Generator, coder: str, sizes: list[int]) -> list[tuple[np.ndarray, np.ndarray | None, Any]]:
    """Puts of several lengths, types and tables."""
    parts = []
    for number, size in enumerate(sizes):
        symbols = int(rng.choice([1, 2, 5, 200, 256, 900]))
        rows = int(rng.integers(1, 4))
        skewed = (rng.random((rows, symbols)) ** 8 * 10000).astype(np.int64)
        kind = np.uint16 if symbols > 256 or number % 2 else np.uint8
        index = None if number % 3 == 0 else rng.integers(0, rows, size).astype(np.uint8 if number % 3 == 1 else np.uint16)
        parts.append((rng.integers(0, symbols, size).astype(kind), index, make_tables(coder, skewed, int(rng.integers(10, 17)))))
    return parts


def flat(parts: list[tuple[np.ndarray, np.ndarray | None, Any]]) -> list[tuple[int, int, Any]]:
    return [(int(s), 0 if index is None else int(index[i]), tables) for symbols, index, tables in parts for i, s in enumerate(symbols)]


def encode(module: ModuleType, parts: list[tuple[np.ndarray, np.ndarray | None, Any]]) -> bytes:
    encoder = module.Encoder()
    for symbols, index, tables in parts:
        encoder.put(symbols, index, tables)
    return encoder.finish()


def decode(module: ModuleType, data: bytes, parts: list[tuple[np.ndarray, np.ndarray | None, Any]]) -> list[np.ndarray]:
    decoder = module.Decoder(data)
    found = [decoder.take(index, tables, len(symbols), symbols.dtype) for symbols, index, tables in parts]
    decoder.done()
    return found


@CODERS
@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 1, 0, 2], [50, 7, 33, 90], [400]])
def test_native_equals_twin(coder: str, sizes: list[int]) -> None:
    module, twin_encode, twin_decode = TWINS[coder]
    for seed in range(6):
        parts = message(np.random.default_rng(seed), coder, sizes)
        data = encode(module, parts)
        assert data == twin_encode(flat(parts))
        assert twin_decode(data, [model for _, *model in flat(parts)]) == [symbol for symbol, _, _ in flat(parts)]
        for found, (symbols, _, _) in zip(decode(module, data, parts), parts):
            assert found.dtype == symbols.dtype and np.array_equal(found, symbols)


@pytest.mark.parametrize(
    ("coder", "pinned"),
    [
        ("rans", "23c402007793550123c40200d07f1200"),
        ("huffman", "4ce0"),  # 0 10 0 110 0 111 0 0, and three zero bits
    ],
)
def test_bytes_are_pinned(coder: str, pinned: str) -> None:
    symbols = np.array([0, 1, 0, 2, 0, 3, 0, 0], np.uint8)
    assert encode(TWINS[coder][0], [(symbols, None, make_tables(coder, [60, 30, 9, 1], 10))]).hex() == pinned


@CODERS
def test_every_cut_is_noticed(coder: str) -> None:
    module, _, twin_decode = TWINS[coder]
    parts = message(np.random.default_rng(3), coder, [40, 25])
    data = encode(module, parts)
    for end in range(len(data)):
        with pytest.raises(StreamError):
            decode(module, data[:end], parts)
        with pytest.raises(StreamError):
            twin_decode(data[:end], [model for _, *model in flat(parts)])
    with pytest.raises(StreamError):
        decode(module, data + b"\0\0", parts)


@CODERS
def test_hostile_bytes_end_in_symbols_or_an_error(coder: str) -> None:
    module = TWINS[coder][0]
    rng = np.random.default_rng(5)
    parts = message(rng, coder, [30, 200, 31])
    errors = 0
    for _ in range(300):
        data = rng.integers(0, 256, int(rng.integers(0, 400)), np.uint8).tobytes()
        decoder = None
        try:
            decoder = module.Decoder(data)
            for symbols, index, tables in parts:
                found = decoder.take(index, tables, len(symbols), np.uint16)
                assert found.size == 0 or found.max() < tables.symbols
            decoder.done()
        except StreamError:
            errors += 1
    assert errors > 250


def test_padding_bits_must_be_zero() -> None:
    tables = HuffmanTables.from_counts([1, 1])
    data = encode(huffman, [(np.array([1, 0, 1], np.uint8), None, tables)])
    assert data == b"\xa0"
    decoder = huffman.Decoder(b"\xa1")
    decoder.take(None, tables, 3)
    with pytest.raises(StreamError, match="byte 0"):
        decoder.done()


def test_wrong_tables_are_noticed() -> None:
    symbols = np.random.default_rng(0).integers(0, 8, 500).astype(np.uint8)
    data = rans.encode(symbols, Tables.from_counts(np.arange(8) + 1))
    with pytest.raises(StreamError):
        rans.decode(data, Tables.from_counts(np.arange(8)[::-1] + 1), 500)


def test_states_below_the_bound_are_refused() -> None:
    data = bytearray(rans.encode(np.zeros(9, np.uint8), Tables.from_counts([3, 1])))
    data[6] = 0
    with pytest.raises(StreamError, match="lane 1"):
        rans.Decoder(bytes(data))


@CODERS
def test_what_the_encoder_refuses(coder: str) -> None:
    module = TWINS[coder][0]
    tables = make_tables(coder, [[1, 2, 3], [3, 2, 1]], 12)
    for symbols, index in (([0, 3], None), ([0, 1], [0, 2]), ([0, 1], [0])):
        encoder = module.Encoder()
        encoder.put(np.array(symbols, np.uint8), None if index is None else np.array(index, np.uint8), tables)
        with pytest.raises(InputError):
            encoder.finish()
    for bad in (np.zeros(2, np.int64), np.zeros(2, np.float32), np.zeros(2, bool)):
        with pytest.raises(InputError):
            module.Encoder().put(bad, None, tables)
    with pytest.raises(ValueError, match="row"):
        module.Decoder(encode(module, [(np.zeros(4, np.uint8), None, tables)])).take(np.array([0, 9], np.uint8), tables)


@CODERS
def test_strided_and_misaligned_arrays(coder: str) -> None:
    module = TWINS[coder][0]
    tables = make_tables(coder, np.arange(300), 12)
    wide = np.random.default_rng(1).integers(0, 300, (20, 30)).astype(np.uint16)
    odd = np.ndarray(wide.shape, np.uint16, b"\0" + wide.tobytes(), 1)  # begins at an odd byte
    assert encode(module, [(odd, None, tables)]) == encode(module, [(wide, None, tables)])
    assert encode(module, [(wide.T, None, tables)]) == encode(module, [(wide.T.copy(), None, tables)])


def test_size_is_near_the_entropy() -> None:
    rng = np.random.default_rng(2)
    symbols = np.minimum(rng.geometric(0.3, 20000) - 1, 60).astype(np.uint8)
    counts = np.bincount(symbols, minlength=61)
    p = counts[counts > 0] / counts.sum()
    bits = -(p * np.log2(p)).sum() * symbols.size
    assert 8 * len(rans.encode(symbols, Tables.from_counts(counts))) < 1.004 * bits + 8 * 20
    assert bits < 8 * len(encode(huffman, [(symbols, None, HuffmanTables.from_counts(counts))])) < 1.03 * bits
