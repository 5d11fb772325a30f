"""Tables: what is refused, hulls, totals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings

from tensorpress.core.errors import InputError
from tensorpress.planning.table import Table
from tests.planning.tables import tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "at least one site"),
        (([[1]], []), "1 rows of distortion has 0 of cost"),
        (([[1], []], [[1], []]), "site 1 has no options"),
        (([[1, 2]], [[1]]), "site 0 has 2 distortions and 1 costs"),
        (([[1, math.nan]], [[1, 2]]), "site 0, option 1: distortion nan"),
        (([[1], [1, 2]], [[1], [-1, 2]]), "site 1, option 0: cost -1"),
        (([[math.inf]], [[1]]), "site 0, option 0: distortion inf"),
        (([["x"]], [[1]]), "site 0: distortion is not a row of numbers"),
        (([1], [1]), "site 0: distortion is not a row of numbers"),
        (([[1], [1]], [[1e308], [1e308]]), "greatest cost of each site add up to more"),
        (([[1]], [[1]], [["a", "b"]]), "site 0 has 1 distortions and 2 labels"),
        (([[1]], [[1]], [], ["a", "b"]), "2 of sites"),
        (([[1], [math.nan]], [[1], [1]], [], ["stem", "layer1.0"]), r"site layer1\.0, option 0: distortion nan"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Table(*arguments)


def test_totals_and_labels():
    table = Table([[3, 1], [2]], [np.array([1, 2]), [5]], [["coarse", "fine"], ["only"]], ["a", "b"])
    assert len(table) == 2 and table.total((1, 0)) == (3, 7) and table.picked((1, 0)) == ("fine", "only")
    assert Table([[3, 1]], [[1, 2]]).picked((1,)) == (1,)
    for choice, message in (((1,), "1 options for 2 sites"), ((2, 0), "site a has options 0 to 1, not 2"), ((-1, 0), "site a")):
        with pytest.raises(InputError, match=message):
            table.total(choice)
    assert Table([[0.1]] * 10, [[0.1]] * 10).total((0,) * 10) == (1.0, 1.0)


def test_equal_tables_are_equal():
    assert Table([[1, 0]], [[0, 1]]) == Table(((1.0, 0.0),), ((0.0, 1.0),)) != Table([[1, 0]], [[0, 2]])


def test_a_hull_leaves_out_what_lies_above_it():
    #            cheap  above  on    beaten  fine  same as fine
    table = Table([[10, 8.5, 4, 9, 0, 0]], [[0, 1, 2, 3, 6, 6]])
    assert table.hull(0) == (0, 2, 4)
    assert [int(i) for i in table.frontier] == [0, 1, 2, 4]
    assert table.path.slope.tolist() == [3, 1]


@settings(max_examples=150, deadline=None)
@given(tables(options=7))
def test_hulls_are_convex_and_below_every_option(table):
    for i in range(len(table)):
        d, c = table.distortion[i], table.cost[i]
        walk = table.hull(i)
        assert (c[walk[0]], d[walk[0]]) == min(zip(c, d)) and (d[walk[-1]], c[walk[-1]]) == min(zip(d, c))
        slopes = [(d[a] - d[b]) / (c[b] - c[a]) for a, b in itertools.pairwise(walk)]
        assert all(x >= y - 1e-9 * x for x, y in itertools.pairwise(slopes)) and all(s > 0 for s in slopes)
        for a, b in itertools.pairwise(walk):
            for x, y in zip(d, c):
                if c[a] <= y <= c[b]:
                    assert x >= d[a] - (d[a] - d[b]) / (c[b] - c[a]) * (y - c[a]) - 1e-9


@settings(max_examples=100, deadline=None)
@given(tables())
def test_the_frontier_is_what_nothing_beats(table):
    flat = table.flat
    kept = {(int(flat.site[k]), flat.distortion[k], flat.cost[k]) for k in table.frontier}
    assert len(kept) == len(table.frontier)
    for i in range(len(table)):
        points = set(zip(table.distortion[i], table.cost[i]))
        assert {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)} == {(d, c) for s, d, c in kept if s == i}


def test_ragged_tables_with_one_long_row():
    rows = [[float(k) for k in range(n)] for n in (1, 3000, 2, 1)]
    table = Table([[(len(r) - x) ** 2 for x in r] for r in rows], rows)
    assert table.hull(1) == tuple(range(3000)) and table.hull(0) == (0,) and len(table.path) == 3000


def test_rounding_does_not_turn_a_straight_hull_around():
    """Options on one line have slopes that differ in their last bits alone; their order along the path must stand."""
    rng = np.random.default_rng(0)
    scales = rng.integers(1, 50, 200) / 7
    table = Table([(scale * 0.1 * np.arange(11, -1, -1)).tolist() for scale in scales], [(0.1 * np.arange(12)).tolist()] * 200)
    assert np.all(np.diff(table.path.slope) <= 0)
    at = table.path.start.copy()
    for site, option in zip(table.path.site, table.path.option):
        assert option > at[site]
        at[site] = option
    assert np.array_equal(at, table.flat.first + 11)
