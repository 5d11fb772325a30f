"""One option for every site: the least distortion within a budget of cost, or the least cost within a budget of distortion.

Three ways to the same answer. `lagrange` bisects on the slopes of all hulls (Shoham and Gersho, 1988) and fills the slack that is left, option by
option: never further from the best than one step of one hull, in time that a million options do not fill. `dp` and `milp` (knapsack.py) are exact.
What sites, distortions and costs are is no matter here: feature maps, weights and gradients share this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from tensorpress.core.errors import InputError
from tensorpress.planning import knapsack
from tensorpress.planning.table import Floats, Ints, Table

Method = Literal["auto", "lagrange", "dp", "milp"]


@dataclass(frozen=True)
class Allocation:
    """`choice[i]` is the option of site i. Where no choice meets the budget, it is the one that comes nearest, and `met` is False."""

    choice: tuple[int, ...]
    distortion: float
    cost: float
    met: bool
    slope: float  # the price of the budget: distortion that one more unit of cost would buy; 0 where cost does not bind, infinite where only cost counts
    bound: float  # no choice that meets the budget, or comes as near, does better: least distortion under `max_cost`, least cost under `max_distortion`
    method: str  # what found it


def allocate(table: Table, *, max_cost: float | None = None, max_distortion: float | None = None, method: Method = "auto") -> Allocation:
    """The best choice whose exact sum, rounded once, is at most the budget. Give one of the two budgets.

    lagrange: within one hull step of the best; distortion (or cost) less `bound` says how near for certain.
    dp: exact where the budgeted quantities are multiples of 2**-20 and their range is small enough to tabulate, else rounded up to a grid.
    milp: exact to HiGHS's tolerance, 1e-10 of the greatest single value; time may grow without warning on large tables.
    auto: lagrange, and dp after it where lagrange has not proven itself best and the table is small. The better of the two.
    A budget out of reach is no error. InputError where the budget or the method makes no sense.
    """
    if method not in get_args(Method):
        raise InputError(f"method {method!r} is none of {', '.join(get_args(Method))}")
    if max_cost is not None and max_distortion is None:
        by_cost, limit = True, float(max_cost)
    elif max_distortion is not None and max_cost is None:
        by_cost, limit = False, float(max_distortion)
    else:
        raise InputError("allocate takes one budget: max_cost or max_distortion")
    if math.isnan(limit):
        raise InputError(f"{'max_cost' if by_cost else 'max_distortion'} is not a number")

    flat, path = table.flat, table.path
    value, weight = (flat.distortion, flat.cost) if by_cost else (flat.cost, flat.distortion)

    def fits(steps: int) -> bool:
        return _sum(weight, path.after(steps)) <= limit

    if not fits(0 if by_cost else len(path)):  # out of reach: the end of the path is the nearest point, and the best of those
        return _result(table, path.after(0 if by_cost else len(path)), by_cost, False, math.inf if by_cost else 0.0, None, "lagrange")
    if fits(len(path) if by_cost else 0):  # no budget at all
        return _result(table, path.after(len(path) if by_cost else 0), by_cost, True, 0.0 if by_cost else math.inf, None, "lagrange")
    if by_cost:
        stand = _first(lambda steps: not fits(steps), 0, len(path)) - 1
        beyond, slope = path.after(stand + 1), path.price(stand)
    else:
        stand = _first(fits, 0, len(path))
        beyond, slope = path.after(stand - 1), path.price(stand - 1)
    at = path.after(stand)
    bound = _relaxed(value, weight, at, beyond, limit)
    at = _fill(table, at, value, weight, limit)
    found = _result(table, at, by_cost, True, slope, min(bound, _sum(value, at)), "lagrange")
    if method == "lagrange" or bound >= _sum(value, at):
        return found

    sack = knapsack.Knapsack.of(table, value, weight, limit)
    if method == "auto":
        if not sack.quick:
            return found
        method = "dp"
    answer, proven = knapsack.dp(sack) if method == "dp" else knapsack.milp(sack)
    if answer is None or _sum(weight, answer) > limit:
        return found
    answer = _fill(table, answer, value, weight, limit)
    if _sum(value, answer) > _sum(value, at):
        answer, proven, method = at, False, "lagrange"
    return _result(table, answer, by_cost, True, slope, None if proven else min(bound, _sum(value, answer)), method)


def at_slope(table: Table, slope: float) -> Allocation:
    """The choice with the least distortion + slope x cost at every site; of equals the cheaper. 0 is the finest choice, infinity the cheapest."""
    if not slope >= 0:
        raise InputError(f"slope {slope} is not a number of at least 0")
    path = table.path
    return replace(at_steps(table, len(path) if slope == 0 else int(np.count_nonzero(path.slope > slope))), slope=float(slope))


def at_steps(table: Table, steps: int, *, met: bool = True) -> Allocation:
    """The choice after the first steps of the path: the cheapest for its distortion, and the least distorted for its cost."""
    return _result(table, table.path.after(steps), True, met, table.path.price(steps), None, "path")


def _sum(values: Floats, at: Ints) -> float:
    return math.fsum(values[at].tolist())


def _first(test: Callable[[int], bool], low: int, high: int) -> int:
    """The first number in low < n <= high that passes a test which, once passed, is passed by all that follow; `high` is known to pass."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if test(middle) else (middle, high)
    return high


def _relaxed(value: Floats, weight: Floats, at: Ints, beyond: Ints, limit: float) -> float:
    """The value if the step that breaks the budget could be taken in part: what no whole choice can beat."""
    site = int(np.flatnonzero(at != beyond)[0])
    gain, extra = float(value[at[site]] - value[beyond[site]]), float(weight[beyond[site]] - weight[at[site]])
    part = min(max((limit - _sum(weight, at)) / extra, 0.0), 1.0)
    return _sum(value, at) - part * gain


def _fill(table: Table, at: Ints, value: Floats, weight: Floats, limit: float) -> Ints:
    """Spend what is left of the budget: any option, on a hull or not, that gains and still fits, the greatest gain for its weight first."""
    site, at = table.flat.site, at.copy()
    while True:
        slack = limit - _sum(weight, at)
        gain, extra = value[at][site] - value, weight - weight[at][site]
        fitting = np.flatnonzero((gain > 0) & (extra <= slack))
        with np.errstate(over="ignore"):
            worth = np.divide(gain[fitting], extra[fitting], out=np.full(len(fitting), np.inf), where=extra[fitting] > 0)
        fitting = fitting[np.argsort(-worth, kind="stable")]
        best = np.sort(np.unique(site[fitting], return_index=True)[1])  # of each site its first; the sites stay in order of worth
        taken: list[tuple[int, int]] = []
        for option, more in zip(fitting[best].tolist(), extra[fitting[best]].tolist()):
            if more <= slack:
                slack -= more
                taken.append((int(site[option]), int(at[site[option]])))
                at[site[option]] = option
        while taken and _sum(weight, at) > limit:  # the running slack is rounded at every step, the sum but once
            back, option = taken.pop()
            at[back] = option
        if not taken:
            return at


def _result(table: Table, at: Ints, by_cost: bool, met: bool, slope: float, bound: float | None, method: str) -> Allocation:
    distortion, cost = _sum(table.flat.distortion, at), _sum(table.flat.cost, at)
    least = (distortion if by_cost else cost) if bound is None else bound
    return Allocation(tuple((at - table.flat.first).tolist()), distortion, cost, met, slope, least, method)
