"""The allocator against trying everything, at the edges of its budgets, and at full size."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpress.core.errors import InputError
from tensorpress.planning import knapsack
from tensorpress.planning.allocate import Allocation, allocate, at_slope, at_steps
from tensorpress.planning.table import Table
from tests.planning.tables import every, tables

METHODS = ("lagrange", "dp", "milp", "auto")
NEAR = 1e-9


@st.composite
def tasks(draw, **kinds) -> tuple[Table, float, float]:
    """A table with a budget of either kind: between its ends, beyond them, or exactly what some choice needs."""
    table = draw(tables(**kinds))
    points = every(table)
    budgets = []
    for axis in (0, 1):
        values = [point[axis] for point in points]
        low, high = min(values), max(values)
        budgets.append(draw(st.sampled_from(values) | st.floats(0, 1).map(lambda x, low=low, high=high: low * 0.7 + x * (high * 1.1 - low * 0.7))))
    return table, budgets[1], budgets[0]


def sound(table: Table, found: Allocation) -> None:
    assert table.total(found.choice) == (found.distortion, found.cost) and found.slope >= 0


def widest(table: Table, axis: str) -> float:
    """The greatest step of any hull in one quantity."""
    rows = getattr(table, axis)
    walks = [[rows[i][j] for j in table.hull(i)] for i in range(len(table))]
    return max((abs(a - b) for walk in walks for a, b in itertools.pairwise(walk)), default=0.0)


def check(table: Table, max_cost: float, max_distortion: float, method: str, *, exact: bool) -> None:
    points = every(table)
    for value, weight, limit, budget in ((0, 1, max_cost, {"max_cost": max_cost}), (1, 0, max_distortion, {"max_distortion": max_distortion})):
        found = allocate(table, method=method, **budget)
        sound(table, found)
        got = (found.distortion, found.cost)
        fitting = [p for p in points if p[weight] <= limit]
        assert found.met == bool(fitting)
        if not fitting:  # the nearest, and the best of those
            assert got == min(points, key=lambda p: (p[weight], p[value])) and found.bound == got[value]
            continue
        best = min(p[value] for p in fitting)
        assert got[weight] <= limit and got[value] >= best and found.bound <= best * (1 + NEAR) + NEAR
        if exact:
            assert got[value] <= best * (1 + NEAR) + NEAR  # reals: HiGHS has its tolerance
        else:
            assert got[value] <= best + widest(table, ("distortion", "cost")[value]) * (1 + NEAR)


@settings(max_examples=150, deadline=None)
@given(tasks())
def test_lagrange_is_within_one_hull_step_of_the_best(task):
    check(*task, "lagrange", exact=False)


@settings(max_examples=100, deadline=None)
@given(tasks(kinds=("whole", "eighths")))
def test_dp_is_the_best(task):
    check(*task, "dp", exact=True)


@settings(max_examples=100, deadline=None)
@given(tasks(kinds=("whole", "eighths")))
def test_auto_is_the_best_on_small_integers(task):
    check(*task, "auto", exact=True)


@settings(max_examples=100, deadline=None)
@given(tasks(kinds=("real",)))
def test_dp_on_a_grid_stays_within_the_budget_and_is_no_worse_than_lagrange(task):
    check(*task, "dp", exact=False)
    table, max_cost, _ = task
    assert allocate(table, max_cost=max_cost, method="dp").distortion <= allocate(table, max_cost=max_cost, method="lagrange").distortion


@settings(max_examples=60, deadline=None)
@given(tasks())
def test_milp_is_the_best(task):
    check(*task, "milp", exact=True)


@pytest.mark.parametrize("method", METHODS)
def test_holes_in_hulls(method):
    """The best takes the middle option twice, which lies above its hull, so that no slope chooses it."""
    found = allocate(Table([[100, 46, 0]] * 2, [[0, 11, 20]] * 2), max_cost=22, method=method)
    assert found.bound <= 92 and found.slope == 5
    assert (found.choice, found.distortion) == (((2, 0), 100) if method == "lagrange" else ((1, 1), 92))


def sack_of(table: Table, limit: float) -> knapsack.Knapsack:
    return knapsack.Knapsack.of(table, table.flat.distortion, table.flat.cost, limit)


def sums(table: Table, answer: np.ndarray) -> tuple[float, float]:
    return table.total((answer - table.flat.first).tolist())


def test_solvers_by_themselves():
    """Both without what surrounds them: no lagrange to fall back on, no filling."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        d, c = rng.integers(0, 1000, (2, 4, 4)).astype(float)
        c[0] = 500 - d[0] / 2  # at least one site has something to choose
        table = Table(d.tolist(), c.tolist())
        limit = math.nextafter(at_steps(table, int(rng.integers(1, len(table.path) + 1))).cost, 0)  # by a hair too little for a point of the path
        best = min(p for p in every(table) if p[1] <= limit)
        for solve in (knapsack.dp, knapsack.milp):
            answer, proven = solve(sack_of(table, limit))
            assert proven
            got = sums(table, answer)
            assert got[0] == best[0] and got[1] <= limit


def test_of_equals_dp_takes_the_cheapest():
    table = Table([[1, 0], [1, 0]], [[0, 3], [0, 2]])
    answer, proven = knapsack.dp(sack_of(table, 3))
    assert proven and sums(table, answer) == (1, 2)


def test_dp_and_milp_agree_where_there_is_too_much_to_try():
    rng = np.random.default_rng(6)
    for _ in range(6):
        bits = np.tile(np.arange(2, 10), (40, 1))
        cost = bits * rng.integers(1, 40, (40, 1)) + rng.integers(0, 9, (40, 8))
        distortion = np.round(rng.integers(1, 10**6, (40, 1)) * 0.5**bits)
        table = Table(distortion.tolist(), cost.tolist())
        sack = sack_of(table, float(cost.mean(1).sum() // 1))
        (one, sure), (two, certain) = knapsack.dp(sack), knapsack.milp(sack)
        assert sure and certain and sums(table, one)[0] == sums(table, two)[0]


def test_a_grid_rounds_up():
    """Weights that are no integers: never over the limit, not proven, and better than lagrange here."""
    rng = np.random.default_rng(7)
    for _ in range(10):
        d, c = rng.random((2, 12, 6))
        table = Table(d.tolist(), c.tolist())
        limit = 0.6 * at_slope(table, math.inf).cost + 0.4 * at_slope(table, 0).cost
        sack = sack_of(table, limit)
        assert sack.whole is None
        answer, proven = knapsack.dp(sack)
        exact, _ = knapsack.milp(sack)
        assert not proven and sums(table, answer)[1] <= limit and sums(table, answer)[0] <= 1.001 * sums(table, exact)[0]
    table = Table([[1, 0]] * 3, [[0, 1 / 3 + 1e-7]] * 3)  # less than a bin too much
    assert sums(table, knapsack.dp(sack_of(table, 1.0))[0])[1] <= 1


def test_milp_stays_within_a_budget_finer_than_its_tolerance():
    table = Table([[1, 0], [2, 0]], [[0, 1 / 3], [0, 2 / 3]])
    answer, proven = knapsack.milp(sack_of(table, 1 - 1e-12))
    assert proven and sums(table, answer) == (1, 2 / 3)


def test_filling_stays_within_the_budget_to_the_last_bit():
    """One step far too wide, then many small ones, whose running sum and exact sum differ in the last bits."""
    for n in range(2, 60):
        table = Table([[1e6, 0]] + [[1e-3, 0]] * 60, [[0, 1e3]] + [[0, 0.1]] * 60)
        exact = math.fsum([0.1] * n)
        for limit, most in ((exact, n), (math.nextafter(exact, 0), n - 1)):
            found = allocate(table, max_cost=limit, method="lagrange")
            assert found.cost <= limit and sum(found.choice) in (most - 1, most)


@pytest.mark.parametrize("method", METHODS)
def test_edges_of_the_budget(method):
    table = Table([[9, 4, 1, 0], [8, 5, 0]], [[0, 1, 3, 8], [2, 3, 7]])
    for budget, expected in (
        ({"max_cost": 0}, ((0, 0), False)),
        ({"max_cost": 1.999}, ((0, 0), False)),
        ({"max_cost": 2}, ((0, 0), True)),
        ({"max_cost": 15}, ((3, 2), True)),
        ({"max_cost": math.inf}, ((3, 2), True)),
        ({"max_distortion": 0}, ((3, 2), True)),
        ({"max_distortion": 17}, ((0, 0), True)),
        ({"max_distortion": -1}, ((3, 2), False)),
        ({"max_cost": 10}, ((2, 2), True)),
        ({"max_distortion": 1}, ((2, 2), True)),
    ):
        found = allocate(table, method=method, **budget)
        assert (found.choice, found.met) == expected, budget
    assert allocate(table, max_cost=1, method=method).slope == math.inf and allocate(table, max_cost=15, method=method).slope == 0


@pytest.mark.parametrize("method", METHODS)
def test_equal_dominated_and_single_options(method):
    assert allocate(Table([[3]], [[5]]), max_cost=5, method=method).choice == (0,)
    assert allocate(Table([[3, 3, 3]], [[5, 5, 5]]), max_cost=7, method=method).choice == (0,)
    assert allocate(Table([[2, 3, 9, 2]], [[5, 5, 6, 4]]), max_cost=100, method=method).choice == (3,)  # beaten, though within the budget
    assert allocate(Table([[0, 0]], [[0, 0]]), max_cost=0, method=method).met
    one = Table([[5, 3, 2, 0]], [[0, 4, 5, 9]])
    assert [allocate(one, max_cost=b, method=method).choice[0] for b in (3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e9, 1e290])
def test_units_do_not_matter(scale):
    table, big = (Table([[9, 4, 1, 0]] * 4, [[k * c for c in (0, 1, 3, 8)] for _ in range(4)]) for k in (1, scale))
    for method in METHODS:
        assert allocate(big, max_cost=13 * scale * (1 + 1e-12), method=method).distortion == allocate(table, max_cost=13, method=method).distortion


def test_a_sum_that_rounding_carries_over_the_budget_is_over_it():
    table = Table([[1, 0]] * 10, [[0, 0.1]] * 10)
    for method in METHODS:
        assert allocate(table, max_cost=1.0, method=method).distortion == 0  # ten tenths, summed exactly and rounded once
        assert allocate(table, max_cost=math.nextafter(1.0, 0), method=method).distortion == 1


def test_what_makes_no_sense_is_refused():
    table = Table([[1, 0]], [[0, 1]])
    for budget in ({}, {"max_cost": 1, "max_distortion": 1}):
        with pytest.raises(InputError, match="one budget"):
            allocate(table, **budget)
    with pytest.raises(InputError, match="max_cost is not a number"):
        allocate(table, max_cost=math.nan)
    with pytest.raises(InputError, match="'greedy' is none of auto"):
        allocate(table, max_cost=1, method="greedy")
    for slope in (-1, math.nan):
        with pytest.raises(InputError, match="slope"):
            at_slope(table, slope)


@settings(max_examples=100, deadline=None)
@given(tables(), st.floats(0, 100) | st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf]))
def test_a_slope_chooses_the_best_of_every_site(table, slope):
    found = at_slope(table, slope)
    sound(table, found)
    for d, c, j in zip(table.distortion, table.cost, found.choice):
        if slope == math.inf:
            assert (c[j], d[j]) == min(zip(c, d))
        elif slope == 0:
            assert (d[j], c[j]) == min(zip(d, c))
        else:
            best = min(x + slope * y for x, y in zip(d, c))
            assert d[j] + slope * c[j] <= best + 1e-12 * (1 + slope)


def test_at_the_slope_of_a_step_the_step_is_not_taken():
    table = Table([[9, 4, 1, 0]], [[0, 1, 3, 8]])
    assert [at_slope(table, s).choice[0] for s in (6, 5, 4.9, 1.5, 1.4, 0.2, 0.1)] == [0, 0, 1, 1, 2, 2, 3]


@settings(max_examples=100, deadline=None)
@given(tables())
def test_every_point_of_the_path_is_the_best_for_its_cost(table):
    points = every(table)
    walk = [at_steps(table, k) for k in range(len(table.path) + 1)]
    for point in walk:
        assert all(d >= point.distortion * (1 - NEAR) - NEAR for d, c in points if c <= point.cost)
        assert allocate(table, max_cost=point.cost, method="lagrange").distortion <= point.distortion
    assert [p.cost for p in walk] == sorted(p.cost for p in walk) and [p.slope for p in walk] == sorted((p.slope for p in walk), reverse=True)


def test_per_channel_tables_take_less_than_a_second():
    rng = np.random.default_rng(0)
    sites, options = 20_000, 12
    bits = np.sort(rng.uniform(0, 8, (sites, options)), axis=1)
    count = rng.integers(1, 1000, (sites, 1))
    distortion, cost = np.exp(rng.normal(0, 2, (sites, 1))) * count * 4.0**-bits, count * bits
    table = Table(distortion.tolist(), cost.tolist())
    began = time.process_time()
    found = allocate(table, max_cost=0.4 * float(cost.max(1).sum()), method="lagrange")
    assert time.process_time() - began < 1
    assert found.met and found.bound <= found.distortion <= found.bound * (1 + 1e-5)
    assert allocate(table, max_cost=found.cost) == allocate(table, max_cost=found.cost, method="lagrange")  # too many sites for dp
