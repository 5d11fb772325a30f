"""The bare entropy coders beside the entropy of what they code, with tables made from the string itself, no symbol over 99 % of it.

The goal is entropy + 0.5 % + 4 bytes a state + 16. Where a table has as many bits as it may (rANS with 16) every source of up to 256 symbols and 100,000 values that has been
tried keeps it. A table of fewer bits may cost more: each symbol takes a slot at least, so a table of 2^b slots and A symbols costs up to log2(2^b / (2^b - A)) bits a symbol
more than the entropy (test_tables); up to 40 symbols of 14 bits and 8 of 12 keep the goal. Lanes have an escape: where the symbols that share
it are chosen by what they cost, 12 bits keep within 3 % in place of 0.5 (128 rare symbols beside one of 99 % pass the goal by 20 bytes of 2,000); `LaneTables.from_counts` goes by a sixth
of a slot, which keeps the goal up to 48 symbols, and passes it by up to 17 % with 256. What a coder adds to what its table says is within the
goal for every table. Huffman's own bound is a bit a symbol.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from tensorpress.coding import huffman, lanes, rans
from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.lanes import LaneTables
from tensorpress.coding.range_reference import Interval
from tensorpress.coding.tables import Tables
from tests.properties.cases import holds
from tests.properties.sources import Array, cross_entropy, entropy, sources

STATES = 4


def of_lanes(tables: LaneTables) -> Array:
    """The chance that a table gives each symbol; of a rare one: the escape's, and a byte."""
    frequencies = np.array(tables.frequencies)
    return np.where(frequencies == 0, tables.escape / 256, frequencies) / (1 << tables.bits)


def goal(bits_a_symbol: float, count: int, states: int, share: float = 0.005) -> float:
    return (1 + share) * bits_a_symbol * count / 8 + 4 * states + 16


@holds(100, sources(256))
def test_rans_with_the_tables_that_it_chooses_keeps_the_goal(symbols: Array) -> None:
    counts = np.bincount(symbols)
    tables = Tables.from_counts(counts)
    assert 12 <= tables.bits <= 16
    assert len(rans.encode(symbols, tables)) <= goal(entropy(counts), symbols.size, STATES)


@holds(100, sources(256))
def test_rans_with_16_bit_tables_keeps_the_goal(symbols: Array) -> None:
    counts = np.bincount(symbols)
    tables = Tables.from_counts(counts, 16)
    data = rans.encode(symbols, tables)
    assert len(data) <= goal(entropy(counts), symbols.size, STATES)
    assert np.array_equal(rans.decode(data, tables, symbols.size), symbols)


@holds(60, sources(40))
def test_rans_with_14_bit_tables_keeps_the_goal_up_to_40_symbols(symbols: Array) -> None:
    counts = np.bincount(symbols)
    assert len(rans.encode(symbols, Tables.from_counts(counts, 14))) <= goal(entropy(counts), symbols.size, STATES)


@holds(60, sources(8))
def test_rans_with_12_bit_tables_keeps_the_goal_up_to_8_symbols(symbols: Array) -> None:
    counts = np.bincount(symbols)
    assert len(rans.encode(symbols, Tables.from_counts(counts, 12))) <= goal(entropy(counts), symbols.size, STATES)


@holds(100, sources(1000), st.integers(10, 16))
def test_rans_adds_to_any_table_no_more_than_the_goal(symbols: Array, bits: int) -> None:
    counts = np.bincount(symbols)
    tables = Tables.from_counts(counts, bits)
    data = rans.encode(symbols, tables)
    assert len(data) <= goal(cross_entropy(counts, tables.frequencies[0] / (1 << bits)), symbols.size, STATES)
    assert len(data) <= goal(entropy(counts) + math.log2((1 << bits) / ((1 << bits) - counts.size)), symbols.size, STATES)
    assert np.array_equal(rans.decode(data, tables, symbols.size), symbols)


@holds(100, sources(256), st.sampled_from((11, 12)))
def test_lanes_add_to_any_table_no_more_than_the_goal(symbols: Array, bits: int) -> None:
    counts = np.bincount(symbols, minlength=2)
    tables = LaneTables.from_counts(counts, bits)
    data = lanes.encode(symbols, tables)
    assert len(data) <= goal(cross_entropy(counts, of_lanes(tables)), symbols.size, lanes.lanes_of(symbols.size))
    assert np.array_equal(lanes.decode(data, symbols.size, tables), symbols)


def cheapest(counts: Array, bits: int) -> LaneTables:
    """Of all tables that let the symbols seen at most so often share the escape, the one of least cost."""
    found: list[tuple[float, LaneTables]] = []
    for most in (0, *np.unique(counts)[:-1].tolist()):
        rare = counts <= most
        kept = Tables.from_counts(np.concatenate([[counts[rare].sum()], counts[~rare]])[0 if rare.any() else 1 :], bits).frequencies[0]
        frequencies = np.zeros(counts.size, np.int64)
        frequencies[~rare] = kept[1:] if rare.any() else kept
        if frequencies.max() < 1 << bits:
            tables = LaneTables(tuple(frequencies.tolist()), int(kept[0]) if rare.any() else 0, bits)
            found.append((cross_entropy(counts, of_lanes(tables)), tables))
    return min(found, key=lambda pair: pair[0])[1]


@holds(60, sources(256).filter(lambda symbols: symbols.size > 1))
def test_lanes_with_the_cheapest_12_bit_tables_keep_within_three_hundredths(symbols: Array) -> None:
    counts = np.bincount(symbols, minlength=2)
    tables = cheapest(counts, 12)
    data = lanes.encode(symbols, tables)
    assert len(data) <= goal(entropy(counts), symbols.size, lanes.lanes_of(symbols.size), 0.03)
    assert np.array_equal(lanes.decode(data, symbols.size, tables), symbols)


@holds(100, sources(48))
def test_lanes_with_12_bit_tables_keep_the_goal_up_to_48_symbols(symbols: Array) -> None:
    tables = LaneTables.from_counts(np.bincount(symbols, minlength=2), 12)
    data = lanes.encode(symbols, tables)
    assert len(data) <= goal(entropy(np.bincount(symbols)), symbols.size, lanes.lanes_of(symbols.size))


@holds(100, sources(1000))
def test_huffman_stays_within_a_bit_a_symbol(symbols: Array) -> None:
    counts = np.bincount(symbols)
    tables = HuffmanTables.from_counts(counts)
    encoder = huffman.Encoder()
    encoder.put(symbols, None, tables)
    data = encoder.finish()
    assert len(data) <= math.ceil((entropy(counts) + 1) * symbols.size / 8)
    decoder = huffman.Decoder(data)
    assert np.array_equal(decoder.take(None, tables, symbols.size), symbols)
    decoder.done()


@holds(40, sources(2, 4000))
def test_the_range_coder_keeps_the_goal_with_the_chance_of_its_bits(bits: Array) -> None:
    p = min(max(round(65536 * float(bits.mean())), 1), 65535)
    coder = Interval()
    for bit in bits.tolist():
        coder.code(p, bit)
    data = coder.finish()
    assert len(data) <= goal(entropy(np.bincount(bits)), bits.size, 1)
    reader = Interval(data)
    assert [reader.code(p) for _ in range(bits.size)] == bits.tolist()
