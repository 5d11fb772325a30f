"""Weights of any network to the smallest honest file, and back to a plain network.

small = tensorpress.weights.compress(model, calib=images, budget="10%")
small.save("net.tpw")
net = tensorpress.load("net.tpw", model=build())
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorpress.blocks.forms import Form, Grid, Plain, Rounded
from tensorpress.core import registry
from tensorpress.core.atomic import write_atomically
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import InputError
from tensorpress.files import read_bytes
from tensorpress.planning.weight_file import Tensor as Stored
from tensorpress.planning.weight_file import WeightFile, WeightReader
from tensorpress.pytorch.calibration import Progress, silent
from tensorpress.pytorch.lockstep import Inputs
from tensorpress.pytorch.state import array_of, dtype_of, fill, state_of
from tensorpress.pytorch.weight_problem import Method, Problem
from tensorpress.pytorch.work import Work

DEFAULT = "second_order"
REFERENCE_BITS = 32  # what a raw weight is counted as
KEPT_BITS, VECTOR_BITS = 10, 7  # of mantissa, for matrices and for vectors that no system has taken
LEAST_BITS, MOST_BITS = 0.02, 16.0
CLOSE = 0.985  # of a budget: near enough to stop looking
ROUNDS, MORE_ROUNDS = 5, 7  # files that are made; more while none of them fits
UNITS = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2}


def parse_budget(text: str | float, raw_nbytes: int, parameters: int) -> int:
    """Bytes of '62kB', '1.5 MB', 62000, '10%' (of the raw bytes), '2.0bits' (for each parameter). kB is 1,000 bytes."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*(%|bits?|[kmg]?i?b)?\s*", str(text).lower())
    if not match:
        raise InputError(f"budget {text!r} is none of '62kB', '10%', '2.0bits' or a number of bytes")
    number, unit = float(match[1]), match[2] or ""
    if unit == "%":
        found = raw_nbytes * number / 100
    elif unit.startswith("bit"):
        found = parameters * number / 8
    elif unit in UNITS:
        found = number * UNITS[unit]
    else:
        raise InputError(f"budget {text!r} has the unit {unit!r}; known are kB, MB, GB, KiB, MiB, % and bits")
    if not 0 < found < 1 << 60:
        raise InputError(f"budget {text!r} is no size of a file")
    return int(found)


@dataclass(frozen=True)
class Compressed:
    """What `compress` gives. `data` is the whole file; its length is the size that counts."""

    data: bytes
    network: nn.Module  # the original
    notes: Mapping[str, Any] = field(default_factory=dict)
    tried: Sequence[Mapping[str, float]] = ()

    @property
    def nbytes(self) -> int:
        return len(self.data)

    @property
    def parameters(self) -> int:
        """Values of the state, tied ones once."""
        return values_of(self.network)

    @property
    def raw_nbytes(self) -> int:
        """Of these at 32 bits each."""
        return self.parameters * REFERENCE_BITS // 8

    @property
    def kept(self) -> tuple[str, ...]:
        """Matrices that no system has taken: 16 bits each."""
        entries = WeightReader(self.data, max_nbytes=1 << 62).entries
        parameters = dict(self.network.named_parameters())
        return tuple(e.name for e in entries if e.form in (Rounded.id, Plain.id) and len(e.shape) >= 2 and e.name in parameters and parameters[e.name].is_floating_point())

    @property
    def bits_per_param(self) -> float:
        """Of the whole file, for each value of the state."""
        return 8 * self.nbytes / max(self.parameters, 1)

    def row(self) -> dict[str, Any]:
        """The keys that every row of results has of a file."""
        return {
            "nbytes": self.nbytes, "raw_nbytes": self.raw_nbytes, "bits_per_param": self.bits_per_param,
            "ratio": self.raw_nbytes / self.nbytes, "kept": list(self.kept), "tried": [dict(t) for t in self.tried], "notes": dict(self.notes),
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Whole or not at all. InputError where it cannot be written."""
        write_atomically(path, self.data)

    def model(self) -> nn.Module:
        """A copy of the network with what the file decodes to: plain tensors."""
        found = copy.deepcopy(self.network)
        fill(found, WeightReader(self.data, max_nbytes=1 << 62), "the file")
        return found

    @property
    def layers(self) -> list[dict[str, Any]]:
        return layers(self.data)

    def report(self) -> str:
        """A table, as text."""
        from tensorpress.report.weights import table

        return table(self)


def values_of(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor, same in state_of(network).values() if not same)


def layers(data: bytes) -> list[dict[str, Any]]:
    """[{name, shape, dtype, form, values, nbytes, zeros}] of a file's tensors; `nbytes` as each would take by itself, so they do not sum to the file."""
    rows = []
    for tensor in WeightReader(data, max_nbytes=1 << 62):
        form, values = tensor.form, math.prod(tensor.shape)
        row: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "values": values}
        if form is None:
            rows.append({**row, "form": "same", "of": tensor.same, "nbytes": 0})
            continue
        levels = getattr(form, "levels", None)
        zeros = None if levels is None or not values else float(1 - np.count_nonzero(levels) / values)
        rows.append({**row, "form": form.id, "nbytes": form.nbytes(), "zeros": zeros})
    return rows


def build(recipe: str = DEFAULT, **options: Any) -> Method:
    """The weight system `recipe` with its options. InputError names an option that it does not have."""
    return registry.method(recipe, options)  # type: ignore[no-any-return]


def compress(
    model: nn.Module,
    calib: Inputs | None = None,
    *,
    budget: str | float | None = None,
    bits: float | None = None,
    max_drop: float | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    recipe: str | Method = DEFAULT,
    labels: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    work: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Compressed:
    """The network's state, at the least loss within a budget: a file of weights (.tpw) that holds all of it.

    `calib`: inputs as the network takes them, batch first (a tensor, or a tuple for several arguments), unlabelled. `budget`: of the whole file ('62kB', '10%' of
    fp32, '2.0bits' for each parameter), or `bits` for each parameter, or `max_drop`: the smallest file whose `evaluate(network)` is at most so much below
    the original's (a score in the same unit, more is better). 10 % where nothing is said. `recipe`: a weight system's id with its `options`, or a Method. `work`: a folder for finished layers, gone when the file is made; with `resume` what a stopped run left there is taken.

    The file never exceeds the budget. InputError where it cannot be met (with the least that can), for NaN weights, unusable inputs and unknown options.
    """
    method = build(recipe, **(options or {})) if isinstance(recipe, str) else recipe
    for name, (tensor, _) in state_of(model).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            at = [int(i) for i in (~torch.isfinite(tensor)).nonzero()[0]]
            raise InputError(f"weight {name!r} has {float(tensor[tuple(at)])} at {at}: mend the network first")
    if sum(v is not None for v in (budget, bits, max_drop)) > 1:
        raise InputError("give one of budget, bits and max_drop")
    if (max_drop is None) != (evaluate is None):
        raise InputError("max_drop and evaluate belong together: evaluate(network) gives the score that may drop")
    place = None if work is None else Work(Path(work))
    if place is not None and not resume:
        place.clear()
    if resume and (place is None or not place.folder.is_dir()):
        raise InputError(f"there is no run to go on with: {'no folder is given' if place is None else f'{place.folder} is not there'}")
    problem = Problem(model.eval(), calib, labels, seed, progress, work=place)
    made = {"recipe": recipe if isinstance(recipe, str) else type(recipe).__name__, **({"options": dict(options)} if options else {})}
    weights = sum(t.numel() for t in problem.matrices.values())
    tried: list[dict[str, float]] = []
    made_files: dict[int, bytes] = {}

    def at(target: float) -> int:
        """Bytes of the file with about `target` bits for each weight."""
        forms = method.represent(problem, target) if weights else {}
        data = assemble(model, forms, made).to_bytes()
        made_files[len(data)] = data
        tried.append({"bits": target, "nbytes": len(data)})
        return len(data)

    def result(nbytes: int) -> Compressed:
        return Compressed(made_files[nbytes], model, dict(problem.notes), tuple(tried))

    if not weights:
        found = result(at(MOST_BITS))
    elif max_drop is not None and evaluate is not None:
        found = _by_score(at, result, evaluate, model, max_drop)
    else:
        found = result(_within(at, *_limits(model, problem, f"{bits}bits" if bits is not None else budget if budget is not None else "10%", made), weights))
    if place is not None:
        place.clear()
    return found


def _limits(model: nn.Module, problem: Problem, budget: str | float, made: Mapping[str, Any]) -> tuple[int, int]:
    """(the budget in bytes, what is taken where all large weights are zero). InputError where the first is below the second."""
    parameters = values_of(model)
    limit = parse_budget(budget, parameters * REFERENCE_BITS // 8, parameters)
    blank = {name: Grid(np.zeros(tuple(t.shape), np.int32), np.zeros(1, np.int32)) for name, t in problem.matrices.items()}
    least = len(assemble(model, blank, made).to_bytes())
    if limit < least:
        raise InputError(
            f"a budget of {limit} bytes is below the least that this network can take: {least} bytes, with all of its large weights at zero"
        )
    return limit, least


def _within(at: Callable[[float], int], limit: int, least: int, weights: int) -> int:
    """The largest file found that is within `limit`. Bytes are nearly a line over bits: each file moves the line, a bracket keeps it honest."""
    wanted = limit * (1 + CLOSE) / 2
    low, high = (0.0, least), (math.inf, 0)
    target, best, smallest = 8 * (wanted - least) / weights, 0, 1 << 60
    for number in range(ROUNDS + MORE_ROUNDS):
        target = min(max(target, LEAST_BITS), MOST_BITS)
        nbytes = at(target)
        smallest = min(smallest, nbytes)
        if nbytes <= limit:
            best = max(best, nbytes)
            if nbytes >= CLOSE * limit or target >= MOST_BITS:
                return best
            low = max(low, (target, nbytes))
        elif target <= LEAST_BITS:
            raise InputError(f"a budget of {limit} bytes is below the least that this network can take: {nbytes} bytes, with hardly a bit for its large weights")
        else:
            high = min(high, (target, nbytes))
        if best and number >= ROUNDS:
            break
        if math.isinf(high[0]):
            target = target * (wanted - least) / max(nbytes - least, 1)
        else:
            slope = (high[1] - low[1]) / (high[0] - low[0])
            target = low[0] + (wanted - low[1]) / slope if slope > 0 else (low[0] + high[0]) / 2
            if best == 0 and number >= 2:  # the line may promise too much for ever
                target = min(target, low[0] + (high[0] - low[0]) / 2)
    if not best:
        raise InputError(f"a budget of {limit} bytes could not be met; the smallest file found has {smallest} bytes")
    return best


def _by_score(
    at: Callable[[float], int],
    result: Callable[[int], Compressed],
    evaluate: Callable[[nn.Module], float],
    model: nn.Module,
    max_drop: float,
) -> Compressed:
    """The smallest file that keeps the score, by bisection on bits."""
    if not max_drop >= 0:
        raise InputError(f"max_drop is {max_drop}: it cannot be below 0")
    before = float(evaluate(model))
    low, high, best = 0.25, 8.0, None
    for number in range(8):
        target = high if number == 0 else math.sqrt(low * high)
        found = result(at(target))
        if before - float(evaluate(found.model())) <= max_drop:
            best = found if best is None or found.nbytes < best.nbytes else best
            high = target
        elif number == 0:
            raise InputError(f"even at {target} bits a weight the score drops by more than {max_drop}")
        else:
            low = target
    assert best is not None
    return best


def assemble(model: nn.Module, forms: Mapping[str, Form], made: Mapping[str, Any]) -> WeightFile:
    """The whole state as a file: `forms` where there is one, all else as it is or at 16 bits."""
    stored = []
    for name, (tensor, same) in state_of(model).items():
        dtype, shape = dtype_of(tensor, name), tuple(tensor.shape)
        if same:
            stored.append(Stored(name, dtype, shape, None, same))
            continue
        form = forms.get(name)
        if form is None:
            form = kept_form(tensor, KEPT_BITS if tensor.ndim >= 2 else VECTOR_BITS)
        stored.append(Stored(name, dtype, shape, form))
    return WeightFile(tuple(stored), made)


def kept_form(tensor: Tensor, bits: int) -> Form:
    """Floats with `bits` of mantissa where they are finite; all else bit for bit."""
    if tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16) and bool(torch.isfinite(tensor.float()).all()):
        return Rounded.nearest(tensor.detach().float().cpu().numpy(), bits)
    return Plain(array_of(tensor))


def load(path: str | Path, model: nn.Module, *, max_nbytes: int = MAX_NBYTES) -> nn.Module:
    """`model` with the weights of a file, in eval mode. InputError where it is of another architecture, StreamError where it is damaged."""
    fill(model, WeightReader(read_bytes(Path(path)), max_nbytes=max_nbytes), str(path))
    return model.eval()
