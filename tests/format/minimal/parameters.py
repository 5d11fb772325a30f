"""Section 20: the parameters of every codec, as the document's table has them."""

from __future__ import annotations

from typing import Any

from .binary import need
from .container import Json

STEPPED = "zvc rle csc huffman slots zstd lz4 blosc2 apack ebpc predictive"
LEVELS = f"raw {STEPPED} dct_cm dct2d"
ROWS = (  # codecs, parameter, type, where it is absent, allowed
    (f"{LEVELS} zfp context", "scale_rule", "text", "max", ""),
    (LEVELS, "scale", "number or null", None, "1e-38 … 1e38"),
    (LEVELS, "reciprocal", "number or null", None, "1e-38 … 1e38"),
    (f"{LEVELS} context", "zero_point", "integer", 0, "0 … 255"),
    (f"{STEPPED} dct_cm context", "step", "number", 1.0, "1 … 128"),
    (STEPPED, "centroid", "three numbers or null", None, "-256 … 256"),
    ("dct_cm", "profile", "text", "extended", "paper extended fixed"),
    ("dct_cm", "transform", "text", "auto", "auto none dct"),
    ("dct_cm", "lengths", "integers", [4, 8, 16, 32], "4 8 16 32"),
    ("dct_cm", "masks", "true or false", True, ""),
    ("dct_cm", "length", "integer or null", None, "0 4 8 16 32"),
    ("dct_cm", "keep", "integers", [], "0 1"),
    ("dct_cm", "centroid", "three numbers or null", None, "-256 … 256"),
    ("dct_cm", "dct_centroid", "three numbers or null", None, "-256 … 256"),
    ("dct_cm", "lagrangian", "number or null", None, ""),
    ("slots", "cell", "text", "deep", "deep wide"),
    ("slots", "layout", "text", "packed", "packed slot"),
    ("zstd", "level", "integer", 3, "1 … 22"),
    ("lz4", "level", "integer", 0, "0 … 12"),
    ("blosc2", "level", "integer", 5, "1 … 9"),
    ("blosc2", "compressor", "text", "zstd", "zstd lz4"),
    ("predictive", "predictor", "text", "auto", "auto spatial channel both"),
    ("zfp", "step", "number", 1.0, "0.01 … 128"),
    ("zfp", "scale", "number or null", None, "1e-37 … 1e37"),
    ("zfp", "reciprocal", "number or null", None, ""),
    ("zfp", "zero_point", "integer", 0, ""),
    ("dct2d", "step", "number", 4.0, "0.5 … 128"),
    ("dct2d", "slope", "number", 0.15, "0 … 10"),
    ("uniform_rans", "levels", "integer", 256, "2 … 256"),
    ("uniform_rans", "table_bits", "integer", 12, "11 … 12"),
    ("uniform_rans", "step", "number or null", None, "2^-120 … 2^119"),
    ("uniform_rans", "reciprocal", "number or null", None, "2^-120 … 2^121"),
    ("uniform_rans", "zero_point", "integer or null", None, "0 … 255"),
    ("klt", "bits", "number", 8.0, "1.25 … 11"),
    ("klt", "block", "integer", 32, "0 … 65536"),
    ("klt", "coder", "text", "rans", "rans huffman"),
    ("klt", "table_bits", "integer", 14, "12 … 16"),
    ("klt", "channels", "integer or null", None, "1 … 65536"),
    ("klt", "fixed", "number or null", None, "2^-120 … 2^119"),
    ("klt", "step", "number or null", None, "2^-120 … 2^119"),
    ("context", "backend", "text", "max", "max fast"),
    ("context", "lagrangian", "number", 0.1, "0 … 1e6"),
    ("context", "cap", "number", 0.0, "0 … 1000"),
    ("context", "earlier", "integer", 6, "0 … 16"),
    ("context", "neighbours", "true or false", True, ""),
    ("context", "classes", "integer", 0, "0 … 64"),
    ("context", "centroids", "true or false", True, ""),
    ("context", "exponents", "integers", [], ""),
    ("context", "scale", "number or null", None, ""),
    ("context", "reciprocal", "number or null", None, ""),
)


def value_of(text: str) -> float:
    return 2.0 ** int(text[2:]) if text.startswith("2^") else float(text)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def fits(value: Any, kind: str, allowed: str) -> bool:
    if kind.endswith(" or null"):
        return value is None or fits(value, kind.removesuffix(" or null"), allowed)
    if kind == "true or false":
        return isinstance(value, bool)
    if kind == "integers":
        return isinstance(value, list) and all(fits(v, "integer", allowed) for v in value)
    if kind == "three numbers":
        return isinstance(value, list) and len(value) in (0, 3) and all(fits(v, "number", allowed) for v in value)
    if kind == "text":
        return isinstance(value, str) and (not allowed or value in allowed.split())
    if not is_number(value) or (kind == "integer" and not isinstance(value, int)):
        return False
    low, _, high = allowed.partition(" … ")
    return value_of(low) <= value <= value_of(high) if high else not allowed or value in map(int, allowed.split())


def checked(codec: str, params: Json) -> Json:
    """Every parameter of the codec: as given, or where it is absent its default."""
    found = {}
    for codecs, name, kind, default, allowed in ROWS:
        if codec in codecs.split():
            found[name] = params.get(name, default)
            need(fits(found[name], kind, allowed), f"codec {codec!r}: parameter {name} is {found[name]!r}; {kind}, {allowed or 'any'}, is allowed")
    for name in params:
        need(name in found, f"codec {codec!r} has no parameter {name!r}")
    return found
