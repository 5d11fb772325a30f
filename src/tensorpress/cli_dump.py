"""`tensorpress features dump` and `undump`: a network's maps for a dataset in a compressed store, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tensorpress import cli_parts as cli


def register(features: typer.Typer) -> None:
    """Add these commands to `tensorpress features`."""
    features.command()(dump)
    features.command()(undump)


def dump(
    images: cli.Images,
    output: Annotated[Path, typer.Option("--out", "-o", help="The zarr store to write; it must not be there.")],
    arch: cli.Arch = None,
    model: cli.Model = None,
    weights: cli.Weights = None,
    codec: Annotated[str, typer.Option("--codec", help="A codec's id; see `tensorpress list`.")] = "zvc",
    set_: cli.Set = None,
    sites: Annotated[str, typer.Option(help="Only sites whose names match this pattern, such as 'layer1*'.")] = "*",
    limit: Annotated[int | None, typer.Option(help="At most this many pictures.", min=1)] = None,
    mean: cli.Mean = None,
    std: cli.Std = None,
    resize: cli.Resize = None,
    crop: cli.Crop = None,
    label_offset: cli.LabelOffset = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a network's activations for a folder of pictures to a compressed zarr store: one array a site, one chunk a picture."""
    from tensorpress import dumps
    from tensorpress.pytorch.pictures import open_pictures

    network, wanted, _ = cli.network_of(arch, model, weights, mean=mean, std=std, resize=resize, crop=crop, label_offset=label_offset)
    pictures = open_pictures(images, limit=limit)
    with cli.Bar() as bar:
        found = dumps.write(
            output, network, cli.Prepared(pictures, wanted), codec, options=cli.parse_options(set_ or []), sites=sites, ids=list(pictures.ids), progress=bar
        )
    if json_:
        cli.out.print_json(json.dumps(found))
        return
    cli.out.print(
        f"{output}: {found['sites']} sites of {found['images']} images, {found['nbytes']:,} bytes, "
        f"{found['ratio']:.2f}x less than 8 bits a value ({4 * found['ratio']:.1f}x less than float32)"
    )


def undump(
    store: Annotated[Path, typer.Argument(help="A store that `dump` wrote.")],
    site: Annotated[str | None, typer.Option(help="A site's name; without one, the names are listed.")] = None,
    image: Annotated[int | None, typer.Option(help="One picture, numbered from 0; without one, all of the site.")] = None,
    output: Annotated[Path | None, typer.Option("--out", "-o", help="The .npy file to write.")] = None,
) -> None:
    """Read a site's maps back to .npy: one picture's (C, H, W), or all (N, C, H, W). Without --site: what is in the store."""
    import io

    import numpy as np

    from tensorpress import dumps
    from tensorpress.console import one_line
    from tensorpress.core.atomic import write_atomically
    from tensorpress.core.errors import InputError

    opened = dumps.open_dump(store)
    if site is None:
        for name in opened.sites:
            cli.out.print(f"{one_line(name)}  {tuple(opened[name].array.shape)}", highlight=False)
        return
    if output is None:
        raise InputError("undump --site needs --out maps.npy")
    layer = opened[site]
    maps = layer[image] if image is not None else np.stack([layer[i] for i in range(len(layer))])
    buffer = io.BytesIO()
    np.save(buffer, maps, allow_pickle=False)
    write_atomically(output, buffer.getvalue())
    cli.beside(output).print(f"{output}: float32 {maps.shape}", highlight=False)
