"""Commands beside a codec: golden vectors for hardware, profiles of ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tensorpress.core.errors import InputError

CodecId = Annotated[str, typer.Option("--codec", help="A codec's id; see `tensorpress list`.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Codec option key=value; repeatable. See `tensorpress show ID`.")]


def register(features: typer.Typer) -> None:
    """Add these commands to `tensorpress features`."""
    features.command()(vectors)


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
    from tensorpress.cli import out, parse_options
    from tensorpress.vectors import write_vectors

    sizes = parse_sizes(shape) if shape is not None else None
    index = write_vectors(output, codec, parse_options(set_ or []), shape=sizes, cells=cells, seed=seed)
    out.print(
        f"{output}: {len(index['files'])} hex files and vectors.json, {index['payload']['nbytes']:,} bytes of payload", highlight=False
    )
