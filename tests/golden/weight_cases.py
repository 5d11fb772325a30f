"""Files of weights that golden ones are made of: every form, and every method on a small network. PyTorch is imported when one is made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tensorpress.blocks.forms import Codebook, Factors, Fixed, Grid, Plain, Planes, Rounded, Slabs
from tensorpress.core import registry
from tensorpress.planning.weight_file import Tensor, WeightFile


def integers(shape: tuple[int, ...], spread: int, seed: int) -> NDArray[np.int64]:
    """Whole numbers around zero, small ones often, by integer arithmetic alone."""
    count = int(np.prod(shape))
    state, found = seed * 2654435761 % (1 << 32), np.empty(count, np.int64)
    for i in range(count):
        total = 0
        for _ in range(3):
            state = (state * 1664525 + 1013904223) % (1 << 32)
            total += (state >> 16) % (2 * spread + 1) - spread
        found[i] = total // 3
    return found.reshape(shape)


def forms() -> bytes:
    """Every form with every parameter, types that are no float32, ties, and tensors without values."""
    small = integers((8, 4, 3, 3), 3, 1)
    books = np.asarray([[-0.5, -0.125, 0.0, 0.25, 0.75], [-1.0, -0.25, 0.125, 0.5, 2.0]], np.float16)
    square, wide = Grid(integers((8, 8), 40, 2), np.asarray([-160])), Grid(integers((3, 16), 9, 3), np.asarray([-100]))
    values = (integers((24,), 1 << 20, 4) / 4096).astype(np.float32)
    tensors = [
        Tensor("grid", "F32", small.shape, Grid(small, np.asarray([-96]))),
        Tensor("rows", "F16", small.shape, Grid(small, integers((8,), 50, 5) - 90)),
        Tensor("tied", "F32", small.shape, None, "grid"),
        Tensor("large", "F64", (6,), Grid(np.asarray([1 << 24, -(1 << 24), 0, 1, -77777, 3]), np.asarray([-700]))),
        Tensor("number", "F32", (), Grid(np.asarray(-5), np.asarray([3]))),
        Tensor("none", "F32", (0, 4), Grid(np.zeros((0, 4), np.int32), np.asarray([0]))),
        Tensor("book", "F32", (8, 6), Codebook(np.abs(integers((8, 6), 4, 6)) % 5, books[:1], np.zeros(8, np.int32))),
        Tensor("books", "BF16", (8, 6), Codebook(np.abs(integers((8, 6), 4, 7)) % 5, books, np.arange(8) % 2)),
        Tensor("rank", "F32", (8, 16), Factors("or,rk->ok", (Grid(integers((8, 3), 9, 8), np.asarray([-90])), wide))),
        Tensor("tucker", "F32", (4, 5, 3), Factors("oa,abk,bi->oik", tuple(Grid(integers(s, 5, 9), np.asarray([-60])) for s in ((4, 2), (2, 3, 3), (3, 5))))),
        Tensor("dct", "F32", (8, 8), Factors("or,rk->ok", (square, Fixed("dct", 8)))),
        Tensor("hadamard", "F32", (8, 8), Factors("or,rk->ok", (square, Fixed("hadamard", 8)))),
        *(Tensor(f"rounded{bits}", "F32", (24,), Rounded.nearest(values, bits)) for bits in (0, 5, 23)),
        Tensor("edges", "F32", (6,), Rounded.nearest(np.asarray([0.0, -0.0, 1e-45, -1e-38, 3.4028235e38, -1.0], np.float32), 7)),
        Tensor("counter", "I64", (), Plain(np.asarray(391, np.int64))),
        Tensor("flags", "BOOL", (3,), Plain(np.asarray([True, False, True]))),
        Tensor("huge", "U64", (2,), Plain(np.asarray([2**63, 5], np.uint64))),
        Tensor("odd", "F16", (3,), Plain(np.asarray([0x7E01, 0x8000, 0xFC00], np.uint16).view(np.float16))),
        Tensor("name with spaces / ünïcode", "U8", (2, 2), Plain(np.asarray([[1, 2], [3, 255]], np.uint8))),
    ]
    return WeightFile(tuple(tensors), {"by": "tests/golden"}).to_bytes()


def pieces() -> bytes:
    """The forms of files that are written in pieces."""
    small = integers((11, 4, 3), 3, 1)
    floats = (integers((40, 30), 1 << 20, 2) / 4096).astype(np.float32)
    grids = [Grid(small[at : at + 3], integers((len(small[at : at + 3]),), 50, 5) - 90) for at in range(0, 11, 3)]
    tensors = [
        Tensor("planes", "F32", floats.shape, Planes(floats)),
        Tensor("bfloat16", "BF16", floats.shape, Planes((floats.view(np.uint32) >> 16).astype(np.uint16), bfloat16=True)),
        Tensor("unsigned", "U16", (40,), Planes(integers((40,), 30000, 3).astype(np.uint16))),
        Tensor("flags", "BOOL", (4, 50), Planes(integers((4, 50), 3, 4) > 0)),
        Tensor("bits", "F8_E4M3", (90,), Planes(integers((90,), 60, 5).astype(np.uint8))),
        Tensor("number", "F64", (), Planes(np.asarray(-0.0))),
        Tensor("none", "I64", (0, 3), Planes(np.zeros((0, 3), np.int64))),
        Tensor("rows", "F16", small.shape, Slabs(grids)),
        Tensor("slabs", "F32", small.shape, Slabs([Grid(small[:6], np.asarray([-96])), Grid(small[6:], np.asarray([-90]))])),
        Tensor("tied", "F32", small.shape, None, "slabs"),
    ]
    return WeightFile(tuple(tensors), {"by": "tests/golden"}).to_bytes()


def method(method_id: str) -> bytes:
    """What a method makes of a small network. Other machines may fit otherwise: a file is made once."""
    import torch

    from tensorpress import weights
    from tests.weights.networks import mixed, pictures

    labels = torch.arange(16) % 12
    return weights.compress(mixed(), pictures(), bits=9.0, recipe=method_id, labels=labels).data


CASES = {"forms": forms, "pieces": pieces}


def names() -> list[str]:
    return [*CASES, *registry.cards("method")]
