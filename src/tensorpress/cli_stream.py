"""`tensorpress weights encode` and `decode`: safetensors to .tpw and back, without a network and in little memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tensorpress.cli_parts import Bar, beside, write_json
from tensorpress.core.errors import InputError

MB = 10**6


def register(weights: typer.Typer) -> None:
    weights.command("encode")(encode)
    weights.command("decode")(decode)


def bar_of(bar: Bar) -> object:
    """Bytes as MB."""
    return lambda what, done, total: bar(what, done // MB, max(total // MB, 1))


def encode(
    source: Annotated[Path, typer.Argument(help="A .safetensors file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write (.tpw).")],
    bits: Annotated[float | None, typer.Option(help="Bits that each weight of a matrix takes on average.")] = None,
    step_rms: Annotated[float | None, typer.Option(help="The quantiser's step instead, as a share of the root mean square of each matrix.")] = None,
    by: Annotated[str, typer.Option(help="With --bits or --step-rms: a step for each 'tensor' or each 'row' of it.")] = "tensor",
    lossless: Annotated[bool, typer.Option("--lossless", help="Every bit comes back (so it does where neither --bits nor --step-rms is given).")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write what was done as JSON.")] = None,
) -> None:
    """Compress any safetensors file, whatever its network: a piece at a time, in less memory than two of its largest tensor."""
    from tensorpress import weights_stream

    if lossless and (bits is not None or step_rms is not None):
        raise InputError("--lossless leaves nothing to --bits or --step-rms")
    with Bar() as bar:
        found = weights_stream.encode(source, output, bits=bits, step_rms=step_rms, by=by, progress=bar_of(bar))  # type: ignore[arg-type]
    if json_ is not None:
        write_json(json_, {"source": source.name, **found.row()})
    speed = found.raw_nbytes / max(found.seconds, 1e-9) / MB
    share = found.nbytes / max(found.raw_nbytes, 1)
    beside(output).print(
        f"{output}: {found.nbytes:,} bytes of {found.raw_nbytes:,} ({share:.1%}), {found.bits_per_value:.3f} bits a value, in {found.seconds:.1f} s ({speed:.0f} MB/s)", highlight=False, soft_wrap=True
    )
    if found.relative_mse is not None:
        beside(output).print(f"weights that were quantised: step {found.step_rms:.4g} of the root mean square of each {by}, squared error {found.relative_mse:.3g} of theirs", highlight=False, soft_wrap=True)
    if found.kept:
        beside(output).print(f"bit for bit, for they are not finite or out of range: {', '.join(found.kept)}", highlight=False, soft_wrap=True)


def decode(
    source: Annotated[Path, typer.Argument(help="A .tpw file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write (.safetensors).")],
    max_nbytes: Annotated[int | None, typer.Option(help="Refuse files whose tensors take more (by default 1 GiB or 64 times the file).", min=0)] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write what was done as JSON.")] = None,
) -> None:
    """Any file of weights back to safetensors, a piece at a time."""
    from tensorpress import weights_stream

    began = time.monotonic()
    with Bar() as bar:
        nbytes, tensors = weights_stream.decode(source, output, max_nbytes=max_nbytes, progress=bar_of(bar))  # type: ignore[arg-type]
    seconds = time.monotonic() - began
    if json_ is not None:
        write_json(json_, {"source": source.name, "nbytes": nbytes, "tensors": tensors, "seconds": seconds})
    beside(output).print(f"{output}: {tensors} tensors, {nbytes:,} bytes, in {seconds:.1f} s ({nbytes / max(seconds, 1e-9) / MB:.0f} MB/s)", highlight=False, soft_wrap=True)
