"""LZ4 over 8-bit levels: the speed that a general compressor can have.

    x -> 8-bit levels -> step, dead zone -> words -> LZ4 block, one for each stripe of 8 rows

Error: none at step 1; else no level is off by more than step + 1/2, and a float within the fitted range by half a level more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorpress.blocks.levels import Levels
from tensorpress.blocks.library import LibraryWords, library
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.blocks.words import Words
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError

CARD = Card(
    id="lz4",
    family="features",
    title="LZ4 on bytes",
    paper="Collet: LZ4 block format, 2011",
    claim="none for feature maps: the fastest general compressor",
    measured="results/board",
    fidelity="baseline",
    portability="any version of the library decodes; what it writes may differ from version to version",
    lossless=True,
    stable=False,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)


@dataclass(frozen=True)
class Config(SteppedConfig):
    level: int = 0  # 0: fast mode; 1 to 12: high compression



class Strings(LibraryWords):
    def __init__(self, levels: Levels, config: Config) -> None:
        super().__init__(levels)
        if type(config.level) is not int or not 0 <= config.level <= 12:
            raise InputError(f"lz4: level is 0 to 12, not {config.level!r}")
        self.lz4, self.level = library("lz4.block", CARD.id), config.level

    def max_nbytes(self, words: int, itemsize: int) -> int:
        nbytes = words * itemsize
        return 4 + nbytes + nbytes // 255 + 16  # the decoded size, and LZ4_COMPRESSBOUND of lz4.h

    def compress(self, words: Words) -> bytes:
        mode = {"mode": "high_compression", "compression": self.level} if self.level else {"mode": "default"}
        return bytes(self.lz4.compress(words.tobytes(), **mode))

    def declared(self, data: bytes) -> int:
        return int.from_bytes(data[:4], "little")  # the block's head

    def expand(self, data: bytes, nbytes: int) -> bytes:
        return bytes(self.lz4.decompress(data[4:], uncompressed_size=nbytes))


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """InputError where the library is missing. State: none."""
    return stepped_codec(CARD.id, config, state, lambda config, levels, state: Strings(levels, config), wide=True)
