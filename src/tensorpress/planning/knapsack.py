"""The multiple-choice knapsack, exactly: a table over integer weights (Dudzinski and Walukiewicz, 1987) or a branch and bound (HiGHS).

Both minimise a sum of values under a limit on a sum of weights, one option a site, over the options that no other beats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tensorpress.planning.table import Floats, Ints, Table

FINEST = 2**20  # weights that are multiples of 1 / FINEST are integers to us
STATES = 2**26  # of dp's table, sites x bins: one byte each holds the way back
QUICK = 2**26  # options x bins: some tenths of a second
GRID = 2**16  # bins where weights are rounded
FINE = 64  # bins a site that a grid needs to be worth while: each site may waste one
NODES = 100_000  # of branch and bound; a count, since a clock would make plans differ
CUTS = 16


@dataclass(frozen=True)
class Knapsack:
    """`option` (as in `Options`), with its value and weight, site after site; site i begins at `first[i]`. The least weights fit, the greatest do not."""

    option: Ints
    first: Ints
    value: Floats
    weight: Floats
    limit: float

    @classmethod
    def of(cls, table: Table, value: Floats, weight: Floats, limit: float) -> Knapsack:
        option = table.frontier
        first = np.flatnonzero(np.diff(table.flat.site[option], prepend=-1))
        return cls(option, first, value[option], weight[option], limit)

    @cached_property
    def site(self) -> Ints:
        return np.repeat(np.arange(len(self.first)), np.diff(self.first, append=len(self.option)))

    @cached_property
    def least(self) -> Floats:
        return np.minimum.reduceat(self.weight, self.first)

    @cached_property
    def whole(self) -> tuple[Ints, int] | None:
        """Weights above each site's least, and the room for them, as integers without a common divisor; None where they are not exact."""
        with np.errstate(over="ignore"):
            scaled = self.weight * FINEST
        if np.any(scaled != np.floor(scaled)) or np.maximum.reduceat(scaled, self.first).sum() >= 2.0**53:
            return None
        whole = scaled.astype(np.int64)
        least = np.minimum.reduceat(whole, self.first)
        whole -= least[self.site]
        divisor = int(np.gcd.reduce(whole))
        return whole // divisor, (math.floor(self.limit * FINEST) - int(least.sum())) // divisor

    @cached_property
    def bins(self) -> tuple[int, bool]:
        """(bins of dp's table beside the empty one, whether weights are exact in them)."""
        if self.whole is not None and len(self.first) * (self.whole[1] + 1) <= STATES:
            return self.whole[1], True
        return min(GRID, STATES // len(self.first), QUICK // len(self.option)) - 1, False

    @property
    def quick(self) -> bool:
        """Whether dp is soon done here and its answer worth having."""
        bins, exact = self.bins
        return bins * len(self.option) <= QUICK and (exact or bins >= FINE * len(self.first))


def dp(sack: Knapsack) -> tuple[Ints | None, bool]:
    """(an option of each site, whether it is proven best). Where weights are not small integers they are rounded up: never over the limit, but
    up to one bin a site may be left unused; None where there are too many sites for a grid."""
    sites, (bins, exact) = len(sack.first), sack.bins
    if exact and sack.whole is not None:
        weight = sack.whole[0]
    else:
        room = sack.limit - math.fsum(sack.least.tolist())
        if bins < 1 or room <= 0:
            return None, False
        with np.errstate(over="ignore"):
            weight = np.minimum(np.ceil((sack.weight - sack.least[sack.site]) / room * bins), bins + 1.0).astype(np.int64)
    ends = np.append(sack.first[1:], len(sack.option))
    way = np.zeros((sites, bins + 1), np.min_scalar_type(int((ends - sack.first).max()) - 1))
    best = np.zeros(bins + 1)  # the least value of the sites so far within each weight
    for i, (first, end) in enumerate(zip(sack.first, ends)):
        reached = np.full(bins + 1, np.inf)
        for j in range(int(first), int(end)):
            least = int(weight[j])
            if least <= bins:
                value = best[: bins + 1 - least] + sack.value[j]
                better = value < reached[least:]
                reached[least:][better] = value[better]
                way[i, least:][better] = j - first
        best = reached
    rows = np.empty(sites, np.int64)
    left = int(np.argmin(best))  # the lightest of the best
    for i in range(sites - 1, -1, -1):
        rows[i] = sack.first[i] + way[i, left]
        left -= int(weight[rows[i]])
    return sack.option[rows], exact


def milp(sack: Knapsack) -> tuple[Ints | None, bool]:
    """(an option of each site, whether it is proven best), by scipy's HiGHS with a gap of zero.

    Some versions of HiGHS print a line of their own to standard output whatever they are told, so `auto` never comes here.
    """
    from scipy.optimize import Bounds, LinearConstraint  # type: ignore[import-untyped]
    from scipy.optimize import milp as solve
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    count, sites = len(sack.option), len(sack.first)
    value = sack.value - np.minimum.reduceat(sack.value, sack.first)[sack.site]
    value = value / value.max() * 1e4  # HiGHS stops at an absolute gap of 1e-6
    weight, room = sack.weight - sack.least[sack.site], sack.limit - math.fsum(sack.least.tolist())
    if sack.whole is not None and sack.whole[1] < 1e6:
        weight, room = sack.whole[0].astype(np.float64), float(sack.whole[1])  # integers stand clear of a tolerance of 1e-6
    elif room > 0:
        with np.errstate(over="ignore"):
            weight, room = np.minimum(weight / room * 1e4, 2e4), 1e4
    rows = [
        LinearConstraint(csr_array((np.ones(count), (sack.site, np.arange(count))), shape=(sites, count)), 1, 1),
        LinearConstraint(weight.reshape(1, -1), ub=room),
    ]
    for _ in range(CUTS):
        answer = solve(value, integrality=np.ones(count), bounds=Bounds(0, 1), constraints=rows, options={"mip_rel_gap": 0, "node_limit": NODES})
        if answer.x is None:
            return None, False
        chosen = np.flatnonzero(answer.x > 0.5)
        if math.fsum(sack.weight[chosen].tolist()) <= sack.limit:
            return sack.option[chosen], answer.status == 0
        cut = np.zeros((1, count))
        cut[0, chosen] = 1.0
        rows.append(LinearConstraint(cut, ub=sites - 1))  # HiGHS holds the limit to a tolerance: this one choice is over it by less, so it alone goes
    return None, False
