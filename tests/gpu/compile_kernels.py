"""Compile every kernel for an H200 (sm_90), as launches would specialise it; no GPU is needed. The interpreter takes programs that the compiler refuses.

    python -m tests.gpu.compile_kernels      one JSON row a kernel: its name, and how many fused multiply-adds its code has
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tensorpress.blocks.gpu import cell_decode, cell_encode, cells, quantise, zero_bitmap

INTS = ("stripes", "rows", "columns", "depth", "across", "cells", "allowed", "offset", "length", "zero", "channels", "plane", "run", "blocks", "front", "size", "flip")
TYPES = {**dict.fromkeys(INTS, "i32"), "reciprocal": "fp32", "price": "*fp64", "counts": "*i32", "fault": "*i32", "sums": "*i64", "starts": "*i64", "leaps": "*i32"}
TYPES |= dict.fromkeys(("segments", "firsts", "entries", "stripes_of"), "*i64")
TYPES |= {**dict.fromkeys(("payload", "row", "symbol_of", "level_of"), "*u8"), **dict.fromkeys(("kept", "forward", "backward", "shift"), "*i32"), "matrix": "*fp16"}
KINDS = [("*fp32", 0, 1), ("*bf16", 0, 1), ("*fp16", 0, 1), ("*fp64", 0, 1), ("*u8", 1, 1), ("*i8", 2, 1), ("*i16", 3, 2), ("*i64", 3, 8)]


def cases() -> Iterator[tuple[Any, dict[str, str], dict[str, int]]]:
    """(kernel, types of what differs, constants); a whole number given among the constants is an argument that is 1."""
    for pointer, kind, nbytes in KINDS:
        sizes = {"KIND": kind, "BLOCK": 2048, "ALIGN": 16}
        if nbytes == 1:
            yield zero_bitmap._count, {"x": pointer, "table": "*u8"}, sizes
        yield zero_bitmap._write, {"x": pointer, "table": "*u8", "out": "*u8"}, {**sizes, "NBYTES": nbytes}
        yield zero_bitmap._read, {"payload": "*u8", "table": pointer, "out": pointer}, {**sizes, "NBYTES": nbytes}
    ones = {"zero": 1, "channels": 1, "plane": 1, "run": 1, "blocks": 1, "KIND": 0, "BLOCK": 2048, "ALIGN": 1}
    yield zero_bitmap._count, {"x": "*fp32", "table": "*u8"}, ones
    yield zero_bitmap._write, {"x": "*fp32", "table": "*u8", "out": "*u8"}, {**ones, "NBYTES": 1}
    del ones["zero"]
    yield zero_bitmap._read, {"payload": "*u8", "table": "*fp32", "out": "*fp32"}, {**ones, "NBYTES": 1}
    yield zero_bitmap._popcount, {"payload": "*u8"}, {"BLOCK": 2048}
    yield zero_bitmap._popcount, {"payload": "*u8"}, {"channels": 1, "plane": 1, "run": 1, "blocks": 1, "BLOCK": 2048}
    yield quantise._quantise, {"x": "*fp32", "out": "*u8"}, {"BLOCK": 2048}
    yield quantise._quantise, {"x": "*bf16", "out": "*u8"}, {"zero": 1, "size": 1, "BLOCK": 2048}
    yield quantise._restore, {"levels": "*u8", "table": "*fp32", "out": "*fp32"}, {"BLOCK": 2048}
    ones = dict.fromkeys(("channels", "rows", "columns", "across", "cells"), 1)
    for pointer, kind, transform, given in [
        ("*fp32", 0, True, {}), ("*bf16", 0, True, {}), ("*u8", 1, True, {}), ("*i8", 2, False, {}), ("*fp32", 0, True, {**ones, "zero": 1}), ("*u8", 1, False, ones),
    ]:  # fmt: skip
        constants = {"DCT": transform, **given}
        yield cell_encode._choose, {"x": pointer, "info": "*i32"}, {**constants, "KIND": kind}
        yield cell_decode._values, {"info": "*i64", "out": pointer, "value_of": pointer}, constants
        constants.pop("zero", None)
        yield cell_decode._spread, {"info": "*i64"}, {**constants, "BLOCK": 2048}
    for given in ({}, {"cells": 1}):
        yield cell_encode._pack, {"info": "*i32", "out": "*u8"}, {**given, "BLOCK": 2048}
        yield cell_decode._walk, {"info": "*i64"}, given
        yield cell_decode._chain, {}, given
    yield cell_decode._leap, {}, {"LANES_HERE": cell_decode.LEAPERS.value}


def warps_of(kernel: Any) -> int:
    return cells.WARPS["num_warps"] if kernel in (cell_encode._choose, cell_decode._spread, cell_decode._values) else 4


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, int]) -> Any:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else {**TYPES, **types}[name] for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, {})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps_of(kernel), **quantise.EXACT})


if __name__ == "__main__":
    for kernel, types, constants in cases():
        code = compiled(kernel, types, constants)
        json.dump({"kernel": kernel.__name__, **types, **constants, "fused": len(re.findall(r"\bfma\.", code.asm["ptx"])), "nbytes": len(code.asm["cubin"])}, sys.stdout)
        print(flush=True)
