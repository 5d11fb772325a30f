"""Extended bit-plane compression: runs of zeros in one stream, non-zero values in bit planes in another.

    x -> 8-bit levels -> step, dead zone -> words -+-> 1, or 0 and a run of up to 16 zeros in 4 bits
                                                   +-> 8 non-zero words: first one, deltas -> bit planes -> XOR of neighbours -> 5 kinds of code

The authors' code has an encoder in Python and hardware in both directions; widths of runs and positions follow from blocks of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tensorpress import _native
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.blocks.words import Words, WordStage
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import StripeError

CARD = Card(
    id="ebpc",
    family="features",
    title="zero runs and bit planes",
    paper="Cavigelli, Rutishauser, Benini: EBPC, IEEE JETCAS 9(4), 2019 (arXiv 1908.11645); planes after Kim et al., ISCA 2016",
    claim="ResNet-34 2.4x, MobileNetV2 2.2x on 8-bit feature maps, lossless",
    measured="results/board",
    fidelity="published",
    portability="integers only",
    lossless=True,
    quality="step",
    quality_fine=1.0,
    quality_coarse=64.0,
)


@dataclass(frozen=True)
class Config(SteppedConfig):
    """The step, and what is fitted."""


class BitPlanes(WordStage):
    def max_nbytes(self, words: int, itemsize: int) -> int:
        # A word that is not 0 takes 1 bit, its block of 8 at most 80. A lone zero takes 5 bits for 1, which pays where a block is one short: 7 times.
        return 4 + -(-(words + 28) // 8) + 10 * -(-words // 8)

    def pack(self, words: Words) -> bytes:
        return _native.ebpc_encode(words)

    def unpack(self, data: memoryview, out: Words, stripe: int) -> None:
        if not _native.ebpc_decode(np.frombuffer(data, np.uint8), out):
            raise StripeError(stripe, f"its {len(data)} bytes are not the bit planes of {out.size} words")


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """State: none."""
    return stepped_codec(CARD.id, config, state, lambda config, levels, state: BitPlanes(levels))
