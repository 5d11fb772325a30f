"""Second-order error feedback with the rate in the loop, in one pass over the network: the engine behind `weights.compress`.

    original  ──x'──► W x' ─────────────────────┐ mean and deviation of each channel
    compressed ─x──► H = E[x x^T] ► round W, column by column, errors fed back ► bias, BN statistics corrected ─► next layer
                     target W x', not W x: what the prefix has broken is repaired where it can be

Each layer is rounded when the pass reaches it, so it sees what the compressed prefix gives. Rounding minimises error + lambda x bits.
Who gets how fine a step (pytorch/steps.py) is tried on the calibration inputs at the first pass: one step for all, or by what an error costs the outputs.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, ICLR 2023 (arXiv:2210.17323); Hassibi, Stork, Wolff: Optimal Brain Surgeon, 1993;
the correction of the prefix's errors after Li et al., GPTAQ, 2025 (arXiv:2504.02692); bias correction after Nagel et al., DFQ, ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tensorpress.blocks.forms import Form
from tensorpress.core.card import Card
from tensorpress.core.errors import InputError
from tensorpress.pytorch.candidates import loss_of
from tensorpress.pytorch.lockstep import lockstep
from tensorpress.pytorch.rounding import Round, Rule
from tensorpress.pytorch.steps import ALLOCATIONS, steps_of
from tensorpress.pytorch.weight_problem import Problem, vector_bits

TRIED, JUDGED = ("common", "sensitive"), 128  # allocations; calibration inputs
CLEARLY = 1.33  # times the loss: what one step for all may cost more before it is given up. Few inputs judge, and where layers are alike it generalises better

CARD = Card(
    id="second_order",
    family="weights",
    title="second-order error feedback, rate in the loop, context-adaptive coding",
    paper="after Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323; coder after Wiedemann et al., DeepCABAC, 2020, arXiv:1907.11900",
    claim="",
    measured="results/weights/curves.json",
    fidelity="ours",
    makes="method",
    needs="inputs",
    portability="a decoder sees integers and one float32 multiply",
)


@dataclass(frozen=True)
class Config:
    trade: float = 0.1  # what a bit is worth in the loop, in squared errors of a step at average importance; 0: rounds to the nearest
    repair: float = 0.5  # how much of the prefix's errors a layer tries to undo, 0 to 1
    damping: float = 0.01  # added to the diagonal of H, as a share of its mean
    allocation: str = "auto"  # of steps: common, relative, sensitive, measured, or what of the first and third answers better at the first pass
    vector_bits: int = 0  # of mantissa, for biases, norms and statistics; 0: as the weights' bits ask for
    correct: bool = True  # means and deviations of channels, in biases and BN statistics


def build(config: Config) -> SecondOrder:
    if config.allocation not in ("auto", *ALLOCATIONS):
        raise InputError(f"allocation {config.allocation!r} is none of auto, {', '.join(ALLOCATIONS)}")
    return SecondOrder(config)


@dataclass(frozen=True)
class SecondOrder:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        problem.needed("second_order")
        if self.config.allocation != "auto":
            return self._rounded(problem, bits, self.config.allocation)[0]
        if self not in problem.memory:  # the first pass tries, those after it know
            found, faults = {}, []
            for name in TRIED:
                try:
                    found[name] = self._rounded(problem, bits, name)
                except InputError as error:  # gradients that cannot be taken are no fault of the network's
                    faults.append(error)
            if not found:
                raise faults[0]
            costs = {name: _cost(problem, *result) for name, result in found.items()}
            problem.memory[self] = min(costs, key=lambda name: costs[name] / (CLEARLY if name == TRIED[0] else 1.0))
            problem.notes["allocation"] = {"chosen": problem.memory[self], "kl": costs}
            return found[problem.memory[self]][0]
        return self._rounded(problem, bits, problem.memory[self])[0]

    def _rounded(self, problem: Problem, bits: float, allocation: str) -> tuple[dict[str, Form], dict[str, Tensor]]:
        """All forms, and the network's tensors with them."""
        config = self.config
        steps = steps_of(problem, bits, allocation)
        visitor = Round(Rule(config.trade, config.repair, config.damping), problem, steps, vector_bits=config.vector_bits or vector_bits(bits), correct=config.correct)
        state = lockstep(problem.model, problem.needed("second_order"), visitor)
        return visitor.forms, state


def _cost(problem: Problem, forms: Mapping[str, Form], state: dict[str, Tensor]) -> float:
    """KL of the answers to calibration inputs, as it would be at one bit a weight: each bit more is worth a factor of four."""
    values = sum(w.numel() for w in problem.matrices.values())
    bits = 8 * sum(forms[n].nbytes() for n in problem.matrices if n in forms) / values
    return loss_of(problem, state, limit=JUDGED) * 4.0 ** (bits - 1)
