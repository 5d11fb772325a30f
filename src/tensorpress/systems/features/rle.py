"""Zero run-length code: how many zeros, then the value after them (Chen, Krishna, Emer, Sze: Eyeriss, JSSC 2017).

    x (C,H,W) -> 8-bit levels -> step, dead zone -> (run of 0 to 31 zeros: 5 bits, word: 8 bits), end to end

The chip codes 16-bit values: three pairs of a 5-bit run and a 16-bit level fill 64 bits, whose last one says whether the code
ends. Here values have 8 bits, so a pair has 13, and pairs stand end to end in each 8 rows by themselves; where they
end is known from the shape. A run of more than 31 zeros is cut by a pair whose word is itself 0. A map without zeros grows by 13/8.

Error: none at step 1; else no level is off by more than step + 1/2, and a float within the fitted range by half a level more.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorpress.blocks.packers import ZeroRuns
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec

CARD = Card(
    id="rle",
    family="features",
    title="zero runs of 5 bits and values of 8",
    paper="Chen, Krishna, Emer, Sze: Eyeriss: An Energy-Efficient Reconfigurable Accelerator for Deep CNNs, IEEE JSSC 52(1), 2017",
    claim="AlexNet, 16 bits: 5 to 10 % over the entropy limit; DRAM accesses for maps fall by nearly 30 % (CONV1) to nearly 75 % (CONV5)",
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
    return stepped_codec(CARD.id, config, state, lambda config, levels, state: ZeroRuns(levels))
