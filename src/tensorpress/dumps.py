"""Activation dumps: a network's feature maps for a dataset in a compressed zarr store, one array a site, one chunk an image.

    write("acts.zarr", model, images, "zvc")
    read = open_dump("acts.zarr")
    read["layer1.0.relu:relu"][3]        # float32 (C, H, W) of the fourth image
"""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorpress.core import registry
from tensorpress.core.atomic import new_folder
from tensorpress.core.binary import parse_json
from tensorpress.core.container import MAX_NBYTES
from tensorpress.core.errors import InputError, StreamError
from tensorpress.core.site import Site
from tensorpress.pytorch.calibration import Progress, silent
from tensorpress.pytorch.sites import find_sites
from tensorpress.pytorch.statistics import Observed, observe
from tensorpress.pytorch.taps import tapped
from tensorpress.pytorch.tensors import images as arrays

FIT_IMAGES = 8  # whose maps a site's codec is fitted to
KEY = "tensorpress"  # of the store's attributes
NUMCODEC = "tensorpress"  # the id of the compressor in an array's metadata


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def library() -> Any:
    try:
        import zarr
    except ImportError:
        raise InputError("activation dumps need zarr: pip install 'tensorpress[zarr]'") from None
    return zarr


def write(
    path: str | Path, model: nn.Module, images: Sequence[Tensor], codec: str = "zvc", *, options: Mapping[str, Any] | None = None,
    sites: str = "*", ids: Sequence[str] | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Run `model` over `images` (each (1, …)) and write the sites whose names match `sites`; {sites, images, raw_nbytes, nbytes}.

    A site's codec is fitted once, to the first images. The store appears when it is whole: until then it has another
    name. InputError where `path` is there, no site matches, the codec cannot be used, or the store not written.
    """
    zarr = library()
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} is there already: nothing was written over it")
    if not len(images):
        raise InputError("a dump needs at least one image")
    registry.build(codec, options)
    with torch.inference_mode():
        found = [s for s in find_sites(model, images[0]) if fnmatch.fnmatchcase(s.name, sites)]
    if not found:
        raise InputError(f"no site's name matches {sites!r}; `tensorpress features evaluate --layers` shows them")
    few = min(FIT_IMAGES, len(images))
    seen = observe(model, found, ["output"] * len(found), (images[i] for i in range(few)), few, few)
    with new_folder(path) as partial, torch.inference_mode():
        raw = _fill(zarr.open_group(str(partial), mode="a", zarr_format=2), model, images, codec, options, found, seen, ids, progress)
    nbytes = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return {"sites": len(found), "images": len(images), "codec": codec, "raw_nbytes": raw, "nbytes": nbytes, "ratio": raw / nbytes}


def _fill(
    group: Any, model: nn.Module, images: Sequence[Tensor], codec: str, options: Mapping[str, Any] | None,
    found: Sequence[Site], seen: Sequence[Observed], ids: Sequence[str] | None, progress: Progress,
) -> int:  # fmt: skip
    """Bytes of 8-bit levels that the maps would take."""
    from tensorpress.numcodec import TensorPress

    stored, codecs = [], []
    for number, (site, o) in enumerate(zip(found, seen)):
        try:
            codecs.append(registry.build(codec, options).fit(o.samples))
        except InputError as error:
            raise InputError(f"site {site.name}: {error}") from None
        name = f"{number:03d}"
        stored.append(
            group.create_array(name, shape=(len(images), *o.shape), chunks=(1, *o.shape), dtype="f4", compressors=TensorPress.of(codecs[-1]))
        )
    raw = 0

    def see(index: int, x: Tensor) -> Tensor:
        nonlocal raw
        (image,) = arrays(x, found[index].view)
        if image.shape != seen[index].shape:
            raise InputError(f"site {found[index].name}: image {at} makes a tensor of shape {image.shape}, the first one {seen[index].shape}")
        stored[index][at] = image
        raw += image.size
        return x

    with tapped(model, found, see, ["output"] * len(found)):
        for at in range(len(images)):
            progress("writing maps", at, len(images))
            model(images[at])
    group.attrs[KEY] = {
        "sites": [{**s.to_json(), "name": s.name} for s in found], "codec": codec, "images": len(images),
        "ids": list(ids) if ids is not None else None,
    }  # fmt: skip
    return raw


@dataclass(frozen=True)
class Layer:
    """One site's maps: `layer[i]` is image i, float32 in the shape of one image's tensor, channels first."""

    path: Path
    name: str
    key: str
    array: Any

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, image: int) -> NDArray[np.float32]:
        if not -len(self) <= image < len(self):
            raise InputError(f"{self.path}: image {image} does not exist; there are {len(self)}, numbered from 0")
        image %= len(self)
        chunk = self.path / self.key / ".".join([str(image), *["0"] * (self.array.ndim - 1)])
        if not chunk.is_file():  # zarr would give zeros
            raise StreamError(f"{self.path}: site {self.name}, image {image} is missing: the store is cut short")
        try:
            return np.asarray(self.array[image])
        except Exception as error:  # ours, zarr's and the file system's
            raise StreamError(f"{self.path}: site {self.name}, image {image}: {first_line(error)}") from None


@dataclass(frozen=True)
class Dump:
    """An open store: `dump[name]` is a `Layer`; `sites` are their names in network order."""

    path: Path
    layers: Mapping[str, Layer]
    facts: Mapping[str, Any]

    @property
    def sites(self) -> list[str]:
        return list(self.layers)

    def __getitem__(self, site: str) -> Layer:
        if site not in self.layers:
            raise InputError(f"{self.path} has no site {site!r}; it has {', '.join(self.sites[:6])}{' …' if len(self.sites) > 6 else ''}")
        return self.layers[site]


def open_dump(path: str | Path, *, max_nbytes: int = MAX_NBYTES) -> Dump:
    """A store that `write` made. InputError where it is none, StreamError where its metadata is damaged, or is not such as `write` makes:

    another filter or compressor, which zarr would run (one of them unpickles), another type, or maps of an image over `max_nbytes`.
    """
    zarr = library()
    import tensorpress.numcodec  # registers the compressor

    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is no folder: an activation dump is a zarr store")
    tensorpress.numcodec.register()
    try:
        group = zarr.open_group(str(path), mode="r", zarr_format=2, use_consolidated=False)  # a copy of the metadata might say otherwise
        facts = dict(group.attrs[KEY])
        layers = {}
        for number, row in enumerate(facts["sites"]):
            name, key = str(row["name"]), f"{number:03d}"
            _only_ours(path / key / ".zarray", name, max_nbytes)
            layers[name] = Layer(path, name, key, group[key])
    except StreamError as error:
        raise StreamError(f"{path}: {error}") from None
    except KeyError as error:
        raise StreamError(f"{path} is no activation dump, or is cut short: {error} is missing") from None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StreamError(f"{path} is no activation dump, or is cut short: {error}") from None
    except Exception as error:  # zarr and numcodecs raise all kinds on metadata that is not theirs
        raise StreamError(f"{path} is damaged: {first_line(error)}") from None
    return Dump(path, layers, facts)


def _only_ours(file: Path, site: str, max_nbytes: int) -> None:
    """StreamError unless an array's metadata names our compressor alone, before zarr makes what else it may name."""
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StreamError(f"metadata of site {site} is not JSON: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise StreamError(f"metadata of site {site} is no JSON object")
    compressor = found.get("compressor")
    if not (isinstance(compressor, dict) and compressor.get("id") == NUMCODEC and isinstance(compressor.get("state"), dict)):
        raise StreamError(f"site {site} is not compressed by TensorPress, but by {str(compressor)[:80]}")
    wanted = {"zarr_format": 2, "dtype": "<f4", "order": "C", "filters": None, "dimension_separator": "."}
    for key, value in wanted.items():
        if found.get(key) != value:
            raise StreamError(f"site {site} has {key} {str(found.get(key))[:80]}, a dump has {value}")
    shape, chunks = found.get("shape"), found.get("chunks")
    if not (isinstance(shape, list) and len(shape) > 1 and all(type(n) is int and n > 0 for n in shape) and chunks == [1, *shape[1:]]):
        raise StreamError(f"site {site} has shape {str(shape)[:80]} in chunks of {str(chunks)[:80]}, not one image in each")
    if 4 * math.prod(shape[1:]) > max_nbytes:
        raise StreamError(f"site {site} has maps of {4 * math.prod(shape[1:])} bytes an image, over the limit of {max_nbytes}")
