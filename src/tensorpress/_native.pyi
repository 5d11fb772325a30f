"""Types of the native module, for checkers and readers. Its twins in Python say what each kernel computes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_Array = NDArray[Any]

def crc32c(data: bytes | bytearray | memoryview, seed: int = 0) -> int: ...

def floats_are_plain() -> bool:
    """Whether `PlainFloats` would change nothing."""

class PlainFloats:
    """A context in which this thread's floats round to nearest and keep denormal numbers, whatever it is set to outside."""

    def __enter__(self) -> None: ...
    def __exit__(self, *exception: Any) -> None: ...

def frame_head(payload: bytes | bytearray | memoryview, index_nbytes: int, site: int, plan_id: int) -> bytes: ...

def read_frame(data: memoryview) -> tuple[int, int, int, int, int, int] | None:
    """(site, plan id, first byte of the payload, its end, code of its type, values), or None where anything is wrong."""

def read_index(payload: memoryview) -> tuple[int, tuple[int, ...], int, int] | None:
    """(code of the type, shape, bytes of the head, stripes), or None where anything is wrong."""

class MapKernel:
    """A map to a whole payload and back. The tuples: payload (its size where `out` is given), fault, stripe, cell, at."""

    def capacity(self, channels: int, rows: int, columns: int, head_nbytes: int) -> int: ...
    def encode(self, map: _Array, reciprocal: float, head: bytes, out: _Bytes | None, threads: int) -> tuple[Any, int, int, int, int]: ...
    def decode(self, payload: memoryview, head_nbytes: int, map: _Array, scale: float, threads: int) -> tuple[None, int, int, int, int]: ...

class ZeroBitmap(MapKernel):
    def __init__(self, zero: int, word_of: _Bytes, level_of: _Bytes) -> None: ...

class LanedRans(MapKernel):
    def __init__(self, frequencies: NDArray[np.uint32], escape: int, bits: int, zero: int, word_of: _Bytes, level_of: _Bytes) -> None: ...

class Cells(MapKernel):
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

class ChannelDct(MapKernel):
    def __init__(
        self,
        zero: int,
        symbol_of: _Bytes,
        level_of: _Bytes,
        keep: _Bytes,
        multiplier: NDArray[np.uint16],
        offset: NDArray[np.uint16],
        backward: NDArray[np.int16],
        fraction: int,
    ) -> None: ...

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
def ranges_encode(starts: _Bytes, bits: _Bytes, range_of: _Bytes, words: _Bytes, numbers: _Bytes, out: _Bytes) -> int: ...
def ranges_decode(starts: _Bytes, bits: _Bytes, range_of: _Bytes, numbers: _Bytes, data: _Bytes, words: _Bytes) -> int: ...

class AdaptiveEncoder:
    """Codes int32 (rows, columns, taps) one after another; its states go on."""

    def __init__(self, fast: bool) -> None: ...
    def put(self, values: NDArray[np.int32]) -> None: ...
    def finish(self) -> bytes: ...

class AdaptiveDecoder:
    """Gives back what an AdaptiveEncoder took."""

    def __init__(self, data: _Bytes) -> None: ...
    def take(self, out: NDArray[np.int32]) -> int:
        """How many values were decoded: fewer where the string was seen to end, or is `beyond`."""

    def beyond(self) -> bool:
        """Whether the last take stopped at a value that no int32 is."""

    def done(self) -> bool: ...

def adaptive_costs(tensors: list[NDArray[np.int32]]) -> tuple[list[float], list[int]]:
    """Bits and counts of the magnitudes 0 to 14, and of all beyond, in the small form."""

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
    def lanes(self, rows: int, columns: int) -> bool: ...
    def capacity(self, rows: int, columns: int, head_nbytes: int) -> int: ...
    @property
    def exact(self) -> bool: ...
    def encode_payload(self, x: _Array, before: _Array | None, head: bytes, out: _Bytes | None, threads: int) -> bytes | int | None: ...
    def decode_payload(self, payload: memoryview, head_nbytes: int, before: _Array | None, out: _Array, threads: int) -> tuple[int, int]: ...
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

def ebpc_encode(words: _Bytes) -> bytes: ...
def ebpc_decode(data: _Bytes, words: _Bytes) -> bool: ...
def predictive_encode(words: _Bytes, predictor: int) -> bytes: ...
def predictive_decode(data: _Bytes, words: _Bytes, predictor: int) -> bool: ...
def byte_planes_encode(words: _Bytes, itemsize: int, mantissa: int, folded: bool, mode: int) -> bytes: ...
def byte_planes_decode(data: _Bytes | memoryview, itemsize: int, mantissa: int, folded: bool, words: _Bytes) -> bool: ...
