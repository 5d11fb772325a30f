"""Golden vectors for hardware teams: what goes in, every word on the way, and what comes out, as plain hex files and one JSON.

Made by the slow twins, one file a tensor: words of a fixed width in hex, blanks between them, a line for each run of the last
axis, so that `$readmemh` and three lines of any language read them. docs/vectors.md lists the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tensorpress import __version__
from tensorpress.blocks import bits, dct
from tensorpress.blocks.cells import (
    DCTM,
    HEADER_NBYTES,
    MODES,
    PLANE_CODES,
    ZERO_MAP,
    ZVC,
    Box,
    CellRules,
    Cells,
    boxes,
    candidates,
    dct_coefficients,
    dct_symbols,
    decode_cell,
    encode_cell,
    kept,
)
from tensorpress.blocks.levels import Levels
from tensorpress.blocks.stepped import Stepped
from tensorpress.blocks.words import ZeroBitmap
from tensorpress.core import registry
from tensorpress.core.atomic import new_folder
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import STRIPE_ROWS, Reader, Writer, chw
from tensorpress.core.stage import Chain

Array = NDArray[Any]
LEVEL = np.float32(2**-5)  # value of one level of the input, exact in binary
KINDS = ("nothing", "sparse", "smooth over channels", "noise", "small and dense")  # regions of the input, in turn
MAX_VALUES = 1 << 22  # a set of hex files beyond this is of no use to a test bench


def pattern(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """(C, H, W) values 0 to 255 times 2^-5: box after box of one of KINDS, so that a codec with modes meets each of them."""
    rng = np.random.default_rng(seed)
    view = chw(shape)
    levels = np.zeros(view, np.int64)
    number = 0
    for stripe in range(-(-view[1] // STRIPE_ROWS)):
        for box in boxes(view, stripe):
            part = levels[box]
            noise = rng.integers(0, 256, part.shape)
            if number % len(KINDS) == 1:
                part[...] = np.where(rng.integers(0, 4, part.shape) == 0, noise // 3, 0)
            elif number % len(KINDS) == 2:
                along = np.arange(len(part))[:, None, None] * rng.integers(1, 4)
                part[...] = np.clip(rng.integers(40, 120, part.shape[1:]) + along + noise // 64, 0, 255)
            elif number % len(KINDS) == 3:
                part[...] = noise
            elif number % len(KINDS) == 4:
                part[...] = noise // 37
            number += 1
    if levels.size:
        levels.reshape(-1)[-1] = 255  # the range is then the same for every seed
    return (levels.astype(np.float32) * LEVEL).reshape(shape)


@dataclass
class Folder:
    """Hex files under one folder, and what the JSON says of each."""

    path: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def words(self, name: str, array: Array, what: str) -> None:
        """Write `array` as words of its own width: floats by their bits, negative integers in two's complement."""
        array = np.ascontiguousarray(array)
        width = 8 * array.itemsize
        rows = array.view(f"u{array.itemsize}").reshape(-1, array.shape[-1] if array.ndim and array.size else 1)
        text = "".join(" ".join(f"{int(word):0{width // 4}x}" for word in row) + "\n" for row in rows)
        self.text(name, text)
        self.files[name] = {"what": what, "type": str(array.dtype), "bits": width, "shape": list(array.shape)}

    def octets(self, name: str, data: bytes | memoryview, what: str) -> None:
        """Write a byte string, 16 bytes a line."""
        array = np.frombuffer(data, np.uint8)
        lines = [" ".join(f"{byte:02x}" for byte in array[at : at + 16]) + "\n" for at in range(0, len(array), 16)]
        self.text(name, "".join(lines))
        self.files[name] = {"what": what, "type": "bytes", "bits": 8, "shape": [len(array)]}

    def text(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def write_vectors(
    folder: Path, codec_id: str, options: Mapping[str, Any], *, shape: Sequence[int] | None = None, cells: int = 5, seed: int = 0
) -> dict[str, Any]:
    """Write the vectors of one map and return what `vectors.json` holds. The folder appears when all is in it.

    `shape`: (C, H, W) of the map; None: one row of `cells` cells, (32, 8, 8 * cells). `cells`: how many cells (`dct_cm`) are
    written word by word, from the first; the map is always whole. InputError for what
    cannot be written or encoded, and where `folder` holds anything.
    """
    if registry.card(codec_id).family != "features":
        raise InputError(f"codec {codec_id!r} is of family {registry.card(codec_id).family!r}, not 'features'")
    if cells < 1 or seed < 0:
        raise InputError(f"{cells} cells and seed {seed}: at least 1 cell and a seed from 0 are needed")
    shape = tuple(shape) if shape is not None else (32, 8, 8 * cells)
    if len(shape) != 3 or min(shape) < 1 or int(np.prod(shape)) > MAX_VALUES:
        raise InputError(f"shape {','.join(map(str, shape))}: three sizes from 1, of at most {MAX_VALUES:,} values in all, are needed")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: the folder is not empty; vectors need one of their own")
    x = pattern(shape, seed)
    codec = registry.build(codec_id, options).fit([x])
    with new_folder(folder) as partial:
        return _fill(Folder(partial), codec, x, cells, seed)


def _fill(out: Folder, codec: Codec, x: Array, cells: int, seed: int) -> dict[str, Any]:
    payload = codec.encode_payload(x, fused=False)
    if codec.encode_payload(x) != payload:
        raise AssertionError(f"codec {codec.id!r}: the native kernel and its twin write different bytes")
    out.words("input.hex", x, "the map, channel by channel, row by row; float32 bits")
    out.octets("payload.hex", payload, "the whole payload: head, stripe table, stripes (FORMAT.md, section 3)")
    out.words("output.hex", codec.decode_payload(payload, fused=False), "what a decoder gives; float32 bits")
    for name, data in codec.state.items():
        out.octets(f"state/{name}.hex", data, f"shared state {name!r}, which a decoder holds before the first payload")
    index: dict[str, Any] = {
        "tensorpress": __version__,
        "codec": codec.id,
        "params": codec.params,
        "shared": codec.digest,
        "shape": list(x.shape),
        "seed": seed,
        "regions": list(KINDS),
        "payload": _payload_parts(payload),
    }
    last = codec.stage.second if isinstance(codec.stage, Chain) else codec.stage
    if isinstance(last, Cells):
        index |= _cells(out, codec, last, x, payload, cells)
    elif isinstance(last, ZeroBitmap):
        index |= _bitmaps(out, codec, x, payload)
    index["files"] = out.files
    out.text("vectors.json", json.dumps(index, indent=1, allow_nan=False) + "\n")
    return index


def _payload_parts(payload: bytes) -> dict[str, Any]:
    """Where the stripes of `payload.hex` lie."""
    src = Reader(payload, max_nbytes=1 << 62)
    at, stripes = src.index_nbytes, []
    for _ in range(-(-chw(src.shape)[1] // STRIPE_ROWS)):
        nbytes = len(src.stripe())
        stripes.append({"at": at, "nbytes": nbytes})
        at += nbytes
    return {"nbytes": len(payload), "index_nbytes": src.index_nbytes, "stripes": stripes}


# --- dct_cm -----------------------------------------------------------------------------------------------------------


def _cells(out: Folder, codec: Codec, stage: Cells, x: Array, payload: bytes, limit: int) -> dict[str, Any]:
    first = codec.stage.first  # type: ignore[attr-defined]
    levels = first.encode(x, Writer(x.dtype, x.shape))
    rules, shape = stage.rules_for[levels.zero], chw(x.shape)
    out.words("levels.hex", levels.levels, "8-bit levels of the map")
    facts = _rules(out, rules)
    src, found = Reader(payload, max_nbytes=1 << 62), []
    for stripe in range(-(-shape[1] // STRIPE_ROWS)):
        data = src.stripe()
        for box in boxes(shape, stripe):
            cell = levels.levels[box]
            values, used, _ = decode_cell(data, len(cell), cell[0].size, box.channels.start, rules)
            if len(found) < limit:
                found.append(
                    _cell(out, f"cells/{len(found):04}", cell.reshape(len(cell), -1), bytes(data[:used]), values, box, stripe, rules)
                )
            data = data[used:]
    return {"rules": facts, "cells": found}


def _rules(out: Folder, rules: CellRules) -> dict[str, Any]:
    """The integers that both sides hold, as files and numbers."""
    out.words("rules/symbol_of.hex", rules.symbol_of, "symbol of each level, mode zvc")
    out.words("rules/level_of.hex", rules.level_of, "level of each symbol, mode zvc")
    if rules.length:
        out.words("rules/matrix.hex", dct.matrix(rules.length), "DCT matrix, row k is basis vector k")
        out.words("rules/forward.hex", rules.forward, "multiplier of the magnitude of coefficient k, 20 fractional bits")
        out.words("rules/backward.hex", rules.backward, "value of one step of coefficient k")
        out.words("rules/shift.hex", rules.shift, "added to the value of magnitudes 1, 2 and from 3 on")
        out.words("rules/keep.hex", rules.keep, "1 where coefficient k is stored")
    return {
        "zero": rules.zero,
        "length": rules.length,
        "offset": rules.offset,
        "lagrangian": rules.lagrangian,
        "modes": [mode for number, mode in enumerate(MODES) if rules.modes >> number & 1],
        "zero_map": rules.zero_map,
        "plane_codes": rules.plane_codes,
        "width": rules.width,
    }


def _cell(out: Folder, name: str, levels: Array, stored: bytes, values: Array, box: Box, stripe: int, rules: CellRules) -> dict[str, Any]:
    """The words of one cell: [planes, values] levels in, symbols and coefficients, the decision, bytes, levels out."""
    planes, area = levels.shape
    first = box.channels.start
    if encode_cell(levels, first, rules) != stored:
        raise AssertionError(f"{name} is not what the payload holds")
    out.words(f"{name}/levels.hex", levels, "levels of the cell, a line for each channel")
    symbols = rules.symbol_of[levels]
    out.words(f"{name}/zvc_symbols.hex", symbols, "quantised symbols of mode zvc")
    mask = np.ones(planes, np.uint8)
    if rules.length and planes >= rules.length:
        d = levels.astype(np.int32) - rules.zero
        coefficients = dct_coefficients(d, rules.length)
        out.words(
            f"{name}/dct_coefficients.hex", coefficients.reshape(-1, area), "DCT of each whole group of channels, before quantisation"
        )
        dct_mask = kept(rules, first, planes)
        quantised = dct_symbols(d, rules, dct_mask)
        if quantised is not None:
            out.words(f"{name}/dct_symbols.hex", quantised.astype(np.uint8), "quantised symbols of mode dct, masked ones 0")
    flags, mode = stored[0], stored[0] & 3
    if mode == DCTM:
        mask = dct_mask
        out.words(f"{name}/mask.hex", mask, "1 for each plane that the cell stores")
    at = HEADER_NBYTES
    if mode in (ZVC, DCTM) and flags & PLANE_CODES:
        nbytes = -(-4 * int(mask.sum()) // 8)
        codes = bits.unpack(bits.from_bytes(stored[at : at + nbytes], 4 * int(mask.sum()), "plane codes"), 4)
        out.words(f"{name}/plane_codes.hex", codes.astype(np.uint8), "code of each stored plane")
        at += nbytes
    if mode == DCTM and flags & ZERO_MAP:
        zeros = bits.from_bytes(stored[at : at + -(-planes * area // 8)], planes * area, "zero map").reshape(planes, area)
        out.words(f"{name}/zero_map.hex", zeros, "1 where the level is exactly the zero point")
    out.octets(f"{name}/cell.hex", stored, "header and payload of the cell, as they stand in its stripe")
    out.words(f"{name}/output.hex", values, "levels that a decoder gives")
    offered = [
        {"mode": MODES[c.mode], "flags": c.flags, "payload_nbytes": len(c.payload), "squared_error": c.error, "cost": c.cost}
        for c in candidates(levels, first, rules)
    ]
    return {
        "folder": name,
        "stripe": stripe,
        "channels": [box.channels.start, box.channels.stop],
        "rows": [box.rows.start, box.rows.stop],
        "columns": [box.columns.start, box.columns.stop],
        "candidates": offered,
        "mode": MODES[mode],
        "flags": flags & ~3,
        "payload_nbytes": len(stored) - HEADER_NBYTES,
    }


# --- zvc --------------------------------------------------------------------------------------------------------------


def _bitmaps(out: Folder, codec: Codec, x: Array, payload: bytes) -> dict[str, Any]:
    config = codec.config
    levels = Levels(config.scale, config.reciprocal, config.zero_point, config.scale_rule, True).encode(x, Writer(x.dtype, x.shape))
    words = Stepped(config).encode(levels, Writer(x.dtype, x.shape))
    rules = Stepped(config).rules[levels.zero]
    out.words("levels.hex", levels.levels, "8-bit levels of the map")
    out.words("words.hex", words.levels, "words after step and dead zone: 0 for zero")
    out.words("rules/symbol_of.hex", rules.symbol_of, "word of each level")
    out.words("rules/level_of.hex", rules.level_of, "level of each word")
    src, found = Reader(payload, max_nbytes=1 << 62), []
    for stripe in range(-(-chw(x.shape)[1] // STRIPE_ROWS)):
        part = np.ascontiguousarray(words.levels[:, stripe * STRIPE_ROWS : (stripe + 1) * STRIPE_ROWS]).reshape(-1)
        name, data = f"stripes/{stripe:04}", bytes(src.stripe())
        bitmap = bits.to_bytes((part != 0).astype(np.uint8))
        if bitmap + part[part != 0].tobytes() != data:
            raise AssertionError(f"{name} is not what the payload holds")
        out.octets(f"{name}/bitmap.hex", bitmap, "1 for each word that is not 0, least significant bit first; channels outermost")
        out.words(f"{name}/values.hex", part[part != 0], "the words that are not 0")
        out.octets(f"{name}/stripe.hex", data, "the stripe: bitmap and values")
        found.append({"folder": name, "values": part.size, "nonzero": int((part != 0).sum()), "nbytes": len(data)})
    return {"rules": {"zero": levels.zero}, "stripes": found}
