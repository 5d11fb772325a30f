"""Tables: exact normalisation, a compact form, and nothing but whole rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.tables import Tables
from tensorpress.core.errors import InputError, StreamError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.integers(10, 16))
def test_counts_become_frequencies(counts: list[int], bits: int) -> None:
    tables = Tables.from_counts(counts, bits)
    assert tables.frequencies.min() >= 1 and tables.frequencies.sum() == 1 << bits
    again = Tables.from_bytes(tables.to_bytes())
    assert again.bits == bits and np.array_equal(again.cdf, tables.cdf)


def test_normalisation_is_near_the_entropy() -> None:
    counts = (1e6 * 0.8 ** np.arange(40)).astype(np.int64)
    p = counts / counts.sum()
    cost = -(p * np.log2(Tables.from_counts(counts).frequencies[0] / 4096)).sum()
    assert cost < -(p * np.log2(p)).sum() + 0.006


def test_normalisation_is_pinned() -> None:
    # a change here changes every stream that was ever fitted
    assert Tables.from_counts([5, 0, 1000, 3, 3], 10).frequencies.tolist() == [[5, 1, 1012, 3, 3]]
    assert Tables.from_counts([0, 0, 0], 10).frequencies.tolist() == [[342, 341, 341]]


def test_density() -> None:
    from_masses = Tables.from_density([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    assert from_masses.frequencies.tolist() == [[1024, 2048, 1024], [4094, 1, 1]]
    from_cdf = Tables.from_density(lambda edge: np.clip(edge, 0, 1), [0, 0.25, 0.75, 1])
    assert from_cdf.frequencies.tolist() == [[1024, 2048, 1024]]


@pytest.mark.parametrize("counts", [[-1, 2], [0.5, 1.0], np.ones(1025, int), np.zeros((1, 0), int)])
def test_counts_that_make_no_table(counts: object) -> None:
    with pytest.raises(InputError):
        Tables.from_counts(counts, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("cdf", [[[0, 5, 5, 1024]], [[1, 5, 1024]], [[0, 5, 1023]], [[0]], [[0, 7, 3, 1024]]])
def test_cdf_that_is_none(cdf: list[list[int]]) -> None:
    with pytest.raises(InputError):
        Tables(np.array(cdf, np.uint32), 10)


@pytest.mark.parametrize("tables", [Tables.from_counts([[9, 0, 0, 0, 4], [1, 2, 3, 4, 5]]), HuffmanTables.from_counts([9, 0, 0, 4, 1])])
def test_damaged_bytes_give_an_error_or_whole_tables(tables: Tables | HuffmanTables) -> None:
    data = tables.to_bytes()
    for end in range(len(data)):
        with pytest.raises(StreamError):
            type(tables).from_bytes(data[:end])
    with pytest.raises(StreamError):
        type(tables).from_bytes(data + b"\0")
    refused = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert type(tables).from_bytes(bytes(damaged)).to_bytes() == damaged
        except StreamError:
            refused += 1
    assert refused > 4 * len(data)


def test_hostile_sizes_allocate_nothing() -> None:
    for data in (b"\x10\xff\xff\xff\x7f\x01", b"\x0c\xff\xff\x7f\x00\x00", b"\x0c\x01\xff\xff\xff\xff\x7f"):
        with pytest.raises(StreamError):
            Tables.from_bytes(data)
    with pytest.raises(StreamError):
        HuffmanTables.from_bytes(b"\xff\xff\xff\x7f\xff\xff\xff\x7f\x00")


def test_lengths_are_best_and_limited() -> None:
    counts = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55]  # Fibonacci: the deepest tree
    assert HuffmanTables.from_counts(counts).lengths.tolist() == [[9, 9, 8, 7, 6, 5, 4, 3, 2, 1]]
    deep = [1, 1]
    while len(deep) < 40:
        deep.append(deep[-1] + deep[-2])
    lengths = HuffmanTables.from_counts(deep).lengths[0].astype(int)
    assert lengths.max() == 15 and (2.0**-lengths).sum() == 1 and (np.diff(lengths) <= 0).all()
    assert HuffmanTables.from_counts([7]).lengths.tolist() == [[0]]
    with pytest.raises(InputError):
        HuffmanTables(np.array([[1, 2, 2, 2]], np.uint8))
