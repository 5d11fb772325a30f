"""How many examples a property gets, and how many really ran.

By default each takes its own small number, drawn the same way every time: a run that is part of the checks must say the same of the same code, and
whoever sees it fail must see it fail again. TENSORPRESS_PROPERTY_CASES takes that many instead, at random, TENSORPRESS_PROPERTY_SECONDS ends each
property after so long (`make properties` sets both, and a seed).
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

CASES = int(os.environ.get("TENSORPRESS_PROPERTY_CASES", "0"))
SECONDS = float(os.environ.get("TENSORPRESS_PROPERTY_SECONDS", "0"))


@dataclass
class Count:
    """What became of a property: examples whose body ran to its end, or to a failure."""

    cases: int = 0
    failures: int = 0
    began: float = 0.0
    seconds: float = 0.0


COUNTS: dict[str, Count] = {}


def holds(cases: int, *strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property of values drawn from `strategies`; `cases` of them where nothing else is asked for."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        count = COUNTS.setdefault(f"{check.__module__.removeprefix('tests.properties.test_')}: {check.__name__.removeprefix('test_').replace('_', ' ')}", Count())

        @functools.wraps(check)
        def counted(*args: Any, **named: Any) -> None:
            count.began = count.began or time.perf_counter()
            if SECONDS and time.perf_counter() - count.began > SECONDS:
                return  # hypothesis has no limit of time: what is left of its examples is not run, and not counted
            try:
                check(*args, **named)
            except UnsatisfiedAssumption:
                raise
            except BaseException:
                count.failures += 1
                raise
            finally:
                count.seconds = time.perf_counter() - count.began
            count.cases += 1

        run = settings(
            max_examples=CASES or cases, derandomize=not CASES, database=None, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )  # fmt: skip
        return run(given(*strategies)(counted))

    return decorate
