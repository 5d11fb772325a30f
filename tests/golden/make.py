"""Writes the golden streams: `make golden`. Their difference is a change of the format, and is to be reviewed as one.

Inputs are integers times a power of two, so they are the same on every machine. Fitted parameters and state are in the
streams, so checks never fit anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from tensorpress.core import registry

HERE = Path(__file__).parent / "streams"
VERSION = 1
OPTIONS: dict[str, dict[str, dict]] = {  # beside the default of every card
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
}


def golden_input(signed: bool) -> np.ndarray:
    """float32 (40, 11, 9): neighbouring channels alike, half of the values zero where not `signed`."""
    c, y, x = np.meshgrid(np.arange(40), np.arange(11), np.arange(9), indexing="ij")
    waves = ((c // 4 * 37 + y * 11 + x * 7) % 61 - 30) * (1 + c % 4) + (c * y * 3 + x * x * 5) % 17 - 8
    return ((waves if signed else np.maximum(waves, 0)) * np.float32(2.0**-6)).astype(np.float32)


def cases() -> list[tuple[str, str, dict, bool]]:
    """(codec, name, options, signed input)."""
    found = []
    for card in registry.cards().values():
        for name, options in {"default": {}, **OPTIONS.get(card.id, {})}.items():
            found += [(card.id, f"{card.id}-{name}-{'signed' if signed else 'relu'}", options, signed) for signed in (False, True)]
    return found


def facts(array: np.ndarray) -> dict:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}


def main() -> None:
    folder = HERE / f"v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for codec_id, name, options, signed in cases():
        x = golden_input(signed)
        codec = registry.build(codec_id, options).fit([x])
        stream = codec.encode(x)
        (folder / f"{name}.tp").write_bytes(stream.to_bytes())
        row = {"codec": codec_id, "input": "signed" if signed else "relu", **facts(codec.decode(stream))}
        (folder / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")
    print(f"{len(cases())} golden streams in {folder}")


if __name__ == "__main__":
    main()
