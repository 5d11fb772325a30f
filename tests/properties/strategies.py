"""Arrays of every kind that a caller may bring: shapes, types, layouts, sparsities and values; and codecs with their options.

An array is drawn as a handful of choices and a seed, so that thousands are made in seconds and a failure shrinks to simple choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.payload import DTYPES, chw

Array = np.ndarray[Any, Any]
EDGES = (1, 2, 3, 5, 7, 8, 9, 16, 31, 63, 64, 65)
FLOATS = tuple(d for d in DTYPES if d.kind == "f")
BYTES = tuple(np.dtype(d) for d in ("u1", "i1"))
WIDE = frozenset({"raw", "zvc", "zstd", "lz4", "blosc2"})  # take all twelve types
NO_BOOL = frozenset({"uniform_rans", "klt", "context", "zfp"})  # take floats and 8-bit integers; all others bool as well
CARDS = {card.id: card for card in registry.cards().values() if card.family == "features"}
LOSSLESS = tuple(card.id for card in CARDS.values() if card.lossless)
EVERY = tuple(CARDS)
LAYOUTS = ("plain", "fortran", "channels last", "reversed", "gaps", "inside", "misaligned", "read-only", "broadcast")


def taken(codec: str) -> tuple[np.dtype[Any], ...]:
    """The types that a codec takes."""
    return DTYPES if codec in WIDE else FLOATS + BYTES + (() if codec in NO_BOOL else (np.dtype(bool),))


@st.composite
def shapes(draw: st.DrawFn, most: int = 2000, empty: bool = True, least_rank: int = 0) -> tuple[int, ...]:
    """0 to 8 dimensions of lengths at the edges of stripes, cells and registers, of at most `most` values in all."""
    rank = draw(st.sampled_from([r for r in (3, 4, 2, 1, 0, 5, 8, 6, 7) if r >= least_rank]))
    dims, room = [1] * rank, most
    for axis in draw(st.permutations(range(rank))):
        dims[axis] = draw(st.sampled_from([n for n in EDGES if n <= room]))
        room //= dims[axis]
    if empty and rank and draw(st.integers(0, 19)) == 0:
        dims[draw(st.integers(0, rank - 1))] = 0
    return tuple(dims)


def floats(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str) -> Array:
    limits = np.finfo(np.float16 if dtype == np.float16 else np.float32)  # float64 beyond float32 is refused
    x = rng.standard_normal(shape)
    if kind == "relu":
        x = np.maximum(x, 0)
    elif kind == "denormal":
        x = np.rint(x * 40) * float(limits.smallest_subnormal)
    elif kind == "largest":
        x = np.sign(x) * float(limits.max)
    elif kind == "near the largest":
        x = np.clip(x / 3, -1, 1) * float(limits.max)
    elif kind == "equal":
        x = np.full(shape, x.reshape(-1)[0] if x.size else 0.0)
    elif kind == "outlier" and x.size:
        x.reshape(-1)[int(rng.integers(x.size))] = 30000.0
    elif kind == "spread":
        x = np.clip(np.exp(x * 8) * np.sign(rng.standard_normal(shape)), -3e4, 3e4)
    elif kind == "offset":
        x = 1000 + x
    elif kind == "whole":
        x = np.rint(x * 20)
    return x.astype(dtype)


FLOAT_KINDS = ("normal", "relu", "denormal", "largest", "near the largest", "equal", "outlier", "spread", "offset", "whole")


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str) -> Array:
    if dtype.kind == "b":
        return rng.random(shape) < {"small": 0.1, "equal": 1.1}.get(kind, 0.5)
    limits = np.iinfo(dtype)
    if kind == "extremes":
        return rng.choice(np.array([limits.min, limits.max, limits.max - 1, 0, 1], dtype), shape)
    if kind == "any":
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if kind == "equal":
        return np.full(shape, rng.integers(limits.min, limits.max, None, dtype, endpoint=True), dtype)
    x = np.clip(np.rint(rng.standard_normal(shape) * 4), limits.min, limits.max).astype(dtype)
    if kind == "outlier" and x.size:
        x.reshape(-1)[int(rng.integers(x.size))] = limits.max
    return x


INTEGER_KINDS = ("small", "extremes", "any", "equal", "outlier")


def laid(x: Array, layout: str) -> Array:
    """An array equal to `x` (of its first row alone, where broadcast) that lies otherwise in memory."""
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "channels last" and x.ndim > 1:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    if layout == "reversed":
        backwards = (slice(None, None, -1),) * x.ndim
        return x[backwards].copy()[backwards]
    if layout == "gaps" and x.ndim:
        return np.repeat(x, 3, x.ndim - 1)[..., 1::3]
    if layout == "inside":
        return np.pad(x, 1)[(slice(1, -1),) * x.ndim]
    if layout == "misaligned":
        return np.ndarray(x.shape, x.dtype, b"\0" + x.tobytes(), 1)
    if layout == "broadcast" and x.ndim and x.shape[0]:
        return np.broadcast_to(x[:1], x.shape)
    if layout == "read-only":
        x = x.copy()
        x.setflags(write=False)
    return x


@st.composite
def arrays(
    draw: st.DrawFn, dtypes: Sequence[np.dtype[Any]] = DTYPES, shape: Any = None, kinds: Sequence[str] | None = None, layouts: Sequence[str] = LAYOUTS
) -> Array:
    """An array of one of `dtypes`; `shape`: a strategy, or a shape."""
    dtype = draw(st.sampled_from(dtypes))
    dims = shape if isinstance(shape, tuple) else draw(shapes() if shape is None else shape)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    make, known = (floats, FLOAT_KINDS) if dtype.kind == "f" else (integers, INTEGER_KINDS)
    x = np.asarray(make(rng, dims, dtype, draw(st.sampled_from([k for k in known if kinds is None or k in kinds] or known))), dtype)
    zeros = draw(st.sampled_from((0.0, 0.3, 0.9, 0.99, 1.0)))
    if zeros:
        x = np.where(rng.random(dims) < zeros, np.array(-0.0 if dtype.kind == "f" and zeros == 0.3 else 0, dtype), x)
    return laid(x, draw(st.sampled_from(layouts)))


STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.77, 16.0, 33.3, 64.0, 128.0)
OPTIONS: dict[str, dict[str, Sequence[Any]]] = {
    **{codec: {"step": STEPS} for codec in EVERY if CARDS[codec].quality == "step"},
    "dct_cm": {
        "step": STEPS, "profile": ("extended", "paper", "fixed"), "transform": ("auto", "none", "dct"), "masks": (True, False),
        "lengths": ((4, 8, 16, 32), (4,), (8,), (16,), (32,)),
    },
    "dct2d": {"step": (0.5, *STEPS), "slope": (0.15, 0.0, 2.0)},
    "zfp": {"step": (0.1, *STEPS)},
    "uniform_rans": {"levels": (256, 255, 129, 24, 3, 2), "table_bits": (12, 11)},
    "klt": {"bits": (8.0, 11.0, 5.0, 2.0, 1.25), "block": (32, 0, 3), "coder": ("rans", "huffman")},
    "context": {"step": STEPS, "backend": ("fast", "max"), "earlier": (6, 0), "lagrangian": (0.1, 0.0, 1.0)},
    "slots": {"step": STEPS, "cell": ("deep", "wide"), "layout": ("packed", "slot")},
}  # fmt: skip
EXACT: dict[str, dict[str, Any]] = {"uniform_rans": {"levels": (256,)}}  # with these options, and step 1, integers come back


@st.composite
def options(draw: st.DrawFn, codec: str, exact: bool = False) -> dict[str, Any]:
    """Options of a codec; with `exact`, such that it loses nothing of an integer."""
    found = dict(OPTIONS.get(codec, {}))
    if exact:
        found |= {"step": (1.0,)} if "step" in found else EXACT.get(codec, {})
    drawn = {name: draw(st.sampled_from(values)) for name, values in found.items()}
    if exact and drawn.get("profile") == "fixed" and drawn["transform"] == "dct":
        drawn["transform"] = "auto"  # forced, a DCT in 16 bits rounds
    return drawn


@st.composite
def fitted(draw: st.DrawFn, codec: str, x: Array, exact: bool = False) -> Codec:
    """The codec with drawn options, fitted to `x`."""
    chosen = draw(options(codec, exact))
    if codec == "klt" and chosen["block"] == 0 and chw(x.shape)[0] > 64:
        chosen["block"] = 32  # a basis of all channels takes their square in memory, their cube in time
    return registry.build(codec, chosen).fit([x])
