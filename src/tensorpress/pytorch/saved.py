"""Training in less memory: what autograd saves for the backward pass is held as real bytes and decoded when it is asked for.

    forward   saved tensor -> 8-bit levels -> codec -> payload      (the float tensor is free to go)
    backward  payload -> tensor -> the operation's own gradient

The forward pass is exact; gradients are computed from quantised activations, as in Chakrabarti, Moseley: Backprop with
Approximate Activations, NeurIPS 2019, and Chen et al.: ActNN, ICML 2021. At a step of one level each saved value is off by at most half a
level, (max - min) / 510 of its tensor. ReLU, though, reads the saved map for its mask, so a positive value that rounds to zero loses its
whole gradient: on ResNet-20 these few made most of the error. Hence a positive value of a rectified map never becomes less
than the first level that the codec keeps. No 8-bit codec keeps floats; `exact=True` codes their bits as whole numbers instead.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from tensorpress.blocks.levels import scale_and_zero
from tensorpress.core import registry
from tensorpress.core.binary import Buffer
from tensorpress.core.codec import Codec
from tensorpress.core.errors import InputError
from tensorpress.core.payload import MAX_RANK

RANGE = {"scale", "reciprocal", "zero_point"}  # the fields of a codec that counts in 8-bit levels
KEPT = 0.64  # of a step: a level from here on is not in the dead zone of stepped codecs
SAMPLE = 4  # entries of the first axis that a kind is fitted to
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # as wide as a float
OF_ONE = {f"{name}Backward0" for name in ("ToCopy", "T", "Transpose", "Permute", "View", "UnsafeView", "Clone")}  # of one tensor alone


class SavedTensors:
    """The account of one `compress_saved`. All sizes are bytes; `now` figures fall again as autograd lets go.

    `held`: payloads with the parameters and tables of their codecs; `raw`: what those tensors took as floats, each
    counted once; `kept`: tensors that were passed through, parameters left out, also once each.
    """

    def __init__(self) -> None:
        self.held_nbytes = self.raw_nbytes = self.kept_nbytes = 0  # now
        self.peak_held_nbytes = self.peak_raw_nbytes = self.peak_kept_nbytes = 0
        self.total_held_nbytes = self.total_raw_nbytes = 0  # of all that was ever encoded
        self.encoded = self.again = self.decoded = 0  # tensors; `again`: saved once more, and not stored twice
        self.passed: Counter[str] = Counter()  # reason -> tensors that were kept as they are
        self._lock = threading.RLock()  # the backward pass of a GPU runs in a thread of its own

    @property
    def ratio(self) -> float:
        """Raw over held bytes of all that was encoded; 0.0 before anything was."""
        return self.total_raw_nbytes / self.total_held_nbytes if self.total_held_nbytes else 0.0

    def _add(self, held: int, raw: int, kept: int) -> None:
        with self._lock:
            self.held_nbytes += held
            self.raw_nbytes += raw
            self.kept_nbytes += kept
            self.peak_held_nbytes = max(self.peak_held_nbytes, self.held_nbytes)
            self.peak_raw_nbytes = max(self.peak_raw_nbytes, self.raw_nbytes)
            self.peak_kept_nbytes = max(self.peak_kept_nbytes, self.kept_nbytes)


@dataclasses.dataclass(eq=False, frozen=True)
class _Kept:
    """A tensor that stays as it is, and the version that autograd would otherwise have watched."""

    tensor: Tensor
    version: int


@dataclasses.dataclass(eq=False, frozen=True)
class _Held:
    """A payload, and what the tensor looked like."""

    payload: Buffer | Tensor  # a tensor where it stays on a GPU
    codec: Codec
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@contextmanager
def compress_saved(
    codec: str = "dct_cm",
    *,
    fit: str | None = None,
    exact: bool = False,
    keep_positive: bool = True,
    min_values: int = 4096,
    trim: int | None = 8 << 20,
    on_device: bool = False,
    **options: Any,
) -> Iterator[SavedTensors]:
    """Inside the block, tensors that autograd saves are held as payloads of `codec`; backward may run inside or after it.

    `codec` and `options`: a feature codec that takes a map after its activation; `dct_cm` has the least memory of its own.
    `fit`: 'kind' fits everything but the range once for each (type, shape, sign), the range to each
    tensor; 'tensor' fits all to each tensor. None: 'kind' where a range is all that a fit ties down (`dct_cm`, `zvc`,
    `raw` ...), else 'tensor' (tables, models). `exact`: code the floats' bits, so that gradients are the same to the bit; needs a codec
    that keeps wide integers (`zvc`, `raw`) and gains only on tensors with zeros. `keep_positive`: see above; for codecs with a range.
    `trim`: after so many bytes of host tensors, the C heap's free pages go back to the system (glibc; None: never). Without it, glibc
    keeps what was freed in pieces that the next tensor does not fit, and the peak stays where it was; it costs time.

    `on_device`: payloads of tensors on a GPU stay in its memory, where triton is installed and the codec has kernels (`zvc`; `dct_cm` with
    profile='paper'). Else, and without it, they are held in host memory.

    Passed through as they are: parameters and their casts and transposes, tensors of fewer than `min_values` values,
    all that is not float, expanded views, NaN and infinity, and what would not get smaller. A tensor that two operations save is stored
    once. Values are those at the time of saving: a later in-place write neither harms nor is refused, but for tensors that were
    passed through. `retain_graph` and double backward work; of nested
    blocks the innermost serves. A write behind autograd's back (`x.data`) between two saves of one tensor is not seen.

    InputError for an unknown codec or option, or one that cannot serve.
    """
    account, heap = SavedTensors(), _Heap(trim)
    coder = _Coder(codec, options, fit, exact, keep_positive, on_device)
    known: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

    def pack(x: Tensor) -> _Held | _Kept:
        with torch.no_grad():
            reason = _reason_to_keep(x, min_values)
            if reason in ("parameter", "no plain tensor"):  # the latter may have no storage to be known by
                account.passed[reason] += 1
                return _Kept(x, x._version)
            # a weak reference keeps the storage's number from being given to another one
            key = (StorageWeakRef(x.untyped_storage()), x.storage_offset(), x.shape, x.stride(), x.dtype, x._version)
            found = known.get(key)
            if found is not None:
                account.again += 1
                return _Kept(x, x._version) if isinstance(found, _Mark) else found
            held = None if reason else coder.encode(x)
            raw = x.numel() * x.element_size()
            heap.passed(raw, x.device)
            if held is not None:
                nbytes = len(held.payload) + held.codec.shared_nbytes
                if nbytes < raw:
                    account.encoded += 1
                    account.total_held_nbytes += nbytes
                    account.total_raw_nbytes += raw
                    account._add(nbytes, raw, 0)
                    weakref.finalize(held, account._add, -nbytes, -raw, 0).atexit = False
                    known[key] = held
                    return held
                reason = "no gain"
            account.passed[reason or "not finite"] += 1
            kept = _Mark(x, x._version)
            account._add(0, 0, raw)
            weakref.finalize(kept, account._add, 0, 0, -raw).atexit = False
            known[key] = kept
            return kept

    def unpack(saved: _Held | _Kept) -> Tensor:
        if isinstance(saved, _Held):
            account.decoded += 1
            heap.passed(saved.size.numel() * saved.dtype.itemsize, saved.device)
            return coder.decode(saved)
        if saved.tensor._version != saved.version:
            raise RuntimeError(
                f"a tensor of shape {tuple(saved.tensor.shape)} that is needed for a gradient was written in place after it was saved: "
                f"it is at version {saved.tensor._version}, saved was {saved.version}"
            )
        return saved.tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield account


class _Mark(_Kept):
    """A kept tensor that is in the account."""


class _Heap:
    """Gives the C heap's free pages back after every `trim` bytes; does nothing where the C library has no `malloc_trim`."""

    def __init__(self, trim: int | None) -> None:
        self.trim, self.since = trim, 0
        self.give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" and trim is not None else None

    def passed(self, nbytes: int, device: torch.device) -> None:
        self.since += nbytes if device.type == "cpu" else 0
        if self.give_back is not None and self.trim is not None and self.since > self.trim:
            self.since = 0
            self.give_back(0)


def _reason_to_keep(x: Tensor, min_values: int) -> str:
    """Why autograd should have `x` itself; empty where it may be encoded."""
    if _is_parameter(x):
        return "parameter"
    if not x.is_floating_point():
        return "not float"
    if type(x) is not Tensor or x.layout != torch.strided or x.device.type == "meta":
        return "no plain tensor"
    if x.numel() < min_values:
        return "small"
    if x.dim() > MAX_RANK or x.untyped_storage().nbytes() < x.numel() * x.element_size():
        return "view"
    return ""


def _is_parameter(x: Tensor) -> bool:
    """A leaf that wants a gradient, or a view, cast or transpose of one: it is in memory anyway, and every level counts."""
    if isinstance(x, nn.Parameter) or (x.is_leaf and x.requires_grad):
        return True
    node = x.grad_fn
    while node is not None and node.name() in OF_ONE:
        node = node.next_functions[0][0]
    return node is not None and node.name() == "torch::autograd::AccumulateGrad"


class _Coder:
    """Tensor to payload and back, with codecs fitted on the way."""

    def __init__(self, codec: str, options: dict[str, Any], fit: str | None, exact: bool, keep_positive: bool, on_device: bool) -> None:
        card = registry.card(codec)
        if card.family != "features":
            raise InputError(f"codec {codec!r} is of family {card.family!r}, not 'features'")
        unfitted = registry.build(codec, options)
        if unfitted.tap != "output":
            raise InputError(f"codec {codec!r} is fitted to channels before an activation; saved tensors are batches of any kind")
        fields = {f.name for f in dataclasses.fields(unfitted.config)}
        ranged = fields >= RANGE
        # tables and models know the range that they were fitted to; parameters alone can be given another
        movable = ranged and not unfitted.fit([np.linspace(0, 1, 256, dtype=np.float32).reshape(4, 8, 8)]).state
        fit = fit or ("kind" if movable else "tensor")
        if fit not in ("kind", "tensor"):
            raise InputError(f"fit is 'kind' or 'tensor', not {fit!r}")
        if fit == "kind" and not movable:
            raise InputError(f"codec {codec!r} cannot be given the range of each tensor without a fit: only fit='tensor' suits it")
        self.id, self.options, self.by_kind, self.ranged = codec, options, fit == "kind", ranged
        self.floor = max(math.ceil(KEPT * getattr(unfitted.config, "step", 1.0)), 1) if ranged and keep_positive else 0  # levels
        self.on_device = on_device
        self.kinds: dict[Any, Codec] = {}
        self.words: Codec | None = None
        if exact:
            sample = np.array([0, 1, 0, 0xFFFFFFFF], np.uint32)
            try:
                self.words = unfitted.fit([sample])
                same = np.array_equal(self.words.simulate(sample)[0], sample)
            except InputError as error:
                raise InputError(f"exact=True needs a codec that keeps integers of 32 bits, such as 'zvc': {error}") from None
            if not same:
                raise InputError(f"exact=True needs a codec that keeps integers of 32 bits, such as 'zvc'; {codec!r} does not")

    def encode(self, x: Tensor) -> _Held | None:
        """None where `x` holds NaN or infinity, which 8-bit levels cannot."""
        if self.words is not None:
            codec, values = self.words, x.detach().view(WORDS[x.element_size()])
        else:
            low, high = (float(v) for v in torch.aminmax(x.detach()))
            if not (np.isfinite(np.float32(low)) and np.isfinite(np.float32(high))):
                return None
            values = x.detach().to(x.device if self.on_device else "cpu", torch.float32)
            if low == 0 and self.floor:
                values = values.clamp(min=self.floor * scale_and_zero(low, high)[0]).masked_fill_(values <= 0, 0)
            codec = self.codec_for(x, values, low, high)
        payload: Buffer | Tensor
        try:
            if self.on_device and codec.runs_beside(values):
                payload = codec.encode_on_device(values)
            else:
                payload = codec.encode_payload(_unsigned(values.cpu()) if self.words is not None else values.cpu().numpy())
        except InputError as error:
            raise InputError(f"a saved tensor of shape {tuple(x.shape)} cannot be encoded: {error}") from None
        stride = torch.empty_like(x, device="meta").stride()  # those of x, or plain ones where x has gaps
        return _Held(payload, codec, x.shape, stride, x.dtype, x.device)

    def codec_for(self, x: Tensor, values: Tensor, low: float, high: float) -> Codec:
        if not self.ranged:
            return registry.build(self.id, self.options).fit([values.cpu().numpy()])
        scale, reciprocal, zero = scale_and_zero(low, high)
        levels = {"scale": scale, "reciprocal": reciprocal, "zero_point": zero}
        kind = (x.dtype, x.shape, low < 0)
        if not self.by_kind or kind not in self.kinds:
            unfitted = registry.build(self.id, {**self.options, **levels})
            codec = unfitted.fit([(values[:SAMPLE] if self.by_kind else values).cpu().numpy()])
            if self.by_kind:
                self.kinds[kind] = codec
            return codec
        known = self.kinds[kind]
        return registry.build(self.id, {**known.params, **levels})

    def decode(self, held: _Held) -> Tensor:
        if isinstance(held.payload, Tensor):
            kind = torch.float32 if self.words is None else WORDS[held.dtype.itemsize]
            out = torch.empty_strided(held.size, held.stride, dtype=kind, device=held.device)
            held.codec.decode_on_device(held.payload, out=out, max_nbytes=1 << 62)
            return out.to(held.dtype) if self.words is None else out.view(held.dtype)
        if self.words is not None:
            out = torch.empty_strided(held.size, held.stride, dtype=WORDS[held.dtype.itemsize])
            held.codec.decode_payload(held.payload, max_nbytes=1 << 62, out=_unsigned(out))
            return out.view(held.dtype).to(held.device)
        out = torch.empty_strided(held.size, held.stride, dtype=torch.float32)
        held.codec.decode_payload(held.payload, max_nbytes=1 << 62, out=out.numpy())
        return out.to(held.device, held.dtype)


def _unsigned(words: Tensor) -> NDArray[Any]:
    """The same memory as unsigned integers."""
    array = words.numpy()
    return array.view(f"u{array.itemsize}")  # type: ignore[no-any-return]
