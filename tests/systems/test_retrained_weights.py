"""What the systems that train are for: their patterns hold in the file, training makes up for them, and a search trains once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorpress import weights
from tensorpress.blocks.forms import Codebook, Factors, Form, Grid
from tensorpress.core.errors import InputError
from tensorpress.pytorch.weight_problem import Problem
from tensorpress.systems.weights import gradual_pruning, nm_srste, quantized_distillation, sap, trained_rank_pruning

SYSTEMS = ["gradual_pruning", "nm_srste", "quantized_distillation", "sap", "trained_rank_pruning"]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """A network that has learned a rule, and the inputs that it learned it from."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(512, 16, generator=generator)
    y = (x @ torch.randn(16, 4, generator=generator)).argmax(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimiser.step()
    return Problem(network.eval(), x, y)


def loss(problem: Problem, forms: dict[str, Form]) -> float:
    data = weights.assemble(problem.model, forms, {}).to_bytes()
    network = weights.Compressed(data, problem.model).model()
    assert isinstance(problem.inputs, Tensor) and problem.labels is not None
    return float(F.cross_entropy(network(problem.inputs).detach(), problem.labels))


def levels(form: Form) -> np.ndarray:
    assert isinstance(form, Grid)
    return form.levels


def test_gradual_pruning_keeps_the_share_that_it_was_given(problem: Problem) -> None:
    method = gradual_pruning.build(gradual_pruning.Config(density=0.2))
    forms = method.represent(problem, 3.0)
    values = sum(w.numel() for w in problem.matrices.values())
    trained = method.train(problem, 0.2)
    assert sum(int(p.count_nonzero()) for n, p in trained.named_parameters() if n in problem.matrices) == pytest.approx(0.2 * values, abs=1)
    assert sum(np.count_nonzero(levels(forms[n])) for n in problem.matrices) <= 0.2 * values + 1
    at_once = gradual_pruning.build(gradual_pruning.Config(density=0.2, epochs=0.01, rate=1e-9))
    assert loss(problem, forms) < 0.5 * loss(problem, at_once.represent(problem, 3.0))


@pytest.mark.parametrize("n", [1, 2])
def test_every_group_has_at_most_n_of_m(problem: Problem, n: int) -> None:
    method = nm_srste.build(nm_srste.Config(n=n))
    forms = method.represent(problem, 3.0)
    for name in problem.matrices:
        assert (np.count_nonzero(levels(forms[name]).reshape(-1, 4), axis=1) <= n).all()
    assert problem.notes["density"] == n / 4 and problem.notes["sad"] > 0
    assert loss(problem, forms) < loss(problem, nm_srste.build(nm_srste.Config(n=n, epochs=0.01, rate=1e-9)).represent(problem, 3.0))


def test_the_pull_keeps_masks_from_changing(problem: Problem) -> None:
    found = []
    for pull in (0.0, 0.05):
        nm_srste.build(nm_srste.Config(pull=pull, epochs=20)).train(problem)
        found.append(problem.notes["sad"])
    nm_srste.build(nm_srste.Config(fixed=True)).train(problem)
    assert found[1] < found[0] and problem.notes["sad"] == 0


@pytest.mark.parametrize("layout", ["channel", "spatial"])
def test_rank_pruning_stores_factors_and_trains_them(problem: Problem, layout: str) -> None:
    method = trained_rank_pruning.build(trained_rank_pruning.Config(share=0.5, layout=layout))
    forms = method.represent(problem, 3.0)
    factors = [f for n, f in forms.items() if n in problem.matrices and isinstance(f, Factors)]
    assert len(factors) >= 2
    assert sum(g.levels.size for f in factors for g in f.factors) <= 0.5 * sum(w.numel() for w in problem.matrices.values())
    at_once = trained_rank_pruning.build(trained_rank_pruning.Config(share=0.5, layout=layout, epochs=0.01, rate=1e-9))
    assert loss(problem, forms) < 0.7 * loss(problem, at_once.represent(problem, 3.0))


def test_a_kernel_in_the_spatial_layout_decodes_to_what_was_trained() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    given = Problem(network, torch.randn(8, 4, 9, 9))
    method = trained_rank_pruning.build(trained_rank_pruning.Config(share=0.4, layout="spatial"))
    forms = method.represent(given, 8.0)
    trained = method.train(given, 0.4)
    for name, form in forms.items():
        if isinstance(form, Factors):
            assert form.equation == "owr,rih->oihw"
            assert np.abs(form.values() - trained.get_parameter(name).detach().numpy()).max() < 0.01
    assert any(isinstance(form, Factors) for form in forms.values())


@pytest.mark.parametrize("mode", ["qd", "dq"])
def test_training_with_a_teacher_is_better_than_rounding(problem: Problem, mode: str) -> None:
    config = quantized_distillation.Config(mode=mode, epochs=20, redistribute=True)
    forms = quantized_distillation.build(config).represent(problem, 1.3)
    assert all(isinstance(forms[n], Grid if mode == "qd" else Codebook) for n in problem.matrices)
    at_once = quantized_distillation.build(quantized_distillation.Config(mode=mode, epochs=0.01, rate=1e-9)).represent(problem, 1.3)
    assert loss(problem, forms) < 0.6 * loss(problem, at_once)


def test_a_student_learns_from_another_network(problem: Problem) -> None:
    torch.manual_seed(1)
    student = Problem(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)).eval(), problem.inputs)
    method = quantized_distillation.QuantizedDistillation(quantized_distillation.Config(epochs=40, rate=0.05), problem.model)
    judged = Problem(student.model, problem.inputs, problem.labels)
    assert loss(judged, dict(method.represent(student, 3.0))) < 0.5


def test_sap_prunes_by_the_index_until_the_density_is_reached(problem: Problem) -> None:
    method = sap.build(sap.Config(density=0.3, rounds=20))
    trained = method.train(problem, 0.3)
    found = [r["density"] for r in problem.notes["rounds"]]
    assert found[0] == 1 and all(b < a for a, b in itertools.pairwise(found)) and found[-1] == pytest.approx(0.3, abs=0.01)
    values = sum(w.numel() for w in problem.matrices.values())
    assert sum(int(p.count_nonzero()) for n, p in trained.named_parameters() if n in problem.matrices) == pytest.approx(0.3 * values, abs=3)
    generator = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(w.shape, generator=generator) < 0.6 for n, w in problem.matrices.items()}
    given = {n: w * masks[n] for n, w in problem.matrices.items()}
    for scope in sap.SCOPES:
        fewer = sap.build(sap.Config(scope=scope)).pruned(given, masks, values)
        assert all(not bool((fewer[n] & ~masks[n]).any()) for n in masks), "what was pruned came back"
        dropped, kept = next((given[n][masks[n] & ~fewer[n]], given[n][fewer[n]]) for n in masks)
        assert dropped.numel() and (scope == "neuron" or dropped.abs().max() <= kept.abs().min())
    fewer = sap.build(sap.Config(share=0.2)).pruned(given, masks, values)
    left = sum(int(m.sum()) for m in masks.values())
    assert sum(int(m.sum()) for m in fewer.values()) == left - int(0.2 * left)


@pytest.mark.parametrize("system", SYSTEMS)
def test_without_labels_the_network_teaches_itself(problem: Problem, system: str) -> None:
    unlabelled = Problem(problem.model, problem.inputs)
    forms = weights.build(system).represent(unlabelled, 2.0)
    assert loss(problem, dict(forms)) < 1.0


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_search_trains_once(problem: Problem, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module: Any = importlib.import_module(f"tensorpress.systems.weights.{system}")
    epochs = list[float]()
    train = module.retrain

    def counted(given: Problem, name: str, schedule: Any, *rest: Any, **more: Any) -> nn.Module:
        epochs.append(schedule.epochs)
        found: nn.Module = train(given, name, schedule, *rest, **more)
        return found

    monkeypatch.setattr(module, "retrain", counted)
    method = weights.build(system)
    method.represent(problem, 2.0)
    first = sum(epochs)
    method.represent(problem, 2.3)
    assert sum(epochs) - first <= (0.25 * first if system == "quantized_distillation" else 0)
    method.represent(Problem(problem.model, problem.inputs, problem.labels), 2.3)
    assert sum(epochs) >= 2 * first


@pytest.mark.parametrize("system", SYSTEMS)
def test_tied_weights_stay_tied(system: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(24, 16), nn.Linear(16, 16), nn.Linear(16, 24, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(torch.relu(self.mix(self.embed(x))))
            return found

    torch.manual_seed(0)
    network, tokens = Tied().eval(), torch.randint(24, (16, 8), generator=torch.Generator().manual_seed(0))
    made = weights.compress(network, tokens, labels=tokens.roll(-1, 1), budget=900, recipe=system)
    found = made.model()
    assert made.nbytes <= 900 and found.head.weight is found.embed.weight and not made.kept  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("gradual_pruning", {"density": 2}),
        ("nm_srste", {"n": 5, "m": 4}),
        ("trained_rank_pruning", {"layout": "none"}),
        ("quantized_distillation", {"mode": "x"}),
        ("sap", {"p": 1.0, "q": 0.5}),
        ("sap", {"scope": "x"}),
    ],
)
def test_options_that_make_no_sense_are_refused(system: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=system):
        weights.build(system, **options)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_rate_that_makes_no_sense_is_refused(problem: Problem, system: str) -> None:
    with pytest.raises(InputError, match="rate"):
        weights.build(system, rate=0.0).represent(problem, 2.0)
