"""What each site may become: rows of (distortion, cost), their frontiers, and the one path along their convex hulls.

The lower convex hull of a site holds every option that some price of the cost would choose (Everett, 1963; Shoham and Gersho, 1988). Taken
together and sorted by slope, the steps of all hulls form one path from the cheapest choice to the finest: every Lagrangian answer is a point on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorpress.core.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """All options of a table end to end, site after site. `first[i]` is where site i begins."""

    site: Ints
    first: Ints
    distortion: Floats
    cost: Floats


@dataclass(frozen=True)
class Path:
    """`start[i]` is site i's cheapest option; step j moves `site[j]` to `option[j]` and buys `slope[j]` of distortion for one of cost.

    Options are numbered as in `Options`. Slopes fall along the path; the steps of a site keep their order.
    """

    start: Ints
    site: Ints
    option: Ints
    slope: Floats

    def __len__(self) -> int:
        return len(self.slope)

    def after(self, steps: int) -> Ints:
        """The option of each site after the first `steps` steps."""
        at: Ints = self.start.copy()
        at[self.site[:steps]] = self.option[:steps]  # of a site's several steps the last one stays
        return at

    def price(self, steps: int) -> float:
        """The slope at which the path stands there: that of the step that comes next, 0 at the end."""
        return float(self.slope[steps]) if steps < len(self) else 0.0


@dataclass(frozen=True)
class Table:
    """Row i holds the options of site i, in any order: `distortion[i][j]` and `cost[i][j]`, finite and at least 0, in any units.

    Distortions of different sites are taken to add up, and so are costs. `options[i][j]` may say what an option is (any value, never
    read here) and `sites[i]` what the site is called. InputError names the site and the option that cannot be used.
    """

    distortion: Sequence[Sequence[float]]
    cost: Sequence[Sequence[float]]
    options: Sequence[Sequence[Any]] = ()
    sites: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", tuple(self.sites))
        for name in ("distortion", "cost"):
            object.__setattr__(self, name, tuple(self._row(name, i, row) for i, row in enumerate(getattr(self, name))))
        object.__setattr__(self, "options", tuple(tuple(row) for row in self.options))
        count = len(self.distortion)
        if not count:
            raise InputError("a table needs at least one site")
        for name, rows in (("cost", self.cost), ("options", self.options), ("sites", self.sites)):
            if len(rows) != count and (rows or name == "cost"):
                raise InputError(f"a table with {count} rows of distortion has {len(rows)} of {name}")
        for i, row in enumerate(self.distortion):
            if not row:
                raise InputError(f"{self.name(i)} has no options")
            for name, other in (("costs", self.cost[i]), ("labels", self.options[i] if self.options else row)):
                if len(other) != len(row):
                    raise InputError(f"{self.name(i)} has {len(row)} distortions and {len(other)} {name}")
        flat = self.flat
        for name, values in (("distortion", flat.distortion), ("cost", flat.cost)):
            bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
            if len(bad):
                i, at = int(flat.site[bad[0]]), int(bad[0])
                raise InputError(f"{self.name(i)}, option {at - int(flat.first[i])}: {name} {values[at]:g} is not a finite number of at least 0")
            with np.errstate(over="ignore"):
                if not np.isfinite(np.maximum.reduceat(values, flat.first).sum()):
                    raise InputError(f"the greatest {name} of each site add up to more than a float holds")

    def _row(self, name: str, site: int, row: Sequence[float]) -> tuple[float, ...]:
        try:
            return tuple(map(float, row))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{self.name(site)}: {name} is not a row of numbers ({error})") from None

    def __len__(self) -> int:
        return len(self.distortion)

    def name(self, site: int) -> str:
        return f"site {self.sites[site]}" if site < len(self.sites) else f"site {site}"

    @cached_property
    def flat(self) -> Options:
        lengths = np.fromiter(map(len, self.distortion), np.int64, len(self))
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        columns = [np.fromiter((v for row in rows for v in row), np.float64, int(lengths.sum())) for rows in (self.distortion, self.cost)]
        return Options(np.repeat(np.arange(len(self)), lengths), first, *columns)

    def total(self, choice: Sequence[int]) -> tuple[float, float]:
        """(distortion, cost) of one option a site, each the exact sum, rounded once."""
        if len(choice) != len(self):
            raise InputError(f"a choice of {len(choice)} options for {len(self)} sites")
        for i, j in enumerate(choice):
            if not 0 <= j < len(self.cost[i]):
                raise InputError(f"{self.name(i)} has options 0 to {len(self.cost[i]) - 1}, not {j}")
        return math.fsum(row[j] for row, j in zip(self.distortion, choice)), math.fsum(row[j] for row, j in zip(self.cost, choice))

    def picked(self, choice: Sequence[int]) -> tuple[Any, ...]:
        """The labels of a choice; its numbers where the table has no labels."""
        return tuple(row[j] for row, j in zip(self.options, choice)) if self.options else tuple(choice)

    @cached_property
    def frontier(self) -> Ints:
        """Options that no other beats, site after site by rising cost and falling distortion. Of equal ones the first stays."""
        flat = self.flat
        order = np.lexsort((flat.distortion, flat.cost, flat.site))
        rank = np.unique(flat.distortion, return_inverse=True)[1].reshape(-1)
        key = rank[order] - flat.site[order] * len(order)  # lies below all of the sites before: one running minimum serves all sites
        before = np.concatenate([[len(order)], np.minimum.accumulate(key)[:-1]])
        return order[key < before]

    @cached_property
    def path(self) -> Path:
        """The steps of all hulls by falling slope: gift wrapping of all frontiers at once, one step of each site a round."""
        flat, option = self.flat, self.frontier
        site = flat.site[option]
        first = np.flatnonzero(np.diff(site, prepend=-1))
        start = at = option[first]
        ceiling = np.full(len(self), np.inf)
        steps: list[tuple[Ints, Ints, Floats]] = []
        while True:
            row = np.cumsum(np.diff(site, prepend=-1) > 0) - 1
            drop, rise = flat.distortion[at][row] - flat.distortion[option], flat.cost[option] - flat.cost[at][row]
            ahead = rise > 0
            with np.errstate(over="ignore", under="ignore"):
                slope = np.divide(drop, rise, out=np.full(len(option), -1.0), where=ahead)
            steepest = np.maximum.reduceat(slope, first)
            onward = np.maximum.reduceat(np.where(slope == steepest[row], np.arange(len(option)), -1), first)  # of equal slopes the farthest
            moving = steepest >= 0
            if not moving.any():
                break
            sites, at = site[first][moving], option[onward][moving]
            ceiling[sites] = np.minimum(ceiling[sites], steepest[moving])  # rounding must not turn a hull's steps around
            steps.append((sites, at, ceiling[sites].copy()))
            keep = moving[row] & (np.arange(len(option)) >= onward[row])
            option, site = option[keep], site[keep]
            first = np.flatnonzero(np.diff(site, prepend=-1))
        if not steps:
            return Path(start, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        sites, options, slopes = (np.concatenate(column) for column in zip(*steps))
        order = np.argsort(-slopes, kind="stable")
        return Path(start, sites[order], options[order], slopes[order])

    def hull(self, site: int) -> tuple[int, ...]:
        """The options on a site's lower convex hull, from the cheapest to the finest."""
        walk = [self.path.start[site], *self.path.option[self.path.site == site]]
        return tuple(int(at - self.flat.first[site]) for at in walk)
