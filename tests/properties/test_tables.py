"""Frequency tables: what holds for the counts of any source."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import strategies as st

from tensorpress.coding.huffman import LONGEST, HuffmanTables
from tensorpress.coding.lanes import LaneTables
from tensorpress.coding.tables import Tables
from tensorpress.core.errors import StreamError
from tests.properties.cases import holds
from tests.properties.sources import cross_entropy, entropy

COUNTS = st.one_of(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=300),
    st.lists(st.sampled_from((0, 1, 2, 1000, 10**9)), min_size=2, max_size=300),
    st.builds(lambda n, big: [big] + [1] * n, st.integers(1, 400), st.integers(0, 10**12)),
)


@holds(150, COUNTS, st.integers(10, 16))
def test_rows_sum_up_and_cost_what_their_slots_take(counts: list[int], bits: int) -> None:
    tables = Tables.from_counts(counts, bits)
    frequencies = tables.frequencies[0].astype(np.int64)
    assert frequencies.min() >= 1 and frequencies.sum() == 1 << bits
    assert np.array_equal(Tables.from_bytes(tables.to_bytes()).cdf, tables.cdf)
    seen = np.array(counts)
    if seen.any():  # a slot for every symbol, the rest in proportion, would cost log2(slots / (slots - symbols)) more than the entropy
        spare = np.log2((1 << bits) / ((1 << bits) - len(counts)))
        assert entropy(seen) - 1e-9 <= cross_entropy(seen, frequencies / (1 << bits)) <= entropy(seen) + spare + 1e-9


@holds(150, COUNTS.map(lambda c: c[:256]), st.sampled_from((11, 12)))
def test_lane_tables_sum_up_and_keep_an_escape_for_what_is_rare(counts: list[int], bits: int) -> None:
    tables = LaneTables.from_counts(counts, bits)
    assert sum(tables.frequencies) + tables.escape == 1 << bits
    assert max(tables.escape, *tables.frequencies) < 1 << bits
    assert tables.escape > 0 or min(tables.frequencies) > 0
    found = LaneTables.from_bytes(tables.to_bytes(), len(counts))
    assert found == tables


@holds(150, COUNTS)
def test_huffman_lengths_are_complete_and_within_a_bit_of_the_entropy(counts: list[int]) -> None:
    tables = HuffmanTables.from_counts(counts)
    lengths = tables.lengths[0].astype(np.int64)
    assert lengths.min() >= 1 and lengths.max() <= LONGEST and int((1 << LONGEST >> lengths).sum()) == 1 << LONGEST
    assert np.array_equal(HuffmanTables.from_bytes(tables.to_bytes()).lengths, tables.lengths)
    weights = np.maximum(counts, 1)  # a symbol that was not seen has a code as well
    assert (np.diff(lengths[np.argsort(weights, kind="stable")]) <= 0).all()
    assert cross_entropy(weights, 2.0**-lengths) <= entropy(weights) + 1


@holds(200, st.binary(max_size=80), st.integers(2, 256))
def test_any_bytes_are_whole_tables_or_an_error(data: bytes, symbols: int) -> None:
    for read in (Tables.from_bytes, HuffmanTables.from_bytes, lambda d: LaneTables.from_bytes(d, symbols)):
        with contextlib.suppress(StreamError):
            assert read(data).to_bytes() == data
