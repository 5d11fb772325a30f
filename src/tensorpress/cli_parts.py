"""What the commands share: options written once, progress, networks and pictures from arguments."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tensorpress.console import Console, one_line
from tensorpress.core.errors import InputError

out, err = Console(), Console(stderr=True)


class Bar:
    """A rich progress bar on stderr that follows (what, done, total); silent where stderr is no terminal."""

    def __enter__(self) -> Bar:
        columns = (TextColumn("{task.description}", style="progress.description", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        if not self.progress.disable:
            self.progress.start()
        self.task = self.progress.add_task("", total=None)
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        self.progress.update(self.task, description=one_line(what), completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if not self.progress.disable:  # older versions of rich end even a bar that is not shown with a line
            self.progress.stop()


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """`key=value` with JSON values; a bare word is a string, and 4,8,16 a list."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set {pair!r}: expected key=value, for example step=4")
        try:
            options[key] = json.loads(text)
        except ValueError:
            parts = text.split(",")
            try:
                options[key] = [json.loads(p) for p in parts] if len(parts) > 1 else text
            except ValueError:
                options[key] = text
    return options


def parse_triple(text: str | None, flag: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(f"{flag} {text!r}: expected three numbers, for example 0.485,0.456,0.406")
    return values


def beside(output: Path) -> Console:
    """Where to speak: on stderr if stdout takes the very file that is written (`-o /dev/stdout`)."""
    return err if str(output) in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1") else out


def write_json(path: Path, value: Any) -> None:
    from tensorpress.core.atomic import write_atomically

    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def command_line() -> str:
    """This call as a shell would take it anywhere: the folder of data is named by its variable."""
    data = os.environ.get("TENSORPRESS_DATA", "").rstrip("/")
    words = []
    for word in sys.argv[1:]:
        named = word.replace(data, "$TENSORPRESS_DATA") if data else word
        words.append(f'"{named}"' if named != word else shlex.quote(word))
    return " ".join(["tensorpress", *words])


def network_of(
    arch: str | None, model: str | None, weights: Path | None, *, mean: str | None = None, std: str | None = None, **preprocessing: Any
) -> tuple[Any, Any, str]:
    """(network, its preprocessing, its name) of what a command was given; `mean` and `std` as they stand there."""
    from tensorpress.pytorch.networks.factory import source
    from tensorpress.pytorch.networks.pixels import preprocessing as preprocessing_of
    from tensorpress.pytorch.weights import load_network

    if arch is not None and weights is None:
        raise InputError(f"--arch {arch} needs --weights: a network with random weights has nothing to lose")
    if model is not None and arch is None:
        err.print(one_line(f"tensorpress: --model {model} runs the code of {source(model)}"), highlight=False, soft_wrap=True)
    triples = {"mean": parse_triple(mean, "--mean"), "std": parse_triple(std, "--std")}
    network = load_network(arch=arch, model=model, weights=weights, **triples, **preprocessing)
    return network, preprocessing_of(network), arch or Path(str(model)).name


class Prepared:
    """Pictures as network inputs, decoded when they are asked for."""

    def __init__(self, pictures: Any, wanted: Any) -> None:
        self.pictures, self.wanted = pictures, wanted

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self.pictures.tensor(index, self.wanted)


def calibration_and_test(images: Path, labels: Path | None, calib_images: Path | None, calib_limit: int, limit: int | None, plan: Any) -> tuple[Any, Any]:
    """(calibration pictures or None, pictures to evaluate); no picture is in both, nor was the plan calibrated on it."""
    from tensorpress.pytorch.pictures import open_pictures, split

    test = open_pictures(images, labels)
    calibration = None
    if plan is not None:
        test = test.without(plan.meta.get("calib_pictures", ()))
    elif calib_images is None:
        calibration, test = split(test, calib_limit)
    else:
        calibration = open_pictures(calib_images, limit=calib_limit)
        if calib_images.resolve() == images.resolve():
            test = test.without(calibration.ids)
    if not len(test):
        raise InputError(f"{images}: all pictures were calibrated on; none is left to evaluate")
    return calibration, test[:limit] if limit is not None else test


def class_count(network: Any, test: Any, wanted: Any) -> int:
    import torch

    from tensorpress.evaluate.measure import logits_of

    with torch.inference_mode():
        return int(logits_of(network, test.tensor(0, wanted)).shape[1]) - int(wanted.label_offset)


def need_plotly() -> None:
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise InputError("--html needs plotly: pip install 'tensorpress[report]'") from None


# --- options, written once --------------------------------------------------------------------------------------------

Arch = Annotated[str | None, typer.Option(help="A network defined here: resnet18/34/50/101, mobilenet_v2, squeezenet1_1, cifar_resnet20/32/44/56.")]
Model = Annotated[str | None, typer.Option(help="Your network: package.module:factory or path/to/file.py:factory. This runs that file's code, so it must be one that you trust.")]
Weights = Annotated[Path | None, typer.Option(help="Weights: .safetensors, .npz (no pickle) or a weights-only .pt.")]
Images = Annotated[Path, typer.Option(help="A folder of pictures, or an .npz with images (uint8, NHWC) and labels.")]
Labels = Annotated[Path | None, typer.Option(help="CSV: file,class_index. Without labels accuracy is unknown; agreement and KL are not.")]
CodecId = Annotated[str, typer.Option("--codec", help="A codec's id; see `tensorpress list`.")]
CalibImages = Annotated[Path | None, typer.Option(help="Calibration pictures; otherwise the first ones of --images, which are then not evaluated.")]
CalibLimit = Annotated[int, typer.Option(help="Calibration pictures to use.", min=1)]
MaxDrop = Annotated[float | None, typer.Option(help="Target: expected top-1 drop, percentage points (default target: 0.5).")]
MaxKl = Annotated[float | None, typer.Option(help="Target: KL of the output, mean + 1 standard error, nats.")]
Ratio = Annotated[float | None, typer.Option(help="Target: total ratio against 8 bits a value.")]
Bits = Annotated[float | None, typer.Option(help="Target: bits a value.")]
Quality = Annotated[float | None, typer.Option(help="No target: the codec's own quality parameter (step, levels or bits).")]
Scale = Annotated[str, typer.Option(help="Range of the 8-bit levels: p99.99 or max.")]
Steps = Annotated[str, typer.Option(help="Quantiser steps: fisher (by site, by sensitivity), channel (by channel as well; context) or equal (in levels).")]
References = Annotated[bool, typer.Option(help="Whether context may predict a map from an earlier one, such as a block's output from the one before.")]
Score = Annotated[str | None, typer.Option(help="Choose every site's quality from a table of bytes and distortions: fisher, mse or measured. Default: one global quality.")]
Also = Annotated[list[str] | None, typer.Option(help="With --score: a further codec that any site may have; repeatable.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Codec option key=value; repeatable. See `tensorpress show ID`.")]
Mean = Annotated[str | None, typer.Option(help="Input mean, three numbers.")]
Std = Annotated[str | None, typer.Option(help="Input deviation, three numbers.")]
Resize = Annotated[int | None, typer.Option(help="Shorter side, pixels; 0: as it is.")]
Crop = Annotated[int | None, typer.Option(help="Centre crop, pixels; 0: none.")]
LabelOffset = Annotated[int | None, typer.Option(help="Class i stands in logits column i + offset.")]
