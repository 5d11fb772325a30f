"""Whatever a weight system is, its card alone brings it under these tests."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tensorpress import weights
from tensorpress.core import registry
from tensorpress.core.errors import InputError
from tensorpress.planning.weight_file import in_dtype
from tensorpress.pytorch.weight_problem import Problem

METHODS = list(registry.cards("method"))
QUICK: Mapping[str, Mapping[str, Any]] = {"jlcm": {"steps": 10}, "pd_quant": {"steps": 10}}  # by id: options that make a system that trains fast enough for a test
FRESH = """
import hashlib, json, sys
from tensorpress.planning.weight_file import WeightReader
found = WeightReader(open(sys.argv[1], "rb").read()).all()
print(json.dumps({name: [list(x.shape), str(x.dtype), hashlib.sha256(x.tobytes()).hexdigest()] for name, x in found.items()}))
"""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    found = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    with torch.no_grad():
        for _ in range(20):
            found(torch.randn(16, 3, 8, 8))  # statistics of batch normalisation
        found[5].weight.mul_(3)  # answers that differ
    return found.eval()


def problem(network: nn.Module, seed: int = 0) -> Problem:
    torch.manual_seed(11)
    return Problem(network, torch.randn(8, 3, 8, 8), torch.randint(10, (8,)), seed)


def whole(method: str, network: nn.Module, bits: float) -> bytes:
    torch.manual_seed(0)
    forms = weights.build(method, **QUICK.get(method, {})).represent(problem(network), bits)
    return weights.assemble(network, forms, {}).to_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_forms_are_finite_and_a_fresh_process_decodes_the_same(method, network, tmp_path) -> None:  # type: ignore[no-untyped-def]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    forms = weights.build(method, **QUICK.get(method, {})).represent(problem(network), 2.0)
    assert set(forms) & set(problem(network).matrices), "no matrix is represented"
    assert all(np.isfinite(form.values()).all() for form in forms.values())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items()), "the system changed the network that it was given"
    file = weights.assemble(network, forms, {})
    path = tmp_path / "net.tpw"
    path.write_bytes(file.to_bytes())
    found = json.loads(subprocess.run([sys.executable, "-c", FRESH, str(path)], capture_output=True, text=True, check=True, timeout=120).stdout)
    for tensor in file.tensors:
        assert tensor.form is not None
        expected = in_dtype(tensor.form.values(), tensor.dtype)
        assert found[tensor.name] == [list(expected.shape), str(expected.dtype), hashlib.sha256(np.ascontiguousarray(expected).tobytes()).hexdigest()]


@pytest.mark.parametrize("method", METHODS)
def test_fewer_bits_are_no_more_bytes(method, network) -> None:  # type: ignore[no-untyped-def]
    sizes = [len(whole(method, network, bits)) for bits in (0.7, 1.5, 3.0, 5.0)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1], sizes


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_is_the_same_bytes(method, network) -> None:  # type: ignore[no-untyped-def]
    assert whole(method, network, 2.0) == whole(method, network, 2.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_is_met_and_used(method, network) -> None:  # type: ignore[no-untyped-def]
    given = problem(network)
    made = weights.compress(network, given.inputs, labels=given.labels, budget=1500, recipe=method, options=QUICK.get(method))
    assert 750 <= made.nbytes <= 1500
    decoded = made.model()
    assert all(torch.isfinite(value).all() for value in decoded.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_option_is_named(method) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="no_such_option"):
        weights.build(method, no_such_option=1)


@pytest.mark.parametrize("method", [name for name, card in registry.cards("method").items() if card.needs])
def test_inputs_that_a_system_needs_are_asked_for(method, network) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="calib"):
        weights.build(method).represent(Problem(network), 2.0)
