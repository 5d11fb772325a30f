"""Predictions that are wrong, put right by measurement."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tensorpress.core.errors import InputError
from tensorpress.planning.allocate import at_steps
from tensorpress.planning.correct import correct
from tensorpress.planning.table import Table


def network(sites: int = 50, options: int = 12, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    bits = np.linspace(1, 8, options) + rng.uniform(-0.2, 0.2, (sites, options))
    count = rng.integers(100, 10_000, (sites, 1))
    distortion = np.exp(rng.normal(0, 1.5, (sites, 1))) * 4.0**-bits
    return Table(distortion.tolist(), (count * bits).tolist())


WORLDS = {
    "as predicted": lambda d, c: d,
    "three times": lambda d, c: 3 * d,
    "a tenth": lambda d, c: d / 10,
    "sites reinforce one another": lambda d, c: d + 4 * d**2,
    "sites hide one another": lambda d, c: d**0.6,
    "a floor": lambda d, c: d + 0.02,
    "noise": lambda d, c: d * (1.5 + 0.1 * math.sin(1e4 * c)),
}


@pytest.mark.parametrize("limit", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("world", list(WORLDS))
def test_the_measured_loss_meets_the_limit_at_nearly_the_least_cost(world, limit):
    table = network()
    calls: list[tuple[int, ...]] = []

    def measure(choice: tuple[int, ...]) -> float:
        calls.append(choice)
        return WORLDS[world](*table.total(choice))

    found = correct(table, measure, limit)
    assert len(calls) == len(found.trace) <= 10 and len(set(calls)) == len(calls)
    assert found.allocation.met and found.measured == WORLDS[world](*table.total(found.allocation.choice)) <= limit
    assert found.gap == found.measured - found.allocation.distortion
    walk = [at_steps(table, k) for k in range(len(table.path) + 1)]
    least = next(p.cost for p in walk if WORLDS[world](p.distortion, p.cost) <= limit)  # by measuring all of the path
    assert found.allocation.cost <= 1.02 * least
    assert any(r.measured == found.measured and r.cost == found.allocation.cost for r in found.trace)


@pytest.mark.parametrize(("factor", "rounds"), [(1, 1), (3, 2), (10, 3), (0.3, 3)])
def test_a_prediction_in_another_unit_costs_two_rounds_more_at_most(factor, rounds):
    table = network()
    for limit in (0.05, 0.5, 5.0):
        assert len(correct(table, lambda choice: factor * table.total(choice)[0], limit).trace) <= rounds


@pytest.mark.parametrize("edge", [0.3, 3.0])
def test_a_plateau_before_a_cliff_does_not_stall_the_search(edge):
    """Interpolation alone would creep along the plateau, and end at twice the least cost."""
    table = network()
    found = correct(table, lambda choice: 4.5 if table.total(choice)[0] < edge else 1e9, 5.0)
    least = next(p.cost for p in (at_steps(table, k) for k in range(len(table.path) + 1)) if p.distortion < edge)
    assert found.allocation.met and found.allocation.cost <= 1.2 * least


def test_a_limit_out_of_reach_gives_the_nearest_point():
    table = network()
    found = correct(table, lambda choice: 1 + table.total(choice)[0], 0.5)
    assert not found.allocation.met and found.allocation.choice == at_steps(table, len(table.path)).choice
    assert found.measured == min(r.measured for r in found.trace) > 0.5 and len(found.trace) <= 10


def test_a_limit_that_asks_nothing_gives_the_cheapest():
    table = network()
    found = correct(table, lambda choice: 0.0, 1.0)
    assert found.allocation.met and found.allocation.choice == at_steps(table, 0).choice


def test_the_last_round_falls_back_on_the_finest():
    table = network()
    finest = at_steps(table, len(table.path)).choice
    found = correct(table, lambda choice: 0.4 if choice == finest else 100.0, 0.5, rounds=3)
    assert found.allocation.met and found.allocation.choice == finest and len(found.trace) == 3
    assert correct(table, lambda choice: table.total(choice)[0], 1e9, rounds=1).allocation.choice == finest  # one round: the safe one


def test_a_limit_of_zero_and_losses_below_it():
    table = Table([[3, 1, 0]] * 6, [[0, 1, 3]] * 6)
    assert correct(table, lambda choice: table.total(choice)[0], 0.0).allocation.distortion == 0
    found = correct(table, lambda choice: table.total(choice)[0] - 4, 0.0)  # a drop may be negative: pictures that come right by chance
    assert found.allocation.met and found.allocation.distortion == 4


def test_one_site_with_one_option():
    assert correct(Table([[1]], [[1]]), lambda choice: 1.0, 2.0).allocation.met
    assert not correct(Table([[1]], [[1]]), lambda choice: 3.0, 2.0).allocation.met


def test_an_infinite_loss_is_a_loss_and_no_number_is_an_error():
    table = network()
    found = correct(table, lambda choice: math.inf if table.total(choice)[0] > 1 else table.total(choice)[0], 2.0)
    assert found.allocation.met and found.allocation.distortion <= 1
    with pytest.raises(InputError, match="is not a number"):
        correct(table, lambda choice: math.nan, 1.0)
    for arguments in ((math.nan, 5), (1.0, 0)):
        with pytest.raises(InputError, match="cannot be searched for"):
            correct(table, lambda choice: 1.0, arguments[0], rounds=arguments[1])
