"""Zstandard over 8-bit levels: what anyone would try first.

    x -> 8-bit levels -> step, dead zone -> words -> zstd, one frame for each stripe of 8 rows

Stripes are coded alone, as everywhere here, so a frame sees less than a whole map.

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
    id="zstd",
    family="features",
    title="zstandard on bytes",
    paper="Collet, Kucherawy: Zstandard Compression, RFC 8878",
    claim="none for feature maps: the general compressor to beat",
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
    level: int = 3  # of zstd, 1 to 22



class Strings(LibraryWords):
    def __init__(self, levels: Levels, config: Config) -> None:
        super().__init__(levels)
        if type(config.level) is not int or not 1 <= config.level <= 22:
            raise InputError(f"zstd: level is 1 to 22, not {config.level!r}")
        self.zstd, self.level = library("zstandard", CARD.id), config.level

    def max_nbytes(self, words: int, itemsize: int) -> int:
        nbytes = words * itemsize
        return nbytes + (nbytes >> 8) + max((1 << 17) - nbytes >> 11, 0)  # ZSTD_COMPRESSBOUND of zstd.h

    def compress(self, words: Words) -> bytes:
        return bytes(self.zstd.ZstdCompressor(level=self.level).compress(words.tobytes()))

    def declared(self, data: bytes) -> int:
        return int(self.zstd.get_frame_parameters(data).content_size)

    def expand(self, data: bytes, nbytes: int) -> bytes:
        return bytes(self.zstd.ZstdDecompressor().decompress(data, max_output_size=nbytes, allow_extra_data=False))


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """InputError where the library is missing. State: none."""
    return stepped_codec(CARD.id, config, state, lambda config, levels, state: Strings(levels, config), wide=True)
