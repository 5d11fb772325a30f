"""Water-filling: the conditions of Karush, Kuhn and Tucker, and nothing that does better."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpress.core.errors import InputError
from tensorpress.planning.water import Water, water_fill

positive = st.floats(1e-6, 1e6)
components = st.lists(st.tuples(st.just(0.0) | positive, st.integers(1, 10_000), st.just(0.0) | positive), min_size=1, max_size=8)


def bits_of(v, n, d) -> float:
    coded = d < v
    return float(np.sum(n[coded] * np.log2(v[coded] / d[coded]) / 2))


def conditions(v, n, w, found: Water) -> None:
    """Every component either lies under the water, uncoded, or has exactly its level; both sums are what they claim."""
    d = found.distortion
    assert np.all((d >= 0) & (d <= v))
    coded = d < v * (1 - 1e-12)
    np.testing.assert_allclose((w * d)[coded], found.level, rtol=1e-9)
    assert np.all((w * v)[~coded] <= found.level * (1 + 1e-9))
    np.testing.assert_allclose(found.bits, bits_of(v, n, d), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.total, np.sum(n * w * d), rtol=1e-12)


@settings(max_examples=150, deadline=None)
@given(components, st.floats(0, 12))
def test_conditions_at_a_rate(rows, bits_per_value):
    v, n, w = (np.array(column, float) for column in zip(*rows))
    budget = bits_per_value * n[v * w > 0].sum()
    found = water_fill(v, n, w, max_bits=budget)
    conditions(v, n, w, found)
    assert found.bits <= budget * (1 + 1e-9) + 1e-9
    if np.any(v * w > 0):
        np.testing.assert_allclose(found.bits, budget, rtol=1e-7, atol=1e-7)  # complementary slackness: the whole budget is spent


@settings(max_examples=150, deadline=None)
@given(components, st.floats(1e-6, 1.5))
def test_conditions_at_a_distortion(rows, share):
    v, n, w = (np.array(column, float) for column in zip(*rows))
    most = float(np.sum(n * w * v))
    limit = share * most or 1.0
    found = water_fill(v, n, w, max_distortion=limit)
    conditions(v, n, w, found)
    np.testing.assert_allclose(found.total, min(limit, most), rtol=1e-9)


def test_no_other_split_of_the_bits_does_better():
    rng = np.random.default_rng(2)
    v, n, w = rng.exponential(1, 6) ** 3, rng.integers(1, 50, 6).astype(float), rng.exponential(1, 6)
    found = water_fill(v, n, w, max_bits=60)
    spent = n * np.log2(v / found.distortion) / 2
    for _ in range(500):
        other = np.maximum(spent + rng.normal(0, rng.choice([0.01, 1, 10]), 6), 0)
        other *= 60 / other.sum()
        assert np.sum(n * w * v * 4.0 ** -(other / n)) >= found.total * (1 - 1e-12)


def test_the_two_budgets_are_duals():
    v, n, w = np.array([4.0, 1.0, 0.01]), np.array([10, 20, 30]), np.array([1.0, 2.0, 0.5])
    one = water_fill(v, n, w, max_bits=25)
    two = water_fill(v, n, w, max_distortion=one.total)
    assert math.isclose(two.bits, 25) and math.isclose(one.level, two.level)


def test_simple_cases():
    equal = water_fill([1.0, 1.0], 5, max_bits=20)
    np.testing.assert_allclose(equal.distortion, 1 / 16)
    np.testing.assert_allclose(equal.steps, math.sqrt(12 / 16))
    none = water_fill([4.0, 1.0, 0.0], max_bits=0)
    assert none.distortion.tolist() == [4, 1, 0] and none.bits == 0 and none.level == 4
    dead = water_fill([0.0, 3.0], weights=[1, 0], max_bits=10)
    assert dead.distortion.tolist() == [0, 3] and dead.bits == 0 and dead.level == 0
    assert water_fill([2.0], max_distortion=2).bits == 0


@pytest.mark.parametrize(
    ("arguments", "budget", "message"),
    [
        (([],), {"max_bits": 1}, "at least one component"),
        (([[1.0]],), {"max_bits": 1}, "one axis"),
        (([1.0, -1.0],), {"max_bits": 1}, "component 1: variance -1"),
        (([1.0, math.nan],), {"max_bits": 1}, "component 1: variance nan"),
        (([1.0], 0), {"max_bits": 1}, "component 0: count 0 is not a finite number above 0"),
        (([1.0], 1, -2), {"max_bits": 1}, "component 0: weight -2"),
        (([1.0, 1.0], [1, 2, 3]), {"max_bits": 1}, "do not match 2 variances"),
        (([1.0],), {}, "one budget"),
        (([1.0],), {"max_bits": 1, "max_distortion": 1}, "one budget"),
        (([1.0],), {"max_bits": -1}, "max_bits -1"),
        (([1.0],), {"max_bits": math.inf}, "max_bits inf"),
        (([1.0],), {"max_distortion": 0}, "max_distortion 0"),
        (([1.0],), {"max_distortion": math.nan}, "max_distortion nan"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, budget, message):
    with pytest.raises(InputError, match=message):
        water_fill(*arguments, **budget)
