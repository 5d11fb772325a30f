"""Types of the native module, for checkers and readers. Its twins in Python say what each kernel computes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_Array = NDArray[Any]
_Outcome = tuple[int, int, int, int, int]  # fault, nbytes, stripe, cell, at

def crc32c(data: bytes | bytearray | memoryview, seed: int = 0) -> int: ...

def write_frame(payload: bytes | bytearray | memoryview, index_nbytes: int, site: int, plan_id: int) -> bytes: ...

class CellRules:
    def __init__(
        self,
        zero: int,
        symbol_of: _Bytes,
        level_of: _Bytes,
        matrix: NDArray[np.int32],
        keep: _Bytes,
        forward: NDArray[np.uint32],
        offset: int,
        backward: NDArray[np.int32],
        shift: NDArray[np.int32],
        lagrangian: float,
        modes: int,
        zero_map: bool,
        plane_codes: bool,
        width: int,
    ) -> None: ...

def max_payload_nbytes(map: _Array, head_nbytes: int) -> int: ...
def encode_cells(map: _Array, rules: CellRules, reciprocal: float, head: _Bytes, out: _Bytes) -> _Outcome: ...
def decode_cells(payload: _Bytes, head_nbytes: int, rules: CellRules, map: _Array, scale: float) -> _Outcome: ...
def count_modes(payload: _Bytes, index_nbytes: int) -> list[int]: ...
def zero_bitmap_encode(words: _Bytes, word_nbytes: int, out: _Bytes) -> int: ...
def zero_bitmap_decode(data: _Bytes, word_nbytes: int, out: _Bytes) -> bool: ...

class RansTables:
    def __init__(self, cdf: NDArray[np.uint32], bits: int) -> None: ...
    def encode(self, symbols: _Array, index: _Array | None, first: int, states: NDArray[np.uint32], out: _Bytes, end: int) -> int: ...
    def decode(self, data: _Bytes, at: int, index: _Array | None, first: int, states: NDArray[np.uint32], out: _Array) -> int: ...

class HuffmanCodes:
    def __init__(self, lengths: _Bytes) -> None: ...
    def encode(self, symbols: _Array, index: _Array | None, out: _Bytes, bit: int) -> int: ...
    def decode(self, data: _Bytes, bit: int, index: _Array | None, out: _Array) -> int: ...
