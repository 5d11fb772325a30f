"""Canonical Huffman codes, one table a layer (Huffman, Proc. IRE 1952; for networks Han et al., Deep Compression, ICLR 2016).

    x (C,H,W) -> 8-bit levels -> step, dead zone -> words -> codes of 1 to 15 bits, 8 rows a string

The table comes from the samples of the fit and is state: a decoder holds it, and it is counted. Lengths are the best that 15 bits allow; a word
that no sample held has a code too. At step 1 nothing is lost.

Error: none at step 1; else no level is off by more than step + 1/2, and a float within the fitted range by half a level more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorpress.blocks.entropy_stage import EntropyStage, Group
from tensorpress.blocks.levels import LevelMap, Levels
from tensorpress.blocks.packers import check_words
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec, word_count
from tensorpress.blocks.unfitted import Unfitted
from tensorpress.coding.huffman import HuffmanTables
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader, View, Writer
from tensorpress.core.stage import Stage

CARD = Card(
    id="huffman",
    family="features",
    title="canonical Huffman, one table a layer",
    paper="Huffman: A Method for the Construction of Minimum-Redundancy Codes, Proc. IRE 40(9), 1952; Han, Mao, Dally: Deep Compression, ICLR 2016",
    claim="none for feature maps: 20 to 30 % of quantised weights in Deep Compression",
    measured="results/board",
    fidelity="published",
    portability="integers only; float enters once, by one float32 multiply",
    lossless=True,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)


@dataclass(frozen=True)
class Config(SteppedConfig):
    """The step, and what is fitted."""


class Codes(Stage[LevelMap, None]):
    """Words in the codes of `tables`; where there are none yet, `fit` makes them."""

    def __init__(self, config: Config, levels: Levels, tables: HuffmanTables | None) -> None:
        self.config, self.levels, self.tables = config, levels, tables
        self.inner = Unfitted(CARD.id) if tables is None else EntropyStage([Group(tables)], "huffman")

    def max_stripe_nbytes(self, dtype: np.dtype[Any], view: View, rows: int) -> int:
        return self.inner.max_stripe_nbytes(dtype, view, rows)

    def encode(self, x: LevelMap, out: Writer) -> None:
        self.inner.encode(x.levels, out)

    def decode(self, y: None, src: Reader) -> LevelMap:
        check_words(src.dtype)
        return LevelMap(self.inner.decode(None, src), self.levels.zero_of(src.dtype))

    def fit(self, samples: Sequence[LevelMap]) -> Codes:
        symbols = word_count(self.config)
        counts = sum((np.bincount(x.levels.reshape(-1), minlength=symbols) for x in samples), np.zeros(symbols, np.int64))
        return Codes(self.config, self.levels, HuffmanTables.from_counts(counts))

    def shared(self) -> Mapping[str, bytes]:
        return {} if self.tables is None else {"tables": self.tables.to_bytes()}


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """A codec; unfitted where there is no state. State: 'tables', one row."""

    def codes(config: Config, levels: Levels, state: Mapping[str, bytes]) -> Codes:
        if not state:
            return Codes(config, levels, None)
        if set(state) != {"tables"}:
            raise InputError(f"state of codec {CARD.id!r} holds {sorted(state)}, not 'tables'")
        tables = HuffmanTables.from_bytes(state["tables"])
        if (tables.rows, tables.symbols) != (1, word_count(config)):
            raise InputError(f"tables of {tables.rows} rows and {tables.symbols} symbols do not suit a step of {config.step}")
        return Codes(config, levels, tables)

    return stepped_codec(CARD.id, config, state, codes)
