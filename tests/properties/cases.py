"""How many examples a property gets, and how many really ran.

By default each takes its own small number, drawn the same way every time: a run that is part of the checks must say the same of the same code, and
whoever sees it fail must see it fail again. TENSORPRESS_PROPERTY_CASES asks for that many at random, in rounds of 200 with seeds from
TENSORPRESS_PROPERTY_SEED on, until TENSORPRESS_PROPERTY_SECONDS of processor time are over; behind the time TENSORPRESS_PROPERTY_UNTIL a property has
one round (`make properties` sets them).
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

CASES = int(os.environ.get("TENSORPRESS_PROPERTY_CASES", "0"))
SECONDS = float(os.environ.get("TENSORPRESS_PROPERTY_SECONDS", "inf"))
UNTIL = float(os.environ.get("TENSORPRESS_PROPERTY_UNTIL", "inf"))
SEED = int(os.environ.get("TENSORPRESS_PROPERTY_SEED", "0"))
ROUND = 200


@dataclass
class Count:
    """What became of a property: `cases` are examples whose body ran to its end."""

    cases: int = 0
    failures: int = 0  # 1 where an example failed
    seconds: float = 0.0  # of processor time


COUNTS: dict[str, Count] = {}


def holds(cases: int, *strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property of values drawn from `strategies`; `cases` of them where nothing else is asked for."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        theme = check.__module__.rpartition("test_")[2]
        count = COUNTS.setdefault(f"{theme}: {check.__name__.removeprefix('test_').replace('_', ' ')}", Count())

        @functools.wraps(check)
        def counted(*args: Any, **named: Any) -> None:
            try:
                check(*args, **named)
            except UnsatisfiedAssumption:
                raise
            except Exception:
                count.failures = 1
                raise
            count.cases += not count.failures

        def round_of(examples: int, number: int | None) -> None:
            drawn = given(*strategies)(counted)
            run = settings(
                max_examples=examples, derandomize=number is None, database=None, deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much],
            )(drawn if number is None else seed(number)(drawn))  # fmt: skip
            run()

        def run() -> None:
            began = time.process_time()
            try:
                if not CASES:
                    round_of(cases, None)
                number = SEED
                while count.cases < CASES and (number == SEED or (time.process_time() - began < SECONDS and time.time() < UNTIL)):
                    round_of(min(ROUND, CASES - count.cases), number)
                    number += 1
            finally:
                count.seconds = time.process_time() - began

        run.__name__, run.__doc__, run.__module__ = check.__name__, check.__doc__, check.__module__
        return run

    return decorate
