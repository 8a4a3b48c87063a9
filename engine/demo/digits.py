"""The data set of the demo: scikit-learn's handwritten digits, enlarged from 8 to 32 pixels, split once for all."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from engine.data.intake import Images
from engine.demo import CLASSES

SIDE = 32
HELD_OUT_PER_CLASS = 50
SPLIT_SEED = 20211
BRIGHTEST = 16
"""Largest grey value in scikit-learn's file."""


def held_out() -> Images:
    """Return the 500 images (50 per class) that no network of the demo was trained on, in the file's order."""
    return _part(_is_held_out())


def training() -> Images:
    """Return the other 1,297 images."""
    return _part(~_is_held_out())


def _part(chosen: np.ndarray) -> Images:
    x, y = _all()
    indices = np.flatnonzero(chosen)
    names = tuple(f"digit-{index:04d}" for index in indices)
    return Images(_read_only(x[indices]), _read_only(y[indices]), CLASSES, names)


def _is_held_out() -> np.ndarray:
    """Return (images,) bool: the same 50 of each class on every machine."""
    _, y = _all()
    generator = np.random.default_rng(SPLIT_SEED)
    chosen = np.zeros(len(y), dtype=bool)
    for label in range(len(CLASSES)):
        chosen[generator.permutation(np.flatnonzero(y == label))[:HELD_OUT_PER_CLASS]] = True
    return chosen


@cache
def _all() -> tuple[np.ndarray, np.ndarray]:
    # Imported here: scikit-learn takes 1.5 s and 100 MB, and a filled store never needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / BRIGHTEST)).astype(np.uint8)
    x = np.stack(
        [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in small]
    )
    return _read_only(x[..., None]), _read_only(bunch.target.astype(np.int64))


def _read_only(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
