"""Blosc2 over 8-bit levels: bits of equal weight together, then Zstandard or LZ4.

    x -> 8-bit levels -> step, dead zone -> words -> bit shuffle -> zstd, one chunk for each stripe of 8 rows

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
    id="blosc2",
    family="features",
    title="Blosc2: bit shuffle and zstandard",
    paper="Alted et al.: C-Blosc2; bit shuffle after Masui et al., Astron. Comput. 2015",
    claim="none for feature maps",
    measured="results/board",
    fidelity="baseline",
    portability="any version of the library decodes; what it writes may differ from version to version",
    lossless=True,
    stable=False,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)
COPIED, FORMATS, FILTERS = 2, {1, 4}, {0, 2}  # in a chunk's head: bytes as they are; lz4, zstd; nothing, bit shuffle


@dataclass(frozen=True)
class Config(SteppedConfig):
    level: int = 5  # of the compressor, 1 to 9
    compressor: str = "zstd"  # after the bit shuffle: 'zstd' or 'lz4'



class Strings(LibraryWords):
    def __init__(self, levels: Levels, config: Config) -> None:
        super().__init__(levels)
        if type(config.level) is not int or not 1 <= config.level <= 9 or config.compressor not in ("zstd", "lz4"):
            raise InputError(f"blosc2: level is 1 to 9 and compressor 'zstd' or 'lz4', not {config.level!r} and {config.compressor!r}")
        self.blosc2, self.config = library("blosc2", CARD.id), config

    def max_nbytes(self, words: int, itemsize: int) -> int:
        return words * itemsize + 32  # BLOSC2_MAX_OVERHEAD: what gets no smaller is copied behind its head

    def compress(self, words: Words) -> bytes:
        b = self.blosc2
        kind = b.Codec.ZSTD if self.config.compressor == "zstd" else b.Codec.LZ4
        return bytes(b.compress2(words.tobytes(), codec=kind, clevel=self.config.level, typesize=words.itemsize, filters=[b.Filter.BITSHUFFLE], nthreads=1))

    def declared(self, data: bytes) -> int:
        if len(data) < 32 or int.from_bytes(data[12:16], "little") != len(data):  # a chunk's head names its own length
            raise ValueError("the chunk is cut, or longer than its head says")
        formats = FORMATS | {0} if data[2] & COPIED else FORMATS
        if data[2] >> 5 not in formats or not set(data[16:22]) <= FILTERS:  # others may be plugins, which the library looks for and runs
            raise ValueError("the chunk has another compressor or filter than a bit shuffle before zstd or lz4")
        return int.from_bytes(data[4:8], "little")

    def expand(self, data: bytes, nbytes: int) -> bytes:
        return bytes(self.blosc2.decompress2(data))


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """InputError where the library is missing. State: none."""
    return stepped_codec(CARD.id, config, state, lambda config, levels, state: Strings(levels, config), wide=True)
