"""What the task lost: accuracy, agreement and divergence of a compressed network, paired with the uncompressed one.

Every figure compares two networks on the same images, so what one image adds to the noise of both cancels out. The
intervals are normal: mean ± 1.96 standard errors of the per-image differences. Top-1 changes on few images or none, where a
normal interval shrinks to nothing; the drop's half-width is therefore never below z²/(n + z²), z = 1.96: Wilson's
score bound (JASA 22, 1927) for an event that none of n images showed, which is also where Tango's interval for
paired proportions (Stat. Med. 17, 1998) stands when no image changes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, ndtr

from tensorpress.core.errors import InputError

Floats = NDArray[np.float64]
Interval = tuple[float, float]

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
SMOOTHING = 2.0  # h of `drop_smoothed`, in units of the logit margin


@dataclass(frozen=True)
class Fidelity:
    """One compressed network against the float network, on the same images. None: unknown (no labels, one image)."""

    top1_float: float | None  # percent
    top1_reference: float | None  # percent, the network with 8-bit maps
    top1: float | None  # percent, the network with compressed maps
    drop_points: float | None  # top1_float - top1, percentage points
    drop_ci95: Interval | None  # percentage points
    drop_smoothed: float | None  # mean of Φ(m/h) - Φ(m'/h), percentage points
    drop_smoothed_ci95: Interval | None  # percentage points
    expected_drop: float  # mean of p[argmax p] - p[argmax q], percentage points; needs no labels
    agreement: float  # fraction 0-1 of images whose top-1 class is the float network's
    kl: float  # mean over images of KL(p_float || p), nats
    kl_ci95: Interval | None  # nats

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; intervals become [low, high], unknown values null."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def fidelity(logits_float: Any, logits_reference: Any | None, logits: Any, labels: Any | None) -> Fidelity:
    """Judge `logits` of the compressed network against `logits_float`; each is (images, classes), numpy or torch.

    `logits_reference` are those of the network with 8-bit maps. `labels` are class indices (images,), or None:
    whatever rests on them is then None. InputError names the image where logits or labels cannot be used.
    """
    before, after = _pair(logits_float, logits)
    images, classes = before.shape
    kl = _kl_per_image(before, after)
    expected = _expected_per_image(before, after)
    agreement = float(np.mean(before.argmax(1) == after.argmax(1)))
    label_free = (100 * float(expected.mean()), agreement, float(kl.mean()), _kl_interval(kl))
    if labels is None:
        return Fidelity(None, None, None, None, None, None, None, *label_free)
    truth = _labels(labels, images, classes)
    right_before, right_after = before.argmax(1) == truth, after.argmax(1) == truth
    lost = right_before.astype(np.float64) - right_after
    smoothed = ndtr(_margin(before, truth) / SMOOTHING) - ndtr(_margin(after, truth) / SMOOTHING)
    reference = None if logits_reference is None else _pair(logits_float, logits_reference, "reference network")[1]
    return Fidelity(
        100 * float(right_before.mean()),
        None if reference is None else 100 * float(np.mean(reference.argmax(1) == truth)),
        100 * float(right_after.mean()),
        100 * float(lost.mean()),
        _points(lost, floor=wilson_floor(images)),
        100 * float(smoothed.mean()),
        _points(smoothed, floor=0.0 if np.ptp(smoothed) > 0 else wilson_floor(images)),
        *label_free,
    )


def kl_per_image(logits_float: Any, logits: Any) -> Floats:
    """KL(p_float || p) of each image, nats, shape (images,)."""
    return _kl_per_image(*_pair(logits_float, logits))


def kl_mean_plus_se(logits_float: Any, logits: Any) -> float:
    """Mean KL plus one standard error of that mean, nats: what a KL target is held against. At least two images."""
    kl = kl_per_image(logits_float, logits)
    if len(kl) < 2:
        raise InputError("a KL target needs at least 2 images: the standard error of one is unknown")
    return float(kl.mean()) + standard_error(kl)


def expected_drop(logits_float: Any, logits: Any) -> float:
    """Mean of p[argmax p] - p[argmax q] in percentage points, p the float network's softmax: the drop that p expects."""
    return 100 * float(_expected_per_image(*_pair(logits_float, logits)).mean())


def standard_error(values: Floats) -> float:
    """Of the mean of `values`, with n - 1 in the variance; 0 where there is but one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def wilson_floor(images: int) -> float:
    """Upper end of Wilson's 95 % interval for an event that none of `images` showed, a fraction."""
    return Z95**2 / (images + Z95**2)


def _points(differences: Floats, *, floor: float) -> Interval:
    """95 % interval, in percentage points, of the mean of differences within [-1, 1]; its half-width is at least `floor`."""
    mean, half = float(differences.mean()), max(Z95 * standard_error(differences), floor)
    return 100 * max(mean - half, -1.0), 100 * min(mean + half, 1.0)


def _kl_interval(kl: Floats) -> Interval | None:
    if len(kl) < 2:
        return None  # KL has no upper bound, so one image bounds nothing
    mean, half = float(kl.mean()), Z95 * standard_error(kl)
    return max(mean - half, 0.0), mean + half


def _kl_per_image(before: Floats, after: Floats) -> Floats:
    log_p = log_softmax(before, axis=1)
    divergence: Floats = (np.exp(log_p) * (log_p - log_softmax(after, axis=1))).sum(1)
    return np.maximum(divergence, 0.0)  # rounding may leave -1e-17


def _expected_per_image(before: Floats, after: Floats) -> Floats:
    p = np.exp(log_softmax(before, axis=1))
    gained: Floats = p.max(1) - np.take_along_axis(p, after.argmax(1)[:, None], 1)[:, 0]
    return gained


def _margin(logits: Floats, truth: NDArray[np.int64]) -> Floats:
    """Logit of the true class over the best other one, shape (images,)."""
    others = logits.copy()
    np.put_along_axis(others, truth[:, None], -np.inf, 1)
    margin: Floats = np.take_along_axis(logits, truth[:, None], 1)[:, 0] - others.max(1)
    return margin


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):  # torch: numpy knows neither bfloat16 nor other devices
        tensor = values.detach().cpu()
        return np.asarray(tensor.double() if tensor.is_floating_point() else tensor)
    return np.asarray(values)


def _logits(values: Any, whose: str) -> Floats:
    array = _array(values).astype(np.float64, copy=False)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise InputError(f"logits of the {whose} have shape {array.shape}, expected (images, classes) with 1 image and 2 classes at least")
    bad = ~np.isfinite(array).all(1)
    if bad.any():
        raise InputError(f"logits of the {whose} hold NaN or infinity, first at image {int(bad.argmax())}")
    return array


def _pair(logits_float: Any, logits: Any, whose: str = "compressed network") -> tuple[Floats, Floats]:
    before, after = _logits(logits_float, "float network"), _logits(logits, whose)
    if before.shape != after.shape:
        raise InputError(f"logits of the {whose} have shape {after.shape}, those of the float network {before.shape}")
    return before, after


def _labels(labels: Any, images: int, classes: int) -> NDArray[np.int64]:
    truth = _array(labels)
    if truth.shape != (images,) or truth.dtype.kind not in "iu":
        raise InputError(f"labels are {truth.dtype} {truth.shape}, expected integers ({images},)")
    bad = (truth < 0) | (truth >= classes)
    if bad.any():
        first = int(bad.argmax())
        raise InputError(f"label {int(truth[first])} of image {first} is out of range: the network has {classes} classes")
    return truth.astype(np.int64)
