"""TensorPress for numcodecs and zarr: feature-map codecs as compressors of array chunks.

    zarr.create_array(store, shape=…, chunks=(1, 64, 56, 56), dtype="f4", zarr_format=2, compressors=TensorPress("zvc"))

Without state each chunk is fitted on its own and holds a self-contained stream. With the state of a fitted codec
(`TensorPress.of(codec)`) the array's metadata holds what a decoder needs, once, and a chunk is a payload alone. Floats
come back as 8-bit levels do; integers from lossless codecs bit for bit.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

try:
    from numcodecs.abc import Codec as Numcodec
    from numcodecs.compat import ensure_bytes, ensure_ndarray, ndarray_copy
except ImportError as error:  # pragma: no cover
    raise ImportError("tensorpress.numcodec needs numcodecs: pip install 'tensorpress[zarr]'") from error

from tensorpress.core import registry
from tensorpress.core.codec import Codec
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import InputError
from tensorpress.facade import decode, encode


class TensorPress(Numcodec):
    """Any codec of family 'features' with its options; or, with `state`, a fitted one with all its parameters."""

    codec_id = "tensorpress"
    fixed: ClassVar[str | None] = None  # the codec of a named subclass
    max_nbytes: ClassVar[int] = MAX_NBYTES  # a chunk that decodes to more is refused; set it here: an array's own metadata are not to say how much it may take

    def __init__(self, codec: str | None = None, options: Mapping[str, Any] | None = None, state: Mapping[str, str] | None = None) -> None:
        self.codec = codec or self.fixed or "zvc"
        if self.fixed is not None and self.codec != self.fixed:
            raise InputError(f"{self.codec_id} is the codec {self.fixed!r}, not {self.codec!r}")
        self.options, self.state = dict(options or {}), None if state is None else dict(state)
        self._fitted: Codec | None = None
        if self.state is not None:
            binary = {k: base64.b64decode(v, validate=True) for k, v in self.state.items()}
            self._fitted = registry.build_from_stream(self.codec, self.options, binary)
        else:
            registry.build(self.codec, self.options)  # bad options are told now, not at the first chunk

    @classmethod
    def of(cls, codec: Codec) -> TensorPress:
        """A compressor with everything that `codec`, fitted, needs. InputError where it needs a reference as well."""
        if codec.reference:
            raise InputError("a codec with a reference cannot stand alone in an array: fit it without")
        return cls(codec.id, codec.params, {k: base64.b64encode(v).decode() for k, v in codec.state.items()})

    def encode(self, buf: Any) -> bytes:
        x = ensure_ndarray(buf)
        return encode(x, self.codec, **self.options) if self._fitted is None else self._fitted.encode_payload(np.ascontiguousarray(x))

    def decode(self, buf: Any, out: Any = None) -> Any:
        data = ensure_bytes(buf)
        limit = self.max_nbytes
        return ndarray_copy(decode(data, max_nbytes=limit) if self._fitted is None else self._fitted.decode_payload(data, max_nbytes=limit), out)

    def get_config(self) -> dict[str, Any]:
        found = {"id": self.codec_id, "codec": self.codec, "options": self.options}
        return found if self.state is None else {**found, "state": self.state}


class Context(TensorPress):
    codec_id = "tensorpress_context"
    fixed = "context"


class DctCm(TensorPress):
    codec_id = "tensorpress_dct_cm"
    fixed = "dct_cm"


class Zvc(TensorPress):
    codec_id = "tensorpress_zvc"
    fixed = "zvc"


def register() -> None:
    """Make the compressors known to numcodecs where no entry point has: in a source tree."""
    from numcodecs.registry import register_codec

    for codec in (TensorPress, Context, DctCm, Zvc):
        register_codec(codec)
