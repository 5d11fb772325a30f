"""What a network with compressed weights lost beside the one it came from: both are run on the same inputs, in batches.

Networks that classify give one row of logits an image; language models give one a token, [batch, tokens, classes].
Tokens of one sequence hang together, so the intervals of a language model are those of the means over sequences,
each sequence counted once; the means themselves are over all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.evaluate.fidelity import Z95, Floats, Interval, fidelity, kl_per_image, standard_error, wilson_floor
from tensorpress.pytorch.calibration import Progress, silent

BATCH = 64  # inputs; no figure hangs on it but for the last bits of float sums


def compare(
    before: nn.Module,
    after: nn.Module,
    inputs: Sequence[Tensor] | Tensor,
    labels: Any | None = None,
    *,
    batch: int = BATCH,
    progress: Progress = silent,
) -> dict[str, Any]:
    """`after`, the network with compressed weights, against `before`, on `inputs`: [n, ...], or batches of it.

    `labels` are class indices [n], or next tokens [n, tokens] of a language model. The keys are those of `judge`.
    InputError where nothing can be compared: no input, other shapes, NaN.
    """
    first = outputs(before, inputs, batch=batch, progress=progress, what="uncompressed network")
    return judge(first, outputs(after, inputs, batch=batch, progress=progress, what="network with compressed weights"), labels)


def outputs(model: nn.Module, inputs: Sequence[Tensor] | Tensor, *, batch: int = BATCH, progress: Progress = silent, what: str = "network") -> Tensor:
    """Logits [n, classes] or [n, tokens, classes], float32 on the CPU, of `model` in `eval` mode; its mode is restored."""
    place = next(model.parameters(), torch.empty(0)).device
    parts = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    _check(parts, batch)
    total = sum(map(len, parts))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    found: list[Tensor] = []
    try:
        with torch.inference_mode():
            for x in batches(parts, batch):
                progress(what, sum(map(len, found)), total)
                found.append(_logits(model(x.to(place)), len(x)))
    finally:
        for module, training in modes.items():
            module.training = training
    progress(what, total, total)
    other = next((f for f in found if f.shape[1:] != found[0].shape[1:]), None)
    if other is not None:
        raise InputError(f"the network returns {list(found[0].shape[1:])} for some inputs and {list(other.shape[1:])} for others")
    return torch.cat(found)


def judge(before: Tensor, after: Tensor, labels: Any | None = None) -> dict[str, Any]:
    """The figures of two networks' logits, from `outputs`, of the same inputs.

    top1, top1_reference  percent right after and before, None without labels; drop_points, drop_low, drop_high the paired
    difference in points and its 95 % interval; agreement, agreement_low, agreement_high the share 0-1 of equal top-1
    classes; kl, kl_low, kl_high the mean KL(before || after) in nats; images the number of inputs, of sequences where
    the network is a language model. Such have also tokens, and with labels bits_per_character and
    bits_per_character_reference: the mean of -log2 p of the next token, which is a character where tokens are characters.
    Interval ends are None where one input cannot bound them.
    """
    if before.shape != after.shape:
        raise InputError(f"the compressed network gives outputs {list(after.shape)}, the uncompressed one {list(before.shape)}")
    images, classes = len(before), before.shape[-1]
    truth = None if labels is None else torch.as_tensor(labels)
    if truth is not None and truth.shape != before.shape[:-1]:
        raise InputError(f"labels are {list(truth.shape)}, expected {list(before.shape[:-1])}: one of each row of logits")
    flat = before.reshape(-1, classes), after.reshape(-1, classes)
    row = fidelity(flat[0], None, flat[1], None if truth is None else truth.reshape(-1))
    same = (flat[0].argmax(1) == flat[1].argmax(1)).double().numpy()
    if before.ndim == 2:
        drop, kl, agreement = row.drop_ci95, row.kl_ci95, wilson(row.agreement, images)
    else:
        drop, kl, agreement = None, _of_sequences(kl_per_image(*flat), images, 0.0, math.inf), _of_sequences(same, images, 0.0, 1.0)
        if truth is not None:
            drop = _drop_of_sequences(*flat, truth.reshape(-1), images)
    judged: dict[str, Any] = {
        "top1": row.top1,
        "top1_reference": row.top1_float,
        "drop_points": row.drop_points,
        "drop_low": drop and drop[0],
        "drop_high": drop and drop[1],
        "agreement": row.agreement,
        "agreement_low": agreement and agreement[0],
        "agreement_high": agreement and agreement[1],
        "kl": row.kl,
        "kl_low": kl and kl[0],
        "kl_high": kl and kl[1],
        "images": images,
    }
    if before.ndim == 3:
        judged["tokens"] = len(same)
        if truth is not None:
            judged["bits_per_character"] = bits(flat[1], truth.reshape(-1))
            judged["bits_per_character_reference"] = bits(flat[0], truth.reshape(-1))
    return judged


def bits(logits: Tensor, truth: Tensor) -> float:
    """Mean of -log2 p[truth] over rows: bits per token, of logits [rows, classes]."""
    log_p = log_softmax(logits.double().numpy(), axis=1)
    return float(-np.take_along_axis(log_p, truth.numpy()[:, None].astype(np.int64), 1).mean() / math.log(2))


def wilson(share: float, count: int) -> Interval:
    """Wilson's 95 % interval of a share 0-1 seen in `count` draws (JASA 22, 1927)."""
    spread = Z95**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def batches(parts: Sequence[Tensor], batch: int) -> Iterator[Tensor]:
    """At most `batch` inputs at a time; neighbours of one shape share a batch."""
    held: list[Tensor] = []
    for part in (piece for whole in parts for piece in whole.split(batch) if len(piece)):
        if held and (sum(map(len, held)) + len(part) > batch or part.shape[1:] != held[0].shape[1:] or part.dtype != held[0].dtype):
            yield torch.cat(held)
            held = []
        held.append(part)
    if held:
        yield torch.cat(held)


def _check(parts: Sequence[Tensor], batch: int) -> None:
    if batch < 1:
        raise InputError(f"batch is {batch}: at least 1 input is needed")
    bad = next((p for p in parts if not isinstance(p, Tensor) or not p.ndim), None)
    if bad is not None:
        raise InputError(f"inputs are tensors whose first dimension is the batch, not {type(bad).__name__} {list(getattr(bad, 'shape', []))}")
    if not sum(map(len, parts)):
        raise InputError("there is no input to compare the networks on")


def _logits(found: Any, count: int) -> Tensor:
    out = getattr(found, "logits", found)
    if not isinstance(out, Tensor) or out.ndim not in (2, 3) or len(out) != count:
        what = f"a tensor {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"the network returns {what} for {count} inputs, not logits [n, classes] or [n, tokens, classes]")
    return out.detach().float().cpu()


def _of_sequences(values: Floats, count: int, least: float, most: float) -> Interval | None:
    """95 % interval of the mean of `values`, from the means of `count` sequences of equal length."""
    if count < 2:
        return None
    means = values.reshape(count, -1).mean(1)
    half = Z95 * standard_error(means)
    return max(float(means.mean()) - half, least), min(float(means.mean()) + half, most)


def _drop_of_sequences(before: Tensor, after: Tensor, truth: Tensor, count: int) -> Interval | None:
    lost = ((before.argmax(1) == truth).double() - (after.argmax(1) == truth).double()).numpy()
    found = _of_sequences(lost, count, -1.0, 1.0)
    if found is None:
        return None
    middle, half = float(lost.mean()), max((found[1] - found[0]) / 2, wilson_floor(len(lost)))
    return 100 * max(middle - half, -1.0), 100 * min(middle + half, 1.0)
