"""Lossless floats by byte planes: exponents are predictable, mantissas are not, so each has a plane of its own.

    x -> exponent | sign | mantissa -> byte planes, 64 Ki values at a time -> constant, as it is, or static rANS: whichever is the fewest bytes

A tensor that is float16 or bfloat16 inside of float32 has low planes of one value, or of few, and takes what it would in its own type. Values that are
0 stand in the plane of exponents alone where there are many. Integers are parted the same way, those with a sign folded to 0, -1, 1, -2 … first, as they
are or as differences. In large tensors short vectors that repeat, as in the dense form of a vector-quantised checkpoint, stand once. bfloat16 travels as uint16
with layout = "bfloat16".

Error: none; every bit of every value comes back: signs of zero, denormals, infinities and the payloads of NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorpress.blocks.float_planes import FloatPlanes, PlanesKernel
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError

CARD = Card(
    id="float_planes",
    family="weights",
    title="lossless byte planes of exponents and mantissas",
    paper="ours; exponents apart after Hershcovitch et al.: ZipNN, arXiv 2411.05239; rANS after Duda, arXiv 1311.2540",
    claim="none: what a lossless file of weights takes",
    measured="results/weights/lossless.json",
    fidelity="ours",
    portability="integers alone: bits of floats are moved, never computed with",
    lossless=True,
    reference_bits=32,
)


@dataclass(frozen=True)
class Config:
    layout: str = "type"  # of uint16: 'type', integers, or 'bfloat16'


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """State: none."""
    if config.layout not in ("type", "bfloat16"):
        raise InputError(f"layout = {config.layout!r}: 'type' and 'bfloat16' are known")
    if state:
        raise InputError(f"codec {CARD.id!r} has no state, not {sorted(state)}")
    bfloat16 = config.layout == "bfloat16"
    return Codec(CARD.id, config, FloatPlanes(bfloat16), kernel=PlanesKernel(bfloat16))
