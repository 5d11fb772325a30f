"""Pictures and their labels, read one at a time: a folder of files or an .npz. Nothing is ever skipped in silence."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tensorpress.core.errors import InputError
from tensorpress.pytorch.networks.factory import reason
from tensorpress.pytorch.networks.pixels import Preprocessing
from tensorpress.pytorch.weights import read_npz

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # whatever a file is called, no other decoder sees it: PIL's EPS runs another program


class Picture(NamedTuple):
    pixels: np.ndarray  # uint8 [height, width, 3], RGB
    label: int | None
    name: str


@dataclass(frozen=True, eq=False)
class Pictures:
    """A sequence of `Picture`; a slice is again `Pictures`. `images` are pixels already in memory, else `names` are files under `path`."""

    path: Path
    names: tuple[str, ...]
    labels: tuple[int | None, ...]
    images: np.ndarray | None = None  # uint8 [n, height, width, 3 or 1]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Picture | Pictures:
        """Picture `index`, decoded now. InputError names a file that does not decode."""
        if isinstance(index, slice):
            images = None if self.images is None else self.images[index]
            return replace(self, names=self.names[index], labels=self.labels[index], images=images)
        name = self.names[index]
        if self.images is None:
            return Picture(read_picture(self.path / name), self.labels[index], name)
        pixels = self.images[index]
        return Picture(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels.copy(), self.labels[index], name)

    @property
    def ids(self) -> tuple[str, ...]:
        """What a plan remembers its calibration pictures by: file names, or places in a named .npz."""
        return self.names if self.images is None else tuple(f"{self.path.name}: {name}" for name in self.names)

    def without(self, ids: Iterable[str]) -> Pictures:
        """The pictures whose `ids` are not among these."""
        unwanted = set(ids)
        left = [n for n, name in enumerate(self.ids) if name not in unwanted]
        images = None if self.images is None else self.images[left]
        return replace(self, names=tuple(self.names[n] for n in left), labels=tuple(self.labels[n] for n in left), images=images)

    def tensor(self, index: int, wanted: Preprocessing) -> Tensor:
        """Picture `index` as a network takes it: float32 [1, 3, height, width]."""
        pixels, _, name = self[index]
        return prepare(pixels, wanted, f"{self.path}: {name}")

    def check(self) -> None:
        """Decode every picture once. InputError with the first fault and the number of them."""
        faults = []
        for index in range(len(self)):
            try:
                self[index]
            except InputError as error:
                faults.append(str(error))
        if faults:
            raise InputError(faults[0] + (f" ({len(faults)} of {len(self)} pictures do not decode)" if len(faults) > 1 else ""))

    def check_labels(self, classes: int) -> None:
        """InputError unless every picture has a label from 0 to `classes` - 1."""
        missing = [name for name, label in zip(self.names, self.labels) if label is None]
        if missing:
            raise InputError(f"{self.path}: {len(missing)} of {len(self)} pictures have no label, the first is {missing[0]}")
        beyond = [(name, label) for name, label in zip(self.names, self.labels) if label is not None and not 0 <= label < classes]
        if beyond:
            name, label = beyond[0]
            count = f" ({len(beyond)} of {len(self)} labels are out of range)" if len(beyond) > 1 else ""
            raise InputError(f"{self.path}: label {label} of {name} is out of range: the network has {classes} classes{count}")


def open_pictures(path: str | Path, labels: str | Path | None = None, limit: int | None = None, skip: int = 0) -> Pictures:
    """The pictures of a folder, sorted by file name, or of an .npz with `images` (uint8, NHWC) and perhaps `labels`.

    `labels` is a CSV file, `file,class_index` with that header, for a folder; rows for other files do not matter. The first
    `skip` pictures are left out, and then at most `limit` are kept. Whether all have labels, and in range, is asked by
    `check_labels`, since calibration needs none. InputError where there is no picture or a file cannot be used.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: at least 1 picture is needed")
    if skip < 0:
        raise InputError(f"skip is {skip}: it cannot be below 0")
    if path.is_dir():
        found = _open_folder(path, None if labels is None else Path(labels))
    elif path.suffix.lower() == ".npz":
        if labels is not None:
            raise InputError(f"{labels}: labels of an npz are its own array 'labels'; a CSV file belongs to a folder")
        found = _open_npz(path)
    elif path.exists():
        raise InputError(f"{path}: neither a folder of pictures nor an .npz")
    else:
        raise InputError(f"{path}: no such folder")
    chosen = found[skip : None if limit is None else skip + limit]
    if not len(chosen):
        raise InputError(f"{path}: no picture is left of {len(found)} after skipping {skip}")
    return chosen


def split(pictures: Pictures, calib_limit: int) -> tuple[Pictures, Pictures]:
    """(calibration, evaluation): the first `calib_limit` in order, and the rest. InputError where either would be empty."""
    if not 0 < calib_limit < len(pictures):
        raise InputError(f"{pictures.path}: {calib_limit} of {len(pictures)} pictures for calibration leave none for one of the two sets")
    return pictures[:calib_limit], pictures[calib_limit:]


def prepare(pixels: np.ndarray, wanted: Preprocessing, name: str = "picture") -> Tensor:
    """uint8 [height, width, 3] -> float32 [1, 3, height', width']: PIL's bilinear resize, centre crop, mean and deviation."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if wanted.resize and short != wanted.resize:
        width, height = (wanted.resize if side == short else int(wanted.resize * side / short) for side in (width, height))
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    if wanted.crop:
        if min(height, width) < wanted.crop:
            raise InputError(f"{name} is {width} x {height}, smaller than the crop of {wanted.crop}")
        top, left = round((height - wanted.crop) / 2), round((width - wanted.crop) / 2)  # half to even, as torchvision crops
        pixels = pixels[top : top + wanted.crop, left : left + wanted.crop]
    x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
    x = (x - torch.tensor(wanted.mean).view(3, 1, 1)) / torch.tensor(wanted.std).view(3, 1, 1)
    return x[None].contiguous()


def read_picture(path: Path) -> np.ndarray:
    """uint8 [height, width, 3], RGB; grey and palette pictures become RGB, transparency goes. InputError where it does not decode."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            deep = image.mode.startswith(("I", "F"))
            pixels = None if deep else np.array(image.convert("RGB"))
            mode = image.mode
    except Exception as error:  # decoders raise all kinds: OSError, SyntaxError, struct.error, DecompressionBombError
        raise InputError(f"{path}: does not decode: {reason(error)}") from error
    if pixels is None:
        raise InputError(f"{path}: has pixels of mode {mode!r}, more than 8 bits deep")
    return pixels


def read_labels(path: str | Path) -> dict[str, int]:
    """File name -> class index, of a CSV file with the header `file,class_index`. InputError names the line."""
    path = Path(path)
    labels: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [field.strip() for field in next(rows, [])]
            if header != ["file", "class_index"]:
                raise InputError(f"{path}: line 1 is {','.join(header)[:80]!r}, not the header 'file,class_index'")
            for row in rows:
                if not row:
                    continue
                where = f"{path}: line {rows.line_num}"
                if len(row) != 2 or not row[0]:
                    raise InputError(f"{where} has {len(row)} fields, not a file name and a class index")
                if not (row[1].strip().isascii() and row[1].strip().isdigit()):
                    raise InputError(f"{where}: class index {row[1][:40]!r} is not a whole number of at least 0")
                if labels.setdefault(row[0], int(row[1])) != int(row[1]):
                    raise InputError(f"{where}: {row[0]} already has the class index {labels[row[0]]}")
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a readable file of labels: {reason(error)}") from error
    return labels


def _open_folder(path: Path, labels: Path | None) -> Pictures:
    names = sorted(f.name for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file())
    if not names:
        raise InputError(f"{path}: no picture in this folder ({', '.join(SUFFIXES)})")
    known = {} if labels is None else read_labels(labels)
    return Pictures(path, tuple(names), tuple(known.get(name) for name in names))


def _open_npz(path: Path) -> Pictures:
    arrays = read_npz(path)
    if "images" not in arrays:
        raise InputError(f"{path}: no array 'images' (it has {', '.join(sorted(arrays)) or 'none'})")
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{path}: 'images' is {images.dtype} {list(images.shape)}, not uint8 [n, height, width, 3 or 1]")
    count = len(images)
    labels: tuple[int | None, ...] = (None,) * count
    if "labels" in arrays:
        found = arrays["labels"]
        if found.dtype.kind not in "iu" or found.shape != (count,):
            raise InputError(f"{path}: 'labels' is {found.dtype} {list(found.shape)}, not whole numbers [{count}]")
        labels = tuple(int(label) for label in found)
    return Pictures(path, tuple(f"image {i}" for i in range(count)), labels, images)
