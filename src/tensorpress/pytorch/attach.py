"""A plan inside a running network: every site is encoded to real bytes and decoded again on its way to the next layer."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.core.binary import Buffer, canonical_json
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.site import Site
from tensorpress.core.stream import frame_nbytes, read_frame
from tensorpress.planning.bundle import write_bundle
from tensorpress.planning.plan import Entry, Plan
from tensorpress.pytorch.taps import refuse_opaque, tapped
from tensorpress.pytorch.tensors import blank, images, images_there, restored

Array = NDArray[Any]
Watch = Callable[[int, Array, Array, "Buffer | None", int], None]


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) of the state dict's keys and shapes: what a plan must share with the network that it was made for.

    Values do not count, so a plan survives fine-tuning; nor do the counters of batch norms, which some files leave out.
    """
    keys = [[k, list(v.shape)] for k, v in sorted(model.state_dict().items()) if not k.endswith("num_batches_tracked")]
    return hashlib.sha256(canonical_json(keys)).hexdigest()


@dataclass(frozen=True)
class Call:
    """One image's tensor at one site. `raw_nbytes` is the 8-bit reference: one byte a value."""

    site: int  # its place in the plan
    image: int  # its place in the batch
    shape: tuple[int, ...]  # as the codec saw it, channels first
    raw_nbytes: int
    nbytes: int  # of the plan-bound stream, framing included


@dataclass(frozen=True)
class SiteTotal:
    """All calls of one site."""

    site: Site
    calls: int
    raw_nbytes: int
    nbytes: int

    @property
    def ratio(self) -> float | None:
        return self.raw_nbytes / self.nbytes if self.nbytes else None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, coded: Tensor) -> Tensor:
        return coded.clone()  # an argument returned as it is would be a view, which no in-place activation may follow

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Run:
    """A plan while it is attached: a context manager that gathers one `Call` for every site and image. See `attach`."""

    def __init__(self, plan: Plan, model: nn.Module, exact: bool, keep: bool, watch: Watch | None) -> None:
        self.plan, self.exact, self.keep, self.watch = plan, exact, keep, watch
        self.calls: list[Call] = []
        self.frames: list[bytes] = []  # of the last forward pass, where they are kept
        self._decoded: dict[tuple[int, int], Array] = {}  # (site, image) -> what later sites refer to
        sites = [entry.site for entry in plan.entries]
        self._local = threading.local()  # a buffer for frames: a model that serves two threads is in two passes at once
        self._taps = tapped(model, sites, self._through, [entry.codec.tap for entry in plan.entries], self._begin, self._over)

    def _begin(self) -> None:
        self.frames.clear()
        self._decoded.clear()

    def _over(self, index: int, tensor: Tensor) -> Tensor:
        return self._through(index, tensor, over=True)

    def _through(self, index: int, tensor: Tensor, over: bool = False) -> Tensor:
        try:
            coded = self._coded(index, tensor, over)
        except (InputError, StreamError) as error:
            raise type(error)(f"site {self.plan.entries[index].site.name}: {error}") from None
        if torch.is_grad_enabled() and tensor.requires_grad:
            return _StraightThrough.apply(tensor, coded)  # type: ignore[no-any-return,no-untyped-call]
        return coded

    def _coded(self, index: int, tensor: Tensor, over: bool) -> Tensor:
        entry = self.plan.entries[index]
        split, place = (images_there, tensor.device) if self._stays(index, tensor) else (images, "cpu")
        filled = tensor if over and self._fits(tensor) else blank(tensor, place)
        for number, (source, target) in enumerate(zip(split(tensor, entry.site.view), split(filled, entry.site.view))):
            _check_shape(entry, source)
            reference = self._reference(entry, number, source)
            nbytes = (self._real if self.exact else self._simulated)(index, source, target, reference)
            if index in self.plan.referenced:
                self._decoded[index, number] = np.array(target)  # a copy: the network may change its tensor in place
            self.calls.append(Call(index, number, tuple(source.shape), math.prod(source.shape), nbytes))
        return restored(filled, tensor)

    def _stays(self, index: int, tensor: Tensor) -> bool:
        """Whether a tensor on a GPU is coded there: frames are read by the host, and so is all that others want to see."""
        entry = self.plan.entries[index]
        seen = self.watch is not None or entry.reference is not None or index in self.plan.referenced
        return self.exact and not seen and entry.codec.runs_beside(tensor)

    def _fits(self, tensor: Tensor) -> bool:
        """Whether what is decoded may go where the values were read: they are a frame by then, and nobody else wants them."""
        return self.exact and self.watch is None and tensor.device.type == "cpu" and tensor.dtype == torch.float32

    def _buffer(self, index: int, source: Any) -> Array | None:
        """Room for a frame that is not kept; None where one is made for it."""
        if self.keep or not isinstance(source, np.ndarray):
            return None
        nbytes = self.plan.entries[index].codec.max_encoded_nbytes(source.dtype, source.shape)
        held: Array | None = getattr(self._local, "buffer", None)
        if held is None or held.size < nbytes:
            held = self._local.buffer = np.empty(nbytes, np.uint8)
        return held

    def _reference(self, entry: Entry, number: int, source: Array) -> Array | None:
        if entry.reference is None:
            return None
        found = self._decoded.get((entry.reference, number))
        if found is None or found.shape != source.shape:
            named = self.plan.entries[entry.reference].site.name
            raise InputError(f"its reference, site {named}, {'was not reached before it' if found is None else f'has shape {found.shape}, not {source.shape}'}")
        return found

    def _real(self, index: int, source: Any, target: Any, reference: Array | None) -> int:
        codec = self.plan.entries[index].codec
        data = codec.encode_frame(source, index, self.plan.id, self._buffer(index, source), reference=reference)
        payload = read_frame(data).payload
        codec.decode_payload(payload, out=target, reference=reference)
        if self.keep:
            self.frames.append(data)
        if self.watch is not None:
            self.watch(index, source, target, payload, len(data))
        return len(data)

    def _simulated(self, index: int, source: Array, target: Array, reference: Array | None) -> int:
        values, payload_nbytes = self.plan.entries[index].codec.simulate(source, reference)
        target[...] = values
        nbytes = frame_nbytes(payload_nbytes, index)
        if self.watch is not None:
            self.watch(index, source, target, None, nbytes)
        return nbytes

    @property
    def nbytes(self) -> int:
        return sum(call.nbytes for call in self.calls)

    @property
    def raw_nbytes(self) -> int:
        return sum(call.raw_nbytes for call in self.calls)

    def by_site(self) -> list[SiteTotal]:
        """Totals in the order of the plan; a site that was not reached has no calls."""
        sums = [[0, 0, 0] for _ in self.plan.entries]
        for call in self.calls:
            row = sums[call.site]
            row[0], row[1], row[2] = row[0] + 1, row[1] + call.raw_nbytes, row[2] + call.nbytes
        return [SiteTotal(entry.site, *row) for entry, row in zip(self.plan.entries, sums)]

    def clear(self) -> None:
        """Forget all calls and frames so far."""
        self.calls.clear()
        self.frames.clear()

    def bundle(self) -> bytes:
        """The last forward pass as one file. InputError unless attached with `keep=True`."""
        if not self.keep:
            raise InputError("frames were not kept: attach the plan with keep=True")
        return write_bundle(self.plan, self.frames)

    def remove(self) -> None:
        """Leave the model as it was. Calls and frames stay."""
        self._taps.remove()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


def _check_shape(entry: Entry, array: Array) -> None:
    """Another resolution than the calibrated one is fine, another number of channels is not."""
    if array.ndim != len(entry.shape) or array.shape[0] != entry.shape[0]:
        raise InputError(f"the tensor has shape {array.shape}, the plan was made for {entry.shape}; the first axis, channels, must agree")


def attach(plan: Plan, model: nn.Module, *, exact: bool = True, keep: bool = False, watch: Watch | None = None) -> Run:
    """Send every site of `plan` through its codec in every forward pass of `model`, image by image.

    `exact` writes, checks and reads real plan-bound streams; otherwise codecs simulate: same values, same sizes. `keep`
    holds the streams of the last pass for `Run.bundle`. `watch` is called with (site, array before, array after, payload or
    None, bytes of the stream) for every image; the arrays are only lent. Works in train and eval mode, under `inference_mode`, with
    channels_last and any batch (the leading axis of a tensor: each image is a stream of its own). Gradients pass
    straight through. float16, bfloat16 and float64 are coded as float32 and come back in their own type; tensors on
    an accelerator are coded on the host. Modules made by torch.compile, DataParallel or quantisation are refused with
    what to do instead. Where a fused fast path (nn.TransformerEncoder) is skipped, results may differ in the last bit.

    Errors name the site. InputError: the plan is for another network, a tensor is not finite or has other channels.
    """
    refuse_opaque(model)  # before the fingerprint: a wrapper's keys differ, and what to do about it is more use
    if plan.model != fingerprint(model):
        kind, ours = type(model).__name__, fingerprint(model)
        raise InputError(
            f"the plan was made for another network: its fingerprint is {plan.model[:16]}…, that of this {kind} is {ours[:16]}…"
        )
    if keep and not exact:
        raise InputError("a simulation writes no streams to keep: attach with exact=True")
    return Run(plan, model, exact, keep, watch)
