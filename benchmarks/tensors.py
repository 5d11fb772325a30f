"""What is measured: a sequence of 8-bit arrays, each of a site, and other arrays of the same sites to fit codecs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensors:
    """`arrays` are uint8 or int8 (C, H, W), contiguous; `sites[n]` is the site of the n-th. `samples[site]` are never among `arrays`."""

    name: str
    arrays: tuple[Array, ...]
    sites: tuple[int, ...]
    samples: tuple[tuple[Array, ...], ...]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.arrays)

    def first(self, name: str, nbytes: int) -> Tensors:
        """The arrays from the start that hold at least `nbytes` bytes."""
        held = np.cumsum([x.nbytes for x in self.arrays])
        count = min(int(np.searchsorted(held, nbytes)) + 1, len(held))
        return Tensors(name, self.arrays[:count], self.sites[:count], self.samples)

    def save(self, path: Path) -> None:
        parts: dict[str, Any] = {f"array{n}": x for n, x in enumerate(self.arrays)}
        for site, samples in enumerate(self.samples):
            parts |= {f"sample{site}_{n}": x for n, x in enumerate(samples)}
        parts |= {"name": np.array(self.name), "sites": np.array(self.sites), "counts": np.array([len(s) for s in self.samples])}
        np.savez(path, allow_pickle=False, **parts)

    @classmethod
    def load(cls, path: Path) -> Tensors:
        with np.load(path, allow_pickle=False) as file:
            sites = tuple(int(s) for s in file["sites"])
            samples = tuple(tuple(file[f"sample{site}_{n}"] for n in range(count)) for site, count in enumerate(file["counts"]))
            return cls(str(file["name"]), tuple(file[f"array{n}"] for n in range(len(sites))), sites, samples)


def tall(tensors: Tensors, name: str, least: int, limit: int) -> Tensors:
    """Arrays of more than `least` bytes: the pictures of a site stacked by rows, one site for each shape, at most about `limit` bytes."""
    of_site: dict[int, list[Array]] = {}
    for site, x in zip(tensors.sites, tensors.arrays):
        of_site.setdefault(site, []).append(x)
    arrays: dict[tuple[int, ...], tuple[int, Array]] = {}
    held = 0
    for site, parts in of_site.items():
        count = -(-(least + 1) // parts[0].nbytes)
        shape = parts[0].shape
        if shape in arrays or (held and held + count * parts[0].nbytes > limit):
            continue
        stacked = np.concatenate((parts * count)[: max(count, len(parts))], axis=1)
        arrays[shape] = (site, stacked)
        held += stacked.nbytes
    return Tensors(name, tuple(x for _, x in arrays.values()), tuple(site for site, _ in arrays.values()), tensors.samples)


def synthetic(channels: int, rows: int, columns: int, seed: int) -> Array:
    """uint8, a little over half of it non-zero, neighbours alike and channels of different range, as after a rectifier."""
    rng = np.random.default_rng(seed)
    strength = np.random.default_rng(0).gamma(2, 1, (channels, 1, 1)).astype(np.float32)  # a site's channels keep their range
    out = np.empty((channels, rows, columns), np.uint8)
    for c in range(channels):  # one channel at a time: the floats of 256 MiB of levels would be a gigabyte
        noise = rng.standard_normal((rows + 1, columns + 1), np.float32)
        smooth = noise[1:, 1:] + noise[:-1, 1:] + noise[1:, :-1] + noise[:-1, :-1]
        out[c] = np.clip((smooth / 2 + 0.15) * strength[c] * 16, 0, 255)
    return out


def synthetic_tensors(name: str, shape: Sequence[int]) -> Tensors:
    """One array of that shape, and a smaller one from another seed to fit to."""
    channels, rows, columns = shape
    return Tensors(name, (synthetic(channels, rows, columns, 1),), (0,), ((synthetic(channels, min(rows, 64), min(columns, 64), 2),),))
