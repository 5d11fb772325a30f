"""Scikit-learn's handwritten digits as 32 x 32 pictures, in three splits that never overlap.

1797 digits of 8 x 8 pixels by 13 writers (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998). The
splits are stratified by class and not by writer: a writer of test digits wrote training digits too.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tensorpress.core.errors import InputError

Split = Literal["train", "calibration", "test"]
SIZE = 32  # pixels a side
SPLITS: dict[str, slice] = {"train": slice(0, 1100), "calibration": slice(1100, 1297), "test": slice(1297, 1797)}


def order(labels: NDArray[Any]) -> NDArray[np.intp]:
    """A fixed permutation of `labels` (length n) in which every stretch holds each class in proportion."""
    shuffled = np.random.RandomState(1797).permutation(len(labels))  # this generator's stream is frozen, default_rng's is not
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def load(split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images uint8 [n, 32, 32, 3], labels int64 [n] of 0 to 9) of a split: 1100 for 'train', 197 for 'calibration', 500 for 'test'.

    InputError where the split is unknown or scikit-learn is absent.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of the digits: choose from {', '.join(SPLITS)}")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError('the demo\'s digits come with scikit-learn, which is not installed: pip install "tensorpress[demo]"') from None
    pixels, labels = load_digits(return_X_y=True)
    chosen = order(labels)[SPLITS[split]]
    grey = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(g).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for g in grey])
    return np.repeat(large[..., None], 3, axis=-1), labels[chosen].astype(np.int64)
