"""Strings of symbols for the entropy coders, and how much they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]
KINDS = ("even", "geometric", "spiky", "one rules", "all but one once", "random")
LENGTHS = (1, 2, 5, 16, 33, 100, 255, 1000, 4096, 8191, 8192, 20000, 49151, 49152, 100_000)


def entropy(counts: Array) -> float:
    """Bits a symbol of these counts (order 0, of the counts themselves)."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def cross_entropy(counts: Array, chances: Array) -> float:
    """Bits a symbol of these counts where a coder takes `chances` for them."""
    p = counts / counts.sum()
    return float(-(p[p > 0] * np.log2(chances[p > 0])).sum())


def chances(kind: str, symbols: int, rng: np.random.Generator) -> Array:
    if kind == "even":
        p = np.ones(symbols)
    elif kind == "geometric":
        p = rng.uniform(0.3, 0.99) ** np.arange(symbols)
    elif kind == "spiky":
        p = rng.dirichlet(np.full(symbols, 0.05)) + 1e-9
    elif kind == "random":
        p = rng.dirichlet(np.ones(symbols))
    else:
        p = np.full(symbols, 0.01 / max(symbols - 1, 1))
        p[0] = 0.99
    return p / p.sum()


@st.composite
def sources(draw: st.DrawFn, most_symbols: int = 256, longest: int = 100_000) -> Array:
    """A string of 1 to `longest` symbols, numbered from 0 by those that it holds; no symbol is more than 99 % of it."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    symbols = draw(st.one_of(st.integers(2, min(20, most_symbols)), st.integers(2, most_symbols)))
    n = draw(st.one_of(st.sampled_from([n for n in LENGTHS if n <= longest]), st.integers(1, longest)))
    kind = draw(st.sampled_from(KINDS))
    if kind == "all but one once":
        rare = min(symbols - 1, n // 2)
        found = np.zeros(n, np.int64)
        found[:rare] = np.arange(1, rare + 1)
        found[rare : max(rare, n - int(0.99 * n))] = 1
        rng.shuffle(found)
    else:
        found = rng.choice(symbols, n, p=chances(kind, symbols, rng))
    found = np.unique(found, return_inverse=True)[1].astype(np.int64)
    counts = np.bincount(found)
    short = counts.max() - int(0.99 * n)
    if short > 0 and n > 1:  # the commonest gives up what it has too much
        other = len(counts) if len(counts) == 1 else int(np.argsort(counts)[-2])
        found[np.flatnonzero(found == counts.argmax())[:short]] = other
    return found.astype(np.uint8 if found.max() < 256 else np.uint16)
