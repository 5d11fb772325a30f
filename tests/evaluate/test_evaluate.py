"""Fidelity, curves and energy on cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tensorpress.core.errors import InputError
from tensorpress.evaluate.curves import bd_rate, ratio_at_kl
from tensorpress.evaluate.energy import MEMORIES, dram_energy
from tensorpress.evaluate.fidelity import expected_drop, fidelity, kl_mean_plus_se
from tensorpress.evaluate.machine import machine

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]]))


def test_nothing_lost():
    f = fidelity(LOGITS, LOGITS, LOGITS, [0, 1, 0, 0])
    assert (f.top1_float, f.top1_reference, f.top1, f.drop_points, f.agreement, f.kl) == (75, 75, 75, 0, 1, 0)
    assert f.drop_ci95[0] < 0 < f.drop_ci95[1]  # four images prove little
    assert f.drop_smoothed == 0 and f.expected_drop == 0


def test_one_image_lost():
    after = LOGITS.copy()
    after[0] = after[0, [1, 0, 2]]
    f = fidelity(LOGITS, LOGITS, after, [0, 1, 0, 0])
    assert (f.top1, f.drop_points, f.agreement) == (50, 25, 0.75)
    kl = 0.7 * math.log(0.7 / 0.2) + 0.2 * math.log(0.2 / 0.7)
    assert f.kl == pytest.approx(kl / 4) and f.expected_drop == pytest.approx(100 * (0.7 - 0.2) / 4)
    assert expected_drop(LOGITS, after) == pytest.approx(f.expected_drop)
    assert kl_mean_plus_se(LOGITS, after) > f.kl
    m = math.log(0.7 / 0.2)
    phi = lambda x: (1 + math.erf(x / math.sqrt(2))) / 2  # noqa: E731
    assert f.drop_smoothed == pytest.approx(100 * (phi(m / 2) - phi(-m / 2)) / 4)


def test_without_labels_only_what_needs_them_is_unknown():
    f = fidelity(LOGITS, None, LOGITS, None).to_json()
    assert f["top1"] is f["drop_points"] is f["drop_ci95"] is None and f["kl"] == 0 and f["agreement"] == 1


def test_bad_logits_and_labels_are_named():
    with pytest.raises(InputError):
        fidelity(LOGITS, None, LOGITS[:2], None)
    with pytest.raises(InputError):
        fidelity(LOGITS, None, LOGITS, [0, 1, 7, 0])
    with pytest.raises(InputError):
        fidelity(LOGITS, None, np.where(LOGITS < -2, np.nan, LOGITS), None)


def test_ratio_at_a_kl_is_read_between_points():
    points = [{"ratio": 2.0, "kl": 0.01}, {"ratio": 4.0, "kl": 0.04}]
    assert ratio_at_kl(points, 0.02) == pytest.approx(8**0.5)  # both axes are logarithmic
    with pytest.raises(InputError):
        ratio_at_kl(points, 0.1)


def test_bd_rate_of_a_curve_with_half_the_bits():
    points = [{"ratio": r, "kl": k} for r, k in [(2, 0.01), (3, 0.02), (4, 0.04), (5, 0.08)]]
    half = [{"ratio": 2 * p["ratio"], "kl": p["kl"]} for p in points]
    assert bd_rate(points, half) == pytest.approx(-50.0) and bd_rate(points, points) == pytest.approx(0.0, abs=1e-9)


def test_energy_counts_every_read():
    layer = {"raw_nbytes": 1000, "nbytes": 250, "reads": 2}
    found = dram_energy([layer], "ddr3")
    assert found["joules_raw"] == pytest.approx(8000 * (63.3 + 2 * 77.4) * 1e-12) and found["saved_percent"] == pytest.approx(75.0)
    with pytest.raises(InputError, match="ddr9"):
        dram_energy([layer], "ddr9")
    assert not MEMORIES["ddr3"].assumed and all(m.source for m in MEMORIES.values())


def test_the_machine_in_one_line():
    assert "\n" not in machine() and "torch" in machine() and "/" not in machine().split("commit")[0].replace("c++/", "")


def test_energy_with_the_codecs_own_work():
    from tensorpress.evaluate.energy import ADD, MAC, RANS, dram_energy, logic, with_logic

    layer = {"codec": "zvc", "raw_nbytes": 1000, "nbytes": 500, "reads": 2}
    plain, whole = dram_energy([layer], "lpddr4"), with_logic([layer], "lpddr4")
    assert whole["joules_logic"] == pytest.approx(1000 * 3 * 2 * ADD * 1e-12)
    assert whole["joules"] == pytest.approx(plain["joules"] + whole["joules_logic"])
    assert logic("klt", {"block": 8})[0] == pytest.approx(8 * MAC + RANS)
    referred = with_logic([{**layer, "reference_nbytes": 100}], "lpddr4")
    assert referred["joules"] - whole["joules"] == pytest.approx(8 * 100 * 2 * 6 * 1e-12)
    assert logic("context", {"backend": "fast"})[1] < logic("context", {})[1]
