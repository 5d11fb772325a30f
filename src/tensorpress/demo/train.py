"""Train the demo's network: `python -m tensorpress.demo.train src/tensorpress/demo/digits_resnet.safetensors`.

A few minutes on one core. The same machine and the same PyTorch give the same file; the test digits are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.core.atomic import write_atomically
from tensorpress.demo import digits
from tensorpress.demo.network import DigitsResNet

EPOCHS, BATCH, SEED = 80, 50, 2016
PEAK_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
SMOOTHING = 0.05  # of labels: keeps the softmax of so easy a task from saturating
TURN, SHIFT, SCALE = 12.0, 2.5, 0.1  # augmentation: at most so many degrees, pixels and parts of the size


def tensors(split: digits.Split) -> tuple[Tensor, Tensor]:
    """(pixels float32 [n, 3, 32, 32] in 0 to 1, labels [n])."""
    images, labels = digits.load(split)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def normalise(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (DigitsResNet.mean, DigitsResNet.std))
    return (pixels - mean) / std


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture turned, shifted and scaled a little; what comes in at the border is black, as the background is."""
    angle, dx, dy, scale = rng.uniform(-1, 1, (4, len(pixels)))
    angle, dx, dy, scale = angle * math.radians(TURN), dx * 2 * SHIFT / digits.SIZE, dy * 2 * SHIFT / digits.SIZE, 1 + scale * SCALE
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    theta = torch.from_numpy(np.stack([cos, -sin, dx, sin, cos, dy], axis=1).reshape(-1, 2, 3)).float()
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def learning_rate(progress: float) -> float:
    """Linear up over the first tenth of training, then half a cosine down; `progress` is 0 to 1."""
    return PEAK_RATE * (progress / 0.1 if progress < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (progress - 0.1) / 0.9))


def accuracy(network: nn.Module, split: digits.Split) -> float:
    """The fraction 0 to 1 of a split's digits that the network names rightly."""
    pixels, labels = tensors(split)
    network.eval()
    with torch.inference_mode():
        guesses = torch.cat([network(normalise(part)).argmax(1) for part in pixels.split(100)])
    return (guesses == labels).float().mean().item()


def shuffled(n: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    return np.split(rng.permutation(n), range(BATCH, n, BATCH))


def halved(network: nn.Module) -> dict[str, Tensor]:
    """The state dict with float16 for float32; the counters of the norms stay integers."""
    return {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}


def train() -> DigitsResNet:
    """The network after a fixed number of epochs; progress is printed."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    pixels, labels = tensors("train")
    network = DigitsResNet()
    weights = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim == 1]  # norms and biases: decay would only shrink them
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": rest}]
    optimiser = torch.optim.SGD(groups, lr=PEAK_RATE, momentum=MOMENTUM, nesterov=True)
    start = time.monotonic()
    for epoch in range(EPOCHS):
        network.train()
        total = 0.0
        batches = shuffled(len(labels), rng)
        for step, batch in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate((epoch + step / len(batches)) / EPOCHS)
            inputs = normalise(augment(pixels[batch], rng))
            loss = F.cross_entropy(network(inputs), labels[batch], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1:2}/{EPOCHS}  loss {total / len(labels):.4f}  {time.monotonic() - start:4.0f} s", flush=True)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tensorpress.demo.train", description="Train the demo's network on handwritten digits.")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    network = train()
    stored = halved(network)
    write_atomically(out, safetensors.torch.save(stored))
    network.load_state_dict(stored)  # what is judged is what was written
    for split in ("train", "calibration", "test"):
        print(f"{split}: {100 * accuracy(network, split):.2f} % right")


if __name__ == "__main__":
    main()
