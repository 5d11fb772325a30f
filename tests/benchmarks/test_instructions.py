"""Instruction counts of two fast kernels are those of benchmarks/instructions.csv, where valgrind and the same compiler are at hand."""

from __future__ import annotations

import pytest
from benchmarks import instructions

FAST = ("huffman", "zvc")


def test_every_kernel_of_ours_is_in_the_file():
    found = [(row["codec"], row["options"]) for row in instructions.committed()]
    assert len(found) == len(set(found)) and {codec for codec, _ in found} == set(instructions.codecs())
    for row in instructions.committed():
        assert all(float(row[field]) > 0 for field in instructions.FIELDS[2:-1]) and row["compiler"]


def test_counts():
    wrong, note = instructions.compare(FAST, instructions.committed(), ("avx2",))
    if note:
        pytest.skip(note)
    assert not wrong


def test_a_codec_whose_kernels_are_not_seen_is_an_error(monkeypatch):
    monkeypatch.setattr(instructions, "count", lambda folder, isa, paths: [0] * (2 * len(paths)))
    with pytest.raises(RuntimeError, match="zvc: no instruction was counted"):
        instructions.measure(["zvc"])


def test_another_count_is_told(monkeypatch):
    rows = [row for row in instructions.committed() if row["codec"] == "zvc"]
    monkeypatch.setattr(instructions, "missing", lambda: "")
    monkeypatch.setattr(instructions, "compiler", lambda: rows[0]["compiler"])
    monkeypatch.setattr(instructions, "measure", lambda names, isas: [dict(rows[0], encode_avx2="900"), *rows[1:]])
    wrong, note = instructions.compare(["zvc"], rows)
    assert len(wrong) == 1 and "encode_avx2 is 900.0 instructions a value" in wrong[0] and not note
    assert instructions.compare(["zvc"], [dict(rows[0], compiler="GCC 1.0")])[1].startswith("counts are those of GCC 1.0")
