"""`tensorpress features tune`: fine-tune a network with the codec in the loop."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorpress.core.errors import InputError

Lambda = Annotated[float, typer.Option("--lambda", help="Nats of output KL that one bit a value is worth: more is smaller.", min=0)]


def register(features: typer.Typer) -> None:
    """Add this command to `tensorpress features`."""
    features.command()(tune)


def tune(
    arch: Annotated[str | None, typer.Option(help="A network defined here; see `features calibrate`.")] = None,
    model: Annotated[str | None, typer.Option(help="Your network: package.module:factory or path/to/file.py:factory. This runs that file's code, so it must be one that you trust.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights: .safetensors, .npz (no pickle) or a weights-only .pt.")] = None,
    images: Annotated[Path, typer.Option(help="A folder of pictures, or an .npz with images. Labels are not needed.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="The tuned weights to write (.safetensors).")] = ...,  # type: ignore[assignment]
    plan_path: Annotated[Path | None, typer.Option("--plan", help="Write the plan of what was learned (.tpp), for `features evaluate --plan`.")] = None,
    codec: Annotated[str, typer.Option(help="The codec of --plan: any with a step.")] = "dct_cm",
    lagrangian: Lambda = 0.05,
    epochs: Annotated[int, typer.Option(min=1)] = 4,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    rate: Annotated[str, typer.Option(help="Model of the bits: cells (dct_cm), paper (its 8-bit profile) or entropy (context coders).")] = "cells",
    learn: Annotated[str, typer.Option(help="all; scales: of the weights only vectors (batch norms, biases); codec: steps and masks alone.")] = "all",
    learning_rate: Annotated[float, typer.Option(help="Of the weights (Adam).")] = 1e-4,
    quality: Annotated[float, typer.Option(help="Step to start from, in 8-bit levels, spread over sites by sensitivity.")] = 4.0,
    scale: Annotated[str, typer.Option(help="Range of the 8-bit levels: p99.99 or max.")] = "max",
    split: Annotated[str, typer.Option(help="DCT or bitmaps: by real cost, early (DCT in the first half) or none.")] = "cost",
    order: Annotated[bool, typer.Option(help="Order channels by likeness first.")] = True,
    limit: Annotated[int | None, typer.Option(help="Tune on this many pictures, evenly spread; the plan names them.", min=2)] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the training crops; the network's own where not given.", min=8)] = None,
    rate_share: Annotated[float, typer.Option(help="Part of each batch whose bits are counted.")] = 1.0,
    mixed: Annotated[bool, typer.Option(help="Mix every second picture of a batch with its neighbour.")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of order, crops and mixing.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT.checkpoint.")] = False,
) -> None:
    """Fine-tune a network, its steps and masks with the codec in the loop, by distillation from itself.

    After each epoch OUT.checkpoint holds all that `--resume` needs. The weights in OUT have the network's own names: load them
    like any others.
    """
    import numpy as np
    import safetensors.torch
    import torch

    from tensorpress.cli_parts import Bar, network_of
    from tensorpress.cli_parts import out as console
    from tensorpress.core.atomic import write_atomically
    from tensorpress.pytorch.calibration import Calibration
    from tensorpress.pytorch.pictures import open_pictures
    from tensorpress.pytorch.reorder import fold, reordering
    from tensorpress.pytorch.tune import Options, Pixels, State, begin, from_file, to_bytes, train
    from tensorpress.pytorch.tuned import plan_of, starts

    if device not in ("cpu", "cuda"):
        raise InputError(f"--device is cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here")
    options = Options(lagrangian, epochs, batch, rate, learn, learning_rate, rate_share=rate_share, mixed=mixed, seed=seed)
    checkpoint = out.with_name(out.name + ".checkpoint")
    if resume and not checkpoint.is_file():
        raise InputError(f"--resume: there is no {checkpoint}")
    network, wanted, _ = network_of(arch, model, weights)
    original = copy.deepcopy(network)
    pictures = open_pictures(images)
    count = min(limit or len(pictures), len(pictures))
    at = np.linspace(0, len(pictures) - 1, count).round().astype(int).tolist()
    few = [pictures.tensor(i, wanted) for i in at[:: max(count // 16, 1)]]
    with Bar() as bar:
        if resume:
            state = from_file(checkpoint, network.to(device), options)
        else:
            if order:
                found = reordering(network, few)
                fold(network, found)
                console.print(f"channels ordered in {len(found.orders)} spaces; left as they are: {told(found.left)}", highlight=False)
            calibration = Calibration.measure(network, few, "dct_cm", scale=scale, options=profile(rate), progress=bar)
            begun = starts(calibration, quality, split)
            state = begin(network.to(device), calibration.sites, begun, options)
            console.print(f"{len(begun)} sites, {sum(s.length > 0 for s in begun)} of them with the DCT")
        sized = dataclasses.replace(wanted, crop=crop, resize=max(wanted.resize, crop)) if crop and wanted.crop else wanted
        loaded = [resized(pictures[i].pixels, sized.resize) for i in at]

        def save(now: State) -> None:
            write_atomically(checkpoint, to_bytes(now))
            row = now.history[-1]
            console.print(f"epoch {now.epoch}: KL {row['kl']:.4f}, {row['bits']:.3f} bits a value, agreement {row['agreement']:.3f}", highlight=False)

        train(state, original.to(device), Pixels(loaded, sized, torch.device(device)), bar, save)
        state.model.to("cpu")
        state.loops.to("cpu")
        write_atomically(out, safetensors.torch.save({k: v.contiguous() for k, v in state.model.state_dict().items()}))
        if plan_path is not None:
            tuned_on = [pictures.ids[i] for i in at]
            plan = plan_of(state, few, codec, meta={"calib_pictures": tuned_on, "calib_images": count}, progress=bar)
            plan.save(plan_path)
    console.print(f"{out}: tuned for {state.epoch} epochs on {count} pictures" + (f"; plan in {plan_path}" if plan_path is not None else ""))


def profile(rate: str) -> dict[str, Any]:
    return {"profile": "paper"} if rate == "paper" else {}


def told(left: Any) -> str:
    return ", ".join(f"{name} ({why})" for name, why in left) or "none"


def resized(pixels: Any, short: int) -> Any:
    """uint8 [height, width, 3] with its shorter side at `short` pixels; 0: as it is."""
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    if not short or min(height, width) == short:
        return pixels
    factor = short / min(height, width)
    size = max(round(width * factor), short), max(round(height * factor), short)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
