"""Joules that feature maps cost on their way to DRAM and back, with and without a codec.

Each tensor is written once and read as often as the network reads it: one that feeds a convolution and a skip
connection is read twice, and counted twice. **Only the DRAM traffic is counted.** The energy of the codec's own logic,
of on-chip memory and of loading shared state once are not in it, so a saving here is an upper bound of what a chip saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from tensorpress.core.errors import InputError


@dataclass(frozen=True)
class Memory:
    """Energy per bit that crosses the memory's interface."""

    title: str
    read: float  # pJ per bit
    write: float  # pJ per bit
    source: str
    range: tuple[float, float] | None = None  # pJ per bit, what an assumption spans; None where a source gives the value

    @property
    def assumed(self) -> bool:
        return self.range is not None


def _assumed(title: str, low: float, high: float) -> Memory:
    middle = (low + high) / 2
    span = f"{low:g}-{high:g}" if low < high else f"about {low:g}"
    return Memory(title, middle, middle, f"assumption: {span} pJ/bit is commonly quoted, reads and writes alike", (low, high))


MEMORIES: Mapping[str, Memory] = {
    "ddr3": Memory("DDR3", 77.4, 63.3, "DDR3-1066 power script published with Chmiel et al., arXiv 1905.10830"),
    "ddr4": _assumed("DDR4", 15, 20),
    "lpddr4": _assumed("LPDDR4", 4, 8),
    "lpddr5": _assumed("LPDDR5", 4, 8),
    "hbm2": _assumed("HBM2", 4, 4),
}


def dram_energy(layers: Iterable[Mapping[str, Any]], memory: str = "ddr3") -> dict[str, Any]:
    """Joules for the DRAM traffic of `layers`; codec logic is not in it.

    A layer has `raw_nbytes` (uncompressed), `nbytes` (compressed, framing included) and `reads` (default 1). Returns
    `memory`, `joules_raw`, `joules` and `saved_percent` (None where nothing is moved). InputError names an unknown
    memory, or the layer whose bytes or reads cannot be used.
    """
    if memory not in MEMORIES:
        raise InputError(f"unknown memory {memory!r}; known: {', '.join(MEMORIES)}")
    constants = MEMORIES[memory]
    raw = coded = 0.0
    for number, layer in enumerate(layers):
        before, after, reads = (_amount(layer, key, number) for key in ("raw_nbytes", "nbytes", "reads"))
        picojoules = 8 * (constants.write + reads * constants.read)  # per byte
        raw += before * picojoules
        coded += after * picojoules
    return {
        "memory": memory,
        "joules_raw": raw * 1e-12,
        "joules": coded * 1e-12,
        "saved_percent": 100 * (1 - coded / raw) if raw else None,
    }


def _amount(layer: Mapping[str, Any], key: str, number: int) -> float:
    value = layer.get(key)
    if value is None and key == "reads":
        return 1.0
    if not isinstance(value, int | float) or not 0 <= value < inf:
        raise InputError(f"layer {layer.get('site', number)}: {key} is {value!r}, expected a number of at least 0")
    return float(value)
