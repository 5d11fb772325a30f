"""Zero-value compression: one bit for every value, then the non-zero ones (Rhu et al., HPCA 2018).

    x (C,H,W) -> 8-bit levels -> step, dead zone -> bitmap + non-zero bytes

Error: none at step 1; else no level is off by more than step + 1/2, and a float within the fitted range by half a level more.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorpress import _native
from tensorpress.blocks.cells import CellRules
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.blocks.words import ZeroBitmap
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec

CARD = Card(
    id="zvc",
    family="features",
    title="zero bitmap and non-zero bytes",
    paper="Rhu, O'Connor, Chatterjee, Pool, Kwon, Keckler: Compressing DMA Engine, HPCA 2018 (arXiv 1705.01626)",
    claim="2.6x average (at most 13.8x) on training activations of 32 bits",
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


def build(config: Config, state: dict[str, bytes]) -> Codec:
    def native(rules: CellRules) -> _native.ZeroBitmap:
        return _native.ZeroBitmap(rules.zero, rules.symbol_of, rules.level_of)

    return stepped_codec(CARD.id, config, state, lambda config, levels, state: ZeroBitmap(levels), wide=True, native=native)
