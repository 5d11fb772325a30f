"""Who is measured: memcpy, this library's codecs, and others' from `peers.py`.

A subject is fitted once a site and then codes one array at a time, into buffers that were made and touched before wherever its
interface takes them. To add one of ours: a line in `OURS`. To add a peer: a class in `peers.py` and a line in its `PEERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from peers import PEERS
from tensors import Array

from tensorpress.core import registry
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.stream import read_frame

PLAN_ID = 1
DCT_CM: dict[str, Any] = {"profile": "fixed", "step": 4.0, "transform": "dct", "lengths": (8,)}  # the DCT over 8 channels in every map
OURS: dict[str, tuple[str, dict[str, Any]]] = {  # name here: codec, options
    "zvc": ("zvc", {}),
    "dct_cm": ("dct_cm", DCT_CM),
    "rans": ("uniform_rans", {}),
    "context-fast": ("context", {"backend": "fast"}),
    "context-max": ("context", {"backend": "max"}),
}
LOSSY = {"dct_cm", "dct2d", "klt"}  # of ours, as they are set here; all others give every level back
ELSEWHERE = {"zstd", "lz4", "blosc2", "zfp"}  # codecs that only wrap a library; the library itself is a peer


class Coder(Protocol):
    """One site's. Both verbs may write into the buffer that they are given, or return memory of their own."""

    def encode(self, x: Array, room: Array | None) -> Buffer: ...
    def decode(self, data: Buffer, out: Array) -> Any: ...


@dataclass(frozen=True)
class Subject:
    """`fit(site, samples)` gives a site's coder. `whole`: too slow or not, all tensors are coded at least once."""

    name: str
    fit: Callable[[int, Sequence[Array]], Coder]
    error: float = 0.0  # that no value may exceed, in levels; infinite: any, but always the same
    whole: bool = False
    ours: bool = False
    threads: bool = False  # whether it can use more than one


def encode_frame(codec: Codec, x: Array, site: int, room: Array | None) -> Buffer:
    """A plan-bound stream, head and checks included. The one place that calls an encoder of ours."""
    return codec.encode_frame(x, site, PLAN_ID, room)


def decode_frame(codec: Codec, data: Buffer, out: Array) -> Array:
    """The one place that calls a decoder of ours."""
    return codec.decode_payload(read_frame(data).payload, out=out)


@dataclass(frozen=True)
class Ours:
    """A codec of this library, fitted to one site."""

    codec: Codec
    site: int

    def room_nbytes(self, x: Array) -> int | None:
        """Bytes that `room` must have; None where the codec knows no bound."""
        return self.codec.max_encoded_nbytes(x.dtype, x.shape)

    def encode(self, x: Array, room: Array | None = None) -> Buffer:
        return encode_frame(self.codec, x, self.site, room)

    def decode(self, data: Buffer, out: Array) -> Array:
        return decode_frame(self.codec, data, out)


def ours(name: str, codec_id: str, options: Mapping[str, Any]) -> Subject:
    def fit(site: int, samples: Sequence[Array]) -> Ours:
        return Ours(registry.build(codec_id, options).fit(samples), site)

    return Subject(name, fit, error=np.inf if codec_id in LOSSY else 0.0, ours=True, threads=True)


def ready(name: str) -> Subject:
    """The subject of this name. ImportError where it is a peer whose package is missing."""
    if name in PEERS:
        peer = PEERS[name]
        peer.ready()
        return Subject(name, lambda site, samples: peer.fit(samples), peer.error, peer.whole, threads=peer.threads)
    return ours(name, *OURS.get(name, (name, {})))


def names() -> list[str]:
    """Everyone: our codecs, each feature codec of the library among them, and peers."""
    taken = {codec_id for codec_id, _ in OURS.values()} | ELSEWHERE
    rest = [card.id for card in registry.cards().values() if card.family == "features" and card.id not in taken]
    return [*OURS, *rest, *PEERS]
