"""The arithmetic that every result is defined in: to nearest, half to even, denormal numbers kept, whatever the caller's thread is set to.

`torch.set_flush_denormal`, a library linked with -ffast-math and C's fesetround change what NumPy gives, and even how Python reads a number from JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from tensorpress._native import PlainFloats, floats_are_plain

P = ParamSpec("P")
R = TypeVar("R")


def plainly(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called within a `PlainFloats` where the thread is not plain already."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if floats_are_plain():
            return function(*args, **kwargs)
        with PlainFloats():
            return function(*args, **kwargs)

    return called
