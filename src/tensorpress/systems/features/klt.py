"""Feature map transform coding: a KLT over channels of what enters the activation, one step, entropy-coded components.

    conv + BN -> x - mean -> basis, 32 channels a block -> / step, round -> rANS or Huffman, by spread class -> memory
    activation <- x + mean <- basis transposed <- * step <------------------ decoded coefficients <-----------+

Chmiel, Baskin, Banner, Zheltonozhskii, Yermolin, Karbachevsky, Bronstein, Mendelson: Feature Map Transform Coding for
Energy-Efficient CNN Inference, IJCNN 2020, arXiv 1905.10830. What differs from the authors' script: mean, range, basis and
tables come from the fit samples only, never from the tensor that is coded; basis and tables are counted as shared
state; components have tables by spread instead of one pooled entropy; the bytes are real.

Cost: an inverse takes `block` multiplications a value and a basis of 12 bits a value, block x C of them. A full KLT (`block` 0)
takes C multiplications a value and C x C basis values: on ResNet-50 22.6 M in all, 34 MB of shared state, and about
as many operations as the network itself; hence 32 channels a block by default.

Error: at any place of a map that it was fitted to, the root mean square over a block's channels is half a step at most, and what 12-bit basis and 16-bit samples round; coefficients
of other maps are clamped to their class's alphabet, so only the range bounds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorpress.blocks.entropy_stage import CODERS, EntropyStage, Group
from tensorpress.blocks.klt import MAX_CHANNELS, Array, Basis, Klt, Spread, block_sizes, fit_basis, fit_classes, pack12, unpack12, vectors
from tensorpress.blocks.unfitted import Unfitted
from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.tables import Tables
from tensorpress.core.binary import read_varint, varint
from tensorpress.core.card import Card
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError, StreamError

CARD = Card(
    id="klt",
    family="features",
    title="channel KLT before the activation, one step, entropy-coded",
    paper="Chmiel et al.: Feature Map Transform Coding for Energy-Efficient CNN Inference, IJCNN 2020, arXiv 1905.10830",
    claim="ResNet-50 about 1.93x at no loss and 2.5x at -0.8 points (read off the authors' plot; zero-order entropy, full KLT)",
    measured="results/board",
    fidelity="reconstruction",
    portability="integer basis and coefficients in float64, exact in any order; one float64 multiply and add after them",
    lossless=False,
    quality="bits",
    quality_fine=11.0,
    quality_coarse=2.0,
)
REACH = 2047  # of a coefficient, in steps
CLASSES = 16  # of components by spread


@dataclass(frozen=True)
class Config:
    bits: float = 8.0  # of the widest component: its range takes 2^bits - 2 steps; 1.25 to 11, fractions allowed
    block: int = 32  # channels that one basis serves; 0: all
    coder: str = "rans"  # or 'huffman'
    table_bits: int = 14  # rANS frequencies sum to 2^table_bits, 12 to 16
    # fitted, where None
    channels: int | None = None  # of the tensors that it takes
    fixed: float | None = None  # value of one unit of the 16-bit samples, a float32
    step: float | None = None  # of every component


def build(config: Config, state: Mapping[str, bytes]) -> Codec:
    """A codec; unfitted where `config` has no step. State: 'basis', 'means', 'classes', 'tables'."""
    if not isinstance(config.bits, int | float) or not 1.25 <= config.bits <= 11:
        raise InputError(f"bits = {config.bits!r}: 1.25 to 11 are allowed")
    if not isinstance(config.block, int) or not 0 <= config.block <= MAX_CHANNELS:
        raise InputError(f"block = {config.block!r}: 0 to {MAX_CHANNELS} channels are allowed")
    if config.coder not in CODERS:
        raise InputError(f"coder = {config.coder!r}: {', '.join(CODERS)} are allowed")
    if not isinstance(config.table_bits, int) or not 12 <= config.table_bits <= 16:
        raise InputError(f"table_bits = {config.table_bits!r}: 12 to 16 are allowed")
    if config.channels is None or config.fixed is None or config.step is None:
        return Codec(CARD.id, config, Unfitted(CARD.id), refit=lambda samples: fit(config, samples), tap="input")
    return Codec(CARD.id, config, stages(config, state), dict(state), refit=lambda samples: fit(config, samples), tap="input")


def stages(config: Config, state: Mapping[str, bytes]) -> Any:
    """The chain of a fitted codec. InputError or StreamError where the state does not suit it."""
    if set(state) != {"basis", "means", "classes", "tables"}:
        raise InputError(f"state of codec {CARD.id!r} holds {sorted(state)}, not basis, means, classes and tables")
    channels = config.channels
    if not isinstance(channels, int) or not 1 <= channels <= MAX_CHANNELS or len(state["means"]) != 4 * channels:
        raise InputError(
            f"channels = {channels!r} with {len(state['means'])} bytes of means: 1 to {MAX_CHANNELS} are allowed, 4 bytes each"
        )
    sizes = block_sizes(channels, config.block)
    flat = unpack12(state["basis"], sum(n * n for n in sizes))
    ends = np.cumsum([n * n for n in sizes])
    blocks = tuple(flat[end - n * n : end].reshape(n, n) for n, end in zip(sizes, ends))
    basis = Basis(blocks, np.frombuffer(state["means"], "<f4"), config.fixed, config.step)  # type: ignore[arg-type]
    lows, tables = read_tables(state["tables"], config)
    classes = np.frombuffer(state["classes"], np.uint8)
    if len(classes) != channels or int(classes.max()) >= len(tables):
        raise InputError(f"{len(classes)} classes up to {int(classes.max(initial=0))} for {channels} channels and {len(tables)} tables")
    low = np.array(lows)[classes]
    high = low + np.array([t.symbols - 1 for t in tables])[classes]
    groups = [Group(t, np.flatnonzero(classes == number)) for number, t in enumerate(tables)]
    return Klt(CARD.id, basis, low, high) >> EntropyStage(groups, config.coder, channels)


def fit(config: Config, samples: Sequence[Array]) -> Codec:
    """Basis, step, classes and tables for `samples` (one channel count). InputError where they hold no values, or NaN or infinity."""
    x = vectors(samples, CARD.id)
    basis, q = fit_basis(x, config.block, config.bits)
    classes, spreads = fit_classes(q, CLASSES, REACH)
    state = {
        "basis": pack12(np.concatenate([block.reshape(-1) for block in basis.blocks])),
        "means": basis.means.astype("<f4").tobytes(),
        "classes": classes.tobytes(),
        "tables": write_tables(spreads, config),
    }
    return build(replace(config, channels=len(x), fixed=basis.fixed, step=basis.step), state)


def write_tables(spreads: Sequence[Spread], config: Config) -> bytes:
    """For each class: varint(-low) varint(nbytes) and its table."""
    out = bytearray()
    for spread in spreads:
        rans = config.coder == "rans"
        table = (Tables.from_counts(spread.counts, config.table_bits) if rans else HuffmanTables.from_counts(spread.counts)).to_bytes()
        out += varint(-spread.low) + varint(len(table)) + table
    return bytes(out)


def read_tables(data: bytes, config: Config) -> tuple[list[int], list[Any]]:
    """(lowest coefficient, table) of each class. StreamError on bytes that `write_tables` does not write."""
    lows: list[int] = []
    tables: list[Any] = []
    at = 0
    while at < len(data):
        below, at = read_varint(data, at, "lowest coefficient")
        nbytes, at = read_varint(data, at, "table length")
        if nbytes > len(data) - at or len(tables) == CLASSES:
            raise StreamError(f"table {len(tables)} of at most {CLASSES} ends at {at + nbytes}, the section at {len(data)}")
        part = data[at : at + nbytes]
        table: Any = Tables.from_bytes(part, max_rows=1) if config.coder == "rans" else HuffmanTables.from_bytes(part)
        if table.rows != 1 or not below < table.symbols <= 2 * REACH + 1 or (config.coder == "rans" and table.bits != config.table_bits):
            raise StreamError(f"table {len(tables)} of {table.symbols} symbols from {-below} does not suit {config}")
        at += nbytes
        lows.append(-below)
        tables.append(table)
    if not tables:
        raise StreamError("the section of tables is empty")
    return lows, tables
