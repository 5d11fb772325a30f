"""A prediction put right by measurement: walk the path of the table until the loss that is measured, not the one that is predicted, meets the limit.

Distortions of sites do not add up exactly once all of them are on. Where `coarsest_within` turns one parameter and knows nothing beforehand, here the
table says how the loss should run along the path; each measurement only rescales it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tensorpress.core.errors import InputError
from tensorpress.planning.allocate import Allocation, at_steps
from tensorpress.planning.quality import CLOSE
from tensorpress.planning.table import Floats, Path, Table

SAFE = 0.985  # aim a little below the limit: a miss by a hair costs a round


@dataclass(frozen=True)
class Round:
    """One measurement. `slope` is where the path stood, `cost` and `predicted` are the table's."""

    slope: float
    predicted: float
    measured: float
    cost: float


@dataclass(frozen=True)
class Correction:
    """`allocation.met` speaks of the measured loss; where no round met the limit, it is the round with the least."""

    allocation: Allocation
    measured: float
    trace: tuple[Round, ...]

    @property
    def gap(self) -> float:
        """Measured less predicted loss of the allocation: what the sites do to one another."""
        return self.measured - self.allocation.distortion


def correct(table: Table, measure: Callable[[tuple[int, ...]], float], max_loss: float, *, rounds: int = 10) -> Correction:
    """The cheapest choice along the table's path whose measured loss is at most `max_loss`, in at most `rounds` measurements.

    `measure` takes a choice and returns its loss, ideally in the unit of the table's distortions; it should fall along the path
    from the cheapest choice to the finest (noise is tolerated: only measured values count). It ends early within 3 % below the limit.
    """
    if math.isnan(max_loss) or rounds < 1:
        raise InputError(f"max_loss {max_loss} in {rounds} rounds cannot be searched for")
    path, predicted = table.path, _predicted(table)
    tried: dict[int, float] = {}
    trace: list[Round] = []
    over, within = -1, len(path) + 1  # steps known to be too few, and known to be enough
    while len(trace) < rounds and within - over > 1:
        last_chance = len(trace) == rounds - 1 and within > len(path)
        steps = len(path) if last_chance else _guess(path, predicted, tried, over, within, max_loss)
        point = at_steps(table, steps)
        loss = float(measure(point.choice))
        if math.isnan(loss):
            raise InputError(f"the loss measured at predicted {point.distortion:g} and cost {point.cost:g} is not a number")
        tried[steps] = loss
        trace.append(Round(point.slope, point.distortion, loss, point.cost))
        if loss <= max_loss:
            within = steps
            if loss >= CLOSE * max_loss:
                break
        else:
            over = steps
    met = within <= len(path)
    best = within if met else min(tried, key=lambda steps: (tried[steps], steps))
    return Correction(at_steps(table, best, met=met), tried[best], tuple(trace))


def _predicted(table: Table) -> Floats:
    """Predicted loss after 0, 1, ... all steps, summed from the fine end, where it is small and must be true."""
    path, d = table.path, table.flat.distortion
    before = np.empty(len(path))
    at = path.start.copy()
    for j, (site, option) in enumerate(zip(path.site.tolist(), path.option.tolist())):
        before[j], at[site] = d[at[site]] - d[option], option
    return np.append(np.cumsum(before[::-1])[::-1], 0.0) + math.fsum(d[at].tolist())


def _guess(path: Path, predicted: Floats, tried: dict[int, float], over: int, within: int, limit: float) -> int:
    """The number of steps to measure next, strictly between the brackets."""
    low, high = over + 1, within - 1
    aim = limit
    known = [(predicted[k], tried[k]) for k in (over, within) if k in tried]
    usable = limit > 0 and all(p > 0 and 0 < m < math.inf for p, m in known)
    sides = [loss <= limit for loss in tried.values()][-3:]
    stalled = len(sides) == 3 and len(set(sides)) == 1  # a plateau, then a cliff: guesses creep along one side
    if stalled or not usable:
        return _middle(path, low, high)
    if len(known) == 1:
        aim = SAFE * limit * known[0][0] / known[0][1]
    elif len(known) == 2:
        (p0, m0), (p1, m1) = known
        if not (p0 > p1 and m0 > m1):
            return _middle(path, low, high)
        share = math.log(SAFE * limit / m1) / math.log(m0 / m1)
        aim = p1 * (p0 / p1) ** share
    steps = len(predicted) - int(np.searchsorted(predicted[::-1], aim, side="right"))  # the fewest whose prediction is at most the aim
    return min(max(steps, low), high)


def _middle(path: Path, low: int, high: int) -> int:
    """Halfway in log slope; halfway in steps where slopes cannot say."""
    if low == high:
        return low
    steep, flat = float(path.slope[low]), float(path.slope[high - 1])
    if not (math.inf > steep > flat > 0):
        return (low + high) // 2
    steps = int(np.count_nonzero(path.slope > math.sqrt(steep) * math.sqrt(flat)))
    return min(max(steps, low), high)
