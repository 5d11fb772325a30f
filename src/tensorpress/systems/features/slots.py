"""Cells of 2,048 values in slots of 2,112 bytes: any cell is found by a multiplication (Arm Ethos-N78, FCAF).

    x (C,H,W) -> 8-bit levels -> step, dead zone -> cells of 8 rows, 8 columns, 32 channels ('wide': 8, 16, 16)
        -> each 16 values: a code of 4 bits, and the values in 0 to 8 bits, or a bitmap and the non-zeros -> a slot, or packed

Two sizes matter. What crosses the bus is what a cell's code takes: layout 'packed' stores just that, cells end to end behind
their sizes. What a memory must set aside is a slot for every cell, `slots_nbytes`: 3.1 % *more* than raw where cells are whole, 19 % more for all
maps of ResNet-50, whose sides of 28, 14 and 7 leave cells part empty. Layout 'slot' really writes that, each cell filled up with zeros. Slots save traffic, never capacity.

Cell shapes and slot size are those of Arm's open driver; the code inside a cell is not public. Ours takes the hint of the 64 spare
bytes: 128 codes of 4 bits, one for each 16 values, so that the worst cell fills its slot exactly.

Error: none at step 1; else no level is off by more than step + 1/2, and a float within the fitted range by half a level more.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorpress.blocks.packers import Slots
from tensorpress.blocks.stepped import SteppedConfig, stepped_codec
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec

CARD = Card(
    id="slots",
    family="features",
    title="cells of 2,048 values, each in a slot of 2,112 bytes or packed",
    paper="Arm: Ethos-N78 FCAF, as far as its driver stack shows (github.com/ARM-software/ethos-n-driver-stack)",
    claim="none measured; the driver's compiler counts on half of the traffic of activations",
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
    cell: str = "deep"  # 8 rows by 8 columns by 32 channels; 'wide': 8 by 16 by 16
    layout: str = "packed"  # cells end to end behind their sizes; 'slot': each in 2,112 bytes


def build(config: Config, state: dict[str, bytes]) -> Codec:
    return stepped_codec(CARD.id, config, state, lambda config, levels, state: Slots(levels, config.cell, config.layout))
