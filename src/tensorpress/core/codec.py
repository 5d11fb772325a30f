"""A codec: an id, parameters, shared state, a chain of stages and perhaps a fused native kernel for the whole chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tensorpress.core.binary import MAX_VARINT_NBYTES, Buffer, canonical_json, digest, parse_json
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.device import blank, dtype_of, from_host, index_of, is_tensor, launching_beside, stays, to_device, to_host
from tensorpress.core.errors import InputError, StreamError, StripeError
from tensorpress.core.payload import Reader, Writer, check_size, index_nbytes, max_payload_nbytes, placed, sealed
from tensorpress.core.recover import Recovered, lost_rows, salvage, stripes_of
from tensorpress.core.stage import Stage
from tensorpress.core.stream import MAX_FRAME_HEAD_NBYTES, Stream, frame_head, write_frame

Array = NDArray[Any]


class Kernel(Protocol):
    """A fused native twin of a codec's whole chain: same bytes, same values."""

    def accepts(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool: ...
    def capacity(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int: ...  # bytes that are enough for `out`, whatever the values
    def encode(self, x: Array, out: Array | None = None, reference: Array | None = None) -> Buffer: ...  # a part of `out`, where given
    def decode(self, src: Reader, out: Array) -> None: ...  # bounds are checked; stripes are to be verified inside


class DeviceKernel(Protocol):
    """The same on a GPU, for tensors of PyTorch (`Any` here: core knows no torch). Where it declines, the host says what is wrong."""

    def accepts(self, x: Any) -> bool: ...
    def encode(self, x: Any) -> Any: ...  # uint8 tensor, a payload with checks of 0; None: not a tensor that can be encoded
    def decode(self, payload: Any, src: Reader, out: Any) -> bool: ...  # src: its head and stripe table; False: not a payload of this form


@runtime_checkable
class Simulating(Protocol):
    """A stage that knows what its decoder will give when it has written the bytes."""

    def simulate(self, x: Array, out: Writer) -> Array: ...


def written_by(kernel: DeviceKernel, x: Any) -> Any:
    with launching_beside(x):
        return kernel.encode(x.detach())


def read_by(kernel: DeviceKernel, payload: Any, src: Reader, out: Any) -> bool:
    with launching_beside(out):
        return kernel.decode(payload, src, out)


def writable_bytes(out: Array, x: Array | None = None) -> Array:
    """`out` as one row of bytes. InputError where it is read-only, has gaps or overlaps `x`."""
    flat = out if isinstance(out, np.ndarray) else np.frombuffer(out, np.uint8)
    flags = flat.flags
    if not flags.c_contiguous or not flags.writeable:
        raise InputError(f"the output is {'read-only' if flags.c_contiguous else 'not contiguous'}: a writable row of bytes is needed")
    if x is not None and np.may_share_memory(flat, x):
        raise InputError("the output overlaps the tensor that is encoded")
    return flat if flat.dtype == np.uint8 and flat.ndim == 1 else flat.reshape(-1).view(np.uint8)


LARGE = 1 << 31  # bytes from which on a tensor's size is looked at: what is smaller fits the format


def aligned(x: Array) -> Array:
    """`x`, or a copy where its values lie at odd addresses, which native code does not read."""
    return x if x.flags.aligned else x.copy()


def check_target(out: Array, src: Reader) -> None:
    """StreamError where `out` does not suit the payload; InputError where it is read-only or overlaps it."""
    if out.dtype != src.dtype or out.shape != src.shape:
        raise StreamError(f"payload holds {src.dtype} {src.shape}, expected {out.dtype} {out.shape}")
    if not out.flags.writeable:
        raise InputError("the output is read-only")
    if np.may_share_memory(out, np.frombuffer(src.payload, np.uint8)):
        raise InputError("the output overlaps the payload that is decoded")


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
    device: Callable[[], DeviceKernel] | None = None  # makes the twin for tensors on a GPU: imports triton
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
        for x in samples:
            if x.nbytes >= LARGE:
                check_size(x.dtype, x.shape)
        samples, references = [aligned(x) for x in samples], None if references is None else [aligned(x) for x in references]
        if self.refit is None:
            return self
        return self.refit(samples) if references is None else self.refit(samples, references)

    def encode_payload(self, x: Any, out: Array | None = None, *, fused: bool = True, reference: Array | None = None) -> Buffer:
        """Shape, type and stripes of `x`, an array or a tensor of PyTorch, as bytes, or at the front of `out`; `fused=False` takes the slow twin.

        `out`: contiguous bytes that do not overlap `x`. `max_encoded_nbytes` are always enough; InputError where there are too few.
        What of it the payload does not take may be written over.
        """
        if is_tensor(x):
            kernel = self._device_kernel(x) if fused and reference is None else None
            written = None if kernel is None else written_by(kernel, x)
            if written is not None:
                whole = sealed(written.cpu().numpy())
                return whole if out is None else placed(whole, writable_bytes(out))
            x = to_host(x)
        return self._written(x, None if out is None else writable_bytes(out, x), fused, reference)

    def _written(self, x: Array, out: Array | None, fused: bool, reference: Array | None) -> Buffer:
        """`encode_payload` of an array; `out` has been looked at."""
        if self.reference:
            reference = self._checked_reference(reference, x.shape)
        if x.nbytes >= LARGE:
            check_size(x.dtype, x.shape)
        x = aligned(x)
        if fused and self.kernel is not None and self.kernel.accepts(x.dtype, x.shape):
            return self.kernel.encode(x, out, reference)
        writer = Writer(x.dtype, x.shape, reference)
        self.stage.encode(x, writer)
        payload = writer.finish()
        return payload if out is None else placed(payload, out)

    def max_encoded_nbytes(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        """Bytes that are enough, as an `out` or a frame with its head, for every array of this type and shape that the codec takes.

        InputError for a type or size that no payload has, and for a codec that is not fitted.
        """
        dtype, shape = np.dtype(dtype), tuple(shape)
        check_size(dtype, shape)
        if self.kernel is not None and self.kernel.accepts(dtype, shape):
            return MAX_FRAME_HEAD_NBYTES + self.kernel.capacity(dtype, shape)
        return MAX_FRAME_HEAD_NBYTES + max_payload_nbytes(dtype, shape, self.stage.max_stripe_nbytes)

    def max_stream_nbytes(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
        """The same for the self-contained form, whose parameters and state are known."""
        empty = Stream(self.id, self.params, {"payload": b""}, self.state).nbytes
        return empty + MAX_VARINT_NBYTES - 1 + self.max_encoded_nbytes(dtype, shape) - MAX_FRAME_HEAD_NBYTES

    def encode_frame(self, x: Any, site: int, plan_id: int, out: Array | None = None, *, reference: Array | None = None) -> memoryview:
        """The plan-bound form of `x`; in `out`, where given: it may begin up to MAX_FRAME_HEAD_NBYTES behind its front."""
        if is_tensor(x):
            if reference is None and self.runs_beside(x):
                frame = write_frame(self.encode_payload(x), site, plan_id)
                return memoryview(frame) if out is None else placed(frame, writable_bytes(out))
            x = to_host(x)
        if out is None:
            own = np.empty(self.max_encoded_nbytes(x.dtype, x.shape), np.uint8)
            start, end = self._frame_into(own, x, site, plan_id, reference)
            own.resize(end, refcheck=False)  # gives back what was set aside for the worst; no view of it is left
            return own.data[start:]
        out = writable_bytes(out, x)
        start, end = self._frame_into(out, x, site, plan_id, reference)
        return out.data[start:end]

    def _frame_into(self, out: Array, x: Array, site: int, plan_id: int, reference: Array | None) -> tuple[int, int]:
        """(start, end) of the frame in `out`: the payload goes where the longest head would end, its own head right before it."""
        first = MAX_FRAME_HEAD_NBYTES
        payload = self._written(x, out[first:], True, reference)
        head = frame_head(payload, index_nbytes(x.dtype, x.shape), site, plan_id)
        out.data[first - len(head) : first] = head
        return first - len(head), first + len(payload)

    def decode_payload(
        self, payload: Buffer, *, max_nbytes: int = MAX_NBYTES, fused: bool = True, out: Any = None, reference: Array | None = None
    ) -> Any:
        """The array of a payload. `out`, where given, must have its dtype and shape and may be strided; or be a tensor of PyTorch."""
        if is_tensor(out):
            return self._decode_to(payload, out, max_nbytes, fused, reference)
        src = Reader(payload, max_nbytes=max_nbytes, reference=reference)
        if self.reference:
            src.reference = self._checked_reference(reference, src.shape)
        if out is not None:
            check_target(out, src)
        result = out if out is not None and out.flags.aligned else np.empty(src.shape, src.dtype)
        try:
            if fused and self.kernel is not None and self.kernel.accepts(result.dtype, result.shape):
                self.kernel.decode(src, result)
            else:
                result[...] = self.stage.decode(None, src)
        except StripeError as error:
            raise StripeError(error.number, error.reason, src.place(error.number)) from None
        if out is None or out is result:
            return result
        out[...] = result
        return out

    def recover(
        self, payload: Buffer, *, max_nbytes: int = MAX_NBYTES, reference: Recovered | None = None, tail: int = 0, trusted: bool = False
    ) -> Recovered:
        """What is intact of a damaged payload, and a mask of the rest: whole stripes of 8 rows, each proved by its check.

        `reference`, where the codec has one: a stripe reads the same rows of it, and is lost where they are. `tail`, `trusted`: as for `salvage`.
        StreamError where nothing proves the payload's type and shape, or intact stripes are not this codec's.
        """
        found = salvage(payload, tail=tail, max_nbytes=max_nbytes, trusted=trusted)
        stripes = found.stripes
        beside = None if reference is None else self._checked_reference(reference.array, found.shape)
        for number in stripes_of(reference.lost) if reference is not None else ():
            stripes[number] = None
            found.faults.setdefault(number, f"stripe {number} is lost: its reference is")
        if found.faults:  # those of a map of zeros stand in for what is lost, so that all else keeps its place
            zeros = Reader(self.encode_payload(np.zeros(found.shape, found.dtype), reference=beside), max_nbytes=max_nbytes)
            stripes = [zero if stripe is None else stripe for stripe, zero in zip(stripes, [zeros.stripe() for _ in stripes])]
        whole = Writer(found.dtype, found.shape)
        for stripe in stripes:
            assert stripe is not None
            whole.stripe(stripe)
        array = self.decode_payload(whole.finish(), max_nbytes=max_nbytes, reference=beside)
        lost = lost_rows(found.shape, set(found.faults))
        array[lost] = 0
        return Recovered(array, lost, tuple(found.faults.values()))

    def encode_on_device(self, x: Any) -> Any:
        """The payload of tensor `x` as a uint8 tensor beside it, its stripes' checks left open (`sealed` puts them in).

        InputError where the codec has no kernels for it, where triton is missing, and for what no codec takes.
        """
        kernel = self._device_kernel(x)
        if kernel is None:
            raise InputError(f"codec {self.id!r} cannot keep a {x.dtype} tensor of {x.device} there: it needs a GPU, the extra 'gpu', and kernels for both")
        written = written_by(kernel, x)
        return to_device(self.encode_payload(to_host(x)), x.device) if written is None else written

    def decode_on_device(self, payload: Any, *, out: Any = None, max_nbytes: int = MAX_NBYTES) -> Any:
        """The tensor of a payload that is a uint8 tensor, on its device. Checks are not verified: the bytes never left the machine.

        `out`, where given, must have the payload's type (bfloat16 for float32 will do) and shape. StreamError as from `decode_payload`.
        """
        src = index_of(payload, max_nbytes)
        out = blank(src, payload.device) if out is None else out
        self._check_out(src, out)
        kernel = self._device_kernel(out)
        if kernel is None or not read_by(kernel, payload, src, out):
            from_host(self.decode_payload(sealed(payload.cpu().numpy()), max_nbytes=max_nbytes), out)
        return out

    def runs_beside(self, x: Any) -> bool:
        """Whether tensor `x` is coded on its own device: it lies on a GPU, triton is there, and the codec has kernels for it."""
        return self._device_kernel(x) is not None

    def _device_kernel(self, x: Any) -> DeviceKernel | None:
        if self.device is None or self.reference or not stays(x):
            return None
        kernel = self.device()
        return kernel if kernel.accepts(x) else None

    def _decode_to(self, payload: Buffer, out: Any, max_nbytes: int, fused: bool, reference: Array | None) -> Any:
        src = Reader(payload, max_nbytes=max_nbytes)
        self._check_out(src, out)
        kernel = self._device_kernel(out) if fused and reference is None else None
        if kernel is not None:
            for _ in range(src.stripes):
                src.stripe()  # the checks
            if read_by(kernel, to_device(payload, out.device), src, out):
                return out
        from_host(self.decode_payload(payload, max_nbytes=max_nbytes, fused=fused, reference=reference), out)
        return out

    def _check_out(self, src: Reader, out: Any) -> None:
        if dtype_of(out) != src.dtype or tuple(out.shape) != src.shape:
            raise StreamError(f"payload holds {src.dtype} {src.shape}, expected {out.dtype} {tuple(out.shape)}")

    def _checked_reference(self, reference: Array | None, shape: tuple[int, ...]) -> Array:
        if reference is None:
            raise InputError(f"codec {self.id!r} was fitted with a reference: its streams are written and read only beside that array")
        if reference.shape != shape:
            raise InputError(f"the reference has shape {reference.shape}, the array {shape}")
        return aligned(reference)

    def simulate(self, x: Array, reference: Array | None = None) -> tuple[Array, int]:
        """(what a decoder would give, payload bytes): the same values and the same size as the real thing."""
        if isinstance(self.stage, Simulating):
            if self.reference:
                reference = self._checked_reference(reference, x.shape)
            out = Writer(x.dtype, x.shape, reference)
            return self.stage.simulate(aligned(x), out), len(out.finish())
        payload = self.encode_payload(x, reference=reference)
        return self.decode_payload(payload, max_nbytes=1 << 62, reference=reference), len(payload)

    def encode(self, x: Array) -> Stream:
        return Stream(self.id, self.params, {"payload": self.encode_payload(x)}, self.state)

    def decode(self, stream: Stream, *, max_nbytes: int = MAX_NBYTES) -> Array:
        if stream.codec != self.id or stream.shared != self.digest:
            raise StreamError(
                f"stream was written by {stream.codec!r} with shared state {stream.shared[:16]}…; this codec is {self.id!r} with {self.digest[:16]}…"
            )
        decoded: Array = self.decode_payload(stream.payload, max_nbytes=max_nbytes)
        return decoded
