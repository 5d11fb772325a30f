"""What a network wants done to pixels before it sees them, and where its classes begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from tensorpress.core.errors import InputError

KEPT = "_tensorpress_preprocessing"  # an attribute of its own: a user's network may hold a buffer `mean` and compute with it


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize`, centre crop of `crop` x `crop`, then (pixel / 255 - mean) / std for each of R, G, B.

    0 (or None) for `resize` or `crop` leaves the picture as it is. Class index i stands in column i + `label_offset` of
    the logits. The defaults are ImageNet's. InputError names the value that cannot be used.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of pixels in 0 to 1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: int = 256  # pixels
    crop: int = 224  # pixels
    label_offset: int = 0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _channels(name, getattr(self, name)))
        for name in ("resize", "crop", "label_offset"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std}: each value must be above 0")
        if self.resize and self.crop > self.resize:
            raise InputError(f"crop {self.crop} is larger than the shorter side after resize {self.resize}")


def preprocessing(
    model: nn.Module,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    label_offset: int | None = None,
) -> Preprocessing:
    """What `model` wants: the arguments given, else what it was loaded with, else its attributes, else ImageNet's values.

    An attribute `mean` or `std` that is a tensor is an InputError unless both are given: such a network may well
    normalise its input itself, and nobody but its author knows.
    """
    asked: dict[str, Any] = {"mean": mean, "std": std, "resize": resize, "crop": crop, "label_offset": label_offset}
    given = {name: value for name, value in asked.items() if value is not None}
    kept = vars(model).get(KEPT)
    default = Preprocessing()
    return Preprocessing(**{k: given[k] if k in given else _attribute(kept or model, k, getattr(default, k)) for k in vars(default)})


def keep(model: nn.Module, wanted: Preprocessing) -> None:
    """Make `wanted` the answer of `preprocessing(model)` from now on."""
    setattr(model, KEPT, wanted)


def _attribute(owner: object, name: str, default: Any) -> Any:
    value = getattr(owner, name, default)
    if isinstance(value, Tensor):
        network = type(owner).__name__
        raise InputError(f"attribute {name!r} of {network} is a tensor, so the network may normalise by itself: give {name} explicitly")
    return default if callable(value) else value  # a method or submodule of that name says nothing of pixels


def _channels(name: str, value: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}, not three numbers") from None
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise InputError(f"{name} is {numbers}, not three finite numbers")
    return numbers


def _whole(name: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise InputError(f"{name} is {value!r}, not a whole number of at least 0")
    return int(value)
