"""One global quality parameter, turned until a target is met: bracketing and interpolation on measured values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

CLOSE = 0.97  # a measure this near its limit is near enough to stop


@dataclass(frozen=True)
class Found:
    """`quality` is the coarsest that keeps the limit; where none does, the finest, and `met` is False."""

    quality: float
    value: float  # of the measure, at `quality`
    met: bool
    tried: tuple[tuple[float, float], ...]  # (quality, measured value), in order


def coarsest_within(
    measure: Callable[[float], float], limit: float, *, fine: float, coarse: float, integer: bool = False, rounds: int = 9
) -> Found:
    """The coarsest quality between `fine` and `coarse` whose `measure` is at most `limit`.

    `measure` should rise from fine to coarse (noise is tolerated: only measured values count). Both ends are > 0; the
    search runs in log quality and needs at most `rounds` measurements.
    """
    tried: list[tuple[float, float]] = []

    def take(position: float) -> tuple[float, float, float]:
        quality = fine * (coarse / fine) ** position
        if integer:
            quality = float(round(quality))
            position = math.log(quality / fine) / math.log(coarse / fine)
        for known, value in tried:
            if known == quality:
                return position, quality, value
        value = measure(quality)
        tried.append((quality, value))
        return position, quality, value

    best: tuple[float, float] | None = None
    low, low_value = 0.0, math.nan
    high, high_value = 1.0, math.nan
    position = 0.5
    while len(tried) < rounds:
        before = len(tried)
        at, quality, value = take(position)
        if len(tried) == before:
            break  # integers: nothing new between the brackets
        if value <= limit:
            if best is None or (quality - best[0]) * (coarse - fine) > 0:
                best = quality, value
            low, low_value = at, value
            if value >= CLOSE * limit or at >= 1.0:
                break
        else:
            high, high_value = at, value
            if at <= 0.0:
                break
        if high - low < 1e-3:
            break
        if math.isnan(high_value):
            position = 1.0 if low >= 0.75 else (low + 1.0) / 2
        elif math.isnan(low_value):
            position = 0.0 if high <= 0.25 else high / 2
        else:
            position = _between(low, low_value, high, high_value, limit)
    if best is None:
        quality, value = next(((q, v) for q, v in tried if q == fine), (fine, math.nan))
        if math.isnan(value):
            quality, value = fine, measure(fine)
            tried.append((quality, value))
        return Found(quality, value, value <= limit, tuple(tried))
    return Found(*best, True, tuple(tried))


def _between(low: float, low_value: float, high: float, high_value: float, limit: float) -> float:
    """Log-linear interpolation a little to the safe side, kept away from the ends of the bracket."""
    if min(low_value, high_value, limit) > 0 and high_value > low_value:
        share = math.log(0.985 * limit / low_value) / math.log(high_value / low_value)
    else:
        share = 0.5
    return low + (high - low) * min(max(share, 0.1), 0.9)
