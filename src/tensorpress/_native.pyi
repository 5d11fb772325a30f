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
def encode_cells(map: _Array, rules: CellRules, reciprocal: float, head: _Bytes, out: _Bytes, threads: int) -> _Outcome: ...
def decode_cells(payload: _Bytes, head_nbytes: int, rules: CellRules, map: _Array, scale: float, threads: int) -> _Outcome: ...
def count_modes(payload: _Bytes, index_nbytes: int) -> list[int]: ...
def zero_bitmap_encode(words: _Bytes, word_nbytes: int, out: _Bytes) -> int: ...
def zero_bitmap_decode(data: _Bytes, word_nbytes: int, out: _Bytes) -> bool: ...

def floats_to_words(x: NDArray[np.float32], reciprocal: float, zero: int, table: _Bytes, words: _Bytes) -> int: ...
def bytes_to_words(x: _Bytes, table: _Bytes, words: _Bytes) -> None: ...
def words_to_floats(words: _Bytes, table: NDArray[np.float32], x: NDArray[np.float32]) -> None: ...
def zero_runs_encode(words: _Bytes, out: _Bytes) -> int: ...
def zero_runs_decode(data: _Bytes, words: _Bytes) -> int: ...
def columns_encode(words: _Bytes, out: _Bytes) -> int: ...
def columns_decode(data: _Bytes, words: _Bytes) -> int: ...
def slots_encode(words: _Bytes, cell_channels: int, cell_columns: int, padded: bool, out: _Bytes) -> int: ...
def slots_decode(data: _Bytes, cell_channels: int, cell_columns: int, padded: bool, words: _Bytes) -> int: ...

class RansTables:
    def __init__(self, cdf: NDArray[np.uint32], bits: int) -> None: ...
    def encode(self, symbols: _Array, index: _Array | None, first: int, states: NDArray[np.uint32], out: _Bytes, end: int) -> int: ...
    def decode(self, data: _Bytes, at: int, index: _Array | None, first: int, states: NDArray[np.uint32], out: _Array) -> int: ...

class HuffmanCodes:
    def __init__(self, lengths: _Bytes) -> None: ...
    def encode(self, symbols: _Array, index: _Array | None, out: _Bytes, bit: int) -> int: ...
    def decode(self, data: _Bytes, bit: int, index: _Array | None, out: _Array) -> int: ...

class ContextModel:
    """One layer's model for the context coder; takes the dictionary that blocks.context_model builds."""

    def __init__(self, parts: dict[str, Any]) -> None: ...
    def encode(
        self,
        x: NDArray[np.float32],
        before: NDArray[np.float32] | None,
        lagrangian: list[float],
        rounding: float,
        threads: int,
        map_rows: int = 0,
        decoded: NDArray[np.float32] | None = None,
    ) -> list[bytes]: ...
    def trace(
        self,
        x: NDArray[np.float32],
        before: NDArray[np.float32] | None,
        lagrangian: float,
        rounding: float,
        q: NDArray[np.int16],
        spatial: NDArray[np.int32],
        cross: NDArray[np.int32],
        threads: int,
    ) -> None: ...
    def decode(
        self, stripes: list[_Bytes], before: NDArray[np.float32] | None, out: NDArray[np.float32], threads: int, only: int = -1, map_rows: int = 0
    ) -> int: ...

class ContextMaxModel:
    """One layer's model for the back-end `max`; takes the dictionary that blocks.context_max_model builds. Maps: float32, uint8 or int8, of any strides."""

    def __init__(self, parts: dict[str, Any]) -> None: ...
    def encode(
        self,
        x: NDArray[Any],
        before: NDArray[np.float32] | None,
        whole: int,
        lagrangian: list[float],
        rounding: float,
        threads: int,
        decoded: NDArray[Any] | None = None,
    ) -> list[bytes]: ...
    def trace(
        self,
        x: NDArray[Any],
        before: NDArray[np.float32] | None,
        whole: int,
        lagrangian: float,
        rounding: float,
        q: NDArray[np.int16],
        prediction: NDArray[np.int32],
        threads: int,
    ) -> None: ...
    def decode(self, stripes: list[NDArray[np.uint8]], before: NDArray[np.float32] | None, whole: int, out: NDArray[Any], threads: int) -> int:
        """The first damaged stripe, or -1."""

def context_tables() -> tuple[list[int], list[int]]: ...
def ebpc_encode(words: _Bytes) -> bytes: ...
def ebpc_decode(data: _Bytes, words: _Bytes) -> bool: ...
def predictive_encode(words: _Bytes, predictor: int) -> bytes: ...
def predictive_decode(data: _Bytes, words: _Bytes, predictor: int) -> bool: ...
