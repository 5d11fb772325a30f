"""Train the network `characters` on tinyshakespeare: first nine tenths of the text to learn from, the last tenth to judge by.

    TENSORPRESS_DATA=... python scripts/train_characters.py build/characters.safetensors

Weights go to the given file, with what was measured in its metadata; they are never committed. A few minutes on one core
(matrices are multiplied in bfloat16 where the processor has instructions for it). Nothing but torch's own rounding keeps
two machines' files from being equal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tensorpress.core.atomic import write_atomically
from tensorpress.core.errors import InputError
from tensorpress.evaluate.machine import machine
from tensorpress.evaluate.weights import bits, outputs
from tensorpress.pytorch.networks.characters import CONTEXT, characters, tokens_of, windows

TEXT = Path("text") / "tinyshakespeare.txt"
SHARE = 0.9  # of the text, to learn from
WARMUP = 100  # steps


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--text", type=Path, help="text to learn (default: $TENSORPRESS_DATA/text/tinyshakespeare.txt)")
    parser.add_argument("--steps", type=int, default=4500, help="of the optimiser (4500)")
    parser.add_argument("--batch", type=int, default=16, help=f"windows of {CONTEXT} characters a step (16)")
    parser.add_argument("--rate", type=float, default=2e-3, help="largest learning rate (0.002)")
    parser.add_argument("--decay", type=float, default=0.1, help="weight decay of matrices (0.1)")
    parser.add_argument("--minutes", type=float, default=60.0, help="end the schedule by then, with fewer steps if need be (60)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read(path: Path | None) -> tuple[str, str]:
    """(to learn from, to judge by)."""
    if path is None:
        folder = os.environ.get("TENSORPRESS_DATA")
        if not folder:
            raise InputError("TENSORPRESS_DATA is not set: give the text by --text")
        path = Path(folder) / TEXT
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8")
    return text[: int(SHARE * len(text))], text[int(SHARE * len(text)) :]


def rate_at(done: float, step: int, most: float) -> float:
    """Up in a straight line, then down a cosine to a twentieth; `done` is the share of the schedule 0-1."""
    return most * min(1.0, (step + 1) / WARMUP) * (0.05 + 0.95 * (1 + math.cos(math.pi * min(done, 1.0))) / 2)


def train(network: nn.Module, tokens: Tensor, options: argparse.Namespace) -> int:
    """The steps made: `options.steps`, or as many as fit into the minutes."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": options.decay}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(options.seed)
    span = torch.arange(CONTEXT)
    started, step, mean = time.perf_counter(), 0, 0.0
    while True:
        seconds = time.perf_counter() - started
        done = max(step / options.steps, seconds / (60 * options.minutes))
        if done >= 1:
            return step
        for group in optimiser.param_groups:
            group["lr"] = rate_at(done, step, options.rate)
        places = torch.randint(len(tokens) - CONTEXT, (options.batch, 1), generator=generator) + span
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):  # the fused kernel is slower backwards on CPUs
            loss = F.cross_entropy(network(tokens[places]).flatten(0, 1).float(), tokens[places + 1].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        mean += (loss.item() - mean) * max(0.02, 1 / (step + 1))
        step += 1
        if step % 100 == 0 or step == 1:
            print(f"step {step:5d} of {options.steps}  {mean / math.log(2):.3f} bits per character  {seconds:5.0f} s", file=sys.stderr, flush=True)


def main() -> None:
    options = arguments()
    try:
        learnt, judged = read(options.text)
        tokens = tokens_of(learnt)
        inputs, following = windows(judged)
    except InputError as error:
        sys.exit(f"train_characters: {error}")
    torch.manual_seed(options.seed)
    network = characters().train()
    started = time.perf_counter()
    steps = train(network, tokens, options)
    found = bits(outputs(network, inputs).flatten(0, 1), following.flatten())
    facts = {"bits_per_character": found, "validation_characters": following.numel(), "steps": steps, "batch": options.batch, "seed": options.seed}
    facts |= {"seconds": round(time.perf_counter() - started), "machine": machine()}
    state = {key: value.detach().clone() for key, value in network.state_dict().items()}  # the tied matrix stands under both its names
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, safetensors.torch.save(state, {"tensorpress": json.dumps(facts)}))
    print(f"{options.out}: {found:.4f} bits per character on the {following.numel():,} characters of the last tenth, {steps} steps")


if __name__ == "__main__":
    main()
