"""Fine-tuning with the codec in the loop: weights, steps and masks learn what is cheap to store.

The network is its own teacher: loss = KL(original || network with coded maps) + lambda * modelled bits a value, so
pictures need no labels. All sites are coded at once (`loop.MapLoop` at each), and batch norms keep their statistics.
Half of every batch may be mixed from two pictures, since a network says little about pictures that it knows by heart.

    state = begin(model, sites, starts, options)      # or `resume(path, model)`
    train(state, original, pictures, save=…)          # `state.model`, `state.loops` are tuned

Trained in aim like CAT (Baskin et al.) and TECO (Shi et al., TNNLS 2023), whose losses are entropies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from tensorpress.core.errors import InputError
from tensorpress.core.site import Site
from tensorpress.pytorch.loop import RATES, MapLoop, Start
from tensorpress.pytorch.networks.pixels import Preprocessing
from tensorpress.pytorch.taps import tapped

Progress = Callable[[str, int, int], None]
LEARN = ("all", "scales", "codec")  # besides steps and masks: every weight, only scales and biases (vectors), or none
CHECKPOINT = "tensorpress-tune-1"


@dataclass(frozen=True)
class Options:
    """How to train. Learning rates fall along a half cosine."""

    lagrangian: float = 0.05  # nats of KL that one bit a value is worth
    epochs: int = 4
    batch: int = 32
    rate: str = "cells"  # model of the bits: 'cells', 'paper' or 'entropy'
    learn: str = "all"
    learning_rate: float = 1e-4  # of the weights (Adam)
    codec_learning_rate: float = 1e-2  # of log steps and mask bits
    rate_share: float = 1.0  # part of each batch whose bits are counted
    mixed: bool = True  # every second picture of a batch is mixed with its neighbour
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rate not in RATES:
            raise InputError(f"rate is one of {', '.join(RATES)}, not {self.rate!r}")
        if self.learn not in LEARN:
            raise InputError(f"learn is one of {', '.join(LEARN)}, not {self.learn!r}")
        if self.epochs < 1 or self.batch < 1:
            raise InputError(f"epochs and batch are at least 1, not {self.epochs} and {self.batch}")
        if not (self.lagrangian >= 0 and self.learning_rate > 0 and self.codec_learning_rate > 0 and 0 < self.rate_share <= 1):
            raise InputError("lambda is at least 0, learning rates are above 0, and the rate's share of a batch is above 0 and at most 1")


@dataclass
class State:
    """Where training stands: after `epoch` epochs."""

    model: nn.Module
    sites: tuple[Site, ...]
    starts: tuple[Start, ...]
    loops: nn.ModuleList
    options: Options
    optimiser: torch.optim.Optimizer
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # of each epoch: kl, bits a value, agreement


def begin(model: nn.Module, sites: Sequence[Site], starts: Sequence[Start], options: Options) -> State:
    """`model` will be trained in place, on the device where it is."""
    device = next(model.parameters()).device
    loops = nn.ModuleList([MapLoop(start, options.rate) for start in starts]).to(device)
    model.eval()
    groups: list[dict[str, Any]] = [{"params": list(loops.parameters()), "lr": options.codec_learning_rate}]
    for parameter in model.parameters():
        parameter.requires_grad_(options.learn == "all" or (options.learn == "scales" and parameter.ndim == 1))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if learning:
        groups.append({"params": learning, "lr": options.learning_rate})
    return State(model, tuple(sites), tuple(starts), loops, options, torch.optim.Adam(groups))


# --- pictures ---------------------------------------------------------------------------------------------------------


class Pixels:
    """Pictures in memory, as uint8 (3, height, width) of any size; batches of them are varied at random."""

    def __init__(self, images: Sequence[np.ndarray], wanted: Preprocessing, device: torch.device) -> None:
        """`images`: uint8 [height, width, 3]. Shorter sides are at least `wanted.crop`."""
        self.images = [torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1))).to(device) for i in images]
        self.crop, self.device = wanted.crop, device
        self.mean = torch.tensor(wanted.mean, device=device).view(3, 1, 1)
        self.std = torch.tensor(wanted.std, device=device).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def one(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """A random part of a large picture at the network's size; a small one shifted by up to an eighth. Perhaps mirrored."""
        if self.crop:
            short = min(image.shape[1:])
            side = round(short * float(rng.uniform(0.65, 1)))
            top, left = (int(rng.integers(0, n - side + 1)) for n in image.shape[1:])
            part = image[:, top : top + side, left : left + side].float()[None]
            view = F.interpolate(part, size=(self.crop, self.crop), mode="bilinear", antialias=side > self.crop, align_corners=False)[0]
        else:
            pad = min(image.shape[1:]) // 8
            height, width = image.shape[1:]
            top, left = (int(rng.integers(0, 2 * pad + 1)) for _ in range(2))
            view = F.pad(image, (pad, pad, pad, pad))[:, top : top + height, left : left + width].float()
        return view.flip(2) if rng.random() < 0.5 else view

    def batch(self, indices: Sequence[int], rng: np.random.Generator, mixed: bool = True) -> Tensor:
        """[n, 3, height, width], normalised; where `mixed`, every second picture is mixed with its neighbour."""
        x = torch.stack([self.one(self.images[i], rng) for i in indices])
        x = (x / 255 - self.mean) / self.std
        if not mixed:
            return x
        share = torch.tensor(rng.uniform(0, 1, len(x)), dtype=x.dtype, device=x.device)
        share[::2] = 1
        share = share.view(-1, 1, 1, 1)
        return share * x + (1 - share) * x.roll(1, 0)


# --- training ---------------------------------------------------------------------------------------------------------


def train(state: State, original: nn.Module, pictures: Pixels, progress: Progress, save: Callable[[State], None] | None = None) -> None:
    """The epochs that are left of `state.options.epochs`. `save(state)` is called after each."""
    options = state.options
    if len(pictures) < 2:
        raise InputError("tuning needs at least 2 pictures")
    original.eval()
    steps = math.ceil(len(pictures) / options.batch)
    base = [options.codec_learning_rate, options.learning_rate]
    bits: list[Tensor] = []
    weights: list[float] = []

    def see(index: int, x: Tensor) -> Tensor:
        loop: Any = state.loops[index]
        part = max(1, round(len(x) * options.rate_share))
        y, rate = loop(x, part)
        bits.append(rate * (x.numel() // len(x)))
        weights.append(x.numel() // len(x))
        return y

    while state.epoch < options.epochs:
        rng = np.random.default_rng((options.seed, state.epoch))
        order = rng.permutation(len(pictures))
        sums = np.zeros(4)
        state.loops.train()
        with tapped(state.model, state.sites, see):
            for number in range(steps):
                done = (state.epoch * steps + number) / (options.epochs * steps)
                for group, highest in zip(state.optimiser.param_groups, base):
                    group["lr"] = highest * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
                x = pictures.batch(order[number * options.batch : (number + 1) * options.batch].tolist(), rng, options.mixed)
                with torch.no_grad():
                    target = original(x).flatten(1).log_softmax(1)
                bits.clear()
                weights.clear()
                found = state.model(x).flatten(1).log_softmax(1)
                kl = (target.exp() * (target - found)).sum(1).mean()
                rate = torch.stack(bits).sum() / sum(weights)
                loss = kl + options.lagrangian * rate
                state.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
                state.optimiser.step()
                agree = (found.argmax(1) == target.argmax(1)).float().mean()
                sums += len(x) * np.array([kl.item(), rate.item(), agree.item(), 1])
                progress(f"epoch {state.epoch + 1}: KL {sums[0] / sums[3]:.4f}, {sums[1] / sums[3]:.3f} bits a value", number + 1, steps)
        if not np.isfinite(sums).all():
            raise InputError("training diverged: the loss is no longer finite; lower the learning rate")
        state.epoch += 1
        state.history.append({"kl": sums[0] / sums[3], "bits": sums[1] / sums[3], "agreement": sums[2] / sums[3]})
        if save is not None:
            save(state)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def to_bytes(state: State) -> bytes:
    """All that training needs to go on, as safetensors: weights, steps, masks, centroids and Adam's moments."""
    tensors = {f"model/{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"loops/{k}": v for k, v in state.loops.state_dict().items()}
    for index, row in state.optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{k}": torch.as_tensor(v) for k, v in row.items()}
    told = {
        "what": CHECKPOINT,
        "epoch": state.epoch,
        "options": asdict(state.options),
        "sites": [site.to_json() for site in state.sites],
        "starts": [asdict(start) for start in state.starts],
        "history": state.history,
    }
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"tune": json.dumps(told)})


def from_file(path: str | Path, model: nn.Module, options: Options | None = None) -> State:
    """The state that `to_bytes` wrote. `options`, where given, must be those it began with, but for the number of epochs."""
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["tune"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if told["what"] != CHECKPOINT:
            raise KeyError(told["what"])
        began = Options(**told["options"])
        sites = tuple(Site(**row) for row in told["sites"])
        starts = tuple(Start(**row) for row in told["starts"])
    except InputError:
        raise
    except Exception as error:  # the Rust reader has an exception type of its own
        raise InputError(f"{path}: not a checkpoint of tuning: {type(error).__name__}") from error
    if options is not None and {**asdict(options), "epochs": 0} != {**asdict(began), "epochs": 0}:
        changed = [k for k, v in asdict(options).items() if v != asdict(began)[k] and k != "epochs"]
        raise InputError(f"{path}: the checkpoint was made with another {', '.join(changed)}; give the same, or leave out --resume")
    state = begin(model, sites, starts, options or began)
    try:
        state.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        state.loops.load_state_dict({k.removeprefix("loops/"): v for k, v in tensors.items() if k.startswith("loops/")})
    except RuntimeError as error:
        raise InputError(f"{path}: the checkpoint is of another network: {str(error).splitlines()[0]}") from error
    rows: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam/"):
            _, index, key = name.split("/")
            rows.setdefault(int(index), {})[key] = tensor
    held = state.optimiser.state_dict()
    held["state"] = rows
    state.optimiser.load_state_dict(held)
    state.epoch, state.history = int(told["epoch"]), list(told["history"])
    return state
