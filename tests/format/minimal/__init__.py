"""A second decoder, in the standard library alone, written from FORMAT.md: its modules follow the document's sections."""

from __future__ import annotations

from . import cells, context, entropy, words
from .binary import FormatError
from .container import LIMIT, Frame, Json, Payload, Plan, State, open_bundle, open_frame, open_payload, open_stream
from .container import open_plan as open_plan_file
from .levels import numbers
from .parameters import checked

__all__ = ["DECODERS", "FormatError", "decode_bundle", "decode_frame", "decode_payload", "decode_stream", "open_bundle", "open_frame", "open_payload", "open_plan", "open_stream"]

DECODERS = {
    "raw": words.raw,
    "zvc": words.zvc,
    "dct_cm": cells.decode,
    "uniform_rans": entropy.uniform_rans,
    "klt": entropy.klt,
    "context": context.decode,
    "csc": words.csc,
    "rle": words.rle,
    "huffman": words.huffman,
    "slots": words.slots,
    "zstd": words.zstd,
    "lz4": words.lz4,
    "blosc2": words.blosc2,
    "zfp": words.zfp,
    "apack": words.apack,
    "dct2d": words.dct2d,
    "ebpc": words.ebpc,
    "predictive": words.predictive,
}


def decode_payload(codec: str, params: Json, state: State, data: bytes, limit: int = LIMIT, reference: list[float] | None = None) -> tuple[Payload, bytes]:
    """(payload, its values: little-endian, row by row)."""
    if codec not in DECODERS:
        raise FormatError(f"unknown codec {codec!r}")
    payload = open_payload(data, limit)
    return payload, DECODERS[codec](checked(codec, params), state, payload, reference)


def decode_stream(data: bytes, limit: int = LIMIT) -> tuple[Payload, bytes]:
    stream = open_stream(data, limit)
    return decode_payload(stream.codec, stream.params, stream.state, stream.payload, limit)


def open_plan(data: bytes, limit: int = LIMIT) -> Plan:
    """A plan all of whose codecs are known."""
    plan = open_plan_file(data, limit)
    for n, entry in enumerate(plan.entries):
        if entry.codec not in DECODERS:
            raise FormatError(f"plan entry {n}: unknown codec {entry.codec!r}")
        params = checked(entry.codec, entry.params)
        asked = entry.codec == "context" and "model" in entry.state and context.Model(entry.state["model"], params["backend"]).reference
        if bool(asked) != (entry.reference is not None):
            raise FormatError(f"plan entry {n}: a reference is asked for and not named, or the other way about")
    return plan


def decode_frame(frame: Frame, plan: Plan, limit: int = LIMIT) -> tuple[Payload, bytes]:
    """One frame alone, of a site that needs no reference."""
    if frame.plan != plan.id or frame.site >= len(plan.entries):
        raise FormatError(f"frame of site {frame.site} and plan {frame.plan:08x}; this plan is {plan.id:08x}")
    entry = plan.entries[frame.site]
    return decode_payload(entry.codec, entry.params, entry.state, frame.payload, limit)


def decode_bundle(data: bytes, plan: Plan, limit: int = LIMIT) -> list[tuple[int, Payload, bytes]]:
    """[(site, payload, its values)]."""
    out: list[tuple[int, Payload, bytes]] = []
    by_site: list[list[list[float]]] = [[] for _ in plan.entries]
    for frame in open_bundle(data, plan, limit)[1]:
        entry, reference = plan.entries[frame.site], None
        if entry.reference is not None:
            before = by_site[entry.reference]
            if len(before) <= len(by_site[frame.site]):
                raise FormatError(f"a frame of site {frame.site} comes before its reference")
            reference = before[len(by_site[frame.site])]
        payload, values = decode_payload(entry.codec, entry.params, entry.state, frame.payload, limit, reference)
        limit -= len(values)
        by_site[frame.site].append(numbers(payload, values))
        out.append((frame.site, payload, values))
    return out
