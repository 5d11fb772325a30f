"""Training with compressed saved tensors beside plain training: real peak memory, held bytes, time, and what was learned.

    TENSORPRESS_DATA=… python benchmarks/saved_tensors.py --json results/saved-tensors.json [--device cuda] [--steps 300]

ResNet-20 on the first 10,000 training pictures of CIFAR-10. Every variant trains in a process of its own, from the same weights on
the same batches; its peak is that of the resident set above what the process held before the first step (on a GPU that of PyTorch's
allocator as well), not a sum of sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch's thread pools start

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tensorpress.core.atomic import write_atomically
from tensorpress.core.errors import TensorPressError
from tensorpress.evaluate.machine import machine
from tensorpress.pytorch import compress_saved
from tensorpress.pytorch.networks.pixels import Preprocessing
from tensorpress.pytorch.weights import load_network, read_npz

VARIANTS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "plain, heap trimmed": {"codec": "raw", "min_values": 1 << 40},
    "zvc, exact": {"codec": "zvc", "exact": True},
    "dct_cm": {"codec": "dct_cm"},
    "dct_cm, step 4": {"codec": "dct_cm", "step": 4.0},
    "dct_cm, heap as it is": {"codec": "dct_cm", "trim": None},
    "dct_cm, positives may vanish": {"codec": "dct_cm", "keep_positive": False},
}
CHECKPOINT = "cifar10/resnet20.safetensors"


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")


def pictures(path: Path, device: str) -> tuple[Tensor, Tensor]:
    """float32 [n, 3, 32, 32], normalised, and labels."""
    arrays, wanted = read_npz(path), Preprocessing()
    x = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float().div_(255)
    x = x.sub_(torch.tensor(wanted.mean).view(3, 1, 1)).div_(torch.tensor(wanted.std).view(3, 1, 1))
    return x.contiguous().to(device), torch.from_numpy(arrays["labels"].astype(np.int64)).to(device)


def varied(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A flip and a shift of up to 4 pixels, the same for the whole batch."""
    down, right = rng.integers(0, 9, 2)
    x = F.pad(x, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
    return (x.flip(3) if rng.integers(2) else x).contiguous()


def train(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """One variant, in this process. All randomness comes from the seed, none from the variant."""
    folder = Path(os.environ["TENSORPRESS_DATA"])
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    network = load_network("cifar_resnet20", weights=folder / CHECKPOINT if args.from_checkpoint else None).to(args.device).train()
    optimiser = torch.optim.SGD(network.parameters(), args.rate, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.rate, total_steps=args.steps + 1, pct_start=0.2)
    x, y = pictures(folder / "cifar10/train_10k.npz", args.device)
    test_x, test_y = pictures(folder / "cifar10/test_500.npz", args.device)
    rng = np.random.default_rng(args.seed)
    options = VARIANTS[variant]

    def step(images: Tensor, labels: Tensor) -> tuple[float, Any]:
        with compress_saved(**options) if options else nullcontext() as account:
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        return float(loss.detach()), account

    state = {key: value.clone() for key, value in network.state_dict().items()}
    step(x[:2], y[:2])  # libraries, buffers of the optimiser and of gradients
    optimiser.zero_grad(set_to_none=False)
    optimiser.step()
    network.load_state_dict(state)
    del state
    cuda = args.device.startswith("cuda")
    forget_peak()
    before = resident("VmRSS:")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before_device = torch.cuda.memory_allocated()
    losses, seconds, accounts = [], [], []
    order = np.zeros(0, np.int64)
    for _ in range(args.steps):
        if len(order) < args.batch:
            order = rng.permutation(len(x))
        chosen, order = torch.from_numpy(order[: args.batch]).to(args.device), order[args.batch :]
        images = varied(x[chosen], rng)
        started = time.perf_counter()
        optimiser.zero_grad(set_to_none=False)
        loss, account = step(images, y[chosen])
        optimiser.step()
        schedule.step()
        seconds.append(time.perf_counter() - started)
        losses.append(loss)
        if account is not None:
            accounts.append((account.peak_held_nbytes, account.peak_raw_nbytes, account.peak_kept_nbytes))
    peak = resident("VmHWM:") - before
    network.eval()
    with torch.inference_mode():
        logits = network(test_x)
        accuracy = float((logits.argmax(1) == test_y).float().mean())
        test_loss = float(F.cross_entropy(logits, test_y))
    held, raw, kept = (max(column) for column in zip(*accounts)) if any(account[0] for account in accounts) else (None, None, None)
    row = {
        "variant": variant,
        "options": options,
        "peak_nbytes": peak,
        "before_nbytes": before,
        "held_nbytes": held,
        "raw_nbytes": raw,
        "kept_nbytes": kept,
        "held_ratio": raw / held if raw and held else None,
        "seconds_per_step": statistics.median(seconds),
        "first_losses": losses[:3],
        "train_loss": statistics.mean(losses[-50:]),
        "test_loss": test_loss,
        "top1": accuracy,
        "top1_standard_error": math.sqrt(accuracy * (1 - accuracy) / len(test_y)),
    }
    return {**row, "device_peak_nbytes": torch.cuda.max_memory_allocated() - before_device} if cuda else row


def compared(rows: list[dict[str, Any]]) -> None:
    """Add to each row how many times smaller its peaks are than those of plain training."""
    plain = next((row for row in rows if row["variant"] == "plain"), None)
    for row in rows if plain else ():
        for key in ("peak_nbytes", "device_peak_nbytes"):
            if key in row:
                row[key.replace("nbytes", "ratio")] = plain[key] / row[key]


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table()
    for name in (
        "variant",
        "saved, MB",
        "held, MB",
        "ratio held",
        "peak, MB",
        "ratio of peaks",
        "s a step",
        "train loss",
        "test loss",
        "top-1 [s.e.]",
    ):
        shown.add_column(name, justify="left" if name == "variant" else "right")

    def mb(value: float | None) -> str:
        return "-" if value is None else f"{value / 1e6:.1f}"

    for row in rows:
        key = "device_peak" if "device_peak_nbytes" in row else "peak"
        shown.add_row(
            row["variant"], mb(row["raw_nbytes"]), mb(row["held_nbytes"]), f"{row['held_ratio']:.2f}" if row["held_ratio"] else "-", mb(row[f"{key}_nbytes"]),
            f"{row.get(f'{key}_ratio', math.nan):.2f}", f"{row['seconds_per_step']:.3f}", f"{row['train_loss']:.3f}", f"{row['test_loss']:.3f}",
            f"{100 * row['top1']:.1f} [{100 * row['top1_standard_error']:.1f}]",
        )  # fmt: skip
    return shown


def command_line(words: list[str]) -> str:
    return " ".join(["TENSORPRESS_DATA=…", "python", "benchmarks/saved_tensors.py", *(f"'{w}'" if " " in w else w for w in words)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; payloads are held in host memory either way")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.2, help="highest learning rate of one cycle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--from-checkpoint", action="store_true", help="start from the trained weights, not from random ones")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--here", action="store_true", help="train the one variant in this process and print its row")
    args = parser.parse_args()
    folder = os.environ.get("TENSORPRESS_DATA", "")
    if not (Path(folder) / "cifar10/train_10k.npz").is_file():
        sys.exit("TENSORPRESS_DATA names no folder with cifar10/train_10k.npz")
    if args.here:
        print(json.dumps(train(args.variants[0], args)))
        return
    rows: list[dict[str, Any]] = []
    console = Console()
    facts: dict[str, Any] = {"network": "cifar_resnet20", "start": "checkpoint" if args.from_checkpoint else "random"}
    facts["device"] = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    facts |= {"steps": args.steps, "batch": args.batch, "rate": args.rate, "seed": args.seed, "threads": args.threads}
    for variant in args.variants:
        settings = [
            "--device",
            args.device,
            "--steps",
            args.steps,
            "--batch",
            args.batch,
            "--rate",
            args.rate,
            "--seed",
            args.seed,
            "--threads",
            args.threads,
        ]
        words = [*map(str, settings), *(["--from-checkpoint"] if args.from_checkpoint else [])]
        done = subprocess.run([sys.executable, __file__, "--here", "--variants", variant, *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{variant}: {done.stderr.strip()}")
        rows.append(json.loads(done.stdout))
        console.print(
            f"{variant}: {rows[-1]['seconds_per_step']:.3f} s a step, peak {rows[-1]['peak_nbytes'] / 1e6:.0f} MB", highlight=False
        )
        compared(rows)
        if args.json is not None:  # after each variant: a long run that is stopped has not been for nothing
            content = {**facts, "rows": rows, "command": command_line(sys.argv[1:]), "machine": machine()}
            write_atomically(args.json, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    console.print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except TensorPressError as error:
        sys.exit(f"saved_tensors: {error}")
