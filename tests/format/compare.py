"""What both decoders make of the same bytes: ours, and the second one. None where they are refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import minimal
from damage import damaged
from minimal.binary import FormatError

import tensorpress
from tensorpress.core import registry
from tensorpress.core.errors import InputError, StreamError
from tensorpress.planning.bundle import read_bundle
from tensorpress.planning.plan import Plan
from tests.golden.cases import OPTIONS

FOREIGN = {"zstd": "zstandard", "lz4": "lz4.block", "blosc2": "blosc2", "zfp": "zfpy"}  # the libraries under ours
NARROW = ("float32", "float16", "float64", "uint8", "int8")
WIDE = (*NARROW, "bool", "uint16", "int32")

Tensor = tuple[str, tuple[int, ...], bytes]


def ours(data: bytes) -> Tensor | None:
    try:
        array = tensorpress.decode(data)
    except StreamError:
        return None
    return str(array.dtype), array.shape, array.tobytes()


def theirs(data: bytes) -> Tensor | None:
    try:
        payload, values = minimal.decode_stream(data)
    except FormatError as error:
        assert len(str(error).splitlines()) == 1
        return None
    return payload.dtype, payload.shape, values


def our_plan(data: bytes) -> tuple[Any, ...] | None:
    try:
        plan = Plan.from_bytes(data)
    except StreamError:
        return None
    return plan.digest, plan.family, plan.model, [(e.site.to_json(), list(e.shape), e.codec.id, e.reference, dict(e.codec.state)) for e in plan.entries]


def their_plan(data: bytes) -> tuple[Any, ...] | None:
    try:
        plan = minimal.open_plan(data)
    except FormatError:
        return None
    return plan.digest, plan.family, plan.model, [(e.site, e.shape, e.codec, e.reference, e.state) for e in plan.entries]


def our_bundle(data: bytes, plan: Plan) -> list[tuple[int, tuple[int, ...], bytes]] | None:
    try:
        return [(site, array.shape, array.tobytes()) for site, array in read_bundle(data, plan)]
    except StreamError:
        return None


def their_bundle(data: bytes, plan: minimal.container.Plan) -> list[tuple[int, tuple[int, ...], bytes]] | None:
    try:
        return [(site, payload.shape, values) for site, payload, values in minimal.decode_bundle(data, plan)]
    except FormatError:
        return None


def options_of(codec_id: str) -> list[dict[str, Any]]:
    return [{}, *OPTIONS.get(codec_id, {}).values()]


def types_of(codec_id: str) -> tuple[str, ...]:
    return WIDE if codec_id in ("raw", "zvc", "zstd", "lz4", "blosc2") else NARROW


def seen_by_both(
    codec_id: str, options: dict[str, Any], shape: tuple[int, ...], dtype: str, count: int, rng: random.Random
) -> Iterator[tuple[Tensor | None, Tensor | None, str]]:
    """(ours, theirs, what it was) of a whole stream and of `count` damaged ones; nothing where the codec does not take the shape."""
    codec = registry.build(codec_id, options)
    try:
        cases = list(damaged(codec, shape, dtype, count, rng))
    except InputError:  # fewer channels than a codec takes
        return
    assert ours(cases[0]) is not None, (codec_id, options, shape, dtype)
    for number, data in enumerate(cases):
        left, right = ours(data), theirs(data)
        yield left, right, f"{codec_id} {options} {shape} {dtype}, case {number}: {'refused' if left is None else 'accepted'} by ours"
