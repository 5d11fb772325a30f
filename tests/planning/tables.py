"""Tables for tests of the allocator, and the answer that trying everything gives."""

from __future__ import annotations

import itertools
import math

from hypothesis import strategies as st

from tensorpress.planning.table import Table

NUMBERS = {
    "whole": st.integers(0, 12).map(float),  # ties, equal and dominated options are common
    "eighths": st.integers(0, 200).map(lambda n: n / 8),
    "real": st.floats(0, 1, allow_nan=False, width=32).map(lambda x: round(x, 3)),
}


@st.composite
def tables(draw, kinds=tuple(NUMBERS), sites=5, options=4) -> Table:
    number = NUMBERS[draw(st.sampled_from(kinds))]
    rows = draw(st.lists(st.lists(st.tuples(number, number), min_size=1, max_size=options), min_size=1, max_size=sites))
    return Table([[d for d, _ in row] for row in rows], [[c for _, c in row] for row in rows])


def every(table: Table) -> list[tuple[float, float]]:
    """(distortion, cost) of every choice there is."""
    rows = [list(zip(d, c)) for d, c in zip(table.distortion, table.cost)]
    return [(math.fsum(d for d, _ in pick), math.fsum(c for _, c in pick)) for pick in itertools.product(*rows)]
