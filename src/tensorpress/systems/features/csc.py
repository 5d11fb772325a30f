"""Compressed sparse columns: each non-zero with the short run of zeros before it (EIE, ISCA 2016; SCNN, ISCA 2017).

    x (C,H,W) -> 8-bit levels -> step, dead zone -> counts | runs of 0 to 15 zeros, 4 bits each | words, 8 bits each

A column is one channel of 8 rows, what one processing element of SCNN holds, and has a count of its entries as there (EIE
has pointers, whose differences these are), in the bits that its length needs. More than 15 zeros take an entry whose word is 0; zeros after the last
non-zero of a column take none. Neither paper states the width of the counts. A map without zeros grows by 1.5.

Error: none at step 1; else no level is off by more than step + 1/2, and a float within the fitted range by half a level more.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorpress.blocks.packers import Columns
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec

CARD = Card(
    id="csc",
    family="features",
    title="compressed sparse columns: counts, zero runs of 4 bits, values",
    paper="Han et al.: EIE, ISCA 2016 (arXiv 1602.01528); Parashar et al.: SCNN, ISCA 2017 (arXiv 1708.04485)",
    claim="none for feature maps alone: the papers count energy and speed of whole accelerators",
    measured="results/board",
    fidelity="reconstruction",
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
    return stepped_codec(CARD.id, config, state, lambda config, levels, state: Columns(levels))
