"""The fused native kernel of the cell codec: a float tensor to finished bytes and back, no Python for each cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import _native
from tensorpress.blocks import dct
from tensorpress.blocks.cells import CellRules
from tensorpress.blocks.levels import Levels
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import DeviceKernel
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, chw, head_bytes, stripe_count
from tensorpress.core.threads import threads

Array = NDArray[Any]

# native/include/tensorpress/cells.h, Fault
FAULTS = (
    "",
    "not finite",
    "output is too small",
    "cell header is cut",
    "cell header has flags 0x{at:02x}, which no encoder writes",
    "cell payload ends past its stripe",
    "cell payload has another length than its sections fill",
    "cell of mode dct where the codec has no DCT of that length",
    "a section ends past its cell's payload",
    "padding bits are not zero",
    "{at} bytes stand after the last cell",
    "stripe is damaged: its check fails",
)
NOT_FINITE = 1


def native_rules(rules: CellRules) -> Any:
    matrix = dct.matrix(rules.length) if rules.length else np.zeros((0, 0), np.int32)
    return _native.CellRules(
        rules.zero,
        rules.symbol_of,
        rules.level_of,
        np.ascontiguousarray(matrix),
        rules.keep,
        rules.forward,
        rules.offset,
        rules.backward,
        np.ascontiguousarray(rules.shift),
        rules.lagrangian,
        rules.modes,
        rules.zero_map,
        rules.plane_codes,
        rules.width,
    )


class CellKernel:
    """Byte-equal twin of `Levels >> Cells`."""

    def __init__(self, levels: Levels, rules_for: dict[int, CellRules]) -> None:
        self.levels, self.rules = levels, rules_for
        self.rules_for = {zero: native_rules(rules) for zero, rules in rules_for.items()}

    def on_device(self) -> DeviceKernel:
        from tensorpress.blocks.gpu.cells import CellsOnDevice

        return CellsOnDevice(self.levels, self.rules)

    def accepts(self, x: Array) -> bool:
        return x.dtype.kind == "f" or x.dtype.itemsize == 1

    def _map(self, x: Array) -> Array:
        if x.dtype == bool:
            x = x.view(np.uint8)
        if x.dtype.kind == "f" and self.levels.reciprocal is None:
            raise InputError("the codec is not fitted: it has no scale; call fit(samples)")
        return x.reshape(chw(x.shape))

    def encode(self, x: Array) -> bytes:
        view = self._map(x)
        if view.dtype.kind == "f" and view.dtype != np.float32:
            view = view.astype(np.float32)
        head = np.frombuffer(head_bytes(x.dtype, x.shape), np.uint8)
        out = np.empty(_native.max_payload_nbytes(view, head.size), np.uint8)
        rules = self.rules_for[self.levels.zero_of(x.dtype)]
        fault, nbytes, _, _, at = _native.encode_cells(view, rules, self.levels.reciprocal or 1.0, head, out, threads(view.size))
        if fault == NOT_FINITE:
            where = tuple(int(i) for i in np.unravel_index(at, x.shape))
            raise InputError(f"the tensor holds {x[where]} at index {where}; only finite values can be quantised")
        if fault:
            raise AssertionError(FAULTS[fault])
        return out[:nbytes].tobytes()

    def decode(self, payload: Buffer, out: Array) -> None:
        src = Reader(payload, max_nbytes=1 << 62)
        target = out.view(np.uint8) if out.dtype == bool else out
        direct = target.dtype in (np.float32, np.uint8, np.int8) and np.shares_memory(target, target.reshape(chw(out.shape)))
        view = target.reshape(chw(out.shape)) if direct else np.empty(chw(out.shape), np.float32 if out.dtype.kind == "f" else target.dtype)
        head_nbytes = src.index_nbytes - 8 * stripe_count(src.shape)
        rules = self.rules_for[self.levels.zero_of(out.dtype)]
        bytes_in = np.frombuffer(payload, np.uint8)
        fault, _, stripe, cell, at = _native.decode_cells(bytes_in, head_nbytes, rules, view, self.levels.scale_for(out.dtype), threads(view.size))
        if fault:
            raise StreamError(f"stripe {stripe}, cell {cell}: {FAULTS[fault].format(at=at)}")
        if not direct:
            with np.errstate(over="ignore"):
                target[...] = view.reshape(out.shape)
