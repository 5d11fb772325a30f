"""Joules that feature maps cost on their way to DRAM and back, with and without a codec.

Each tensor is written once and read as often as the network reads it: one that feeds a convolution and a skip
connection is read twice, and counted twice. `dram_energy` counts the DRAM traffic alone: an upper bound of what a chip saves.
`with_logic` adds an estimate of the codec's own work, value by value, and the reads of references; loading shared state once is in neither.
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


# --- the codec's own work ---------------------------------------------------------------------------------------------

# 45 nm, Horowitz, ISSCC 2014: 8-bit add 0.03 pJ, 8-bit multiply 0.2 pJ; SRAM of 8 KB 0.16, of 64 KB 0.4 pJ a bit (read or written)
ADD, MULTIPLY, SMALL_SRAM, LARGE_SRAM = 0.03, 0.2, 0.16, 0.4
MAC = ADD + MULTIPLY
LOOKUP = 24 * SMALL_SRAM  # a table entry of 24 bits
RANS = 4 * MULTIPLY + LOOKUP  # a 16-bit multiply and a table entry a symbol
BINARY = 2 * 16 * LARGE_SRAM + 4 * MULTIPLY  # one adaptive model of a binary decision: its state read and written, its weight


def logic(codec: str, params: Mapping[str, Any]) -> tuple[float, float]:
    """(encode, decode) pJ a value: estimates from counted operations at 45 nm, good to a factor of two or three at best."""
    context = 24 * MAC + 10 * SMALL_SRAM
    block = float(params.get("block") or 32)
    table: dict[str, float] = {
        "raw": 0.0, "zvc": 2 * ADD, "csc": 2 * ADD, "rle": 2 * ADD, "slots": 4 * ADD, "huffman": LOOKUP, "ebpc": 8 * ADD, "apack": RANS, "predictive": 10 * ADD + BINARY,
        "uniform_rans": RANS, "dct_cm": (11 * MULTIPLY + 29 * ADD) / 8 + 4 * ADD, "dct2d": 2 * (11 * MULTIPLY + 29 * ADD) / 8 + 4 * ADD, "klt": block * MAC + RANS,
        "context": context + (RANS if params.get("backend") == "fast" else 3 * 3 * BINARY),
    }  # fmt: skip
    cost = table.get(codec, 4 * LOOKUP)  # general compressors: matches and Huffman, a few look-ups
    return cost, cost


def with_logic(layers: Iterable[Mapping[str, Any]], memory: str) -> dict[str, Any]:
    """`dram_energy` with the codec's own work: layers also have `codec`, `params`, and `reference_nbytes` that a reader needs besides (default 0)."""
    rows = list(layers)
    found = dram_energy(rows, memory)
    read = MEMORIES[memory].read
    extra = 0.0
    for number, layer in enumerate(rows):
        encode, decode = logic(str(layer["codec"]), layer.get("params") or {})
        values, reads = (_amount(layer, key, number) for key in ("raw_nbytes", "reads"))
        extra += values * (encode + reads * decode) + 8 * float(layer.get("reference_nbytes") or 0) * read * reads
    joules = found["joules"] + extra * 1e-12
    raw = found["joules_raw"]
    return {**found, "joules": joules, "joules_logic": extra * 1e-12, "saved_percent": 100 * (1 - joules / raw) if raw else None}
