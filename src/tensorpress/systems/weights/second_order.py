"""Second-order error feedback with the rate in the loop, in one pass over the network: the engine behind `weights.compress`.

    original  ──x'──► W x' ─────────────────────┐ mean and deviation of each channel
    compressed ─x──► H = E[x x^T] ► round W, column by column, errors fed back ► bias, BN statistics corrected ─► next layer
                     target W x', not W x: what the prefix has broken is repaired where it can be

Each layer is rounded when the pass reaches it, so it sees what the compressed prefix gives. Rounding minimises error + lambda x bits.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, ICLR 2023 (arXiv:2210.17323); Hassibi, Stork, Wolff: Optimal Brain Surgeon, 1993;
the correction of the prefix's errors after Li et al., GPTAQ, 2025 (arXiv:2504.02692); bias correction after Nagel et al., DFQ, ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorpress.blocks.forms import Form
from tensorpress.core.card import Card
from tensorpress.pytorch.lockstep import lockstep
from tensorpress.pytorch.rounding import Round, Rule
from tensorpress.pytorch.weight_problem import Problem, common_step, vector_bits

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
    vector_bits: int = 0  # of mantissa, for biases, norms and statistics; 0: as the weights' bits ask for
    correct: bool = True  # means and deviations of channels, in biases and BN statistics


def build(config: Config) -> SecondOrder:
    return SecondOrder(config)


@dataclass(frozen=True)
class SecondOrder:
    config: Config

    def represent(self, problem: Problem, bits: float) -> Mapping[str, Form]:
        inputs = problem.needed("second_order")
        matrices = problem.matrices
        step = common_step(list(matrices.values()), bits)
        rule = Rule(self.config.trade, self.config.repair, self.config.damping)
        visitor = Round(rule, problem, dict.fromkeys(matrices, step), vector_bits=self.config.vector_bits or vector_bits(bits), correct=self.config.correct)
        lockstep(problem.model, inputs, visitor)
        return visitor.forms
