"""`dct_cm` on a GPU, in its form of fixed 8-bit symbols (profile `paper`): choose, sum up sizes, pack; walk, spread out, turn to values.

    x -> per cell: levels, DCT, least D + lambda R -> symbols in rows, sizes -> prefix sum -> headers, bitmaps, symbols

The host waits once: for the size when it encodes, for the verdict when it decodes. Rows of symbols take 2,048 bytes a cell meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from tensorpress.blocks import dct
from tensorpress.blocks.cells import CELL_COLUMNS, CellRules, cell_channels
from tensorpress.blocks.gpu.cell_decode import LANES, LEAPERS, _chain, _leap, _spread, _values, _walk
from tensorpress.blocks.gpu.cell_encode import CELL, DEEP, _choose, _pack
from tensorpress.blocks.gpu.quantise import EXACT, kind_of, plain
from tensorpress.blocks.gpu.tables import sums_before, table, values_of
from tensorpress.blocks.levels import Levels
from tensorpress.core.device import dtype_of
from tensorpress.core.errors import InputError
from tensorpress.core.payload import Reader, Shape, chw, head_bytes, stripe_count

ROW = CELL.value
WARPS = {"num_warps": 8}
SEGMENT = 1 << 16  # bytes of a stripe that one program walks
REACH = 1 << 31  # offsets in a cell are 32 bits wide


class Grid(NamedTuple):
    """How a map falls into cells."""

    channels: int
    rows: int
    columns: int
    depth: int  # channels of a cell
    across: int  # cells side by side
    cells: int  # of a stripe

    @classmethod
    def of(cls, shape: Shape) -> Grid:
        channels, rows, columns = chw(shape)
        depth, across = cell_channels(rows, columns), triton.cdiv(columns, CELL_COLUMNS)
        return cls(channels, rows, columns, depth, across, across * triton.cdiv(channels, depth))


class CellsOnDevice:
    """Byte-equal twin of `Levels >> Cells` where symbols have 8 bits. `rules_for`: by zero point, as `Cells` has them."""

    def __init__(self, levels: Levels, rules_for: Mapping[int, CellRules]) -> None:
        self.levels, self.rules_for = levels, rules_for

    def accepts(self, x: Tensor) -> bool:
        if x.is_complex() or x.is_quantized or not (x.is_floating_point() or x.dtype.itemsize == 1) or x.dtype.itemsize > 8:
            return False
        fixed = all(r.width == 8 and not r.zero_map and not r.plane_codes for r in self.rules_for.values())
        return fixed and (x.numel() == 0 or math.prod(Grid.of(tuple(x.shape))[1:4]) < REACH)

    def encode(self, x: Tensor) -> Tensor | None:
        """The payload as a uint8 tensor, checks 0; None where `x` holds what is no finite float32."""
        dtype, shape, device = dtype_of(x), tuple(x.shape), x.device
        if dtype.kind == "f" and self.levels.reciprocal is None:
            raise InputError("the codec is not fitted: it has no scale; call fit(samples)")
        head = torch.frombuffer(bytearray(head_bytes(dtype, shape)), dtype=torch.uint8).to(device)
        stripes = stripe_count(shape)
        if not stripes:
            return head
        rules, grid = self.rules_for[self.levels.zero_of(dtype)], Grid.of(shape)
        total = stripes * grid.cells
        row = torch.empty(total * ROW, dtype=torch.uint8, device=device)
        info = torch.empty((total, 3), dtype=torch.int32, device=device)
        fault = torch.zeros(1, dtype=torch.int32, device=device)
        _choose[(total,)](
            plain(x), row, info, fault, *tables_of(rules, grid.channels, device), table(np.float64([rules.lagrangian]), device), self.levels.reciprocal or 1.0,
            rules.zero, rules.modes, rules.offset, rules.length or DEEP.value, *grid, KIND=kind_of(x.dtype), DCT=bool(rules.length), **WARPS, **EXACT,
        )  # fmt: skip
        sums = sums_before(info[:, 0])
        nbytes, wild = torch.stack([sums[-1], fault[0].long()]).tolist()  # the one wait
        if wild:
            return None
        out = torch.empty(head.numel() + 8 * stripes + nbytes, dtype=torch.uint8, device=device)
        out[: head.numel()] = head
        _pack[(total,)](row, info, sums, out, head.numel(), stripes, grid.cells, BLOCK=ROW, **EXACT)
        return out

    def decode(self, payload: Tensor, src: Reader, out: Tensor) -> bool:
        """Fill `out` from a payload whose head and stripe table are `src`; False where its cells are not of this form."""
        stripes, device = stripe_count(src.shape), out.device
        if not stripes:
            return True
        rules, grid = self.rules_for[self.levels.zero_of(src.dtype)], Grid.of(src.shape)
        total = stripes * grid.cells
        info = torch.zeros((total, 3), dtype=torch.int64, device=device)
        row = torch.empty(total * ROW, dtype=torch.uint8, device=device)
        fault = torch.zeros(1, dtype=torch.int32, device=device)
        _, level_of, matrix, kept, _, backward, shift = tables_of(rules, grid.channels, device)
        geometry: Any = (rules.length or DEEP.value, *grid)
        walk(payload, src, info, fault, grid.cells)
        _spread[(total,)](payload, info, row, fault, kept, *geometry, DCT=bool(rules.length), BLOCK=ROW, **WARPS, **EXACT)
        direct = plain(out) if out.is_contiguous() else torch.empty(src.shape, dtype=plain(out).dtype, device=device)
        value_of = values_of(self.levels, np.arange(256, dtype=np.uint8), src.dtype, out.dtype, device)
        tables = (value_of, level_of, matrix, kept, backward, shift)
        _values[(total,)](row, info, direct, *tables, rules.zero, *geometry, DCT=bool(rules.length), **WARPS, **EXACT)
        if direct.data_ptr() != out.data_ptr():
            out.copy_(direct.view(out.dtype))
        return not fault.item()  # the one wait


def tables_of(rules: CellRules, channels: int, device: torch.device) -> tuple[Tensor, ...]:
    """symbol_of, level_of, the transform along the diagonal, kept coefficients before each channel, and a tile's factors by its row."""
    deep, n = DEEP.value, rules.length or DEEP.value
    keep = rules.keep if rules.keep.size else np.ones(1, np.uint8)
    matrix = np.kron(np.eye(deep // n), dct.matrix(n)).astype(np.float16)
    kept = np.concatenate([[0], np.cumsum(np.resize(keep, channels))]).astype(np.int32)
    shift = np.concatenate([np.zeros((1, rules.length), np.int32), rules.shift])
    by_row = [np.resize(a, (*a.shape[:-1], deep)) for a in (rules.forward.astype(np.int32), rules.backward)]
    shifts = np.tile(shift, (1, deep // n)) if rules.length else np.zeros((4, deep), np.int32)
    return tuple(table(values, device) for values in (rules.symbol_of, rules.level_of, matrix, kept, *by_row, shifts))


def walk(payload: Tensor, src: Reader, info: Tensor, fault: Tensor, cells: int) -> None:
    """Find the cells of every stripe: see `_walk`. `cells`: of a stripe."""
    counts = np.maximum(-(-src.lengths // SEGMENT), 1)
    ends = src.index_nbytes + np.cumsum(src.lengths)
    stripes = np.repeat(np.arange(src.stripes), counts)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    begins = (ends - src.lengths)[stripes] + SEGMENT * (np.arange(len(stripes)) - firsts[stripes])
    segments = np.stack([begins, np.minimum(begins + SEGMENT, ends[stripes]), ends[stripes]], 1)
    on = [torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(payload.device) for a in (segments, firsts, stripes)]
    entries = torch.zeros((len(stripes), 2), dtype=torch.int64, device=payload.device)
    if len(stripes) > src.stripes:
        leaps = torch.empty(len(stripes) * LANES.value, dtype=torch.int32, device=payload.device)
        _leap[(len(stripes), LANES.value // LEAPERS.value)](payload, on[0], leaps, LANES_HERE=LEAPERS.value, **EXACT)
        _chain[(src.stripes,)](leaps, on[1], entries, fault, cells, **EXACT)
    _walk[(len(stripes),)](payload, on[0], entries, on[2], info, fault, cells, **EXACT)
