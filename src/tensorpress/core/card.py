"""A card: what a published system is, in one literal that is read without importing its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Card:
    id: str
    family: str  # features, weights, gradients, images …
    title: str  # one line
    paper: str  # authors, title, venue, year, identifier
    claim: str  # what its authors report, with conditions
    measured: str  # what we measured, or where the row is
    fidelity: str  # 'published', 'reconstruction' (constants not public), 'ours' or 'baseline'
    portability: str  # how the same bits come out everywhere
    lossless: bool = False  # 8-bit integers come back bit for bit (with default options)
    stable: bool = True  # the same input is the same bytes on every machine and for every version of every library
    quality: str = ""  # the option that one global quality parameter turns; empty: none
    quality_fine: float = 0.0  # its value at the least loss
    quality_coarse: float = 0.0  # and at the least rate
    quality_integer: bool = False
    fit_values: int = 0  # values of a site's maps that a fit likes to see; 0: those of six images
    draft: Mapping[str, Any] = field(default_factory=dict)  # options that make a quick stand-in while a quality is searched for
    reference_bits: int = 8  # width of a raw value in every ratio
    makes: str = "codec"  # what `build` gives: a 'codec' of arrays, or a 'method' that chooses forms for a network's weights
    needs: str = ""  # of a method: '' nothing, 'inputs' unlabelled calibration inputs, 'labels' these as well
    retrains: bool = False  # of a method: whether it trains the weights, beyond a layer at a time
