"""Commands beside a codec: golden vectors for hardware, profiles of ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tensorpress.console import one_line
from tensorpress.core.errors import InputError

CodecId = Annotated[str, typer.Option("--codec", help="A codec's id; see `tensorpress list`.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Codec option key=value; repeatable. See `tensorpress show ID`.")]


def register(features: typer.Typer) -> None:
    """Add these commands to `tensorpress features`."""
    features.command()(vectors)
    features.command("profile")(profile_onnx)


def parse_sizes(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise InputError(f"--shape {text!r}: expected whole numbers, for example 64,16,16")
    return tuple(int(part) for part in parts)


def vectors(
    output: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    codec: CodecId = "dct_cm",
    cells: Annotated[int, typer.Option(help="Cells that are written word by word; without --shape the map has so many.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Of the map.", min=0)] = 0,
    shape: Annotated[str | None, typer.Option(help="C,H,W of the map.")] = None,
    set_: Set = None,
) -> None:
    """Golden vectors for a test bench: input, intermediate and output words as hex files, and one JSON that describes them."""
    from tensorpress.cli_parts import out, parse_options
    from tensorpress.vectors import write_vectors

    sizes = parse_sizes(shape) if shape is not None else None
    index = write_vectors(output, codec, parse_options(set_ or []), shape=sizes, cells=cells, seed=seed)
    out.print(
        f"{output}: {len(index['files'])} hex files and vectors.json, {index['payload']['nbytes']:,} bytes of payload", highlight=False
    )


def profile_onnx(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX file; external data beside it is read as well.")],
    input_: Annotated[
        Path | None, typer.Option("--input", help="Inputs: an .npy with a batch axis, or an .npz with one array for each input.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of pictures, or an .npz with images (uint8, NHWC).")] = None,
    codec: CodecId = "dct_cm",
    limit: Annotated[int, typer.Option(help="Inputs to use at most, those of calibration included.", min=1)] = 16,
    calib_limit: Annotated[int, typer.Option(help="Of these, the first ones, to fit the codec on; they are not encoded.", min=1)] = 4,
    set_: Set = None,
    mean: Annotated[str | None, typer.Option(help="Of --images: input mean, three numbers.")] = None,
    std: Annotated[str | None, typer.Option(help="Of --images: input deviation, three numbers.")] = None,
    resize: Annotated[int | None, typer.Option(help="Of --images: shorter side, pixels; 0: as it is.", min=0)] = None,
    crop: Annotated[int | None, typer.Option(help="Of --images: centre crop, pixels, where the network's size is free.", min=1)] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result row.")] = None,
) -> None:
    """Each activation of an ONNX network encoded for real: ratio by tensor and in total. Nothing is said of the task's loss."""
    from tensorpress.cli_parts import Bar, command_line, err, out, parse_options, parse_triple, write_json
    from tensorpress.core import registry
    from tensorpress.evaluate.machine import machine
    from tensorpress.files import read_array
    from tensorpress.onnx.profile import feeds_of_arrays, feeds_of_pictures, noise, open_network, profile
    from tensorpress.pytorch.pictures import open_pictures
    from tensorpress.pytorch.weights import read_npz
    from tensorpress.report.terminal import profile_table

    if input_ is not None and images is not None:
        raise InputError("give either --input or --images, not both")
    options = parse_options(set_ or [])
    registry.build(codec, options)  # a mistake there is told before anything runs
    network = open_network(model)
    for skipped in network.skipped:
        warn(err, f"skipped {skipped.op} ({skipped.node}): {skipped.reason}")
    if images is not None:
        feeds = feeds_of_pictures(
            network, open_pictures(images, limit=limit), parse_triple(mean, "--mean"), parse_triple(std, "--std"), resize, crop
        )
    elif input_ is not None:
        feeds = feeds_of_arrays(network, read_npz(input_) if input_.suffix == ".npz" else read_array(input_), str(input_))[:limit]
    else:
        feeds = noise(network, min(limit, 4))
        warn(err, "neither --input nor --images: the network runs on noise, and the ratios mean little")
    calib = min(calib_limit, max(len(feeds) // 2, 1))
    if len(feeds) == 1:
        warn(err, "one input only: the codec is fitted to the very maps that it encodes")
    with Bar() as bar:
        row = profile(network, feeds, codec, options, calib=calib, progress=bar)
    row |= {"source": str((images or input_ or Path("noise")).name), "command": command_line(), "machine": machine()}
    for found in row["skipped"][len(network.skipped) :]:
        warn(err, f"skipped {found['op']} ({found['node']}): {found['reason']}")
    if json_path is not None:
        write_json(json_path, row)
    out.print(profile_table(row))


def warn(err: Any, text: str) -> None:
    err.print(one_line(f"warning: {text}"), style="yellow", highlight=False, soft_wrap=True)
