"""One array to one self-contained stream and back."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from tensorpress.core import registry
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.container import CHECK_NBYTES, MAX_NBYTES, STREAM, Container
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.recover import Recovered
from tensorpress.core.stream import Stream


def as_array(x: Any) -> NDArray[Any]:
    """NumPy array of `x`: an array, or a PyTorch tensor of any device (bfloat16 becomes float32, which holds it exactly)."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        if x.is_quantized:
            raise InputError("the tensor is quantised; dequantise it first")
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # type: ignore[no-any-return]
    return np.asarray(x)


def encode(x: Any, codec: str | Codec = "dct_cm", **options: Any) -> bytes:
    """A self-contained stream of `x`: opens anywhere with `decode`, no plan needed.

    `x`: array or tensor of any shape; floats of 16 to 64 bits are quantised to 8-bit levels by the feature codecs (the
    scale is fitted to `x` itself and stands in the stream), integers come back bit for bit from lossless codecs.
    `codec`: an id (see `tensorpress list`) with its `options`, fitted to `x`; or a codec that is fitted already.
    InputError for an unknown codec or option, a type the codec does not take, NaN or infinity.

    >>> import numpy as np, tensorpress
    >>> x = np.maximum(np.arange(-512, 512, dtype=np.int16).reshape(16, 8, 8) // 8, 0).astype(np.uint8)
    >>> data = tensorpress.encode(x, "zvc")
    >>> bool((tensorpress.decode(data) == x).all()), len(data) < x.nbytes
    (True, True)
    """
    array = as_array(x)
    if isinstance(codec, str):
        codec = registry.build(codec, options).fit([array])
    elif options:
        raise InputError("options belong to a codec's id; a codec that is made already has its own")
    return codec.encode(array).to_bytes()


@overload
def decode(data: Buffer, *, max_nbytes: int = MAX_NBYTES, recover: Literal[False] = False) -> NDArray[Any]: ...
@overload
def decode(data: Buffer, *, max_nbytes: int = MAX_NBYTES, recover: Literal[True]) -> Recovered: ...
def decode(data: Buffer, *, max_nbytes: int = MAX_NBYTES, recover: bool = False) -> NDArray[Any] | Recovered:
    """The array of a self-contained stream, in its type and shape.

    StreamError on anything but a whole, undamaged stream, and where the array or the codec's state would take more than `max_nbytes` (1 GiB by default).

    With `recover` the payload may be damaged or cut, and what comes back unpacks as `array, lost`: the values of all stripes of 8 rows whose
    checks are right, 0 elsewhere, and a bool mask of the lost ones in the array's shape; `faults` says what is wrong. StreamError
    where the header or the codec's state is damaged, or nothing of the payload is intact.
    """
    if recover:
        box = Container.from_bytes(data, STREAM, max_nbytes=memoryview(data).nbytes, damaged="payload")
        stream = Stream.from_container(box, max_nbytes=max_nbytes)
        codec = registry.build_from_stream(stream.codec, stream.params, stream.state)
        last = bool(box.faults) and [*box.sections][-1] == "payload"
        found = codec.recover(stream.payload, max_nbytes=max_nbytes, tail=CHECK_NBYTES if last else 0, trusted=not box.faults)
        return replace(found, faults=(*box.faults.values(), *found.faults))
    stream = Stream.from_bytes(data, max_nbytes=max_nbytes)
    codec = registry.build_from_stream(stream.codec, stream.params, stream.state)
    if codec.reference:
        raise StreamError(f"this stream of {stream.codec!r} opens only beside its reference: as a frame, with a plan")
    # the stream's digest is verified; the codec's own is another where the stream is older than one of the parameters
    array: NDArray[Any] = codec.decode_payload(stream.payload, max_nbytes=max_nbytes)
    return array
