"""A codec: an id, parameters, shared state, a chain of stages and perhaps a fused native kernel for the whole chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.binary import Buffer, canonical_json, digest, parse_json
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.payload import Reader, Writer
from tensorpress.core.stage import Stage
from tensorpress.core.stream import Stream

Array = NDArray[Any]


class Kernel(Protocol):
    """A fused native twin of a codec's whole chain: same bytes, same values."""

    def accepts(self, x: Array) -> bool: ...
    def encode(self, x: Array) -> bytes: ...
    def decode(self, payload: Buffer, out: Array) -> None: ...  # payload already bounded; stripes verified inside


@runtime_checkable
class Simulating(Protocol):
    """A stage that knows what its decoder will give when it has written the bytes."""

    def simulate(self, x: Array, out: Writer) -> Array: ...


@dataclass(frozen=True)
class Codec:
    """Frozen. Made by a system's `build(config, state)`; `fit` gives a new one.

    Payload-level verbs (`encode_payload`, `decode_payload`) serve plans; `encode` and `decode` serve self-contained
    streams. `tap` says which tensor of an activation the codec wants: its 'output' or its 'input'. A `reference` is a
    decoded array of the same shape that both sides hold, such as the previous block's output.
    """

    id: str
    config: Any  # the system's frozen dataclass
    stage: Stage[Array, None]
    state: Mapping[str, bytes] = field(default_factory=dict)
    refit: Callable[..., Codec] | None = None  # (samples), or (samples, references=...) where references are taken
    kernel: Kernel | None = None
    tap: str = "output"
    takes_reference: bool = False  # whether a fit may use references
    reference: bool = False  # fitted with one: neither side works without it

    @property
    def params(self) -> dict[str, Any]:
        """The config as JSON values: what a header holds, equal after a round trip through JSON."""
        return parse_json(canonical_json(asdict(self.config)), "params")  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        return digest({"codec": self.id, "params": self.params}, self.state)

    @property
    def shared_nbytes(self) -> int:
        """Bytes a decoder must already hold to read a plan-bound stream: parameters and state."""
        return len(canonical_json(self.params)) + sum(len(v) for v in self.state.values())

    def fit(self, samples: Sequence[Array], references: Sequence[Array] | None = None) -> Codec:
        """A new codec whose scale, steps and tables suit `samples` (arrays of the kind it will encode), each with its reference."""
        if references is not None and not self.takes_reference:
            raise InputError(f"codec {self.id!r} takes no references")
        if self.refit is None:
            return self
        return self.refit(samples) if references is None else self.refit(samples, references)

    def encode_payload(self, x: Array, *, fused: bool = True, reference: Array | None = None) -> bytes:
        """Shape, type and stripes of `x`; `fused=False` takes the slow twin."""
        if self.reference:
            self._check_reference(reference, x.shape)
        if fused and self.kernel is not None and self.kernel.accepts(x):
            return self.kernel.encode(x)
        out = Writer(x.dtype, x.shape, reference)
        self.stage.encode(x, out)
        return out.finish()

    def decode_payload(
        self, payload: Buffer, *, max_nbytes: int = MAX_NBYTES, fused: bool = True, out: Array | None = None, reference: Array | None = None
    ) -> Array:
        """The array of a payload. `out`, where given, must have its dtype and shape and may be strided."""
        src = Reader(payload, max_nbytes=max_nbytes, reference=reference)
        if self.reference:
            self._check_reference(reference, src.shape)
        if out is not None and (out.dtype != src.dtype or out.shape != src.shape):
            raise StreamError(f"payload holds {src.dtype} {src.shape}, expected {out.dtype} {out.shape}")
        result = np.empty(src.shape, src.dtype) if out is None else out
        if fused and self.kernel is not None and self.kernel.accepts(result):
            self.kernel.decode(payload, result)
        else:
            result[...] = self.stage.decode(None, src)
        return result

    def _check_reference(self, reference: Array | None, shape: tuple[int, ...]) -> None:
        if reference is None:
            raise InputError(f"codec {self.id!r} was fitted with a reference: its streams are written and read only beside that array")
        if reference.shape != shape:
            raise InputError(f"the reference has shape {reference.shape}, the array {shape}")

    def simulate(self, x: Array, reference: Array | None = None) -> tuple[Array, int]:
        """(what a decoder would give, payload bytes): the same values and the same size as the real thing."""
        if isinstance(self.stage, Simulating):
            if self.reference:
                self._check_reference(reference, x.shape)
            out = Writer(x.dtype, x.shape, reference)
            return self.stage.simulate(x, out), len(out.finish())
        payload = self.encode_payload(x, reference=reference)
        return self.decode_payload(payload, max_nbytes=1 << 62, reference=reference), len(payload)

    def encode(self, x: Array) -> Stream:
        return Stream(self.id, self.params, {"payload": self.encode_payload(x)}, self.state)

    def decode(self, stream: Stream, *, max_nbytes: int = MAX_NBYTES) -> Array:
        if stream.codec != self.id or stream.shared != self.digest:
            raise StreamError(
                f"stream was written by {stream.codec!r} with shared state {stream.shared[:16]}…; this codec is {self.id!r} with {self.digest[:16]}…"
            )
        return self.decode_payload(stream.payload, max_nbytes=max_nbytes)
