"""Forms of weights: what is written is what is read, values are the same on every machine, and hostile bytes end in one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorpress.blocks.forms import FORMS, Codebook, Factors, Fixed, Grid, Plain, Rounded, Slabs, Source, Target, step_index, step_of
from tensorpress.blocks.forms.factors import LENGTHS
from tensorpress.core.errors import InputError, StreamError
from tensorpress.planning.weight_file import Tensor, WeightFile, WeightReader, in_dtype
from tests.golden import weight_cases


def test_steps_are_powers_to_the_last_bit():
    from fractions import Fraction

    for index in (-3200, -97, -1, 0, 1, 31, 32, 33, 3200):
        step = Fraction(float(step_of(index)))
        octave, rest = divmod(index, 32)
        exact = (step / Fraction(2) ** octave) ** 32 / 2**rest  # 1 where the step is exact; below it by less than a bit of 24
        assert 1 - 32 * 2.0**-23 < exact <= 1
    assert [int(step_index(step_of(k))) for k in (-3200, -5, 0, 7, 3200)] == [-3200, -5, 0, 7, 3200]


def test_values_are_levels_times_one_float32():
    grid = Grid(np.asarray([[3, -7], [0, 1]]), np.asarray([-10, 20]))
    wanted = [[np.float32(3) * step_of(-10), np.float32(-7) * step_of(-10)], [0, step_of(20)]]
    assert grid.values().dtype == np.float32 and np.array_equal(grid.values(), np.asarray(wanted, np.float32))


@given(st.integers(0, 23), st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40))
@settings(max_examples=200, deadline=None)
def test_rounded_floats_keep_their_bound(bits, values):
    x = np.asarray(values, np.float32)
    found = Rounded.nearest(x, bits).values()
    assert np.isfinite(found).all()
    normal = (np.abs(x) >= 1.2e-38) & (np.abs(x) < 1e38)
    assert (np.abs(found.astype(np.float64) - x)[normal] <= np.abs(x.astype(np.float64))[normal] * 2.0 ** -(bits + 1)).all()
    if bits == 23:
        assert np.array_equal(found, x)


def test_the_nearest_entry_of_a_rows_book():
    rng = np.random.default_rng(0)
    x, books, groups = rng.normal(size=(6, 30)), rng.normal(size=(2, 7)), np.asarray([0, 1, 1, 0, 0, 1])
    form = Codebook.nearest(x, books, groups)
    exact = np.sort(books, axis=1).astype(np.float16).astype(np.float64)
    wanted = np.abs(x[:, :, None] - exact[groups][:, None]).min(2)
    assert np.allclose(np.abs(form.values() - x), wanted, atol=1e-6)


def test_products_are_exact_whatever_the_order():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-900, 900, (33, 65)), rng.integers(-900, 900, (65, 17))
    form = Factors("or,rk->ok", (Grid(a, np.asarray([-100])), Grid(b, np.asarray([-55]))))
    exact = np.asarray([[sum(int(x) * int(y) for x, y in zip(row, column)) for column in b.T.tolist()] for row in a.tolist()], object)
    wanted = (exact.astype(np.float64) * float(step_of(-155))).astype(np.float32)
    assert np.array_equal(form.values(), wanted)


@pytest.mark.parametrize(("kind", "length"), [(kind, n) for kind, lengths in LENGTHS.items() for n in lengths])
def test_fixed_factors_are_orthonormal_nearly(kind, length):
    matrix = Fixed(kind, length)
    rows = matrix.levels * float(step_of(matrix.step))
    assert np.abs(rows @ rows.T - np.eye(length)).max() < 0.03


def test_every_form_is_in_the_golden_file():
    used = [{t.form.id for t in WeightReader(data()) if t.form is not None} for data in (weight_cases.forms, weight_cases.pieces)]
    assert used[0] | used[1] == set(FORMS)


@pytest.mark.parametrize("made", [weight_cases.forms, weight_cases.pieces])
def test_files_give_what_forms_give(made):
    data = made()
    reader = WeightReader(data)
    arrays = reader.all()
    for tensor in reader:
        form = tensor.form
        if form is None:
            assert arrays[tensor.name] is arrays[tensor.same]
        else:
            assert arrays[tensor.name].shape == tensor.shape
            assert arrays[tensor.name].tobytes() == in_dtype(form.values(), tensor.dtype).tobytes()
    for part in range(len(reader)):
        for entry, pieces in reader.pieces(part):
            if entry.form != "=":
                found = np.concatenate([np.zeros(0, arrays[entry.name].dtype), *pieces])
                assert found.tobytes() == arrays[entry.name].tobytes() and found.dtype == arrays[entry.name].dtype
    assert WeightFile(tuple(reader), reader.made).to_bytes() == data


def test_small_tensors_share_what_the_coder_learns():
    tensors = [Tensor(f"t{i}", "F32", (4, 4, 3, 3), Grid(weight_cases.integers((4, 4, 3, 3), 1, i), np.asarray([-90]))) for i in range(20)]
    together = len(WeightReader(WeightFile(tuple(tensors)).to_bytes()).box.sections["part/0"])
    assert together < 0.9 * sum(t.form.nbytes() for t in tensors)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Grid(np.asarray([1 << 25]), np.asarray([0])), "too small"),
        (lambda: Grid(np.zeros((3, 2), np.int32), np.asarray([0, 1])), "one, or one a row"),
        (lambda: Grid(np.zeros(3, np.int32), np.asarray([99999])), "outside"),
        (lambda: Grid.nearest(np.asarray([1.0, np.nan]), 0.1), r"nan at \[1\]"),
        (lambda: Codebook(np.zeros((2, 2), np.int32), np.asarray([[1.0, 0.0]], np.float16), np.zeros(2, np.int32)), "do not fall"),
        (lambda: Codebook(np.full((2, 2), 2), np.asarray([[0.0, 1.0]], np.float16), np.zeros(2, np.int32)), "outside the 2 entries"),
        (lambda: Factors("or,rk->ok", (Grid(np.ones((2, 3)), np.asarray([0])), Grid(np.ones((2, 3)), np.asarray([0])))), "has the lengths 3 and 2"),
        (lambda: Factors("or,rk->oz", (Grid(np.ones((2, 3)), np.asarray([0])), Grid(np.ones((3, 2)), np.asarray([0])))), "no factor has"),
        (lambda: Fixed("dct", 9), "dct"),
        (lambda: Slabs([]), "not alike"),
        (lambda: Slabs([Grid(np.ones((2, 3)), np.asarray([0])), Grid(np.ones((3, 3)), np.asarray([0]))]), "not alike"),
        (lambda: Slabs([Grid(np.ones((2, 3)), np.asarray([0, 1])), Grid(np.ones((1, 3)), np.asarray([0]))]), "not alike"),
        (lambda: Slabs([Grid(np.ones((2, 3)), np.asarray([0])), Grid(np.ones((2, 4)), np.asarray([0]))]), "rows of several shapes"),
        (lambda: Rounded.nearest(np.asarray([np.inf]), 5), "inf"),
    ],
)
def test_what_no_form_holds(make, reason):
    with pytest.raises(InputError, match=reason):
        make()


def test_products_that_could_lose_a_bit_are_refused():
    big = Grid(np.full((2, 64), 1 << 24), np.asarray([0]))
    with pytest.raises(InputError, match="exact in any order"):
        Factors("or,rk->ok", (big, Grid(np.full((64, 2), 1 << 24), np.asarray([0]))))


@pytest.mark.parametrize(
    ("form", "params", "shape", "reason"),
    [
        ("grid", {"rows": False}, (3, 2), "a step for each row"),
        ("grid", {"rows": True}, (1, 2), "a step for each row"),
        ("grid", {"rose": True}, (3, 2), "parameters"),
        ("codebook", {"books": 9, "entries": 2}, (3, 2), "9 codebooks"),
        ("codebook", {"books": 1, "entries": 1 << 20}, (3, 2), "entries"),
        ("codebook", {"books": True, "entries": 2}, (3, 2), "not of type int"),
        ("factors", {"equation": "or,rk->ok", "factors": [[3, 1 << 40], [1 << 40, 2]]}, (3, 2), "list of lengths"),
        ("factors", {"equation": "or,rk->ok", "factors": [[3, 60000], [60000, 2]]}, (3, 2), "factors of 300000 values"),
        ("factors", {"equation": "or,rk->ok", "factors": [[3, 1], [1, 3]]}, (3, 2), "tensor of shape"),
        ("factors", {"equation": "o" * 999, "factors": []}, (3, 2), "no equation"),
        ("factors", {"equation": "or,rk->ok", "factors": [["dct", 6], [6, 2]]}, (3, 2), "no 'dct' of length 6"),
        ("slabs", {"rows": 0, "form": "grid", "own": {}}, (3, 2), "slabs of 0 rows"),
        ("slabs", {"rows": 3, "form": "grid", "own": {}}, (3, 2), "slabs of 3 rows"),
        ("slabs", {"rows": 2, "form": "slabs", "own": {}}, (3, 2), "slabs of the form 'slabs'"),
        ("slabs", {"rows": 2, "form": "grip", "own": {}}, (3, 2), "slabs of the form 'grip'"),
        ("slabs", {"rows": 2, "form": "grid", "own": {"rows": True}}, (3, 2), "a step for each row"),
        ("slabs", {"rows": 2, "form": "grid"}, (3, 2), "parameters"),
        ("planes", {"bfloat16": True}, (3, 2), "planes of float32"),
        ("planes", {"bfloat16": 1}, (3, 2), "not of type bool"),
        ("rounded", {"bits": 24}, (3,), "0 to 23"),
        ("plain", {"coded": False}, (3,), "few integers"),
    ],
)
def test_hostile_parameters(form, params, shape, reason):
    out = Target()
    for _ in range(4):
        out.integers(np.zeros(64, np.int32))
    with pytest.raises(StreamError, match=reason):
        found = FORMS[form].read(params, shape, np.dtype("f4"), Source(out.finish()))
        assert found is None


@given(st.binary(max_size=200), st.sampled_from(sorted(FORMS)), st.sampled_from([(), (0,), (3,), (8, 9), (4, 4, 3, 3)]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_values_or_one_line(data, form, shape):
    params = {"codebook": {"books": 1, "entries": 4}, "factors": {"equation": "or,rk->ok", "factors": [[8, 2], [2, 9]]}, "rounded": {"bits": 5}, "slabs": {"rows": 2, "form": "grid", "own": {}}}.get(form, {})
    try:
        found = FORMS[form].read(params, shape, np.dtype("f4"), Source(data))
        assert found.values().shape == shape
    except StreamError as error:
        assert "\n" not in str(error)


def test_a_plain_array_of_any_type():
    for array in (np.asarray([1.5, np.nan]), np.asarray([2**63], np.uint64), np.asarray(True), np.zeros((2, 0), np.int8)):
        out = Target()
        Plain(array).write(out)
        found = Plain.read(Plain(array).params, array.shape, array.dtype, Source(out.finish()))
        assert found.array.tobytes() == array.tobytes() and found.array.dtype == array.dtype
