"""Coders that a Python user can install, each called the fastest way that its package offers for an 8-bit array.

A peer is a class: `ready` imports it, `encode` returns bytes, `decode` returns them opened, in `out` where the package can write
there; `room` is for those that take a buffer, which none does. Packages are imported when `ready` is called, so that one that is missing costs only its own rows.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensors import Array

from tensorpress.core.binary import Buffer


class Peer:
    """One that is called with arrays of every site alike; what is fitted to a site overrides `fit`."""

    package: str  # what pip calls it
    error = 0.0  # that no value may exceed, in levels
    whole = False  # whether all tensors are coded at least once, however slow it is
    threads = False  # whether it can use more than one

    def ready(self) -> None:
        """Import it. ImportError where it is missing."""

    def fit(self, samples: Sequence[Array]) -> Any:
        return self


class Zstd(Peer):
    package = "zstandard"

    def __init__(self, level: int, whole: bool = False) -> None:
        self.level, self.whole = level, whole

    def ready(self) -> None:
        import zstandard

        self.compressor, self.decompressor = zstandard.ZstdCompressor(level=self.level), zstandard.ZstdDecompressor()

    def encode(self, x: Array, room: Array | None) -> Any:
        return self.compressor.compress(x.data)

    def decode(self, data: Buffer, out: Array) -> Any:
        with self.decompressor.stream_reader(data) as reader:
            reader.readinto(out.reshape(-1).view(np.uint8))
        return out


class Lz4(Peer):
    package = "lz4"

    def ready(self) -> None:
        import lz4.block

        self.block = lz4.block

    def encode(self, x: Array, room: Array | None) -> Any:
        return self.block.compress(x.data.cast("B"))

    def decode(self, data: Buffer, out: Array) -> Any:
        return self.block.decompress(data)


class Blosc2(Peer):
    """Bit shuffle, then LZ4."""

    package = "blosc2"
    threads = True

    def ready(self) -> None:
        import blosc2

        self.blosc2 = blosc2
        self.nthreads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        self.options = {"typesize": 1, "codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": self.nthreads}

    def encode(self, x: Array, room: Array | None) -> Any:
        return self.blosc2.compress2(x, **self.options)

    def decode(self, data: Buffer, out: Array) -> Any:
        self.blosc2.decompress2(data, dst=out, nthreads=self.nthreads)
        return out


class NumcodecsBlosc(Peer):
    """numcodecs' Blosc: bit shuffle, then Zstandard at level 1."""

    package = "numcodecs"

    def ready(self) -> None:
        from numcodecs import Blosc

        self.blosc = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)

    def encode(self, x: Array, room: Array | None) -> Any:
        return self.blosc.encode(x)

    def decode(self, data: Buffer, out: Array) -> Any:
        return self.blosc.decode(data, out=out)


class Zfp(Peer):
    """Fixed accuracy of half a level, on floats: it knows no 8-bit integers, so the way there and back is in its time."""

    package = "zfpy"
    error = 0.5

    def ready(self) -> None:
        import zfpy

        self.zfpy = zfpy

    def encode(self, x: Array, room: Array | None) -> Any:
        return self.zfpy.compress_numpy(x.astype(np.float32), tolerance=self.error)

    def decode(self, data: Buffer, out: Array) -> Any:
        np.rint(self.zfpy.decompress_numpy(data), out=out, casting="unsafe")
        return out


def frequencies(samples: Sequence[Array], total: int) -> Array:
    """256 whole numbers of at least 1 whose sum is `total`, in proportion to how often each byte stands in `samples`."""
    counts = sum((np.bincount(x.reshape(-1).view(np.uint8), minlength=256) for x in samples), np.zeros(256, np.int64))
    wanted: Array = 1 + np.floor(counts * ((total - 256) / max(counts.sum(), 1))).astype(np.int64)
    wanted[wanted.argmax()] += total - wanted.sum()
    return wanted


class Constriction(Peer):
    """Its ANS coder with one static table a site."""

    package = "constriction"

    def ready(self) -> None:
        import constriction

        self.stream = constriction.stream

    def fit(self, samples: Sequence[Array]) -> ConstrictionCoder:
        weights = (frequencies(samples, 1 << 20) / (1 << 20)).astype(np.float32)
        return ConstrictionCoder(self.stream.stack.AnsCoder, self.stream.model.Categorical(weights, perfect=False))


class ConstrictionCoder:
    def __init__(self, coder: Any, model: Any) -> None:
        self.coder, self.model = coder, model

    def encode(self, x: Array, room: Array | None) -> Any:
        coder = self.coder()
        coder.encode_reverse(x.reshape(-1).view(np.uint8).astype(np.int32), self.model)
        return memoryview(coder.get_compressed()).cast("B")

    def decode(self, data: Buffer, out: Array) -> Any:
        symbols = self.coder(np.frombuffer(data, np.uint32)).decode(self.model, out.size)
        np.copyto(out.reshape(-1).view(np.uint8), symbols, casting="unsafe")
        return out


class CompressAI(Peer):
    """CompressAI's rANS coder, one static table a site. Its own module is loaded alone: the package would bring another PyTorch."""

    package = "--no-deps compressai"

    def ready(self) -> None:
        package = importlib.util.find_spec("compressai")
        places = package.submodule_search_locations if package is not None else None
        found = importlib.machinery.PathFinder.find_spec("ans", list(places or [])) if places else None
        if found is None or found.loader is None or not Path(str(found.origin)).exists():
            raise ImportError("No module named 'compressai.ans'")
        self.ans = importlib.util.module_from_spec(found)
        found.loader.exec_module(self.ans)

    def fit(self, samples: Sequence[Array]) -> CompressAICoder:
        return CompressAICoder(self.ans, [0, *np.cumsum(np.append(frequencies(samples, 65535), 1)).tolist()])


class CompressAICoder:
    def __init__(self, ans: Any, table: list[int]) -> None:
        self.encoder, self.decoder, self.table = ans.RansEncoder(), ans.RansDecoder(), [table]

    def encode(self, x: Array, room: Array | None) -> Any:
        symbols = x.reshape(-1).view(np.uint8).tolist()
        return self.encoder.encode_with_indexes(symbols, [0] * len(symbols), self.table, [258], [0])

    def decode(self, data: Buffer, out: Array) -> Any:
        symbols = self.decoder.decode_with_indexes(data, [0] * out.size, self.table, [258], [0])
        out.reshape(-1).view(np.uint8)[:] = symbols
        return out


PEERS: dict[str, Peer] = {
    "zstd-1": Zstd(1),
    "zstd-3": Zstd(3),
    "zstd-19": Zstd(19, whole=True),
    "lz4": Lz4(),
    "blosc2-lz4": Blosc2(),
    "numcodecs": NumcodecsBlosc(),
    "zfp": Zfp(),
    "constriction": Constriction(),
    "compressai": CompressAI(),
}
