"""`tensorpress weights`: a network's weights to a file within a budget, what it lost, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorpress.cli_parts import (
    Arch,
    Bar,
    Crop,
    LabelOffset,
    Labels,
    Mean,
    Model,
    Resize,
    Set,
    Std,
    Weights,
    network_of,
    parse_options,
    write_json,
)
from tensorpress.core.errors import InputError

app = typer.Typer(
    help="Compress what a network stores: weights to a .tpw file within a budget, judged by what the task lost.", no_args_is_help=True
)

Inputs = Annotated[
    Path | None,
    typer.Option(
        help="A folder of pictures, an .npz with images (uint8, NHWC), or one with inputs (as the network takes them, batch first)."
    ),
]


@app.command()
def compress(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write (.tpw).")],
    arch: Arch = None,
    model: Model = None,
    weights: Weights = None,
    calib_images: Inputs = None,
    calib_limit: Annotated[int, typer.Option(help="Calibration inputs to use.", min=1)] = 256,
    budget: Annotated[
        str, typer.Option(help="Of the whole file: 62kB (1,000 bytes each), 10% (of 32 bits a value), 2.0bits (for each parameter).")
    ] = "10%",
    recipe: Annotated[str, typer.Option(help="A weight system; see `tensorpress list`.")] = "second_order",
    set_: Set = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUTPUT.work, which is left behind when a run is stopped.")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write what was done as JSON.")] = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
) -> None:
    """Compress a network's weights to a file that never exceeds the budget. Calibration needs no labels."""
    from tensorpress import weights as facade
    from tensorpress.cli_parts import out as console
    from tensorpress.report.weights import headline, kept_line

    network, wanted, _ = network_of(arch, model, weights, mean=mean, std=std, resize=resize, crop=crop)
    inputs, labels = (None, None) if calib_images is None else read_inputs(calib_images, wanted, None, calib_limit)
    begun = time.perf_counter()
    with Bar() as bar:
        small = facade.compress(
            network, inputs, budget=budget, recipe=recipe, labels=labels, options=parse_options(set_ or []), seed=seed,
            work=output.with_name(output.name + ".work"), resume=resume, progress=bar,
        )  # fmt: skip
    seconds = time.perf_counter() - begun
    small.save(output)
    if json_ is not None:
        write_json(
            json_,
            {
                **small.row(),
                "recipe": recipe,
                "budget": budget,
                "calib_inputs": 0 if inputs is None else len(inputs),
                "seconds": seconds,
                "layers": small.layers,
            },
        )
    console.print(f"{output}: {headline(small.nbytes, small.raw_nbytes, small.bits_per_param)}, in {seconds:.1f} s", highlight=False, soft_wrap=True)
    if small.kept:
        console.print(kept_line(small.kept), highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="A .tpw file.")],
    images: Inputs,
    arch: Arch = None,
    model: Model = None,
    weights: Weights = None,
    labels: Labels = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate on at most this many inputs.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="Inputs at a time.", min=1)] = 64,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the row as JSON.")] = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    label_offset: LabelOffset = None,
) -> None:
    """What a file's network lost beside the one in --weights, on the same inputs: accuracy, agreement, KL."""
    import copy

    from tensorpress import weights as facade
    from tensorpress.cli_parts import out as console
    from tensorpress.evaluate.weights import compare
    from tensorpress.files import read_bytes

    network, wanted, _ = network_of(arch, model, weights, mean=mean, std=std, resize=resize, crop=crop, label_offset=label_offset)
    if images is None:
        raise InputError("--images is needed: a folder of pictures or an .npz")
    inputs, truth = read_inputs(images, wanted, labels, limit)
    begun = time.perf_counter()
    small = facade.Compressed(read_bytes(file), network)
    after = facade.load(file, copy.deepcopy(network))
    with Bar() as bar:
        found = compare(network, after, inputs, None if truth is None else truth + wanted.label_offset, batch=batch, progress=bar)
    row = {**small.row(), **found, "seconds": time.perf_counter() - begun}
    if json_ is not None:
        write_json(json_, {**row, "layers": small.layers})
    console.print(lost(row), highlight=False, soft_wrap=True)


def lost(row: dict[str, Any]) -> str:
    top1 = (
        ""
        if row["top1"] is None
        else f"top-1 {row['top1']:.2f} % of {row['top1_reference']:.2f} % (drop {row['drop_points']:+.2f} points), "
    )
    return f"{row['nbytes']:,} bytes, {row['bits_per_param']:.3f} bits a parameter: {top1}agreement {row['agreement']:.4f}, KL {row['kl']:.4g} nats, {row['images']} inputs"


def read_inputs(path: Path, wanted: Any, labels: Path | None, limit: int | None) -> tuple[Any, Any]:
    """(inputs [n, ...], labels [n, ...] or None): pictures made ready, or an .npz with `inputs` and perhaps `labels` as they are."""
    import torch

    from tensorpress.pytorch.pictures import open_pictures
    from tensorpress.pytorch.weights import read_npz

    if path.suffix.lower() == ".npz" and path.is_file():
        arrays = read_npz(path)
        if "inputs" in arrays:
            found = arrays["inputs"][:limit]
            if found.ndim < 2 or not len(found) or found.dtype.kind not in "fiu":
                raise InputError(f"{path}: 'inputs' is {found.dtype} {list(found.shape)}, not numbers with a batch axis")
            inputs = torch.from_numpy(found.astype("float32") if found.dtype.kind == "f" else found.astype("int64"))
            truth = torch.from_numpy(arrays["labels"][:limit].astype("int64")) if "labels" in arrays else None
            return inputs, truth
    pictures = open_pictures(path, labels, limit=limit)
    inputs = [pictures.tensor(i, wanted) for i in range(len(pictures))]
    sizes = {tuple(x.shape) for x in inputs}
    if len(sizes) > 1:
        raise InputError(
            f"{path}: pictures differ in size ({', '.join(str(list(s[2:])) for s in sorted(sizes)[:3])} …): give --resize and --crop"
        )
    truth = None if any(label is None for label in pictures.labels) else torch.tensor(pictures.labels)
    return torch.cat(inputs), truth
