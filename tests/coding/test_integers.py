"""Only integers cross from models to coders: a float, or an integer that does not fit, is refused where it enters, never cut to size."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorpress import _native, coding
from tensorpress.blocks.klt import FIXED, MAX_CHANNELS, PEAK, Basis
from tensorpress.coding import huffman, rans
from tensorpress.coding.huffman import HuffmanTables
from tensorpress.coding.lanes import LaneTables
from tensorpress.coding.tables import Tables
from tensorpress.core.errors import InputError
from tensorpress.systems.features.klt import REACH

TABLES = Tables.from_counts([3, 2, 1])
CODES = HuffmanTables.from_counts([3, 2, 1])
LEVELS = np.zeros(256, np.uint8)

REFUSED: dict[str, Callable[[], Any]] = {
    "fractions in a CDF": lambda: Tables(np.array([[0.0, 1024.5, 4096.0]])),
    "whole floats in a CDF": lambda: Tables(np.array([[0.0, 1024.0, 4096.0]])),
    "a CDF beyond its type": lambda: Tables(np.array([[1 << 32, 1024, 4096]])),
    "fractions as frequencies": lambda: Tables.from_frequencies([1024.5, 3071.5]),
    "fractions as counts": lambda: Tables.from_counts([1.5, 2.5]),
    "fractions as lengths": lambda: HuffmanTables(np.array([[1.5, 1.5]])),
    "lengths beyond their type": lambda: HuffmanTables(np.array([[257, 257]])),
    "fractions as counts of lengths": lambda: HuffmanTables.from_counts([1.5, 2.5]),
    "floats as frequencies of lanes": lambda: LaneTables((1024.0, 1024.0), 0, 11),  # type: ignore[arg-type]
    "fractions as counts of lanes": lambda: LaneTables.from_counts([1.5, 2.5], 11),
    "float symbols, rANS": lambda: rans.encode(np.array([0.0, 1.0]), TABLES),
    "float rows, rANS": lambda: rans.encode(np.array([0, 1], np.uint8), TABLES, np.array([0.0, 0.0])),
    "float symbols, Huffman": lambda: huffman.Encoder().put(np.array([0.0, 1.0]), None, CODES),
    "float rows, Huffman": lambda: huffman.Encoder().put(np.array([0, 1], np.uint8), np.array([0.0, 0.0]), CODES),
}
NATIVE: dict[str, Callable[[], Any]] = {
    "a CDF": lambda: _native.RansTables(np.array([[0.0, 1024.0, 4096.0]]), 12),
    "lengths": lambda: _native.HuffmanCodes(np.array([[1.0, 1.0]])),
    "frequencies": lambda: _native.LanedRans(np.array([1024.0, 1024.0]), 0, 11, 0, LEVELS, LEVELS),
    "words of levels": lambda: _native.ZeroBitmap(0, LEVELS.astype(np.float32), LEVELS),
    "levels of words": lambda: _native.ZeroBitmap(0, LEVELS, LEVELS.astype(np.float64)),
    "words": lambda: _native.zero_bitmap_encode(np.ones(8), 1, np.empty(100, np.uint8)),
    "symbols": lambda: TABLES.native.encode(np.array([0.0, 1.0]), None, 0, np.full(4, 1 << 16, np.uint32), np.empty(32, np.uint8), 32),
}


@pytest.mark.parametrize("name", REFUSED)
def test_coders_refuse_floats(name: str) -> None:
    with pytest.raises(InputError, match=r"integer|uint8"):
        REFUSED[name]()


@pytest.mark.parametrize("name", NATIVE)
def test_kernels_refuse_floats(name: str) -> None:
    with pytest.raises(TypeError):
        NATIVE[name]()


def test_sums_of_the_klt_are_exact() -> None:
    """Integers held in float64: the largest sum of either direction is below 2^53, and reached it is still exact in any order."""
    assert PEAK * FIXED * MAX_CHANNELS < 1 << 53
    assert PEAK * 2 * REACH * MAX_CHANNELS < 1 << 53
    channels = 4096
    basis = Basis((np.full((channels, channels), PEAK, np.int16),), np.zeros(channels, np.float32), 1.0, 1.0)
    u = np.full((channels, 3), FIXED, np.float64)
    u[::2, 1] -= 1
    exact = [channels * PEAK * FIXED, channels * PEAK * FIXED - channels // 2 * PEAK]
    assert basis.blocks[0][0].astype(np.float64) @ u[:, 0] == exact[0] and basis.blocks[0][0].astype(np.float64) @ u[:, 1] == exact[1]


def test_bitwise_coders_hold_no_float() -> None:
    """The files from integers to bytes: no float is written in them, made by a division, or named, but where a density becomes integers, a size is bounded or one of tables chosen."""
    for path in sorted(Path(coding.__file__).parent.glob("*.py")):
        found = []
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name not in ("from_density", "worst_bits", "_suits", "max_nbytes"):
                for node in ast.walk(function):
                    written = isinstance(node, ast.Constant) and isinstance(node.value, float)
                    divided = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
                    named = (isinstance(node, ast.Attribute) and node.attr.startswith("float")) or (isinstance(node, ast.Name) and node.id == "float")
                    if written or divided or named:
                        found.append(f"{path.name}:{node.lineno}")
        assert not found
