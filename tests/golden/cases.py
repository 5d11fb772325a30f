"""What golden files hold: inputs made of integers alone, and the codecs, types, shapes and plans that read and write them.

Inputs are integers times a power of two, so they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorpress.core import registry
from tensorpress.core.payload import DTYPES, chw

MAP = (40, 11, 9)
OPTIONS: dict[str, dict[str, dict]] = {  # beside the default of every card; benchmarks measure these as well
    "dct_cm": {
        "coarse": {"step": 6.0},
        "transform": {"step": 5.0, "transform": "dct"},
        "paper": {"step": 8.0, "profile": "paper", "transform": "dct", "lengths": [8]},
        "fixed": {"step": 4.0, "profile": "fixed"},
        "fixed-4": {"step": 12.0, "profile": "fixed", "transform": "dct", "lengths": [4]},
        "fixed-8": {"step": 5.0, "profile": "fixed", "transform": "dct", "lengths": [8]},
        "fixed-16": {"step": 3.0, "profile": "fixed", "transform": "dct", "lengths": [16], "masks": False},
        "fixed-32": {"step": 60.0, "profile": "fixed", "transform": "dct", "lengths": [32]},
    },
    "zvc": {"coarse": {"step": 6.0}},
    "rle": {"coarse": {"step": 6.0}},
    "csc": {"coarse": {"step": 6.0}},
    "huffman": {"coarse": {"step": 6.0}},
    "slots": {"coarse": {"step": 6.0}, "wide": {"cell": "wide"}, "slot": {"layout": "slot"}},
    "uniform_rans": {"coarse": {"levels": 12}},
    "context": {"coarse": {"step": 6.0}, "fast": {"backend": "fast"}, "fast-coarse": {"backend": "fast", "step": 6.0}},
    "klt": {"huffman": {"coder": "huffman", "bits": 6.0}},
    "float_planes": {"bfloat16": {"layout": "bfloat16"}},
}


@dataclass(frozen=True)
class Case:
    """One golden stream: `name` is its file's, `pattern` and the rest its input."""

    codec: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    pattern: str = "signed"
    dtype: str = "float32"
    shape: tuple[int, ...] = MAP


def pattern(kind: str, dtype: str = "float32", shape: tuple[int, ...] = MAP) -> np.ndarray:
    """An array of this type and shape: neighbouring channels alike where `signed`; half of that zero in `relu`, nearly all in `gaps`, none in `dense` and `even`."""
    c, y, x = np.meshgrid(*map(np.arange, chw(shape)), indexing="ij")
    values = ((c // 4 * 37 + y * 11 + x * 7) % 61 - 30) * (1 + c % 4) + (c * y * 3 + x * x * 5) % 17 - 8
    mixed = ((c * 8191 + y * 131 + x + 1) * 2654435761 % (1 << 32)) >> 16
    if kind == "relu":
        values = np.maximum(values, 0)
    elif kind == "noise":
        values = mixed % 255 - 127
    elif kind == "gaps":  # the second stripe is empty, and the left half of the third one
        values = np.where((mixed % 24 == 0) & (y // 8 != 1) & ((y < 16) | (2 * x >= shape[-1])), np.maximum(values, 0), 0)
    elif kind == "dense":
        values = 40 + mixed % 90
    elif kind in ("alike", "even"):  # every channel the same
        values = np.maximum((y * 131 + x + 1) * 2654435761 % (1 << 32) >> 24, 100) - (100 if kind == "alike" else 30)
    elif kind == "tiles":  # one of 12 vectors of 8 values after the other
        tile = ((c * 8191 + y * 131 + x // 8 + 1) * 2654435761 % (1 << 32) >> 16) % 12
        values = 1 + ((tile * 8 + x % 8 + 1) * 2654435761 % (1 << 32) >> 16) % 250
    elif kind == "zeros":
        values = np.zeros_like(values)
    elif kind != "signed":
        raise ValueError(f"no pattern of name {kind!r}")
    to = np.dtype(dtype)
    values = values.reshape(shape)
    if to.kind == "f":
        return (values * 2.0**-6).astype(to)
    if to.kind == "b":
        return values > 0
    if to.kind == "u":
        values = np.abs(values)
    if to.itemsize == 1:
        return np.clip(values, np.iinfo(to).min, np.iinfo(to).max).astype(to)
    return (values * {2: 111, 4: 0x123456, 8: 0x123456789ABCD}[to.itemsize]).astype(to)


def golden_input(signed: bool) -> np.ndarray:
    """float32 (40, 11, 9): the input of every codec and variant."""
    return pattern("signed" if signed else "relu")


def cases() -> list[tuple[str, str, dict, bool]]:
    """(codec, name, options, signed input) of every codec and variant on one map."""
    found = []
    for card in registry.cards().values():
        for name, options in {"default": {}, **OPTIONS.get(card.id, {})}.items():
            found += [(card.id, f"{card.id}-{name}-{'signed' if signed else 'relu'}", options, signed) for signed in (False, True)]
    return found


SHAPES: dict[str, tuple[int, ...]] = {"rank-0": (), "rank-1": (13,), "rank-2": (6, 9), "rank-5": (2, 2, 3, 10, 5), "empty": (4, 0, 6)}
SMALL, BLOCK, WIDE = (6, 9, 5), (34, 9, 9), (64, 18, 64)
FAST = {"backend": "fast"}
TRANSFORM = {"step": 5.0, "transform": "dct"}
FIXED = {"step": 4.0, "profile": "fixed"}
MODES: dict[str, dict[str, Any]] = {
    "none": {"transform": "none"},
    "dct": {"transform": "dct", "lengths": [4]},
    "fixed-none": {"profile": "fixed", "transform": "none"},
    "fixed-dct": {"profile": "fixed", "transform": "dct", "lengths": [4]},
}
LOADS = [("noise", 1.0), ("gaps", 1.0), ("alike", 3.0), ("even", 3.0), ("dense", 20.0), ("dense", 40.0), ("dense", 128.0)]  # planes of every code
SPECIAL: dict[str, list[tuple[str, dict[str, Any], str, str, tuple[int, ...]]]] = {  # name, options, pattern, type, shape
    "context": [
        ("parts", {"step": 6.0}, "gaps", "float32", WIDE),
        ("parts-of-one-stripe", {"step": 6.0}, "gaps", "float32", (64, 8, 64)),
        ("earlier-16", {"step": 4.0, "earlier": 16}, "signed", "float32", BLOCK),
        ("alone", {"step": 4.0, "earlier": 0, "neighbours": False, "centroids": False}, "relu", "float32", BLOCK),
        ("exponents", {"step": 4.0, "exponents": [-9, 0, 3, 8, 17, -1]}, "signed", "float32", SMALL),
        ("fast-exponents", {**FAST, "step": 4.0, "exponents": [-9, 0, 3, 8, 17, -1]}, "signed", "float32", SMALL),
        ("fast-noise", FAST, "noise", "float32", BLOCK),
        ("fast-gaps", FAST, "gaps", "float32", WIDE),
        ("fast-cap", {**FAST, "step": 2.0, "cap": 6.0}, "relu", "float32", BLOCK),
        ("fast-alone", {**FAST, "step": 4.0, "earlier": 0, "neighbours": False, "centroids": False}, "relu", "float32", BLOCK),
        ("fast-one-class", {**FAST, "step": 4.0, "classes": 1}, "signed", "float32", BLOCK),
        ("fast-earlier-16", {**FAST, "step": 4.0, "earlier": 16}, "signed", "float32", BLOCK),
        *((f"fast-{dtype}", FAST, "signed", dtype, SMALL) for dtype in ("uint8", "int8", "float16")),
    ],
    "uniform_rans": [
        ("lanes-32", {}, "gaps", "float32", (16, 17, 64)),
        ("lanes-32-dense", {"levels": 16}, "signed", "float32", (16, 16, 70)),
        ("lanes-64", {}, "gaps", "float32", (64, 9, 96)),
        ("lanes-32-noise", {}, "noise", "float32", (16, 8, 64)),
        ("lanes-32-rare", {}, "gaps", "float32", (16, 33, 64)),
        ("lanes-4-rare", {}, "gaps", "float32", (8, 60, 60)),
        ("lanes-64-dense", {"levels": 2}, "signed", "float32", (64, 8, 96)),
        ("levels-2", {"levels": 2}, "signed", "float32", MAP),
        ("table-11", {"table_bits": 11}, "relu", "float32", MAP),
    ],
    "dct_cm": [
        *((f"length-{n}", {**TRANSFORM, "lengths": [n]}, "signed", "float32", MAP) for n in (4, 8, 16, 32)),
        *((f"length-{n}-relu", {**TRANSFORM, "lengths": [n], "masks": False}, "relu", "float32", MAP) for n in (4, 32)),
        *((f"transform-{dtype}", TRANSFORM, "signed", dtype, BLOCK) for dtype in ("uint8", "int8", "bool")),
        *((f"fixed-{dtype}", {**FIXED, "transform": "dct", "lengths": [8]}, "signed", dtype, BLOCK) for dtype in ("uint8", "int8", "bool")),
        ("mask", {**TRANSFORM, "length": 8, "keep": [1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1]}, "signed", "float32", MAP),
        ("fixed-mask", {**FIXED, "transform": "dct", "length": 8, "keep": [1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1]}, "relu", "float32", MAP),
        ("paper-mask", {**TRANSFORM, "profile": "paper", "length": 4, "keep": [1, 0, 1, 1]}, "relu", "float32", MAP),
        ("paper-none", {"profile": "paper", "transform": "none"}, "relu", "float32", BLOCK),
        ("zero-map", {**TRANSFORM, "step": 40.0, "lengths": [16], "lagrangian": 30.0}, "relu", "float32", MAP),
        *((f"{mode}-{name}-{step:.0f}", {**options, "step": step}, name, "float32", (12, 8, 16)) for mode, options in MODES.items() for name, step in LOADS),
        ("dct-8-alike", {"step": 3.0, "transform": "dct", "lengths": [8]}, "alike", "float32", (12, 8, 16)),
        ("cells", {"step": 3.0}, "gaps", "float32", (70, 17, 20)),
        ("deep-cells", {"step": 3.0}, "signed", "float32", (330, 2, 3)),
        ("fixed-beside", {**FIXED, "transform": "dct", "lengths": [4]}, "signed", "float32", (43, 2, 3)),
        ("fixed-ragged", {**FIXED, "transform": "dct", "lengths": [16]}, "relu", "float32", (35, 9, 21)),
    ],
    "klt": [
        ("block-8", {"block": 8, "bits": 6.5}, "signed", "float32", MAP),
        ("full", {"block": 0}, "relu", "float32", MAP),
        ("huffman-zeros", {"coder": "huffman"}, "zeros", "float32", BLOCK),
        ("table-12", {"table_bits": 12, "bits": 3.0}, "signed", "float32", MAP),
    ],
    "slots": [
        ("wide-slot", {"cell": "wide", "layout": "slot", "step": 6.0}, "signed", "float32", (20, 8, 18)),
        ("wide-coarse", {"cell": "wide", "step": 20.0}, "signed", "float32", (20, 9, 18)),
        ("cells", {"step": 3.0}, "gaps", "float32", (70, 17, 20)),
    ],
    "rle": [("sparse", {"step": 40.0}, "gaps", "float32", (20, 17, 20))],
    "csc": [("sparse", {"step": 40.0}, "gaps", "float32", (20, 17, 20))],
    "zstd": [("19", {"level": 19, "step": 6.0}, "signed", "float32", MAP), ("gaps", {}, "gaps", "float32", WIDE)],
    "lz4": [("9", {"level": 9, "step": 6.0}, "signed", "float32", MAP), ("gaps", {}, "gaps", "float32", WIDE)],
    "blosc2": [("lz4", {"compressor": "lz4", "step": 6.0}, "signed", "float32", MAP), ("gaps", {}, "gaps", "float32", WIDE)],
    "zfp": [("coarse", {"step": 24.0}, "signed", "float32", MAP), ("fine", {"step": 0.25}, "relu", "float32", SMALL)],
    "dct2d": [("coarse", {"step": 6.0}, "signed", "float32", MAP), ("int8", {"step": 3.0}, "signed", "int8", BLOCK)],
    "float_planes": [
        ("bfloat16-signed", {"layout": "bfloat16"}, "signed", "uint16", BLOCK),
        ("bfloat16-gaps", {"layout": "bfloat16"}, "gaps", "uint16", BLOCK),
        ("chunks", {}, "gaps", "bool", (8, 8, 1100)),
        ("chunks-float", {}, "gaps", "float32", (8, 8, 1100)),
        ("alike-int32", {}, "alike", "int32", BLOCK),
        ("gaps-float16", {}, "gaps", "float16", WIDE),
        ("gaps-float64", {}, "gaps", "float64", BLOCK),
        ("tiles", {}, "tiles", "float16", (1, 8, 16400)),
    ],
    "apack": [("coarse", {"step": 6.0}, "signed", "float32", MAP)],
    "ebpc": [("coarse", {"step": 6.0}, "signed", "float32", MAP)],
    "predictive": [("coarse", {"step": 6.0}, "signed", "float32", MAP), ("alike", {}, "alike", "float32", (12, 9, 11))],
}


def kinds() -> Iterator[Case]:
    """Golden streams of every type and shape, in the folder `kinds`. A codec that refuses a type has none of it."""
    for card in registry.cards().values():
        for dtype in DTYPES[1:]:
            yield Case(card.id, f"kinds/{card.id}-{dtype.name}", dtype=dtype.name, shape=SMALL)
        for name, shape in SHAPES.items():
            yield Case(card.id, f"kinds/{card.id}-{name}", pattern="relu", shape=shape)
        for name in ("noise", "zeros"):
            yield Case(card.id, f"kinds/{card.id}-{name}", pattern=name, shape=BLOCK)
        for name, options, what, kind, shape in SPECIAL.get(card.id, []):
            yield Case(card.id, f"kinds/{card.id}-{name}", options, what, kind, shape)


@dataclass(frozen=True)
class Bound:
    """One entry of a golden plan, and the inputs of a forward pass."""

    codec: str
    options: dict[str, Any]
    path: str
    what: str
    patterns: tuple[str, ...]  # one for each image of the batch
    reference: int | None = None


PLANS: dict[str, tuple[tuple[int, ...], list[Bound]]] = {  # shape of every site's tensors; entries
    "small": (
        (12, 9, 7),
        [
            Bound("uniform_rans", {}, "stem", "relu", ("relu", "gaps")),
            Bound("dct_cm", {"step": 4.0, "transform": "dct", "lengths": [4]}, "blocks.0", "add", ("relu", "noise")),
            Bound("context", {"backend": "fast", "step": 4.0}, "blocks.1", "add", ("relu", "zeros"), 1),
            Bound("klt", {"bits": 6.0, "block": 8}, "blocks.1.conv", "relu", ("signed", "noise")),
            Bound("context", {"step": 6.0}, "blocks.2", "add", ("signed", "relu"), 2),
            Bound("zvc", {}, "head", "relu", ("relu", "signed")),
        ],
    ),
    "parts": (
        WIDE,
        [
            Bound("dct_cm", {"step": 4.0, "profile": "fixed"}, "blocks.0", "add", ("gaps",)),
            Bound("context", {"step": 6.0}, "blocks.1", "add", ("gaps",), 0),
        ],
    ),
}
FRAMES = {  # one payload of a golden stream in each form of a frame: stream, site, plan id
    "narrow": ("kinds/zvc-rank-5", 254, 0x01020304),
    "wide": ("kinds/zvc-rank-5", 255, 0xFFFEFDFC),
    "wide-site": ("kinds/dct_cm-int8", 70_000, 0x80000001),
    "empty": ("kinds/raw-empty", 0, 0),
}
