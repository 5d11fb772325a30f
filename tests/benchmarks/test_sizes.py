"""Sizes on synthetic tensors are those of benchmarks/sizes.csv: whoever changes one says so by changing the file (`make sizes`)."""

from __future__ import annotations

import hashlib

import pytest
from benchmarks import sizes, synthetic

from tensorpress.core import registry

# of the tensors' bytes, with their names, types and shapes: they are the same on every machine
TENSORS = "a3a1e1e8b6ce81aa1b70a7c0eed0afbd45308c281f63dd067f8306c7eab2c58f"


def test_tensors_are_the_same_on_every_machine():
    found = hashlib.sha256()
    for name, x in synthetic.tensors().items():
        found.update(f"{name} {x.dtype} {x.shape}".encode() + x.tobytes())
    assert found.hexdigest() == TENSORS


@pytest.mark.parametrize("codec", [card.id for card in registry.cards().values()])
def test_sizes(codec):
    wrong, note = sizes.compare(codec, sizes.committed())
    assert not wrong
    if note and codec in sizes.LIBRARIES:
        pytest.skip(note)


def test_a_byte_more_is_told():
    rows = [dict(row, payload_nbytes=str(int(row["payload_nbytes"]) + (row["tensor"] == "relu"))) for row in sizes.committed() if row["codec"] == "zvc"]
    wrong, note = sizes.compare("zvc", rows)
    assert len(wrong) == 2 and all("payload_nbytes is" in line and " relu " in line for line in wrong) and not note
    wrong, _ = sizes.compare("zvc", rows[1:])
    assert any("only one of file and project" in line for line in wrong)
