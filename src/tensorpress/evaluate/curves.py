"""Rate-distortion curves: what ratio a codec reaches at a given KL, and how many bytes lie between two codecs.

Both interpolate log ratio over log KL with a piecewise cubic that adds no extrema of its own (PCHIP) and never
extrapolate. The difference of two curves is Bjontegaard's (VCEG-M33, 2001) with KL in the place of PSNR.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, inf, log
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from tensorpress.core.errors import InputError

Points = Iterable[Mapping[str, Any]]


def ratio_at_kl(points: Points, kl: float) -> float:
    """The ratio at `kl` (nats) on the curve through measured `points`, each with `ratio` and `kl`.

    InputError where there are fewer than two different KLs above 0 or where `kl` lies outside them.
    """
    log_kl, log_ratio = _curve(points, "curve")
    if not 0 < kl < inf:
        raise InputError(f"KL {kl} is not a number above 0")
    low, high = log_kl[0], log_kl[-1]
    at = log(kl)
    if not low - 1e-12 <= at <= high + 1e-12:  # the logarithm of an end point may round either way
        raise InputError(f"KL {kl:g} is outside the measured {exp(low):g} to {exp(high):g}")
    return exp(float(PchipInterpolator(log_kl, log_ratio)(min(max(at, low), high))))


def bd_rate(anchor: Points, test: Points) -> float:
    """Mean difference in bytes at equal KL, percent of `anchor`: -10 means that `test` needs a tenth fewer.

    The mean is taken in log bytes over the KL (log axis) that both curves cover; InputError where they share none.
    """
    (kl_a, ratio_a), (kl_t, ratio_t) = _curve(anchor, "anchor"), _curve(test, "test")
    low, high = max(kl_a[0], kl_t[0]), min(kl_a[-1], kl_t[-1])
    if not low < high:
        spans = [f"{exp(kl[0]):g} to {exp(kl[-1]):g}" for kl in (kl_a, kl_t)]
        raise InputError(f"the curves share no range of KL: anchor {spans[0]}, test {spans[1]}")
    area_a = float(PchipInterpolator(kl_a, ratio_a).integrate(low, high))
    area_t = float(PchipInterpolator(kl_t, ratio_t).integrate(low, high))
    return 100 * (exp((area_a - area_t) / (high - low)) - 1)  # bytes are the reciprocal of the ratio


def _curve(points: Points, name: str) -> tuple[Any, Any]:
    """(log KL ascending, log ratio); of points at one KL the best counts."""
    best: dict[float, float] = {}
    for number, point in enumerate(points):
        kl, ratio = point.get("kl"), point.get("ratio")
        if any(not isinstance(v, int | float) or not 0 < v < inf for v in (kl, ratio)):
            raise InputError(f"{name}: point {number} has KL {kl} and ratio {ratio}; both must be numbers above 0")
        best[float(kl)] = max(best.get(float(kl), 0.0), float(ratio))  # type: ignore[arg-type]
    if len(best) < 2:
        raise InputError(f"{name}: {len(best)} different KLs are too few for a curve; at least 2 are needed")
    kls = sorted(best)
    return np.log(kls), np.log([best[kl] for kl in kls])
