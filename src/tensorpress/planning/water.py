"""Reverse water-filling: where steps are continuous, every component that is coded at all gets the same weighted distortion.

Cover and Thomas, Elements of Information Theory, section 10.3.3: Gaussian components of variance v at distortion d cost log2(v / d) / 2 bits
each. Components whose weighted variance lies under the water level are not coded. The level is closed form once the components are sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tensorpress.core.errors import InputError
from tensorpress.planning.table import Floats


@dataclass(frozen=True, eq=False)
class Water:
    """`distortion[i]` is the mean squared error of each of the values of component i; `level` is what weight x distortion is where anything is coded."""

    distortion: Floats
    level: float
    bits: float  # over all values
    total: float  # sum of count x weight x distortion

    @property
    def steps(self) -> Floats:
        """Uniform quantiser steps with that error: sqrt(12 d), which holds where a step is small beside the spread."""
        return np.sqrt(12 * self.distortion)


def water_fill(
    variances: npt.ArrayLike, counts: npt.ArrayLike = 1, weights: npt.ArrayLike = 1, *, max_bits: float | None = None, max_distortion: float | None = None
) -> Water:
    """The d with the least sum of n w d whose bits, the sum of n log2(v / d) / 2, are at most `max_bits`; or the fewest bits within `max_distortion`.

    `variances` (k) >= 0; `counts` > 0 and `weights` >= 0 (the curvature of the loss) broadcast to it. InputError on anything else.
    """
    v = np.asarray(variances, np.float64)
    if v.ndim != 1 or not len(v):
        raise InputError(f"variances have shape {v.shape}, not one axis with at least one component")
    try:
        n, w = (np.broadcast_to(np.asarray(x, np.float64), v.shape) for x in (counts, weights))
    except ValueError:
        raise InputError(f"counts and weights do not match {len(v)} variances") from None
    for name, x, good in (("variance", v, v >= 0), ("count", n, n > 0), ("weight", w, w >= 0)):
        if not np.all(good & np.isfinite(x)):
            at = int(np.flatnonzero(~(good & np.isfinite(x)))[0])
            raise InputError(f"component {at}: {name} {x[at]:g} is not a finite number {'above' if name == 'count' else 'of at least'} 0")
    if (max_bits is None) == (max_distortion is None):
        raise InputError("water_fill takes one budget: max_bits or max_distortion")
    if max_bits is not None and not 0 <= max_bits < np.inf:
        raise InputError(f"max_bits {max_bits} is not a finite number of at least 0")
    if max_distortion is not None and not max_distortion > 0:
        raise InputError(f"max_distortion {max_distortion} would take bits without end: it must be above 0")

    height = w * v
    wet = np.flatnonzero(height > 0)
    if not len(wet):
        return Water(v.copy(), 0.0, 0.0, 0.0)
    order = wet[np.argsort(-height[wet], kind="stable")]
    tall, many = height[order], n[order]
    logs, mass = np.log2(tall), np.cumsum(many)
    if max_bits is not None:
        shared = np.cumsum(many * logs)
        needs = (shared - mass * logs) / 2  # bits at the level where each component is just reached
        coded = int(np.count_nonzero(needs <= max_bits))
        level_log = (shared[coded - 1] - 2 * max_bits) / mass[coded - 1]
    else:
        assert max_distortion is not None
        dry = np.append(np.cumsum((many * tall)[::-1])[::-1][1:], 0.0)  # what the components after each one cost uncoded
        reaches = dry + mass * tall  # the sum at the level where each component is just reached
        if max_distortion >= reaches[0]:
            level_log = float(logs[0])
        else:
            coded = int(np.count_nonzero(reaches > max_distortion))
            level_log = float(np.log2((max_distortion - dry[coded - 1]) / mass[coded - 1]))
    level_log = min(float(level_log), float(logs[0]))
    d = v.copy()
    d[order] = np.minimum(v[order], np.exp2(level_log - np.log2(w[order])))
    bits = float(np.sum(many * np.maximum(logs - level_log, 0.0)) / 2)
    return Water(d, float(np.exp2(level_log)), bits, float(np.sum(n * w * d)))
