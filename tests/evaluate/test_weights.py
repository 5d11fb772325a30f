"""Two networks on the same inputs: figures that can be worked out by hand, batches that change nothing, intervals of sequences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.evaluate.fidelity import fidelity
from tensorpress.evaluate.weights import batches, compare, judge, outputs, wilson


class Table(nn.Module):
    """Logits are looked up: input i gives row i, so every figure is known."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.rows[x]


P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3001, 0.3999], [0.5, 0.25, 0.25]]).log()
Q = P[:, [1, 0, 2]]  # classes 0 and 1 change places


def test_an_equal_network_loses_nothing():
    row = compare(Table(P), Table(P), torch.arange(4), [0, 1, 2, 1])
    assert (row["top1"], row["top1_reference"], row["drop_points"], row["agreement"], row["kl"], row["images"]) == (75, 75, 0, 1, 0, 4)
    assert row["drop_low"] < 0 < row["drop_high"] and row["agreement_low"] < 1 == row["agreement_high"]  # four images prove little
    assert row["kl_low"] == row["kl_high"] == 0
    assert "tokens" not in row and "bits_per_character" not in row


def test_figures_by_hand():
    row = compare(Table(P), Table(Q), torch.arange(4), [0, 1, 2, 0])
    kl = [0.5 * math.log(3.5), 0.7 * math.log(8), 0.0001 * math.log(3001 / 3000), 0.25 * math.log(2)]
    assert row["agreement"] == 0.25 and row["top1_reference"] == 100 and row["top1"] == 25 and row["drop_points"] == 75
    assert row["kl"] == pytest.approx(np.mean(kl), rel=1e-5)
    half = 1.959964 * np.std(kl, ddof=1) / 2
    assert row["kl_high"] == pytest.approx(np.mean(kl) + half, rel=1e-5) and row["kl_low"] == max(0.0, np.mean(kl) - half)
    low, high = fidelity(P, None, Q, [0, 1, 2, 0]).drop_ci95
    assert (row["drop_low"], row["drop_high"]) == (low, high)


def test_without_labels_and_with_one_image():
    row = compare(Table(P), Table(Q), torch.tensor([0]))
    assert row["top1"] is row["drop_points"] is row["drop_low"] is row["kl_low"] is None
    assert row["agreement"] == 0 and 0.7 < row["agreement_high"] < 0.8


@pytest.mark.parametrize("batch, sizes", [(1, [1] * 7), (3, [3, 3, 1]), (64, [7])])
def test_batches_change_no_figure(batch, sizes):
    inputs = torch.tensor([0, 1, 2, 3, 2, 1, 0])
    table = Table(Q)
    whole = compare(Table(P), table, inputs, inputs % 3, batch=batch)
    assert table.sizes == sizes and whole == compare(Table(P), Table(Q), inputs, inputs % 3)
    assert whole == compare(Table(P), Table(Q), list(inputs.split(2)), inputs % 3, batch=batch)


def test_neighbours_of_one_shape_share_a_batch():
    parts = [torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(0, 3), torch.zeros(1, 2), torch.zeros(5, 2)]
    assert [tuple(b.shape) for b in batches(parts, 4)] == [(2, 3), (1, 2), (4, 2), (1, 2)]


def test_the_network_is_run_in_eval_mode_and_left_as_it_was():
    network = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 3))
    network[1].eval()
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(outputs(network, x), network[1](x))
    assert network.training and network[0].training and not network[1].training


def test_language_models_are_judged_by_token_with_intervals_over_sequences():
    generator = torch.Generator().manual_seed(1)
    before, noise = torch.randn(6, 20, 5, generator=generator), torch.randn(6, 1, 5, generator=generator)
    after, truth = before + noise, torch.randint(0, 5, (6, 20), generator=generator)  # what is wrong is the same within a sequence
    row = judge(before, after, truth)
    flat = fidelity(before.reshape(-1, 5), None, after.reshape(-1, 5), truth.reshape(-1))
    assert (row["images"], row["tokens"]) == (6, 120)
    assert (row["kl"], row["agreement"], row["drop_points"]) == (flat.kl, flat.agreement, flat.drop_points)
    assert row["kl_high"] - row["kl_low"] > 1.5 * (flat.kl_ci95[1] - flat.kl_ci95[0])  # tokens of a sequence are not independent
    assert row["agreement_low"] < row["agreement"] < row["agreement_high"] and row["drop_low"] < row["drop_points"] < row["drop_high"]
    nll = nn.functional.cross_entropy(after.reshape(-1, 5).double(), truth.reshape(-1)) / math.log(2)
    assert row["bits_per_character"] == pytest.approx(float(nll)) and row["bits_per_character"] != row["bits_per_character_reference"]
    uniform = judge(before, torch.zeros_like(before), truth)
    assert uniform["bits_per_character"] == pytest.approx(math.log2(5))


def test_wilson():
    low, high = wilson(0.5, 10)
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(0.0, 5)[0] == 0 and wilson(1.0, 5)[1] == 1


@pytest.mark.parametrize(
    "run, reason",
    [
        (lambda: compare(Table(P), Table(P), []), "no input"),
        (lambda: compare(Table(P), Table(P), [7]), "first dimension is the batch, not int"),
        (lambda: compare(Table(P), Table(P), torch.arange(4), batch=0), "batch is 0"),
        (lambda: compare(Table(P), Table(P[:, :2]), torch.arange(4)), r"\[4, 2\], the uncompressed one \[4, 3\]"),
        (lambda: compare(Table(P), Table(P), torch.arange(4), [0, 1]), r"labels are \[2\], expected \[4\]"),
        (lambda: compare(Table(P), Table(P), torch.arange(4), [0, 1, 2, 3]), "label 3 of image 3 is out of range"),
        (lambda: compare(Table(P), Table(P * math.nan), torch.arange(4)), "NaN or infinity"),
        (lambda: outputs(Table(P[0]), torch.arange(3)), r"a tensor \[3\] for 3 inputs"),
        (lambda: outputs(nn.Identity(), [torch.zeros(1, 3, 5), torch.zeros(1, 4, 5)]), r"\[3, 5\] for some inputs and \[4, 5\] for others"),
        (lambda: outputs(nn.LSTM(3, 2), torch.zeros(2, 4, 3)), "returns tuple"),
    ],
)
def test_what_cannot_be_compared_is_named(run, reason):
    with pytest.raises(InputError, match=reason):
        run()
